"""Single variants again without the score's approximation: generalised least squares by conjugate gradients.

The scan's factor gamma stands for z'P_c z of all variants of a chromosome.  Here it is solved for, a column for each
variant and trait, so that effects and errors are those of generalised least squares at the scan's heritability, as in
:func:`~gpu_reml.reml.studies.association.exact_scan`.  Kang et al. 2010, Nat Genet 42:348.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops import take_variants, to_dense
from gpu_reml.ops.arguments import as_count, as_number
from gpu_reml.ops.loco import LeaveOut

from ..hooks import Keep, made_anew
from ..least_squares import column_effects
from ..linalg import Block, column_batches, column_dots, project, take_columns
from .association import Scan, log10p_student
from .loco import LocoNull, LocoScan, LocoSettings, apply_v, columns_at_once, solve_columns

# A solve goes to this relative residual even where its accuracy would allow a larger one.
LOOSEST = 0.3


@dataclass(frozen=True)
class RefineSettings:
    """``log10p``: -log10 p of the score from which on a variant is refined, the ``most`` most significant of a trait.
    ``accuracy``: bound of the relative error of z'Pz that its solve is to meet; ``columns``: most solved at once."""

    log10p: float = 5.0
    most: int = 100
    accuracy: float = 1e-6
    max_iterations: int = 400
    columns: int | None = None

    def __post_init__(self):
        if as_number(self.log10p, "log10p") < 0:
            raise ValueError(f"log10p: expected a number from 0 up, found {self.log10p}")
        as_count(self.most, "most", least=0)
        as_number(self.accuracy, "accuracy", above=0, below=1)
        as_count(self.max_iterations, "max_iterations")
        if self.columns is not None:
            as_count(self.columns, "columns")


class Refined(NamedTuple):
    """``scan``: the score's, with refined tests in place of those ``which`` (m, t) marks; ``wanted`` (t,) variants met
    the threshold.  ``bounds`` (k,): certified relative error of every z'Pz; ``iterations`` (k,)."""

    scan: Scan
    which: np.ndarray
    wanted: np.ndarray
    bounds: np.ndarray
    iterations: np.ndarray
    column_passes: int
    converged: bool


class Tests(NamedTuple):
    """Variants, traits and groups (k,) of the tests to refine, and the (trait, group) pairs that occur among them."""

    variants: np.ndarray
    traits: np.ndarray
    groups: np.ndarray
    pairs: np.ndarray
    pair_of: np.ndarray

    def take(self, which: slice) -> "Tests":
        """Some of the tests, with all pairs."""
        return Tests(*(values[which] for values in self[:3]), self.pairs, self.pair_of[which])


class OfTraits(NamedTuple):
    """Columns of every pair: ``w`` ~ P_c y, its residual ``r``, and y'P_c y."""

    w: Block
    r: Block
    ypy: np.ndarray


class TestForms(NamedTuple):
    """z'P_c y, z'P_c z and the relative error bounds of the latter, (k,), with what they took."""

    zpy: np.ndarray
    zpz: np.ndarray
    bounds: np.ndarray
    iterations: np.ndarray
    converged: bool


def refine(
    found: LocoScan,
    tested: Sequence[np.ndarray],
    settings: RefineSettings | None = None,
    keep: Keep = made_anew,
) -> Refined:
    """The scan with its most significant variants tested by generalised least squares.

    :func:`~gpu_reml.reml.least_squares.column_effects` and Student's t on n - c - 1 degrees of freedom: theta_g /
    theta_e of the chromosome and trait is kept, their scale is estimated with the variant.
    With x ~ P z and w ~ P y, and their residuals r, forms err by the square of the solves' errors:
    z'Pz = z'x + x'r_z + r_z'P r_z, where the last, left out, is at most |r_z|^2 / theta_e; z'Py alike.
    Cost: a column of conjugate gradients for every variant and trait, and a column-pass for every chromosome and trait.
    ``keep``: of tests that are solved together.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_products, pack, standardise
    >>> from gpu_reml.ops.loco import leave_out
    >>> from gpu_reml.reml import loco_scan, refine
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> y = 2.0 * counts[:, 7] + rng.standard_normal(200)
    >>> halves = [np.arange(200), np.arange(200, 400)]
    >>> left = leave_out(make_products(genotypes, "cpu"), np.ones(400), halves, ["1", "2"])
    >>> thetas = np.tile([0.5, 1.5], (2, 1, 1))  # of each half and trait, as a fit found them
    >>> found = loco_scan(y[:, None], np.ones((200, 1)), left, halves, thetas, rng)
    >>> again = refine(found, halves)
    >>> again.which.ravel().nonzero()[0].tolist(), again.converged
    ([7], True)
    """
    left = found.fit.model.left
    return refine_tests(found.scan, left, found.fit.null, left.products.genotypes, tested, settings, keep)


def refine_tests(
    scan: Scan,
    left: LeaveOut,
    null: LocoNull,
    genotypes: Any,
    tested: Sequence[np.ndarray],
    settings: RefineSettings | None = None,
    keep: Keep = made_anew,
) -> Refined:
    """:func:`refine` of tests of any ``genotypes`` of the samples, standardised; ``left``: those of the null models."""
    settings = settings or RefineSettings()
    which, wanted = chosen_tests(scan.log10p, settings)
    tests = tests_of(which, tested)
    if not len(tests.variants):
        return Refined(scan, which, wanted, np.empty(0), np.empty(0, int), 0, True)
    of_traits = solved_traits(left, null, tests)
    at_once = columns_at_once(left, of_traits.w, LocoSettings(columns=settings.columns))

    def forms(batch: slice) -> tuple:
        return tuple(forms_of(left, null, of_traits, genotypes, tests.take(batch), settings))

    batches = column_batches(len(tests.variants), at_once)
    parts = [keep(f"tests {batch.start}", lambda batch=batch: forms(batch)) for batch in batches]
    zPy, zPz, bounds, iterations = (np.concatenate([part[i] for part in parts]) for i in range(4))
    yPy, scales = of_traits.ypy[tests.pair_of], null.scales[tests.traits]
    beta, se = column_effects(zPy, zPz, yPy, null.dof)
    passes = int(iterations.sum()) + len(iterations) + len(tests.pairs)
    changed = with_tests(scan, tests, beta * scales, se * scales, null.dof)
    return Refined(changed, which, wanted, bounds, iterations, passes, all(part[4] for part in parts))


def chosen_tests(log10p: np.ndarray, settings: RefineSettings) -> tuple[np.ndarray, np.ndarray]:
    """(m, t) which tests are refined, and how many of every trait (t,) met the threshold."""
    over = np.nan_to_num(log10p, nan=-1.0, posinf=np.inf) >= settings.log10p
    which = np.zeros_like(over)
    for trait, met in enumerate(over.T):
        rows = np.flatnonzero(met)
        order = np.argsort(-log10p[rows, trait], kind="stable")
        which[rows[order[: settings.most]], trait] = True
    return which, over.sum(axis=0)


def tests_of(which: np.ndarray, tested: Sequence[np.ndarray]) -> Tests:
    """The tests that are marked, those of a trait and group together."""
    group_of = np.zeros(len(which), np.int64)
    for c, rows in enumerate(tested):
        group_of[rows] = c
    traits, variants = np.nonzero(which.T)
    groups = group_of[variants]
    pairs, pair_of = np.unique(np.column_stack([traits, groups]), axis=0, return_inverse=True)
    return Tests(variants, traits, groups, pairs, pair_of.reshape(-1))


def solved_traits(left: LeaveOut, null: LocoNull, tests: Tests) -> OfTraits:
    """The traits' solves of the pairs with their true residuals; a column-pass for each."""
    traits, groups = tests.pairs.T
    products = left.products
    w = products.block(null.Py[:, traits * len(null.thetas) + groups])
    y, Q = products.block(null.y[:, traits]), products.block(null.Q)
    r = y - project(Q, apply_v(left, null.thetas, groups, traits, w))
    return OfTraits(w, r, column_dots(y, w) + column_dots(w, r))


def forms_of(
    left: LeaveOut, null: LocoNull, of_traits: OfTraits, genotypes: Any, tests: Tests, settings: RefineSettings
) -> TestForms:
    """z'Py and z'Pz of some tests, solved together."""
    products = left.products
    Q, at = products.block(null.Q), (tests.groups, tests.traits)
    Z = products.block(project(null.Q, to_dense(take_variants(genotypes, tests.variants))))
    theta_e = null.thetas[*at, 1]
    tol = np.minimum(np.sqrt(settings.accuracy * theta_e * null.gamma[at]), LOOSEST)
    solved = solve_columns(left, Q, null.thetas, *at, Z, tol=tol, max_iterations=settings.max_iterations)
    zPz = column_dots(Z, solved.X) + column_dots(solved.X, solved.R)
    w, r = (take_columns(block, tests.pair_of) for block in of_traits[:2])
    zPy = column_dots(Z, w) + column_dots(solved.X, r)
    bounds = column_dots(solved.R, solved.R) / (theta_e * zPz)
    return TestForms(zPy, zPz, bounds, solved.iterations, bool(solved.converged.all()))


def with_tests(scan: Scan, tests: Tests, beta: np.ndarray, se: np.ndarray, dof: int) -> Scan:
    """The scan with other results of some tests; its ``dof`` is None, for those that remain."""
    where = (tests.variants, tests.traits)
    with np.errstate(divide="ignore", invalid="ignore"):
        changed = {"beta": beta, "se": se, "log10p": log10p_student(beta / se, dof)}
    out = {}
    for name, values in changed.items():
        out[name] = getattr(scan, name).copy()
        out[name][where] = values
    return scan._replace(**out)
