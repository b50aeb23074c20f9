"""Whole fits on a device, small enough for the interpreter of PTX; those of several components take it minutes:

PYTHONPATH=tests/support python -m pytest -p ptx.plugin -m "gpu and large" tests/ops/cuda/test_fit.py
"""

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import draw_probes, fit
from gpu_reml.validation.small import make_cohort


@pytest.mark.gpu
@pytest.mark.device
@pytest.mark.parametrize("num_components", [1, pytest.param(5, marks=pytest.mark.large)])
def test_a_fit_is_the_fit_on_the_cpu(num_components, record_property):
    from gpu_reml.ops.cuda.device import CudaDevice

    cohort, probes = make_cohort(80, 150, num_components, seed=2), draw_probes(80, 12, seed=1)
    products = make_device_products(cohort.genotypes, [CudaDevice(kernels="tensor")])
    found = fit(cohort.y, cohort.X, make_covariance(products, cohort.W), probes)
    expected = fit(cohort.y, cohort.X, make_covariance(CpuProducts(cohort.genotypes), cohort.W), probes)
    away = float((np.abs(found.theta - expected.theta) / expected.se).max())
    record_property("lines", [f"fit of {num_components} on a device and on the CPU: {away:.1e} standard errors apart"])
    assert away <= 1e-4
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)
