import pytest

from gpu_reml.validation.small import make_cohort


@pytest.fixture(scope="session")
def cohorts():
    """One cohort for each number of components, 1 to 5."""
    return {g: make_cohort(150, 400, g, seed=g) for g in range(1, 6)}
