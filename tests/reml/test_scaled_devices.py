"""Ancestries, environments and several residuals on a device's blocks: the CPU's estimates, and nothing large moves."""

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import MixedCovariance, ScaledCovariance, draw_probes, fit, grouping, records, with_residuals
from gpu_reml.validation.host_device import HostDevice
from gpu_reml.validation.small import make_cohort

N = 150


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(N, 400, 1, seed=5)


def model_of(base):
    rng = np.random.default_rng(6)
    Q, e = rng.dirichlet([1.0, 0.8], N), rng.standard_normal(N)
    parts = [ScaledCovariance(base, np.sqrt(q), [f"ancestry_{a}"]) for a, q in enumerate(Q.T)]
    parts.append(ScaledCovariance(base, e, ["environment"]))
    return with_residuals(MixedCovariance(parts), np.column_stack([Q, e**2]), ["r0", "r1", "noise"])


def test_a_scaled_model_on_a_device_is_that_on_the_cpu(cohort):
    device = HostDevice(label="device")
    placed = make_covariance(make_device_products(cohort.genotypes, [device]), cohort.W)
    probes = draw_probes(N, 64, 20, seed=1)
    expected = fit(cohort.y, cohort.X, model_of(make_covariance(CpuProducts(cohort.genotypes), cohort.W)), probes)
    model = model_of(placed)
    assert model.traces.all()  # takes the diagonals of the K_g to the host, once
    before = len(device.downloaded)
    found = fit(cohort.y, cohort.X, model, probes)
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-3 * expected.se.min())
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)
    assert found.residual_names == expected.residual_names == ("r0", "r1", "noise")
    large = [shape for shape in device.downloaded[before:] if shape and shape[0] in (N, 400)]
    assert not large, large[:5]


def test_blocks_of_one_device_are_shared_by_all_parts(cohort):
    device = HostDevice(label="device")
    model = model_of(make_covariance(make_device_products(cohort.genotypes, [device]), cohort.W))
    B = model.block(np.random.default_rng(0).standard_normal((N, 3)))
    before = len(device.downloaded)
    model.apply(np.ones(model.num_components), B)
    assert len(device.downloaded) == before


def test_records_of_people_on_a_device_beside_groups_are_those_on_the_cpu(cohort):
    rng = np.random.default_rng(8)
    rows = np.sort(np.concatenate([np.arange(N), rng.integers(0, N, 60)]))
    y, X, herds = rng.standard_normal(210) + cohort.y[rows], np.ones((210, 1)), rng.integers(0, 9, 210)
    placed = make_covariance(make_device_products(cohort.genotypes, [HostDevice(label="device")]), cohort.W)
    plain = make_covariance(CpuProducts(cohort.genotypes), cohort.W)
    expected, found = (
        fit(
            y, X, [records(base, rows), grouping(rows, "iid"), grouping(herds, "herd")], draw_probes(210, 48, 0, seed=1)
        )
        for base in (plain, placed)
    )
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-3 * expected.se.min())
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)
