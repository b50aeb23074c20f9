"""Whole fits on a device's blocks: the CPU's estimates, nothing large on the bus, and memory as planned."""

import gc
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from gpu_reml.cli.plan import Sizes, phase_bytes
from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.device import pool
from gpu_reml.ops.device.pool import size_class
from gpu_reml.ops.device.products import Residency, make_device_products
from gpu_reml.reml import (
    FitSettings,
    Hooks,
    ProbeSettings,
    SolverSettings,
    Work,
    draw_probes,
    exact_probes,
    fit,
    fit_blocks,
    fit_exact,
    fit_traits,
    haseman_elston,
    he_blocks,
    pack,
    unpack,
)
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import make_cohort

ENGINES = {
    "one component": (1, FitSettings()),
    "one component, reduced": (1, FitSettings(engine="reduced")),
    "three components": (3, FitSettings()),
    "three components, a small basis": (3, FitSettings(solver=SolverSettings(most_basis=198))),
    "nine columns at a time": (3, FitSettings(probes=ProbeSettings(columns=9))),
    "one component, nine columns at a time": (1, FitSettings(probes=ProbeSettings(columns=9))),
}
STREAMED = Residency(64 * 128, 2 * 64 * 128, 2)


@pytest.fixture(scope="module")
def small():
    return {g: make_cohort(150, 400, g, seed=g) for g in (1, 3)}


def on_devices(cohort, number=1, residency=None):
    devices = [HostDevice(label=f"device {d}") for d in range(number)]
    return devices, make_covariance(make_device_products(cohort.genotypes, devices, residency), cohort.W)


def on_cpu(cohort):
    return make_covariance(CpuProducts(cohort.genotypes), cohort.W)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("number", "residency"), [(1, None), (2, STREAMED)])
def test_a_fit_on_devices_is_the_fit_on_the_cpu(small, engine, number, residency):
    G, settings = ENGINES[engine]
    cohort, probes = small[G], draw_probes(150, 64, 20, seed=1)
    expected = fit(cohort.y, cohort.X, on_cpu(cohort), probes, settings)
    found = fit(cohort.y, cohort.X, on_devices(cohort, number, residency)[1], probes, settings)
    assert (np.abs(found.theta - expected.theta) <= 1e-4 * expected.se).all()
    np.testing.assert_allclose(found.se, expected.se, rtol=1e-4)
    np.testing.assert_allclose(found.mc_se, expected.mc_se, rtol=1e-3)
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-4)
    np.testing.assert_allclose(found.fixed_effects.estimate, expected.fixed_effects.estimate, rtol=1e-4)
    np.testing.assert_allclose(found.fixed_effects.se, expected.fixed_effects.se, rtol=1e-3)
    assert found.num_probes == expected.num_probes


@pytest.mark.gpu
@pytest.mark.device
@pytest.mark.parametrize("kernels", ["portable", "tensor"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("residency", [None, STREAMED])
def test_a_fit_on_cuda_is_the_fit_on_the_cpu(small, engine, kernels, residency):
    from gpu_reml.ops.cuda.device import CudaDevice

    G, settings = ENGINES[engine]
    cohort, probes = small[G], draw_probes(150, 64, 20, seed=1)
    products = make_device_products(cohort.genotypes, [CudaDevice(kernels=kernels)], residency)
    found = fit(cohort.y, cohort.X, make_covariance(products, cohort.W), probes, settings)
    expected = fit(cohort.y, cohort.X, on_cpu(cohort), probes, settings)
    assert (np.abs(found.theta - expected.theta) <= 1e-3 * expected.se).all()
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)
    assert found.num_probes == expected.num_probes


@pytest.mark.gpu
@pytest.mark.device
def test_memory_on_cuda_stays_within_what_was_planned():
    from gpu_reml.ops.cuda.device import CudaDevice

    cohort = make_cohort(2000, 4000, 4, seed=4, overlap=False)
    device = CudaDevice()
    covariance = make_covariance(make_device_products(cohort.genotypes, [device]), cohort.W)
    before, s = device.pool.in_use, 24
    fit(
        cohort.y,
        cohort.X,
        covariance,
        draw_probes(2000, s, 0),
        FitSettings(probes=ProbeSettings(first=s)),
        strict=False,
    )
    phases, sizes = fit_blocks(Work(4, 1, 3, s, 0)), Sizes(2000, (4000,), 4, 1, 3, 4000)
    planned = max(phase_bytes(blocks, sizes, 4000, 4000, 0) for blocks in phases.values()) + 24 * 4000
    assert device.pool.peak_in_use - before <= planned


def test_exact_probes_the_dense_method_and_haseman_elston_agree_too(small):
    cohort = small[3]
    device = on_devices(cohort)[1]
    exact = exact_probes(150, 20)
    pairs = [
        (f(cohort.y, cohort.X, device, *more), f(cohort.y, cohort.X, on_cpu(cohort), *more))
        for f, more in ((fit, (exact,)), (fit_exact, ()), (haseman_elston, (draw_probes(150, 64, 0),)))
    ]
    for found, expected in pairs:
        assert (np.abs(found.theta - expected.theta) <= 1e-4 * expected.se).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_block_crosses_the_bus_within_a_fit(small, engine):
    G, settings = ENGINES[engine]
    devices, covariance = on_devices(small[G])
    fit(small[G].y, small[G].X, covariance, draw_probes(150, 64, 20), settings)
    np.asarray(covariance.block(np.ones((400, 1))))
    assert devices[0].downloaded.pop() == (400, 1)
    assert not [shape for shape in devices[0].downloaded if shape[0] in (150, 400)]


@pytest.mark.parametrize("engine", ["one component", "three components"])
def test_a_fit_on_a_device_resumes_from_every_checkpoint_to_the_same_bits(small, engine):
    G, settings = ENGINES[engine]
    cohort, probes, saved = small[G], draw_probes(150, 64, 20), []
    arguments = (cohort.y[:, None], cohort.X, on_devices(cohort)[1], probes, settings)
    whole = fit_traits(*arguments, hooks=Hooks(checkpoint=lambda value: saved.append(pack(value))))[0]
    assert len(saved) > 2
    for skeleton, arrays in saved:
        assert all(isinstance(array, np.ndarray) for array in arrays)
        resumed = fit_traits(*arguments, hooks=Hooks(resume=unpack(skeleton, arrays)))[0]
        np.testing.assert_array_equal(resumed.theta, whole.theta)
        assert resumed.loglik == whole.loglik and resumed.column_passes == whole.column_passes


@pytest.mark.parametrize("engine", ["one component", "three components"])
def test_checkpoints_of_a_fit_fetch_every_block_once(small, engine):
    G, settings = ENGINES[engine]
    devices, covariance = on_devices(small[G])
    copies, values, packed = WeakKeyDictionary(), [], []

    def checkpoint(value):
        values.append(value)  # which keeps its blocks on the device
        packed.append(pack(value, copies))

    arguments = (small[G].y[:, None], small[G].X, covariance, draw_probes(150, 64, 20), settings)
    fit_traits(*arguments, hooks=Hooks(checkpoint=checkpoint))
    fetched = [shape for shape in devices[0].downloaded if shape[0] == 150]
    assert len(values) > 2 and len(fetched) == len(copies)
    for value, (skeleton, arrays) in zip(values, packed, strict=True):
        again, whole = pack(value)
        assert again == skeleton
        for array, expected in zip(arrays, whole, strict=True):
            np.testing.assert_array_equal(array, expected)
    del value
    values.clear()
    gc.collect()
    assert not copies


def planned_bytes(blocks, n, m, rows, size_class=size_class):
    """Workspace of every phase, with a product's Z'B of one piece and sums, in float64."""
    return max(
        sum(count * size_class(4 * n * k) for count, k in phase.samples if k)
        + sum(count * size_class(4 * m * k) for count, k in phase.variants if k)
        + size_class(8 * rows * max(1, phase.product))
        + size_class(8 * n * max(1, phase.product))
        for phase in blocks.values()
    )


@pytest.mark.parametrize(("n", "m"), [(1500, 150), (400, 4000)])
@pytest.mark.parametrize(("G", "basis", "columns"), [(1, 0, None), (1, 0, 40), (4, 150, None), (4, 150, 9)])
def test_memory_is_what_was_planned(n, m, G, basis, columns, monkeypatch):
    """To the byte: pieces of a basis are as wide as rounds make them, which classes of sizes would hide here."""
    monkeypatch.setattr(pool, "size_class", int)
    cohort = make_cohort(n, m, G, seed=G, overlap=False)
    devices, covariance = on_devices(cohort, 1, Residency(64 * 64 * 12))
    before, s = devices[0].pool.in_use, 24
    settings = FitSettings(
        max_iterations=9,
        solver=SolverSettings(probes=1e-4, most_basis=basis or None),
        probes=ProbeSettings(first=s, columns=columns, mc_target=1e-3 if G == 1 else 100),
    )
    probes = draw_probes(n, 4 * s if G == 1 else s, 0)
    fit(cohort.y, cohort.X, covariance, probes, settings, strict=False)
    found = devices[0].pool.peak_in_use - before
    rows = max(piece.stop - piece.start for piece in covariance.products.shards[0].store._pieces)
    planned = planned_bytes(fit_blocks(Work(G, 1, 3, s, basis, columns)), n, m, rows, int)
    assert found <= 1.03 * planned and planned <= 1.3 * found


@pytest.mark.parametrize(("traits", "lrt", "bases"), [(3, False, 2), (1, True, 3)])
def test_traits_and_likelihood_ratios_hold_bases_beside_their_own(traits, lrt, bases, monkeypatch):
    monkeypatch.setattr(pool, "size_class", int)
    n, m, s, noise = 400, 2000, 24, np.random.default_rng(0).standard_normal((400, traits))
    cohort = make_cohort(n, m, 3, seed=3, overlap=False)
    devices, covariance = on_devices(cohort, 1, Residency(64 * 64 * 12))
    before, most = devices[0].pool.in_use, 6 * (traits + s)
    settings = FitSettings(
        lrt=lrt,
        solver=SolverSettings(probes=1e-4, most_basis=most),
        probes=ProbeSettings(first=s, mc_target=100),
    )
    Y = cohort.y[:, None] + cohort.y.std() * noise
    fit_traits(Y, cohort.X, covariance, draw_probes(n, s, 0), settings, strict=False)
    rows = max(piece.stop - piece.start for piece in covariance.products.shards[0].store._pieces)
    planned = planned_bytes(fit_blocks(Work(3, traits, 3, s, most, bases=bases)), n, m, rows, int)
    assert devices[0].pool.peak_in_use - before <= 1.03 * planned


def test_memory_is_within_its_plan_while_probes_are_added_to_a_basis_that_has_no_room_for_them():
    n, m, s = 250, 1500, 40
    cohort = make_cohort(n, m, 2, seed=2, overlap=False)
    devices, covariance = on_devices(cohort, 1, Residency(64 * 64 * 12))
    before = devices[0].pool.in_use
    settings = FitSettings(
        solver=SolverSettings(most_basis=78), probes=ProbeSettings(first=12, mc_target=1e-3), max_iterations=20
    )
    result = fit(cohort.y, cohort.X, covariance, draw_probes(n, s, 0), settings, strict=False)
    rows = max(piece.stop - piece.start for piece in covariance.products.shards[0].store._pieces)
    planned = planned_bytes(fit_blocks(Work(2, 1, 3, s, 6 * (1 + s))), n, m, rows) + 24 * m
    assert result.num_probes == s
    assert devices[0].pool.peak_in_use - before <= planned


def test_memory_of_haseman_elston_is_what_was_planned():
    cohort = make_cohort(2000, 300, 3, seed=1, overlap=False)
    devices, covariance = on_devices(cohort)
    before = devices[0].pool.in_use
    haseman_elston(cohort.y, cohort.X, covariance, draw_probes(2000, 24, 0))
    found, planned = devices[0].pool.peak_in_use - before, planned_bytes(he_blocks(Work(3, 1, 3, 24)), 2000, 300, 300)
    assert found <= 1.03 * planned and planned <= 1.45 * found  # no product has both halves, nor their sums


def test_a_budget_without_room_for_the_fit_ends_in_a_memory_error(small):
    cohort = small[3]
    device = HostDevice(limit=150_000)
    covariance = make_covariance(make_device_products(cohort.genotypes, [device]), cohort.W)
    with pytest.raises(MemoryError, match=r"would pass the limit of 150,000"):
        fit(cohort.y, cohort.X, covariance, draw_probes(150, 64, 20))
