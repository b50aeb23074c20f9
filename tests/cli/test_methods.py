"""Which method ``--method auto`` takes."""

import os
from types import SimpleNamespace

import pytest

from gpu_reml.cli.flags.estimation import Estimation
from gpu_reml.cli.methods import choose_method, exact_is_cheap
from gpu_reml.cli.plan import Sizes, host_plan
from gpu_reml.reml import exact_memory


def chosen(
    n: int, m: int, num_components: int, method: str = "auto", backend: str = "cpu", overlap: float = 1.0
) -> str:
    sizes = SimpleNamespace(num_scales=1)
    covariance = SimpleNamespace(num_samples=n, num_components=num_components, backend=backend, overlap=overlap)
    inputs = SimpleNamespace(
        covariance=covariance,
        products=SimpleNamespace(num_variants=m),
        planned=SimpleNamespace(sizes=sizes),
        phenotypes=("trait",),
        members=(),
    )
    return choose_method(inputs, method)


@pytest.mark.parametrize(("n", "m", "num_components"), [(2_000, 10_000, 22), (3_800, 20_000, 1), (4_600, 30_000, 1)])
def test_the_method_does_not_depend_on_the_threads_of_the_machine(monkeypatch, n, m, num_components):
    found = set()
    for threads in (1, 64):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, threads=threads: set(range(threads)), raising=False)
        found.add(chosen(n, m, num_components))
    assert len(found) == 1


def test_small_cohorts_are_answered_exactly_and_large_ones_are_not():
    assert {chosen(n, 10_000, 1) for n in (100, 1_000, 2_000, 4_000)} == {"exact"}
    assert {chosen(n, 10_000, 22) for n in (100, 1_000, 3_000)} == {"exact"}
    assert {chosen(*sizes) for sizes in ((5_000, 50_000, 1), (5_000, 10_000, 22), (20_000, 100_000, 1))} == {
        "stochastic"
    }


def test_an_answer_that_takes_longer_is_worth_it_where_the_stochastic_one_does_too():
    """The columns of both grow with the variants, so there the fewest samples are exact for any number of variants."""
    assert chosen(1_000, 10**7, 22) == chosen(500, 10**7, 1) == "exact"
    assert chosen(3_000, 10**7, 1) == chosen(9_000, 10**7, 22) == "stochastic"


def test_models_without_genotypes_are_exact_where_they_are_small_or_their_matrices_are_there():
    def chosen_without(n, matrices=()):
        covariance = SimpleNamespace(num_samples=n, num_components=3)
        inputs = SimpleNamespace(covariance=covariance, products=None, model=SimpleNamespace(matrices=matrices))
        return choose_method(inputs, "auto")

    assert [chosen_without(n) for n in (2_000, 20_000, 10**6)] == ["exact", "stochastic", "stochastic"]
    assert chosen_without(6_000, {"grm": None}) == "exact"


def test_what_is_asked_for_is_taken_and_a_device_answers_stochastically():
    assert chosen(10**6, 10**6, 1, method="exact") == "exact"
    assert chosen(100, 100, 1, method="he") == "he"
    assert chosen(100, 100, 1, backend="cuda") == "stochastic"


def test_overlap_and_traits_that_cost_more_count():
    assert exact_is_cheap(2_000, 50_000, 40) and not exact_is_cheap(2_000, 50_000, 40, overlap=20)
    assert exact_is_cheap(2_500, 10_000, 22) and not exact_is_cheap(2_500, 10_000, 22, num_traits=10)
    assert exact_is_cheap(2_500, 10_000, 1, num_traits=10)  # which is diagonalised once
    assert not exact_is_cheap(2_500, 10_000, 1, num_traits=100, num_sets=100)  # here for each set of samples


def test_matrices_that_are_given_are_planned_as_they_are_kept_in_float64():
    for parts, itemsize in (((), 8), ((500,), 4)):
        sizes = Sizes(1_000, parts, 3, 1, 1, sum(parts), num_matrices=3)
        assert (
            host_plan(sizes, "exact", Estimation(), "float32")["matrices"] == exact_memory(1_000, 3, itemsize) / 2**20
        )
