"""Whole fits on interpreted PTX against the CPU, too slow for every run of the tests (two minutes).

From the root of a checkout: ``PYTHONPATH=tests/support python -m ptx.fits``; exit code 1 when a variance differs by
more than 1e-4 of its standard error, or a kernel had a race or read what nobody wrote.
"""

import sys

import numpy as np
import pytest

from benchmarks.gpu.cohorts import Cohort, component_weights, simulate_trait
from benchmarks.gpu.machines import HostMachine
from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.ops.cuda import device as device_module
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.reml import draw_probes, fit

from .shim import Emulator

MOST_SE = 1e-4
COHORT, COMPONENTS, PROBES, TRUE_H2 = Cohort(200, 400, seed=3), (1, 5), 32, 0.5


def fitted(num_components: int, emulator: Emulator, monkeypatch) -> float:
    """Largest difference of a variance between the interpreted device and the CPU, in standard errors."""
    genotypes = HostMachine().simulate(COHORT)
    weights = component_weights(COHORT.num_variants, num_components)
    trait = simulate_trait(CpuProducts(genotypes), weights, TRUE_H2, seed=1)
    X, probes = np.ones((COHORT.num_samples, 1)), draw_probes(COHORT.num_samples, PROBES, 0)
    expected = fit(trait.y, X, make_covariance(CpuProducts(genotypes), weights), probes)
    emulator.install(monkeypatch, device_module)
    products = make_device_products(genotypes, [device_module.CudaDevice(0, None, "tensor")])
    found = fit(trait.y, X, make_covariance(products, weights), probes)
    return float(np.abs((found.theta - expected.theta) / expected.se).max())


def main(components=COMPONENTS) -> int:
    wrong = False
    for G in components:
        emulator = Emulator()
        with pytest.MonkeyPatch.context() as monkeypatch:
            difference = fitted(G, emulator, monkeypatch)
        launches, issues = sum(emulator.launched.values()), dict(emulator.machine.issues)
        print(f"G = {G}: {difference:.1e} SE from the CPU, {launches} launches, {issues or 'no issues'}", flush=True)
        wrong |= not difference <= MOST_SE or bool(issues)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
