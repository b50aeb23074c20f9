"""Every public function against every kind of wrong argument: a ValueError that names it, never anything else."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

from gpu_reml import ops, reml
from gpu_reml.reml.probes import checked_probes
from gpu_reml.reml.studies.lasso import Quadratic
from gpu_reml.reml.studies.memberships import membership_gradient
from gpu_reml.reml.studies.merge import merge_plan
from gpu_reml.reml.studies.relax import RelaxSettings, relax
from gpu_reml.validation import (
    check_operator,
    dense_loglik,
    exact_reml,
    kernel,
    simulate_cohort,
    simulate_phenotype,
)
from gpu_reml.validation.small import covariance_of, make_cohort

pytestmark = pytest.mark.filterwarnings("error")
N, M = 70, 90
COHORT = make_cohort(N, M, 2, seed=3)
K, OTHER = COHORT.Ks
Y, X, PROBES = COHORT.y, COHORT.X, reml.draw_probes(N, 8, 6)
Z = PROBES.trace.astype(float)
THETA = np.array([20.0, 25.0])
GENOTYPES = covariance_of(COHORT)
PRODUCTS = GENOTYPES.products
TESTED = [np.arange(40), np.arange(40, M)]
Q = np.full((N, 1), N**-0.5)
LEFT = ops.leave_out(PRODUCTS, np.ones(M), TESTED, ["1", "2"])
BLUP = reml.effects(np.array([10.0, 10.0, 25.0]), Y, X, GENOTYPES)
GRAM = np.cov(np.random.default_rng(1).standard_normal((6, 60)))
QUADRATIC = {"S": GRAM, "s": np.arange(1.0, 7.0), "ypy": 60.0, "num_contrasts": 60}
MEMBERSHIPS = np.random.default_rng(0).dirichlet([1, 1], M)


class Call(NamedTuple):
    """A function, arguments with which it answers, and which of them are vectors, matrices and functions of blocks."""

    function: Callable
    arguments: dict[str, Any]
    vectors: str = ""
    matrices: str = ""
    functions: str = ""


def model(**others):
    return {"y": Y, "X": X, "covariance": [K], **others}


CALLS = {
    "fit": Call(reml.fit, model(probes=PROBES), "y", "X", "covariance"),
    "fit, start": Call(reml.fit, model(probes=PROBES, covariance=[K, OTHER], start=np.ones(3)), "start"),
    "fit_traits": Call(reml.fit_traits, {"Y": Y[:, None], "X": X, "covariance": [K], "probes": PROBES}, "", "Y X"),
    "fit_exact": Call(reml.fit_exact, model(start=THETA), "y start", "X", "covariance"),
    "haseman_elston": Call(reml.haseman_elston, model(probes=PROBES), "y", "X", "covariance"),
    "score": Call(reml.score, model(theta=THETA, probes=Z), "theta y", "X probes", "covariance"),
    "average_information": Call(reml.average_information, model(theta=THETA), "theta y", "X", "covariance"),
    "loglik": Call(reml.loglik, model(theta=THETA, probes=Z), "theta y", "X probes", "covariance"),
    "loglik of V": Call(reml.loglik, model(theta=None, covariance=K + np.eye(N), probes=Z), "y", "X", "covariance"),
    "effects": Call(reml.effects, model(theta=THETA), "theta y", "X", "covariance"),
    "reliability": Call(
        reml.reliability, {"theta": THETA, "X": X, "covariance": [K], "probes": Z}, "theta", "X probes", "covariance"
    ),
    "component_reliability": Call(
        reml.component_reliability, {"theta": THETA, "X": X, "covariance": [K], "probes": Z}, "theta", "X probes"
    ),
    "reliability, diagonals": Call(
        reml.reliability,
        {"theta": THETA, "X": X, "covariance": [K], "probes": Z, "diagonals": np.diag(K)[:, None]},
        "",
        "diagonals",
    ),
    "cross_validate": Call(
        reml.cross_validate, model(theta=THETA, fold=reml.draw_folds(N, 3)), "theta y", "X", "covariance"
    ),
    "variant_effects": Call(
        reml.variant_effects, {"covariance": GENOTYPES, "theta": BLUP.theta[:2], "Py": BLUP.Py}, "theta Py"
    ),
    "allele_effects": Call(
        reml.allele_effects, {"standardised": np.ones((M, 2)), "inv_sd": np.ones(M)}, "inv_sd", "standardised"
    ),
    "allele_intercept": Call(
        reml.allele_intercept, {"effects_of_alleles": np.ones((M, 2)), "mean": np.ones(M)}, "mean", "effects_of_alleles"
    ),
    "accuracy": Call(reml.accuracy, {"y": Y, "fixed": Y, "random": -Y, "X": X}, "y fixed random", "X"),
    "pcg": Call(reml.pcg, {"apply_v": K + np.eye(N), "B": Z, "X0": Z}, "", "B X0", "apply_v"),
    "slq": Call(reml.slq, {"apply_v": K + np.eye(N), "probes": Z}, "", "probes", "apply_v"),
    "apply_v_at": Call(reml.apply_v_at, {"covariance": [K], "theta": THETA}, "theta", "", "covariance"),
    "with_residuals": Call(reml.with_residuals, {"covariance": [K], "diagonals": np.ones((N, 1))}, "", "diagonals"),
    "ScaledCovariance": Call(reml.ScaledCovariance, {"covariance": GENOTYPES, "scale": np.ones(N)}, "scale"),
    "DiagonalCovariance": Call(
        reml.DiagonalCovariance, {"diagonals": np.ones((N, 1)), "names": ["a"], "like": GENOTYPES}, "", "diagonals"
    ),
    "FunctionCovariance": Call(
        reml.FunctionCovariance,
        {"apply_ks": [K.__matmul__], "traces": [np.trace(K)], "num_samples": N, "diagonals": np.diag(K)[:, None]},
        "",
        "diagonals",
    ),
    "as_covariance": Call(reml.as_covariance, {"covariance": [K]}, "", "", "covariance"),
    "dense_covariance": Call(lambda matrix: reml.dense_covariance([matrix]), {"matrix": K}, "", ""),
    "complement_traces": Call(reml.complement_traces, {"covariance": GENOTYPES, "Q": Q}, "", "Q"),
    "make_projected_core": Call(
        reml.make_projected_core,
        {
            "covariance": GENOTYPES,
            "Q": Q,
            "traces": np.ones(2),
            "theta_g": np.ones(2),
            "sketch": Z,
        },
        "traces theta_g",
        "Q sketch",
    ),
    "ai_step": Call(
        reml.ai_step,
        {"theta": THETA, "score": np.ones(2), "ai": np.eye(2), "lower": np.zeros(2)},
        "theta score lower",
        "ai",
    ),
    "ols_scan": Call(reml.ols_scan, {"Y": Y[:, None], "X": X, "products": PRODUCTS}, "", "Y X"),
    "exact_scan": Call(
        reml.exact_scan,
        {"Y": Y[:, None], "X": X, "genotypes": COHORT.genotypes, "groups": [(TESTED[0], TESTED[0])]},
        "",
        "Y X",
    ),
    "exact_scan, weights": Call(
        reml.exact_scan,
        {
            "Y": Y[:, None],
            "X": X,
            "genotypes": COHORT.genotypes,
            "groups": [(TESTED[0], TESTED[0])],
            "weights": np.ones(M),
        },
        "weights",
    ),
    "loco_scan": Call(
        reml.loco_scan,
        {
            "Y": Y[:, None],
            "X": X,
            "left": LEFT,
            "tested": TESTED,
            "thetas": np.full((2, 1, 2), 20.0),
            "rng": np.random.default_rng(0),
        },
        "",
        "Y X",
    ),
    "lambda_gc": Call(reml.lambda_gc, {"log10p": np.ones(5)}, ""),
    "lasso_path": Call(lambda **q: reml.lasso_path(Quadratic(**q), 6), QUADRATIC, "s", "S"),
    "least_squares": Call(lambda **q: reml.least_squares(Quadratic(**q)), QUADRATIC, "s", "S"),
    "debiased": Call(
        lambda b, **q: reml.debiased(Quadratic(**q), b, np.arange(6)), {"b": np.zeros(6), **QUADRATIC}, "s b", "S"
    ),
    "merge_plan": Call(
        merge_plan,
        {"theta": np.ones(3), "covariance_of_theta": np.eye(3), "names": ["a", "b"]},
        "theta",
        "covariance_of_theta",
    ),
    "sparse_reml": Call(
        reml.sparse_reml,
        {
            "y": Y,
            "X": X,
            "covariance": GENOTYPES,
            "estimate": lambda X, start: reml.fit_exact(Y, X, GENOTYPES, strict=False),
            "sketch": PROBES.sketch,
        },
        "y",
        "X sketch",
    ),
    "relax": Call(
        relax,
        {"y": Y, "X": X, "products": PRODUCTS, "memberships": MEMBERSHIPS, "probes": PROBES},
        "y",
        "X memberships",
    ),
    "membership_gradient": Call(
        membership_gradient,
        {"y": Y, "X": X, "products": PRODUCTS, "T": MEMBERSHIPS, "theta": np.ones(3), "probes": PROBES},
        "y theta",
        "X T",
    ),
    "enrichment": Call(
        reml.enrichment,
        {
            "result": reml.fit_exact(Y, X, GENOTYPES, strict=False),
            "weights": GENOTYPES.weights.toarray(),
            "mean_squares": COHORT.genotypes.squared_norm / N,
            "membership": COHORT.W[:, :1],
            "names": ["a"],
        },
        "mean_squares",
        "weights membership",
    ),
    "make_covariance": Call(
        ops.make_covariance, {"products": PRODUCTS, "weights": np.ones((M, 1)), "names": ["a"]}, "", "weights"
    ),
    "leave_out": Call(
        ops.leave_out, {"products": PRODUCTS, "weights": np.ones(M), "rows": TESTED, "names": ["1", "2"]}, "weights"
    ),
    "exact_reml": Call(exact_reml, {"y": Y, "X": X, "Ks": [K]}, "y", "X"),
}


def spoilt(array: np.ndarray, value) -> np.ndarray:
    out = np.array(array, np.result_type(array, type(value)) if not isinstance(value, str) else object)
    out[(0,) * out.ndim] = value
    return out


def of_text(array):
    return np.asarray(array).astype(str)


ANY = {
    "NaN": lambda a: spoilt(np.asarray(a, float), np.nan),
    "infinite": lambda a: spoilt(np.asarray(a, float), np.inf),
    "complex": lambda a: np.asarray(a) + 0j,
    "text": of_text,
    "objects": lambda a: spoilt(a, "x"),
    "a number": lambda a: 1.0,
    "a name": lambda a: "y",
    "a dict": lambda a: {"y": 1},
    "nothing": lambda a: np.zeros((0,) * np.ndim(a)),
    "masked": lambda a: np.ma.array(a, mask=np.arange(np.size(a)).reshape(np.shape(a)) == 0),
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "one short": lambda a: np.asarray(a)[:-1],
    "one more": lambda a: np.concatenate([a, np.asarray(a)[:1]]),
}
VECTOR = {**ANY, "a column": lambda a: np.asarray(a)[:, None]}
MATRIX = {**ANY, "a vector": lambda a: np.asarray(a).ravel()[: len(a)], "a cube": lambda a: np.asarray(a)[None]}
FUNCTION = {
    "a number": 1.0,
    "a name": "grm",
    "nothing": None,
    "a vector": Y,
    "a triangle": np.tril(K),
    "NaN": spoilt(K, np.nan),
    "not square": K[:, 1:],
}
FINE = {  # what is no mistake in its place
    ("variant_effects", "theta", "one more"),  # the residual
    ("fit_traits", "Y", "NaN"),  # a sample that is not measured
}


def cases():
    for name, call in CALLS.items():
        for argument in call.vectors.split():
            yield from ((name, argument, kind) for kind in VECTOR)
        for argument in call.matrices.split():
            yield from ((name, argument, kind) for kind in MATRIX)
        for argument in call.functions.split():
            yield from ((name, argument, kind) for kind in FUNCTION)


def wrong(call: Call, argument: str, kind: str):
    right = call.arguments[argument]
    if argument in call.vectors.split():
        return VECTOR[kind](right)
    return MATRIX[kind](right) if argument in call.matrices.split() else FUNCTION[kind]


@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_of_the_table_are_answered(name):
    CALLS[name].function(**CALLS[name].arguments)


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_argument_is_a_value_error_that_names_it(name):
    failures = []
    for _, argument, kind in (case for case in cases() if case[0] == name and case not in FINE):
        call = CALLS[name]
        try:
            call.function(**{**call.arguments, argument: wrong(call, argument, kind)})
            failures.append(f"{argument}, {kind}: answered")
        except ValueError as error:
            if not re.search(rf"\b({'|'.join(call.arguments)}|component)\b", str(error), re.IGNORECASE):
                failures.append(f"{argument}, {kind}: {error}")
        except Exception as error:
            failures.append(f"{argument}, {kind}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


SAME = {
    "lists": np.ndarray.tolist,
    "float32": lambda a: a.astype(np.float32),
    "objects": lambda a: a.astype(object),
    "Fortran order": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "read only": lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
}


@pytest.mark.parametrize("kind", [*SAME, "pandas", "whole numbers", "sparse"])
def test_numbers_in_any_container_give_the_same_answer(kind):
    y, X = np.rint(Y), np.column_stack([np.ones(N), np.arange(N) % 5])
    expected, solution = reml.fit(y, X, [K], PROBES).theta, reml.pcg(K + np.eye(N), X).X
    if kind == "pandas":
        pandas = pytest.importorskip("pandas")
        index = pandas.Index(np.arange(N)[::-1])
        given, design = pandas.Series(y, index), pandas.DataFrame(X, index)
    elif kind == "whole numbers":
        given, design = y.astype(int), X.astype(np.int8)
    elif kind == "sparse":
        given, design = y, sparse.csr_array(X)
    else:
        given, design = SAME[kind](y), SAME[kind](X)
    np.testing.assert_allclose(reml.fit(given, design, [K], PROBES).theta, expected, rtol=1e-12)
    for estimate in (reml.fit_exact, lambda *args: reml.haseman_elston(*args, PROBES)):
        np.testing.assert_allclose(estimate(given, design, [K]).theta, estimate(y, X, [K]).theta, rtol=1e-12)
    np.testing.assert_allclose(reml.effects(THETA, given, design, [K]).random, reml.effects(THETA, y, X, [K]).random)
    np.testing.assert_allclose(reml.pcg(K + np.eye(N), design).X, solution, rtol=1e-4)


def test_a_matrix_is_as_good_as_a_function_and_one_right_hand_side_is_a_vector():
    V, b = K + np.eye(N), Y[:, None]
    expected = np.linalg.solve(V, b)
    for apply_v in (V, V.__matmul__, sparse.csr_array(V), aslinearoperator(V)):
        found = reml.pcg(apply_v, b, tol=1e-10, preconditioner=np.eye(N))
        assert found.X.shape == (N, 1)
        np.testing.assert_allclose(found.X, expected, rtol=1e-7)
        assert reml.slq(apply_v, reml.exact_probes(N).trace).estimate == pytest.approx(np.linalg.slogdet(V)[1])
        likely = reml.loglik(None, Y, X, apply_v, probes=Z)
        assert likely.value == pytest.approx(reml.loglik(None, Y, X, V.__matmul__, probes=Z).value, rel=1e-12)
        np.testing.assert_array_equal(reml.pcg(apply_v, Y, tol=1e-10, preconditioner=np.eye(N)).X, found.X[:, 0])
    with pytest.raises(ValueError, match=r"probes: expected a block \(n, k\), probes\[:, None\]"):
        reml.slq(V, Y)


def test_a_function_that_is_no_positive_definite_v_is_refused():
    V = K + np.eye(N)
    for estimate in (lambda v: reml.loglik(None, Y, X, v, probes=Z), lambda v: reml.slq(v, Z)):
        with pytest.raises(ValueError, match=r"(apply_v|covariance): V is not symmetric"):
            estimate(lambda B: np.triu(V) @ B)
        with pytest.raises(ValueError, match=r"(apply_v|covariance): returns \(69, \d\) for a block \(70, \d\)"):
            estimate(lambda B: (V @ B)[1:])
        with pytest.raises((ValueError, reml.BreakdownError), match="not positive definite"):
            estimate(lambda B: (V - 5 * np.eye(N)) @ B)
        with pytest.raises((ValueError, reml.BreakdownError), match=r"not finite|not positive definite"):
            estimate(lambda B: V @ B * np.nan)
    with pytest.raises(reml.BreakdownError, match="the preconditioner is not positive definite"):
        reml.pcg(V, Z, preconditioner=lambda R: -R)
    for wrong_kind in (lambda B: None, lambda B: B[:, 0], lambda B: B + 0j):
        with pytest.raises(ValueError, match="apply_v: returns"):
            reml.pcg(wrong_kind, Z)


NUMBERS = {
    "pcg, tol": (lambda v: reml.pcg(K + np.eye(N), Z, tol=v), "tol", [0, -1, 1, 2.0, np.nan, np.inf, "x", None, [0.1]]),
    "pcg, steps": (lambda v: reml.pcg(K + np.eye(N), Z, max_iterations=v), "max_iterations", [0, -1, 1.5, np.nan, "x"]),
    "slq, steps": (lambda v: reml.slq(K + np.eye(N), Z, max_steps=v), "max_steps", [0, -1, 2.5, np.nan, "x", None]),
    "slq, tol": (lambda v: reml.slq(K + np.eye(N), Z, tol=v), "tol", [-1, np.nan, "x", None, 1j]),
    "score, tol": (
        lambda v: reml.score(THETA, Y, X, [K], probes=Z, solver=reml.Solver(v)),
        "tol",
        [0, -1, np.nan, "x"],
    ),
    "effects, tol": (lambda v: reml.effects(THETA, Y, X, [K], tol=v), "tol", [0, -1, np.nan, "x"]),
    "effects, steps": (lambda v: reml.effects(THETA, Y, X, [K], max_iterations=v), "max_iterations", [0, -1, 0.5]),
    "reliability": (lambda v: reml.reliability(THETA, X, [K], Z, tol=v), "tol", [0, -1, np.nan, "x"]),
    "cross_validate": (lambda v: reml.cross_validate(THETA, Y, X, [K], np.arange(N) % 2, tol=v), "tol", [0, np.nan]),
    "folds": (lambda v: reml.draw_folds(N, v), "num_folds", [0, 1, N + 1, 2.5, np.nan, "x", None]),
    "samples": (lambda v: reml.draw_probes(v, 3), "num_samples", [0, -1, 2.5, np.nan, "x", None, True]),
    "probes": (lambda v: reml.draw_probes(N, v), "num_probes", [-1, 2.5, np.nan, "x", None]),
    "rank": (lambda v: reml.draw_probes(N, 3, v), "rank", [-1, 2.5, np.nan, "x"]),
    "seed": (lambda v: reml.draw_probes(N, 3, seed=v), "seed", [-1, 2.5, "x"]),
    "exact": (reml.exact_probes, "num_samples", [0, -1, 2.5, "x", None]),
    "default": (reml.default_rank, "num_samples", [0, -1, 2.5, "x", None]),
    "moments": (lambda v: reml.haseman_elston(Y, X, [K], PROBES, num_probes=v), "num_probes", [0, 1, 9, 2.5, "x"]),
    "level": (lambda v: reml.accuracy(Y, Y, Y, X, v), "level", [0, 1, -1, np.nan, "x", None]),
    "alpha": (lambda v: ops.alpha_weights(COHORT.genotypes, v), "alpha", [np.nan, np.inf, "x", None]),
    "trace": (
        lambda v: reml.as_covariance([(np.asarray, v)], N),
        "trace",
        [0, -1.0, np.nan, np.inf, "x", 1j, [1]],
    ),
    "operators": (lambda v: reml.FunctionCovariance([np.asarray], [1.0], v), "num_samples", [0, -3, 2.5, "x", None]),
    "contrasts": (
        lambda v: reml.lasso_path(Quadratic(GRAM, np.ones(6), 60.0, v), 6),
        "num_contrasts",
        [0, -1, 2.5, "x", None],
    ),
    "variants": (lambda v: reml.lasso_path(Quadratic(**QUADRATIC), v), "num_variants", [0, 5, 2.5, np.nan, "x", None]),
    "tests": (lambda v: reml.fixed_tests(BLUP.fixed, v), "num_samples", [0, 3, 2.5, "x", None]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_wrong_number_is_a_value_error_that_names_it(name):
    function, argument, values = NUMBERS[name]
    failures = []
    for value in values:
        try:
            function(value)
            failures.append(f"{value!r}: answered")
        except ValueError as error:
            if argument not in str(error):
                failures.append(f"{value!r}: {error}")
        except Exception as error:
            failures.append(f"{value!r}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


SETTINGS = {
    reml.FitSettings: {"max_iterations": "count", "tol": "positive", "residual_floor": "share", "engine": "word"},
    reml.SolverSettings: {
        **dict.fromkeys(("y", "probes", "information", "final", "quadrature"), "share"),
        "max_iterations": "count",
    },
    reml.ProbeSettings: {"first": "count", "mc_target": "positive", "columns": "count"},
    reml.LocoSettings: {
        "tol": "share",
        "calibration_tol": "share",
        "calibration_se": "positive",
        "max_iterations": "count",
    },
    reml.RefineSettings: {"accuracy": "share", "max_iterations": "count", "columns": "count"},
    reml.DescentSettings: {"max_sweeps": "count", "tol": "positive", "period": "count"},
    reml.PathSettings: {"num_lambda": "count", "max_active": "count", "patience": "count"},
    reml.LassoSettings: {"candidates": "count", "max_pcg": "count", "at_once": "count", "solve_tol": "share"},
    reml.KktSettings: {"add": "count", "max_rounds": "count", "max_candidates": "count"},
    reml.SparseSettings: {"rounds": "count", "stable_rounds": "count", "theta_tol": "positive"},
    RelaxSettings: {"outer_iterations": "count", "trials": "count", "rate": "positive"},
}
WRONG = {
    "count": [0, -1, 2.5, np.nan, "3", [3]],
    "positive": [0, -1.0, np.nan, np.inf, "3", [3]],
    "share": [0, 1, -1.0, np.nan, "3", [3]],
    "word": ["", "other", 3, None],
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_wrong_setting_is_a_value_error_that_names_it(kind):
    for name, sort in SETTINGS[kind].items():
        for value in WRONG[sort]:
            with pytest.raises(ValueError, match=name):
                kind(**{name: value})


ESTIMATORS = {
    "exact": lambda y, X, c, p: reml.fit_exact(y, X, c),
    "krylov": reml.fit,
    "reduced": lambda y, X, c, p: reml.fit(y, X, c, p, reml.FitSettings(engine="reduced")),
    "moments": reml.haseman_elston,
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_cohorts_of_very_few_people_have_an_answer_or_a_reason(estimator, n):
    rng = np.random.default_rng(n)
    for c in range(n + 1):
        y, design, root = rng.standard_normal(n), rng.standard_normal((n, c)), rng.standard_normal((n, 5))
        try:
            found = ESTIMATORS[estimator](y, design, [root @ root.T], reml.draw_probes(n, 8, 0))
            assert np.isfinite(found.theta).all() and n > c
        except (ValueError, ArithmeticError) as error:
            assert re.match(r"X: |y: |num_probes: |component|covariance: component|p'Vp|the |a linear", str(error)), (
                error
            )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_design_or_a_phenotype_that_leaves_nothing_is_refused(estimator):
    for y, design, message in [
        (Y, X[:, [0, 1, 1]], r"X: column \d is a linear combination of the others"),
        (Y, np.column_stack([X, np.zeros(N)]), "X: column 3 is zero"),
        (Y, np.eye(N), "X: expected fewer columns than samples, found 70 columns for 70 samples"),
        (Y, np.ones((N, N + 1)), "X: expected fewer columns than samples"),
        (np.full(N, 3.0), X, "y: does not vary once the fixed effects are taken out"),
        (np.zeros(N), X, "y: does not vary"),
        (X @ [1e6, 1.0, 1.0], X, "y: does not vary"),
    ]:
        with pytest.raises(ValueError, match=message):
            ESTIMATORS[estimator](y, design, [K], PROBES)
    for nothing in ([], (), np.zeros((0, N, N))):
        with pytest.raises(ValueError, match="covariance: expected at least one"):
            ESTIMATORS[estimator](Y, X, nothing, PROBES)


@pytest.mark.parametrize("estimator", ["krylov", "reduced", "moments"])
def test_probes_that_are_none_are_refused(estimator):
    twice = np.column_stack([Z, -Z[:, 2]])
    for trace, sketch, message in [
        (10 * Z, PROBES.sketch, r"probes.trace: a mean square of 100, expected 1"),
        (0.1 * Z, PROBES.sketch, r"probes.trace: a mean square of 0.01, expected 1"),
        (np.zeros_like(Z), PROBES.sketch, r"probes.trace: a mean square of 0, expected 1"),
        (twice, PROBES.sketch, r"probes.trace: columns 2 and 8 are one probe, taken twice"),
        (Z, Z[:, 3:5], r"probes.sketch: column 0 is that of probes.trace 3; draw them independently"),
        (Z[:, :0], PROBES.sketch, r"probes: expected \(70, s >= \d\) and \(70, r\)"),
        (Z[1:], PROBES.sketch, r"probes: expected \(70, s >= \d\)"),
        (Z, PROBES.sketch[1:], r"probes: expected \(70, s >= \d\)"),
        (Z[:, 0], PROBES.sketch, r"probes.trace: expected \(n, s\), found \(70,\); one probe is z\[:, None\]"),
        (Z * np.nan, PROBES.sketch, r"probes.trace: column 0 has a value that is not finite"),
        (Z + 0j, PROBES.sketch, r"probes.trace: expected real numbers"),
        (None, PROBES.sketch, r"probes.trace: expected \(n, s\), found \(\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            ESTIMATORS[estimator](Y, X, [K], reml.Probes(trace, sketch))
    for wrong_kind in (None, "exact", 3.5, True, {}):
        with pytest.raises(ValueError, match="probes: expected a number of them, an array"):
            ESTIMATORS[estimator](Y, X, [K], wrong_kind)


@pytest.mark.parametrize("n", [65, 70])
def test_rightful_probes_of_every_kind_are_taken(n):
    rng = np.random.default_rng(0)
    sphere = rng.standard_normal((n, 16))
    for trace in (
        rng.standard_normal((n, 16)),
        np.sqrt(n) * sphere / np.linalg.norm(sphere, axis=0),
        np.sqrt(n) * np.eye(n),
        np.hstack([np.sqrt(n) * np.eye(n)] * 2),
        rng.choice([-1, 1], (n, 1)),
        np.where(rng.random((n, 64)) < 1 / 3, np.sqrt(3) * rng.choice([-1, 1], (n, 64)), 0),
    ):
        checked_probes(reml.Probes(trace, reml.draw_probes(n, 0, 5).sketch), n)


@pytest.mark.parametrize("function", ["score", "average_information", "effects", "reliability", "cross_validate"])
@pytest.mark.parametrize("theta", [[-1.0, 25.0], [20.0, -1.0], [20.0, 0.0], [0.0, 0.0], [20.0], [1.0, 2.0, 3.0]])
def test_variances_that_cannot_be_are_refused(function, theta):
    call = CALLS[function]
    with pytest.raises(ValueError, match="theta: expected"):
        call.function(**{**call.arguments, "theta": theta})


GENOTYPE_CALLS = {
    "pack, text": (lambda: ops.pack(np.array([["0"]])), "counts"),
    "pack, halves": (lambda: ops.pack(np.full((4, 2), 0.5)), "counts"),
    "pack, NaN": (lambda: ops.pack(np.full((4, 2), np.nan)), "counts"),
    "pack, 300": (lambda: ops.pack(np.full((4, 2), 258)), "counts"),
    "pack, a vector": (lambda: ops.pack(np.zeros(4)), "counts"),
    "unpack, a vector": (lambda: ops.unpack(np.zeros(4, np.uint8), 4), "packed"),
    "unpack, too many": (lambda: ops.unpack(np.zeros((4, 1), np.uint8), 5), "num_samples"),
    "standardise, none": (lambda: ops.standardise([], 4), "parts"),
    "standardise, floats": (lambda: ops.standardise([np.zeros((3, 1))], 4), "parts"),
    "standardise, lists": (lambda: ops.standardise([[[1]]], 4), "parts"),
    "standardise, counts": (lambda: ops.standardise(np.zeros((4, 3), np.int8), 4), "parts"),
    "standardise, samples": (lambda: ops.standardise([np.zeros((3, 1), np.uint8)], 0), "num_samples"),
    "take_samples, floats": (lambda: ops.take_samples(np.zeros((2, 1), np.uint8), [0.5]), "index"),
    "take_samples, beyond": (lambda: ops.take_samples(np.zeros((2, 1), np.uint8), [9]), "index"),
    "take_variants, beyond": (lambda: ops.take_variants(COHORT.genotypes, np.array([M])), "rows"),
    "take_variants, negative": (lambda: ops.take_variants(COHORT.genotypes, np.array([-1])), "rows"),
    "take_variants, floats": (lambda: ops.take_variants(COHORT.genotypes, np.array([0.5])), "rows"),
    "make_products, type": (lambda: ops.make_products(COHORT.genotypes, "cpu", np.int8), "dtype"),
    "make_products, device": (lambda: ops.make_products(COHORT.genotypes, "gpu"), "device"),
    "make_products, counts": (lambda: ops.make_products(COHORT.W, "cpu"), "genotypes"),
    "make_covariance, counts": (lambda: ops.make_covariance(COHORT.genotypes), "products"),
    "make_covariance, names": (lambda: ops.make_covariance(PRODUCTS, np.ones((M, 2)), ["a"]), "names"),
    "make_covariance, twice": (lambda: ops.make_covariance(PRODUCTS, np.ones((M, 2)), ["a", "a"]), "names"),
    "make_covariance, negative": (lambda: ops.make_covariance(PRODUCTS, -np.ones((M, 1))), "weights"),
    "zt, rows": (lambda: PRODUCTS.zt(np.ones((N + 1, 2))), "B"),
    "zt, a vector": (lambda: PRODUCTS.zt(np.ones(N)), "B"),
    "apply, theta": (lambda: GENOTYPES.apply(np.ones(3), np.ones((N, 1))), "theta"),
    "BlockWeights": (lambda: ops.BlockWeights([np.tril(np.ones((3, 3)))]), "matrices"),
    "block_edges": (lambda: ops.block_edges(COHORT.genotypes, 0), "block_size"),
    "ld_scores": (lambda: ops.ld_scores(COHORT.genotypes, np.ones(3), np.ones(3)), "chromosomes"),
    "check_operator": (lambda: check_operator(K), "op"),
    "check_operator, samples": (lambda: check_operator(K.__matmul__, 0), "num_samples"),
    "check_operator, probes": (lambda: check_operator(K.__matmul__, N, num_probes=1), "num_probes"),
    "kernel": (lambda: kernel(np.ones((3, 2)), -np.ones(2)), "weights"),
    "simulate_cohort": (lambda: simulate_cohort(0, 3, 0), "sample"),
    "simulate_phenotype": (lambda: simulate_phenotype(np.ones((3, 2)), [np.ones(2)], [1.0], 0), "theta"),
    "simulate_phenotype, NaN": (lambda: simulate_phenotype(np.ones((3, 2)), [np.ones(2)], [1.0, np.nan], 0), "theta"),
    "dense_loglik": (lambda: dense_loglik([1.0, 1.0, 1.0], Y, X, [K]), "theta"),
}


@pytest.mark.parametrize("name", GENOTYPE_CALLS)
def test_what_is_no_genotypes_covariance_or_simulation_is_a_value_error_that_names_it(name):
    function, argument = GENOTYPE_CALLS[name]
    with pytest.raises(ValueError, match=argument):
        function()
