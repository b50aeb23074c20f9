import numpy as np
import pytest

from gpu_reml.reml import CountingCovariance, FitSettings, ProbeSettings, as_covariance, draw_probes
from gpu_reml.reml.engines.reduced_model import first_model, prepare
from gpu_reml.reml.traits import make_traits
from gpu_reml.validation.small import covariance_of, make_cohort


@pytest.fixture(scope="session")
def cohorts():
    """One cohort for each number of components, 1 to 5."""
    return {g: make_cohort(150, 400, g, seed=g) for g in range(1, 6)}


@pytest.fixture(scope="session")
def large():
    return make_cohort(900, 3000, 3, 21, 0.6)


@pytest.fixture(scope="session")
def coarse(large):
    """A problem and a model of y and the probes alone: what lies off such a basis is most of everything."""
    covariance = CountingCovariance(as_covariance(covariance_of(large)))
    traits, probes = make_traits(large.y[:, None], large.X), draw_probes(large.n, 64, 0, 4)
    settings = FitSettings(engine="reduced", probes=ProbeSettings(first=64))
    problem = prepare(covariance, traits, probes, settings)
    theta = np.array([0.2, 0.2, 0.2, 0.4])
    V = np.tensordot(theta[:3], large.Ks, axes=1) + theta[3] * np.eye(large.n)
    A = np.linalg.svd(large.X)[0][:, large.X.shape[1] :]
    return problem, first_model(problem, probes), theta, A, A.T @ V @ A
