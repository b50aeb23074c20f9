"""The contract checker finds every broken rule and names it, and lets good operators pass."""

import numpy as np
import pytest

from gpu_reml import ops
from gpu_reml.reml import FunctionCovariance, MixedCovariance, ScaledCovariance, with_residuals
from gpu_reml.validation import check_operator
from gpu_reml.validation.small import covariance_of, make_cohort

N = 150


@pytest.fixture(scope="module", name="K")
def kernel():
    A = np.random.default_rng(0).standard_normal((N, 30))
    return A @ A.T / 30


def changing(K):
    def apply_k(B):
        image = K @ B
        B += 1
        return image

    return apply_k


def remembering(K):
    count = 0

    def apply_k(B):
        nonlocal count
        count += 1
        return K @ B * (1 + 0.01 * count)

    return apply_k


def test_good_operators_pass_with_their_trace(K):
    report = check_operator(K.__matmul__, N, np.trace(K), rtol=1e-10)
    assert report.ok, str(report)
    assert abs(report.trace - np.trace(K)) < 5 * report.trace_se
    report.raise_for_problems()


def test_covariances_of_every_kind_pass(K):
    cohort = make_cohort(N, 300, 2, seed=1)
    genotypes = covariance_of(cohort, np.float32)
    scaled = ScaledCovariance(genotypes, np.random.default_rng(1).standard_normal(N), ["s0", "s1"])
    own = FunctionCovariance([K.__matmul__], [np.trace(K)], N, ["own"], np.diag(K)[:, None])
    model = with_residuals(MixedCovariance([genotypes, scaled, own]), np.random.default_rng(2).uniform(0.1, 1, (N, 2)))
    reports = check_operator(model)
    assert [report.name for report in reports][:5] == ["component_000", "component_001", "s0", "s1", "own"]
    for report in reports:
        assert report.ok, str(report)


BROKEN = {
    "asymmetric": (lambda K: np.triu(K).__matmul__, "not symmetric"),
    "indefinite": (lambda K: (K - 0.5 * np.eye(N)).__matmul__, "not positive semidefinite"),
    "offset": (lambda K: lambda B: K @ B + 1, "K 0 is not 0"),
    "quadratic": (lambda K: lambda B: K @ (B * np.abs(B).max()), "not linear: K (2a - 3b)"),
    "column mixing": (lambda K: lambda B: K @ (B - 0.3 * B.mean(axis=1, keepdims=True)), "mixes columns"),
    "changing its input": (changing, "changes its input"),
    "remembering": (remembering, "another answer for the same block"),
    "a wrong shape": (lambda K: lambda B: (K @ B)[:, 0], "return one of the same shape"),
    "not finite": (lambda K: lambda B: K @ B * np.nan, "not finite"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_every_broken_rule_is_named(K, case):
    make, message = BROKEN[case]
    report = check_operator(make(K), N, None)
    assert not report.ok and any(message in problem for problem in report.problems), str(report)
    with pytest.raises(ValueError, match="operator"):
        report.raise_for_problems()


def test_a_trace_divided_by_n_is_found_and_the_right_one_told(K):
    report = check_operator(K.__matmul__, N, np.trace(K) / N)
    assert len(report.problems) == 1 and "not tr(K)/n" in report.problems[0]


def test_what_is_no_operator_is_refused():
    with pytest.raises(ValueError, match="expected a function"):
        check_operator(np.eye(3))


def test_float32_products_pass_at_the_default_tolerance():
    cohort = make_cohort(N, 300, 1, seed=2)
    assert all(r.ok for r in check_operator(ops.make_covariance(ops.make_products(cohort.genotypes, "cpu"))))


@pytest.mark.parametrize("n", [2, 3, 20, 64, 100, 129])
def test_small_and_singular_covariances_pass_and_show_their_trace(n):
    """Few samples or variants: no chance of a probe, and no rounding of float32, is taken for a broken rule."""
    for seed in range(6):
        counts = np.random.default_rng(seed).binomial(2, 0.3, (n, n // 3 + 2)).astype(np.int8)
        counts[:2, 0] = 0, 1
        products = ops.make_products(ops.standardise([ops.pack(counts)], n), "cpu", np.float32)
        (report,) = check_operator(ops.make_covariance(products), seed=seed)
        assert report.ok, str(report)
        if n <= 128:
            assert report.trace == pytest.approx(n, rel=1e-5) and report.trace_se == 0


def test_up_to_twice_as_many_samples_as_probes_every_direction_is_seen():
    K = np.eye(100)
    K[40, 40] = -0.01
    assert check_operator(K.__matmul__, 100, 98.99).problems[0].startswith("is not positive semidefinite")
