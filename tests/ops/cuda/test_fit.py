"""A whole fit on a device, small enough for the interpreter of PTX."""

import numpy as np
import pytest

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import draw_probes, fit
from gpu_reml.validation.small import make_cohort


@pytest.mark.gpu
@pytest.mark.device
def test_a_fit_of_one_component_is_the_fit_on_the_cpu():
    from gpu_reml.ops.cuda.device import CudaDevice

    cohort, probes = make_cohort(80, 150, 1, seed=2), draw_probes(80, 12, seed=1)
    products = make_device_products(cohort.genotypes, [CudaDevice(kernels="tensor")])
    found = fit(cohort.y, cohort.X, make_covariance(products, cohort.W), probes)
    expected = fit(cohort.y, cohort.X, make_covariance(CpuProducts(cohort.genotypes), cohort.W), probes)
    assert (np.abs(found.theta - expected.theta) <= 1e-4 * expected.se).all()
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)
