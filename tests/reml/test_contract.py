"""A covariance that is not what it is said to be is refused by every estimator, and none that keeps the rules is."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.reml import (
    ConvergenceError,
    FitSettings,
    FunctionCovariance,
    MixedCovariance,
    Operator,
    average_information,
    component_reliability,
    cross_validate,
    dense_covariance,
    draw_folds,
    draw_probes,
    effects,
    exact_probes,
    fit,
    fit_exact,
    fit_traits,
    haseman_elston,
    reliability,
    score,
)
from gpu_reml.reml.contract import check_traces
from gpu_reml.validation.small import covariance_of, make_cohort

N = 120
COHORT = make_cohort(N, 300, 2, seed=3)
K, OTHER = COHORT.Ks
Y, X, PROBES = COHORT.y, COHORT.X, draw_probes(N, 64, 20)
THETA = np.array([20.0, 25.0])
REDUCED = FitSettings(engine="reduced")

ESTIMATORS = {
    "fit, krylov": lambda c: fit(Y, X, c, PROBES),
    "fit, reduced": lambda c: fit(Y, X, c, PROBES, REDUCED),
    "fit, two components": lambda c: fit(Y, X, [c, OTHER] if isinstance(c, tuple) else c, PROBES),
    "fit_traits": lambda c: fit_traits(np.column_stack([Y, Y[::-1]]), X, c, PROBES),
    "fit_exact": lambda c: fit_exact(Y, X, c),
    "haseman_elston": lambda c: haseman_elston(Y, X, c, PROBES),
}
AT_THETA = {
    "score": lambda c: score(THETA, Y, X, c, probes=PROBES),
    "average_information": lambda c: average_information(THETA, Y, X, c),
    "effects": lambda c: effects(THETA, Y, X, c),
    "reliability": lambda c: reliability(THETA, X, c, PROBES.trace, diagonals=np.diag(K)[:, None]),
    "component_reliability": lambda c: component_reliability(THETA, X, c, PROBES.trace, diagonals=np.diag(K)[:, None]),
    "cross_validate": lambda c: cross_validate(THETA, Y, X, c, draw_folds(N, 3)),
}


TRACE = r"component \w+ has (a trace of 1[012]\d|\d.* on the fixed effects alone).*; state tr\(K\), not tr\(K\)/n"


def changing(B):
    image = K @ B
    B *= 2
    return image


BROKEN = {
    "a triangle": (lambda B: np.triu(K) @ B, "is not symmetric"),
    "another shape": (lambda B: (K @ B)[:-1], r"returns \(119, \d+\) for a block \(120, \d+\)"),
    "nothing": (lambda B: None, "returns NoneType of object for a block"),
    "complex numbers": (lambda B: K @ B + 0j, "returns ndarray of complex128 for a block"),
    "NaN": (lambda B: K @ B * np.nan, "returns values that are not finite"),
    "a change of its input": (changing, "changes its input"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("estimator", [*ESTIMATORS, *AT_THETA])
def test_a_function_that_breaks_the_rules_is_refused_by_every_estimator(estimator, case):
    function, message = BROKEN[case]
    with pytest.raises(ValueError, match=f"covariance: component own {message}"):
        {**ESTIMATORS, **AT_THETA}[estimator](Operator(function, np.trace(K), "own"))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_trace_over_n_a_wrong_one_and_a_negative_covariance_are_refused_by_every_estimator(estimator):
    function = K.__matmul__
    for stated in (np.trace(K) / N, 2.5 * np.trace(K)):
        with pytest.raises(ValueError, match=TRACE):
            ESTIMATORS[estimator](Operator(function, stated, "own"))
    with pytest.raises(ValueError, match=r"component own (is not positive semidefinite|has a trace of -11)"):
        ESTIMATORS[estimator](Operator(lambda B: -K @ B, np.trace(K), "own"))
    with pytest.raises(ValueError, match="trace of component own: expected a number above 0"):
        ESTIMATORS[estimator](Operator(lambda B: -K @ B, -np.trace(K), "own"))


@pytest.mark.parametrize("estimator", ["fit, krylov", "fit, two components", "haseman_elston"])
def test_a_trace_that_the_fixed_effects_alone_exceed_is_refused(estimator):
    def household(B):
        return np.repeat(B.reshape(N // 3, 3, -1).sum(axis=1), 3, axis=0)

    with pytest.raises(ValueError, match=TRACE):
        ESTIMATORS[estimator](Operator(household, 1.0, "own"))


def test_a_covariance_class_with_a_wrong_trace_or_without_symmetry_is_refused():
    class Own(FunctionCovariance):
        def image_squares(self, F):
            raise AttributeError

    class Triangle(FunctionCovariance):
        def features(self, B):
            return np.stack([B, np.triu(K) @ B, OTHER @ B])

        def apply(self, theta, B):
            return theta[0] * np.triu(K) @ B

    wrong = Own([K.__matmul__, OTHER.__matmul__], [1.0, np.trace(OTHER)], N)
    with pytest.raises(ValueError, match=TRACE):
        fit(Y, X, wrong, PROBES)
    for estimator in (fit, haseman_elston):
        with pytest.raises(ValueError, match="component component_000 is not symmetric"):
            estimator(Y, X, Triangle([K.__matmul__] * 2, [np.trace(K)] * 2, N), PROBES)
    with pytest.raises(ValueError, match="component component_000 is not symmetric"):
        fit(Y, X, Triangle([K.__matmul__], [np.trace(K)], N), PROBES)


def test_a_matrix_that_is_no_covariance_is_refused():
    spoilt = K.copy()
    spoilt[3, 3] = -1
    for bad, message in {
        "lower triangle": (np.tril(K), r"covariance\[0\]: is not symmetric: .*T \+ T' - diag\(T\)"),
        "sparse triangle": (sparse.csr_array(np.triu(K)), r"covariance\[0\]: is not symmetric"),
        "not square": (K[:, :-1], r"covariance\[0\]: expected a matrix"),
        "negative": (spoilt, r"covariance\[0\]: K\[3, 3\] = -1"),
        "zero": (np.zeros((N, N)), r"covariance\[0\]: has a trace of zero"),
        "empty": (np.zeros((0, 0)), r"covariance\[0\]: expected a matrix"),
    }.values():
        for given in ([bad], bad):
            with pytest.raises(ValueError, match=message):
                fit(Y, X, given, PROBES)
    with pytest.raises(ValueError, match=r"covariance\[1\]: is not symmetric"):
        fit(Y, X, [(K.__matmul__, np.trace(K)), np.triu(K)], PROBES)


def test_every_way_to_give_a_covariance_gives_the_same_fit():
    expected = fit(Y, X, [K], PROBES).theta
    pandas = pytest.importorskip("pandas")
    trace = np.trace(K)
    for given in (
        K,
        K[None],
        K.astype(np.float32),
        pandas.DataFrame(K),
        sparse.csr_array(K),
        [sparse.coo_array(K)],
        (K.__matmul__, trace),
        [(aslinearoperator(K), trace)],
        Operator(lambda B: (K @ B).astype(np.float32), trace),
        dense_covariance([K]),
    ):
        np.testing.assert_allclose(fit(Y, X, given, PROBES).theta, expected, rtol=1e-4)


def test_what_is_no_covariance_is_refused():
    for bad, message in [
        ([], "expected at least one component"),
        (np.sin, "is a function without its trace"),
        (aslinearoperator(K), "is a function without its trace"),
        ([aslinearoperator(K)], "is a function without its trace"),
        (3.0, "expected a covariance, a matrix .*, found float$"),
        ("grm", "found str"),
        (None, "found NoneType"),
        ([K, "grm"], r"covariance\[1\]: expected a covariance"),
        ([K.tolist()], r"covariance\[0\]: expected a covariance.*found list"),
        ([(np.sin, "one")], "trace of component component_000: expected a number above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(Y, X, bad, PROBES)


def test_diagonals_that_do_not_add_up_to_the_trace_are_refused():
    for function in (reliability, component_reliability):
        with pytest.raises(ValueError, match="diagonals: component component_000 has a mean K_ii of 2 here"):
            function(THETA, X, [K], PROBES.trace, diagonals=np.full((N, 1), 2.0))
    with pytest.raises(ValueError, match="component a has a diagonal that adds up to 120"):
        FunctionCovariance([K.__matmul__], [1.0], N, ["a"], np.ones((N, 1)))


def kernels(n: int):
    """Components of all kinds of spectra: one direction, few, one beside a bulk, households, flat, rare alleles."""
    rng = np.random.default_rng(n)
    u, rare = rng.standard_normal((n, 1)), np.zeros((n, 1))
    rare[:2, 0] = 1, -2
    few = rng.standard_normal((n, 3))
    house = (np.arange(n)[:, None] // 3 == np.arange(n) // 3).astype(float)
    return {
        "one": u @ u.T,
        "rare": rare @ rare.T,
        "few": few @ few.T,
        "bulk": u @ u.T + np.eye(n),
        "house": house,
        "flat": np.eye(n),
        "grm": np.cov(rng.standard_normal((n, 2 * n))),
    }


@pytest.mark.parametrize("num_probes", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("normal", [False, True])
def test_no_rightful_trace_is_refused_whatever_the_spectrum_and_the_number_of_probes(num_probes, normal):
    """Thousands of draws over all spectra: a chance of 1e-3 would show, and that of the check is about 1e-9."""
    n, draws = 24, 250
    rng = np.random.default_rng(num_probes)
    shape = (n, num_probes * draws)
    Z = rng.standard_normal(shape) if normal else rng.choice([-1.0, 1.0], shape)
    for name, matrix in kernels(n).items():
        images, covariance = matrix @ Z, dense_covariance([matrix], [name])
        forms, squares = ((part * other).sum(axis=0) for part, other in ((Z, images), (images, images)))
        for b in range(draws):
            here = slice(b * num_probes, (b + 1) * num_probes)
            for known in (squares[None, here], np.full((1, num_probes), np.nan)):
                check_traces(covariance, forms[None, here], known, covariance.traces)


@pytest.mark.parametrize("n", [4, 9, 30])
def test_genotypes_of_few_samples_and_variants_are_fitted_with_few_and_exact_probes(n):
    for m in (1, 40):
        counts = np.random.default_rng(m).binomial(2, 0.4, (n, m)).astype(np.int8)
        counts[:2] = [[0], [1]]
        products = CpuProducts(standardise([pack(counts)], n), np.float32)
        y = np.random.default_rng(n).standard_normal(n)
        for probes in (draw_probes(n, 1), draw_probes(n, 5), exact_probes(n)):
            for settings in (None, REDUCED):
                try:
                    fit(y, np.ones((n, 1)), make_covariance(products), probes, settings, strict=False)
                except ArithmeticError:  # so little data may end without an estimate, but not as a wrong argument
                    continue


def test_a_triangle_is_told_from_a_covariance_of_low_rank_at_every_block():
    """Vectors of which K has nothing leave rounding alone, which is no asymmetry."""
    for name, matrix in kernels(N).items():
        function = Operator(lambda B, matrix=matrix: matrix @ B, np.trace(matrix), name)
        for estimator in ("fit, krylov", "fit, reduced", "haseman_elston"):
            try:
                ESTIMATORS[estimator](function)
            except (ConvergenceError, ValueError) as error:
                assert "cannot be told apart" in str(error), name


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_trace_that_is_off_by_more_than_six_standard_errors_is_refused(share):
    cohort = make_cohort(400, 1500, 1, seed=5)
    matrix, probes = cohort.Ks[0], draw_probes(400, 128, 0)
    function = (matrix.__matmul__, share * np.trace(matrix))
    for estimator in (fit, haseman_elston, fit_exact):
        with pytest.raises(ValueError, match=r"component_000 has a trace of (39|40)\d.* by probes, not (35|36|43|44)"):
            estimator(cohort.y, cohort.X, function, *([] if estimator is fit_exact else [probes]))


def test_a_triangle_is_found_beside_many_covariates_of_groups():
    """Q comes first, and covariates of groups see nothing of an asymmetry within them."""
    groups = (np.arange(N)[:, None] // 10 == np.arange(N // 10)).astype(float)
    house = np.kron(np.eye(N // 10), np.triu(np.ones((10, 10))))
    for estimator in (fit, haseman_elston):
        with pytest.raises(ValueError, match="component component_000 is not symmetric"):
            estimator(Y, groups, (house.__matmul__, float(N)), PROBES)


def test_mixed_covariances_check_the_part_that_is_a_function():
    genotypes = covariance_of(COHORT)
    with pytest.raises(ValueError, match=TRACE):
        fit(Y, X, MixedCovariance([genotypes, FunctionCovariance([np.eye(N).__matmul__], [1.0], N, ["own"])]), PROBES)


def test_a_matrix_with_eigenvalues_far_below_zero_is_no_covariance():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    values = np.abs(rng.standard_normal(60))
    values[:12] *= -0.5
    K = (basis * values) @ basis.T
    assert K.diagonal().min() > 0
    with pytest.raises(ValueError, match=r"covariance\[0\]: has an eigenvalue of -\d"):
        fit_exact(rng.standard_normal(60), np.ones((60, 1)), [K])
    values[:12] *= 0.02 * values.mean() / np.abs(values[:12]).max()  # as pairs of samples with different missing calls
    fit_exact(rng.standard_normal(60), np.ones((60, 1)), [(basis * values) @ basis.T])


def test_a_matrix_beside_a_covariance_of_default_names_takes_another():
    cohort = make_cohort(60, 80, 2, 1)
    found = fit_exact(cohort.y, cohort.X, [covariance_of(cohort), cohort.Ks[0] @ cohort.Ks[0]])
    assert len(set(found.names)) == len(found.names) == len(cohort.Ks) + 1
