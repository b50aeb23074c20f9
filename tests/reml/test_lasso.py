"""The LASSO from cross-products against scikit-learn, its path and EBIC against their formulas, and what follows it."""

import itertools

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import Lasso

from gpu_reml.reml.studies.debias import Inference, debiased, independent_columns, least_squares
from gpu_reml.reml.studies.lasso import (
    DescentSettings,
    PathSettings,
    Quadratic,
    descend,
    distinct_columns,
    ebic,
    lambda_values,
    lasso_path,
    polished,
    refitted_rss,
)

N, K = 200, 40


def regression(seed, n=N, k=K, ld=0.7, effect=1.0):
    """Correlated columns, three of them with an effect."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, k))
    for j in range(1, k):
        A[:, j] = ld * A[:, j - 1] + np.sqrt(1 - ld**2) * A[:, j]
    A *= rng.uniform(0.5, 3, k)
    return A, effect * A[:, [3, 11, 30]] @ np.array([0.7, -0.5, 0.3]) + rng.standard_normal(n)


def quadratic(A, y):
    return Quadratic(A.T @ A, A.T @ y, float(y @ y), len(y))


def scikit(A, y, lam):
    return Lasso(alpha=lam / len(y), fit_intercept=False, tol=1e-13, max_iter=100_000).fit(A, y).coef_


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
@pytest.mark.parametrize("period", [1, 5])
def test_descent_is_scikit_learns_lasso(share, period):
    A, y = regression(0)
    problem = quadratic(A, y)
    lam = share * np.abs(problem.s).max()
    found = descend(problem, lam, np.zeros(K), DescentSettings(tol=1e-10, period=period))
    assert found.converged
    np.testing.assert_allclose(found.b, scikit(A, y, lam), atol=1e-9)


def test_descent_ends_at_the_same_place_from_anywhere_and_leaves_its_start_alone():
    problem = quadratic(*regression(1))
    lam = 0.1 * np.abs(problem.s).max()
    start = np.random.default_rng(0).standard_normal(K)
    given = start.copy()
    settings = DescentSettings(tol=1e-11)
    np.testing.assert_allclose(
        descend(problem, lam, start, settings).b, descend(problem, lam, np.zeros(K), settings).b, atol=1e-9
    )
    np.testing.assert_array_equal(start, given)


def test_a_limit_of_sweeps_is_reported():
    problem = quadratic(*regression(2))
    found = descend(problem, 0.05 * np.abs(problem.s).max(), np.zeros(K), DescentSettings(max_sweeps=2))
    assert not found.converged and found.sweeps == 2


def test_polishing_gives_the_conditions_to_rounding_and_refuses_what_is_no_solution():
    problem = quadratic(*regression(3))
    lam = 0.2 * np.abs(problem.s).max()
    rough = descend(problem, lam, np.zeros(K), DescentSettings(tol=1e-4)).b
    exact = polished(problem, lam, rough)
    gradient = problem.s - problem.S @ exact
    active = exact != 0
    np.testing.assert_allclose(gradient[active], lam * np.sign(exact[active]), rtol=1e-12)
    assert (np.abs(gradient[~active]) < lam).all()
    assert polished(problem, lam, np.where(np.arange(K) == 7, 1.0, 0.0)) is None
    twice = Quadratic(np.ones((2, 2)), np.ones(2), 2.0, 10)
    assert polished(twice, 0.5, np.array([0.2, 0.3])) is None


def test_a_column_of_nothing_gets_no_coefficient():
    A, y = regression(4)
    A[:, 5] = 0
    path = lasso_path(quadratic(A, y), K)
    assert (path.coefficients[:, 5] == 0).all() and path.df.max() > 5


def test_every_step_of_a_path_is_scikit_learns_lasso_with_its_rss():
    A, y = regression(5)
    path = lasso_path(quadratic(A, y), K, PathSettings(num_lambda=25))
    assert len(path.lambdas) == 25 and path.df[0] == 0 and path.converged.all() and not path.cut
    np.testing.assert_allclose(path.lambdas, np.abs(A.T @ y).max() * np.geomspace(1, 0.05, 25))
    for lam, b, rss in zip(path.lambdas, path.coefficients, path.rss, strict=True):
        np.testing.assert_allclose(b, scikit(A, y, lam), atol=1e-9)
        on = A[:, b != 0]
        left = y - on @ np.linalg.lstsq(on, y)[0] if on.shape[1] else y
        np.testing.assert_allclose(rss, left @ left, rtol=1e-10)
    shrunk = lasso_path(quadratic(A, y), K, PathSettings(num_lambda=25, refit=False))
    np.testing.assert_allclose(shrunk.rss, [np.sum((y - A @ b) ** 2) for b in path.coefficients], rtol=1e-10)


def test_least_squares_on_copies_of_a_column_leaves_what_one_of_them_leaves():
    A, y = regression(5)
    twice = np.column_stack([A[:, :3], A[:, 1]])
    left = y - A[:, :3] @ np.linalg.lstsq(A[:, :3], y)[0]
    assert refitted_rss(quadratic(twice, y), np.arange(4)) == pytest.approx(left @ left, rel=1e-9)


def test_copies_of_a_column_change_nothing_of_a_path():
    """Nor do they let rounding divide an effect among them, which EBIC would count twice."""
    A, y = regression(7, effect=3)
    alone = lasso_path(quadratic(A, y), 5000)
    copies = np.column_stack([A, -2 * A[:, 3], A[:, 11], A[:, 3], np.zeros(len(A))])
    problem = quadratic(copies, y)
    assert distinct_columns(problem.S).tolist() == [*range(K), K + 3]
    found = lasso_path(problem, 5000)
    np.testing.assert_allclose(found.coefficients[:, :K], alone.coefficients, atol=1e-9)
    assert not found.coefficients[:, K:].any() and found.best == alone.best
    np.testing.assert_allclose(found.ebic, alone.ebic, rtol=1e-9)
    almost = np.column_stack([A, A[:, 3] + 0.01 * np.std(A[:, 3]) * A[:, 20]])
    assert len(distinct_columns(quadratic(almost, y).S)) == K + 1


def test_of_equal_models_the_one_shrunk_least_is_chosen():
    problem = quadratic(*regression(6, effect=3))
    path = lasso_path(problem, 5000, PathSettings(gamma=0.7))
    chosen = path.coefficients != 0
    first = int(np.argmin(path.ebic))
    assert first < path.best and (chosen[first : path.best + 1] == chosen[first]).all()
    assert (chosen[path.best + 1] != chosen[first]).any()


def test_many_effects_that_enter_together_are_found_where_the_lassos_residuals_find_none():
    """Twenty effects of seven standard errors: shrunk, none pays for itself in the ten steps after the first."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((800, 100))
    y = 0.3 * A[:, :20] @ rng.choice([-1, 1], 20) + rng.standard_normal(800)
    problem = quadratic(A, y)
    found = lasso_path(problem, 100_000)
    assert set(np.flatnonzero(found.coefficients[found.best])) == set(range(20))
    usual = lasso_path(problem, 100_000, PathSettings(refit=False, patience=10))
    assert usual.df[usual.best] == 0


def test_ebic_is_its_formula_and_the_path_takes_the_lowest():
    assert ebic(50.0, 3, 100, 1000, 0.5) == pytest.approx(
        100 * np.log(0.5) + 3 * np.log(100) + np.log(special.comb(1000, 3, exact=True)), rel=1e-13
    )
    problem = quadratic(*regression(6, effect=3))
    path = lasso_path(problem, 5000, PathSettings(gamma=0.7))
    expected = [ebic(r, int(d), N, 5000, 0.7) for r, d in zip(path.rss, path.df, strict=True)]
    np.testing.assert_allclose(path.ebic, expected, rtol=1e-13)
    assert expected[path.best] == min(expected) and path.df[path.best] >= 2
    lenient, strict = (lasso_path(problem, 5000, PathSettings(gamma=g)) for g in (0.0, 40.0))
    assert lenient.df[lenient.best] >= path.df[path.best] > strict.df[strict.best]
    assert ebic(-1e-9, 2, 100, 1000, 0.5) == np.inf


def test_a_path_may_end_early():
    problem = quadratic(*regression(7))
    whole, early = (lasso_path(problem, K, PathSettings(patience=p, refit=False)) for p in (None, 4))
    assert len(early.lambdas) == early.best + 5 < len(whole.lambdas)
    np.testing.assert_array_equal(whole.coefficients[: len(early.lambdas)], early.coefficients)
    never = lasso_path(problem, K, PathSettings(min_delta=1e9))
    assert never.best == 0 and never.df[0] == 0


def test_a_better_model_of_more_variants_than_allowed_is_not_chosen_but_said():
    problem = quadratic(*regression(8))
    whole = lasso_path(problem, K, PathSettings())
    assert whole.df[whole.best] > 1 and not whole.cut
    few = lasso_path(problem, K, PathSettings(max_active=1))
    allowed = np.where(whole.df <= 1, whole.ebic, np.inf)
    assert few.cut and few.df[few.best] <= 1 and allowed[few.best] == allowed.min()
    enough = lasso_path(problem, K, PathSettings(max_active=int(whole.df[whole.best])))
    assert not enough.cut and enough.best == whole.best


def test_a_path_ends_before_half_as_many_coefficients_as_contrasts():
    A, y = regression(8)
    path = lasso_path(quadratic(A, y)._replace(num_contrasts=16), K)
    assert path.df.max() <= 8 and len(path.lambdas) < 60


def test_a_phenotype_with_nothing_in_common_gives_an_empty_path():
    path = lasso_path(Quadratic(np.eye(3), np.zeros(3), 5.0, 50), 3)
    assert (path.lambdas, path.df, path.best) == ([0.0], [0], 0) and not path.coefficients.any()
    assert len(lambda_values(np.zeros(3), PathSettings())) == 0


def test_units_of_the_phenotype_scale_the_path_and_choose_the_same():
    A, y = regression(9)
    one, other = (lasso_path(quadratic(A, c * y), K) for c in (1.0, 1e3))
    np.testing.assert_allclose(other.coefficients, 1e3 * one.coefficients, atol=1e-6)
    assert one.best == other.best
    # y in other units has V in their square: S and s scale, coefficients by c, and nothing is chosen otherwise
    problem = quadratic(A, y)
    scaled = Quadratic(problem.S / 1e6, problem.s / 1e3, problem.ypy, N)
    third = lasso_path(scaled, K)
    np.testing.assert_allclose(third.coefficients, 1e3 * one.coefficients, atol=1e-6)
    np.testing.assert_allclose(third.lambdas, one.lambdas / 1e3)
    np.testing.assert_allclose(third.ebic, one.ebic)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PathSettings(num_lambda=0), "num_lambda"),
        (lambda: PathSettings(min_ratio=1e-7), "min_ratio"),
        (lambda: PathSettings(patience=0), "patience"),
        (lambda: PathSettings(gamma=-1), "gamma"),
        (lambda: DescentSettings(tol=0), "tol"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_independent_columns_are_a_basis_in_their_order():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((50, 6))
    A[:, 2] = A[:, 0]
    A[:, 4] = 2 * A[:, 1] - A[:, 3]
    kept = independent_columns(A.T @ A)
    assert len(kept) == 4 and (np.diff(kept) > 0).all() and len({0, 2} & set(kept.tolist())) == 1
    assert np.linalg.matrix_rank(A[:, kept]) == 4
    near = A[:, [0, 1]] + 1e-6 * rng.standard_normal((50, 2))
    both = np.column_stack([A[:, [0, 1]], near])
    assert len(independent_columns(both.T @ both)) == 2
    # what covariates leave of a column counts against its own length
    assert independent_columns(np.diag([1.0, 1e-10]), np.array([1.0, 1.0])).tolist() == [0]
    assert independent_columns(np.zeros((2, 2))).tolist() == []


def test_least_squares_is_its_formula_and_refuses_dependent_columns():
    A, y = regression(10)
    b, covariance = least_squares(quadratic(A, y))
    np.testing.assert_allclose(b, np.linalg.lstsq(A, y)[0], rtol=1e-9)
    np.testing.assert_allclose(covariance, np.linalg.inv(A.T @ A), rtol=1e-8)
    with pytest.raises(ValueError, match="independent_columns"):
        least_squares(quadratic(np.column_stack([A[:, 0], A[:, 0]]), y))


def test_p_values_are_two_sided_normal_and_logs_do_not_underflow():
    found = Inference(np.array([1.0, -3.0, 60.0]), np.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(found.p[:2], 2 * stats.norm.sf([1, 3]))
    assert found.p[2] == 0 and found.log10_p[2] == pytest.approx((np.log(2) + stats.norm.logsf(60)) / np.log(10))


def test_debiasing_is_the_formula_with_scikit_learns_nodewise_lasso():
    A, y = regression(11)
    problem = quadratic(A, y)
    lam = 0.2 * np.abs(problem.s).max()
    b = descend(problem, lam, np.zeros(K), DescentSettings(tol=1e-12)).b
    found = debiased(problem, b, np.array([3, 17]), DescentSettings(tol=1e-12))
    unit = A / np.linalg.norm(A, axis=0)
    for place, j in enumerate((3, 17)):
        others = np.delete(np.arange(K), j)
        gamma = scikit(unit[:, others], unit[:, j], 0.5 * np.sqrt(2 * np.log(K) / N))
        rest = unit[:, j] - unit[:, others] @ gamma
        tau2 = rest @ unit[:, j]
        estimate = b[j] + rest @ (y - A @ b) / tau2 / np.linalg.norm(A[:, j])
        np.testing.assert_allclose(found.estimate[place], estimate, rtol=1e-8)
        np.testing.assert_allclose(found.se[place], np.linalg.norm(rest) / tau2 / np.linalg.norm(A[:, j]), rtol=1e-8)


def test_debiased_intervals_cover_where_those_of_the_lasso_are_shrunk():
    """All columns, not those chosen: what the interval promises."""
    A, _ = regression(12)
    A /= A.std(axis=0)
    truth = np.zeros(K)
    truth[[3, 11, 30]] = 0.4, -0.3, 0.25
    inside, shrunk = [], []
    for seed in range(60):
        y = A @ truth + np.random.default_rng(seed).standard_normal(N)
        problem = quadratic(A, y)
        path = lasso_path(problem, K, PathSettings(num_lambda=25))
        b = path.coefficients[path.best]
        found = debiased(problem, b, np.arange(0, K, 1))
        inside.append(np.abs(found.estimate - truth) <= 1.96 * found.se)
        shrunk.append(b[3] - truth[3])
    coverage = np.mean(inside, axis=0)
    # 60 runs: a coverage of 0.95 falls below 0.85 with probability 1e-3; neighbours in LD keep some bias
    assert coverage[[3, 11, 30]].min() >= 0.85 and 0.93 <= coverage.mean() <= 0.97
    assert np.mean(shrunk) < -0.05


def test_a_column_that_covariates_explain_has_no_debiased_estimate():
    A, y = regression(13)
    A[:, 5] = 0
    found = debiased(quadratic(A, y), np.zeros(K), np.array([5, 6]))
    assert np.isnan(found.estimate[0]) and np.isnan(found.se[0]) and np.isfinite(found.estimate[1])


def test_best_subset_of_one_is_the_first_variant_of_the_path():
    A, y = regression(14, ld=0.0)
    path = lasso_path(quadratic(A, y), K)
    first = np.flatnonzero(path.coefficients[np.argmax(path.df > 0)])
    gains = [abs(A[:, j] @ y) for j in itertools.chain(range(K))]
    assert first[0] == int(np.argmax(gains))
