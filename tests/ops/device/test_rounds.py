"""What crosses the bus between a fit's rounds: nothing that has a row for every sample or variant."""

import pytest

from gpu_reml.cli.plan import Sizes, device_shape
from gpu_reml.ops import make_covariance
from gpu_reml.ops.device.products import Residency, make_device_products
from gpu_reml.reml import FitSettings, Hooks, ProbeSettings, SolverSettings, draw_probes, fit_traits
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import make_cohort

N, M = 150, 400
STREAMED = Residency(64 * 128, 2 * 64 * 128, 2)
FITS = {
    "components that overlap": (True, {}, None),
    "components apart": (False, {}, None),
    "streamed": (True, {}, STREAMED),
    "a small basis": (True, {"solver": SolverSettings(most_basis=198)}, None),
    "nine columns at a time": (True, {"probes": ProbeSettings(columns=9)}, None),
    "likelihood ratios and profiles": (True, {"lrt": True, "profile": True}, None),
}


@pytest.mark.parametrize("name", FITS)
def test_no_block_of_samples_or_variants_crosses_the_bus_inside_a_round(name):
    overlap, settings, residency = FITS[name]
    cohort, device = make_cohort(N, M, 3, seed=3, overlap=overlap), HostDevice()
    covariance = make_covariance(make_device_products(cohort.genotypes, [device], residency), cohort.W)
    rounds = []
    hooks = Hooks(callback=lambda record: rounds.append((len(device.uploaded), len(device.downloaded))))
    probes = draw_probes(N, 64, 20, seed=1)
    fit_traits(cohort.y[:, None], cohort.X, covariance, probes, FitSettings(**settings), hooks=hooks)
    assert len(rounds) > 2
    inside = device.uploaded[rounds[0][0] : rounds[-1][0]] + device.downloaded[rounds[0][1] : rounds[-1][1]]
    rows = {N, M, *(piece.stop - piece.start for piece in covariance.products.shards[0].store.pieces)}
    assert not [shape for shape in inside if len(shape) == 2 and shape[0] in rows]
    assert not [shape for shape in device.downloaded if shape[0] in rows]
    assert cohort.X.shape in device.uploaded  # before the first round


def test_a_plan_has_room_for_the_weights_of_components_that_overlap_side_by_side():
    """Beside the lists, which any components have."""
    apart, overlapping = (device_shape(Sizes(1000, (10**5,), 3, 1, 1, weights), 1) for weights in (10**5, 10**5 + 1))
    assert 1 <= (overlapping.constant_bytes - apart.constant_bytes) / (4 * 10**5 * (3 + 2)) <= 1.2
