"""The LASSO over all variants at one theta: candidates by score, and a certificate for every variant.

min_b 1/2 (y - Zb)'P(y - Zb) + lambda |b|_1 with P the REML projection at theta and Z the standardised genotypes (n, m).
Only candidates' columns are held, (n, k) twice; what proves that no other variant belongs to the solution is the
gradient z_j'P(y - Zb) of all m variants, half a pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops import CpuProducts, take_variants
from gpu_reml.ops.arguments import as_count, as_number

from ..likelihood import apply_v_at, solve
from ..linalg import Block, column_batches, column_dots, gram, project
from ..pcg import PcgResult
from ..precondition import Preconditioner
from .lasso import DescentSettings, LassoPath, PathSettings, Quadratic, lasso_path

# A tight solve goes to this relative residual, which is near what products of the type can hold.
TIGHT_TOL = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-10}
# A tight solve is started so many times from where it ended, each time with its residual computed afresh.
RESTARTS = 3
# So many candidates are solved for together, unless memory is short.
AT_ONCE = 128
# The columns of so many samples are held in float64 at once.
SLAB_ROWS = 1 << 14
# A solve has stalled where it misses its tolerance by this factor.
STALLED_FACTOR = 10


@dataclass(frozen=True)
class KktSettings:
    """When the gradient of every variant is near enough: |z_j'P(y - Zb)| <= lambda + max(tol, rel_tol max(1, lambda)),
    for y of unit variance given the covariates, and as near to lambda sign(b_j) where b_j is not 0.

    Violators among the other variants become candidates, the ``add`` largest at a time, at most ``max_rounds`` times
    and up to ``max_candidates`` (None: no limit).
    """

    check: bool = True
    tol: float = 1e-5
    rel_tol: float = 1e-5
    add: int = 256
    max_rounds: int = 20
    max_candidates: int | None = None

    def __post_init__(self):
        as_number(self.tol, "tol")
        as_number(self.rel_tol, "rel_tol")
        if not self.tol >= 0 or not self.rel_tol >= 0 or not self.tol + self.rel_tol > 0:
            raise ValueError(f"expected kkt tolerances from 0 up, not both 0, found {self.tol} and {self.rel_tol}")
        as_count(self.add, "add")
        as_count(self.max_rounds, "max_rounds")
        if self.max_candidates is not None:
            as_count(self.max_candidates, "max_candidates")


@dataclass(frozen=True)
class LassoSettings:
    """``candidates``: variants of largest |z_j'Py| (and those of the last support) that the LASSO begins with.

    ``full_p``: EBIC counts all variants that may be chosen, which is honest, since the candidates were picked by their
    score on the same phenotype; False counts the candidates.  ``solve_tol``: relative residual of the candidates'
    solves; Z'PZ errs by its square.  ``at_once``: most columns solved together.
    """

    candidates: int = 256
    full_p: bool = True
    path: PathSettings = field(default_factory=PathSettings)
    descent: DescentSettings = field(default_factory=DescentSettings)
    kkt: KktSettings = field(default_factory=KktSettings)
    solve_tol: float = 1e-4
    max_pcg: int = 400
    at_once: int = AT_ONCE

    def __post_init__(self):
        for name in ("candidates", "max_pcg", "at_once"):
            as_count(getattr(self, name), name)
        as_number(self.solve_tol, "solve_tol", above=0, below=1)


class LassoData(NamedTuple):
    """``y`` (n,) of unit variance given X, ``Q`` its block (n, c), and the variants (m,) that may be chosen.

    covariance: a :class:`~gpu_reml.ops.GenotypeCovariance`, or one that counts its passes.
    """

    y: np.ndarray
    Q: Block
    covariance: object
    eligible: np.ndarray

    @property
    def num_contrasts(self) -> int:
        return len(self.y) - self.Q.shape[1]

    @property
    def num_eligible(self) -> int:
        return int(np.count_nonzero(self.eligible))


class AtTheta(NamedTuple):
    """One theta (G + 1,) in units of y's variance, V there, and P y with its residual, relative to y."""

    theta: np.ndarray
    apply_v: Callable[[Block], Block]
    preconditioner: Preconditioner
    Py: PcgResult


class Candidates(NamedTuple):
    """Variants ``rows`` (k,), their columns Z (n, k) and P Z on the host, and f's data on them.

    ``stalled``: solves that missed their tolerance by far.
    """

    rows: np.ndarray
    Z: np.ndarray
    PZ: np.ndarray
    problem: Quadratic
    stalled: int = 0


class Certificate(NamedTuple):
    """How far the solution is from optimal, over all variants that may be chosen; shares of lambda.

    ``violation``: largest of |gradient_j| - lambda, and of |gradient_j - lambda sign(b_j)| where b_j is not 0.
    ``solve_error``: a bound on the error of every gradient from that of the solve, |z_j| |residual| / theta_e since
    P <= I / theta_e; what rounds off in products of this precision comes on top.  ``tolerance``: what was asked for.
    ``violators``: variants outside the candidates, largest first.
    """

    violation: float
    solve_error: float
    tolerance: float
    rounds: int
    num_variants: int
    violators: np.ndarray

    @property
    def holds(self) -> bool:
        return self.violation <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            "certified": self.holds,
            "num_variants": self.num_variants,
            "violation": self.violation,
            "solve_error": self.solve_error,
            "tolerance": self.tolerance,
            "unit": "shares of lambda; solve_error bounds the error of every gradient from that of its linear solve",
            "rounds": self.rounds,
            "num_violators_left": len(self.violators),
        }


class LassoFit(NamedTuple):
    """The LASSO at one theta: b (k,) of the candidates at lambda, the path to it, and its certificate if asked for."""

    candidates: Candidates
    path: LassoPath
    certificate: Certificate | None
    full: bool = False  # no room for further candidates

    @property
    def lam(self) -> float:
        return float(self.path.lambdas[self.path.best])

    @property
    def b(self) -> np.ndarray:
        return self.path.coefficients[self.path.best]

    @property
    def support(self) -> np.ndarray:
        """Variants with a coefficient, in ascending order."""
        return np.sort(self.candidates.rows[self.b != 0])


def make_point(data: LassoData, theta: np.ndarray, preconditioner: Preconditioner, max_pcg: int, start=None) -> AtTheta:
    """V, and P y to the precision of the products; start: P y at another theta."""
    apply_v = apply_v_at(data.covariance, theta)
    point = AtTheta(theta, apply_v, preconditioner, None)
    return point._replace(Py=tight_solve(data, point, data.y[:, None], start, max_pcg))


def tight_solve(data: LassoData, point: AtTheta, B: np.ndarray, start: Block | None, max_pcg: int) -> PcgResult:
    """P B for B (n, 1) on the host, as near as the type of the products allows."""
    B = data.covariance.block(B)
    tol = TIGHT_TOL[np.dtype(B.dtype)]
    found = solve(data.Q, point.apply_v, B, point.preconditioner, tol=tol, X0=start, max_iterations=max_pcg)
    for _ in range(RESTARTS):
        if found.residuals.max() <= tol:
            break
        found = solve(data.Q, point.apply_v, B, point.preconditioner, tol=tol, X0=found.X, max_iterations=max_pcg)
    return found


def standardised_columns(data: LassoData, rows: np.ndarray) -> np.ndarray:
    """(n, k) columns of Z of some variants, on the host in the type of the products."""
    products = data.covariance.products
    taken = CpuProducts(take_variants(products.genotypes, rows), products.dtype)
    return taken.z(np.eye(len(rows), dtype=products.dtype))


def gradients(data: LassoData, block: Block) -> np.ndarray:
    """(m,) float64 z_j'x for a block x (n, 1); half a pass."""
    return np.asarray(data.covariance.features(block), np.float64)[:, 0]


def first_candidates(scores: np.ndarray, support: np.ndarray, eligible: np.ndarray, number: int) -> np.ndarray:
    """The last support first, then the variants of largest score; ties go to the lowest row."""
    scores = np.where(eligible, scores, -1.0)
    scores[support] = -1.0
    more = max(0, min(number, int(np.count_nonzero(eligible))) - len(support))
    best = np.argsort(-scores, kind="stable")[:more]
    return np.concatenate([support, best]).astype(np.int64)


def extend(
    data: LassoData,
    point: AtTheta,
    known: Candidates | None,
    rows: np.ndarray,
    warm: Candidates | None,
    settings: LassoSettings,
) -> Candidates:
    """``known`` candidates and further ``rows``; warm: candidates at another theta, where solves start.

    z_i'P z_j = z_i'x_j + x_i'r_j + (an error of the order of both residuals), with x_j = P z_j to its residual r_j;
    likewise z_i'P y.  So no residual is kept, and loose solves are enough.  Cost: PCG steps' passes of the new columns.
    """
    Z = standardised_columns(data, rows)
    start = None if warm is None else warm_start(warm, rows, Z)
    PZ, R, stalled = np.empty_like(Z), np.empty_like(Z), 0
    for batch in column_batches(len(rows), settings.at_once):
        if not len(rows):
            break
        options = {"tol": settings.solve_tol, "max_iterations": settings.max_pcg}
        X0 = None if start is None else data.covariance.block(start[:, batch])
        block = data.covariance.block(np.ascontiguousarray(Z[:, batch]))
        solved = solve(data.Q, point.apply_v, block, point.preconditioner, X0=X0, **options)
        PZ[:, batch], R[:, batch] = np.asarray(solved.X), np.asarray(solved.R)
        stalled += int(np.count_nonzero(solved.residuals > STALLED_FACTOR * settings.solve_tol))
    u, r = np.asarray(point.Py.X), np.asarray(point.Py.R)
    s = (slab_gram(Z, u) + slab_gram(PZ, r))[:, 0]
    inner = slab_gram(Z, PZ) + slab_gram(PZ, R)
    ypy = float(data.y @ u[:, 0] + u[:, 0].astype(np.float64) @ r[:, 0])
    if known is None:
        return Candidates(rows, Z, PZ, Quadratic((inner + inner.T) / 2, s, ypy, data.num_contrasts), stalled)
    cross = slab_gram(known.Z, PZ) + slab_gram(known.PZ, R)
    S = np.block([[known.problem.S, cross], [cross.T, (inner + inner.T) / 2]])
    problem = known.problem._replace(S=S, s=np.concatenate([known.problem.s, s]))
    joined = (np.concatenate(pair, axis=-1) for pair in ((known.rows, rows), (known.Z, Z), (known.PZ, PZ)))
    return Candidates(*joined, problem, known.stalled + stalled)


def slab_gram(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """(p, q) float64 A'B of arrays on the host, without float64 copies of the whole."""
    total = np.zeros((A.shape[1], B.shape[1]))
    for first in range(0, len(A), SLAB_ROWS):
        total += gram(A[first : first + SLAB_ROWS], B[first : first + SLAB_ROWS])
    return total


def warm_start(warm: Candidates, rows: np.ndarray, Z: np.ndarray) -> np.ndarray | None:
    """Earlier solutions of the variants that have one, zero for others; None where none has."""
    order = np.argsort(warm.rows)
    place = np.searchsorted(warm.rows[order], rows)
    place = order[np.minimum(place, len(order) - 1)] if len(order) else place
    has = warm.rows[place] == rows if len(order) else np.zeros(len(rows), bool)
    if not has.any():
        return None
    start = np.zeros_like(Z)
    start[:, has] = warm.PZ[:, place[has]]
    return start


def certify(data: LassoData, point: AtTheta, found: LassoFit, rounds: int, settings: LassoSettings) -> Certificate:
    """The gradients of all variants at the solution; one tight solve of y - Zb and half a pass."""
    candidates, lam, b = found.candidates, found.lam, found.b
    active = np.flatnonzero(b)
    residual = data.y - candidates.Z[:, active].astype(np.float64) @ b[active]
    near = np.asarray(point.Py.X)[:, 0] - candidates.PZ[:, active].astype(np.float64) @ b[active]
    start = project(data.Q, data.covariance.block(near[:, None]))
    solved = tight_solve(data, point, residual[:, None], start, settings.max_pcg)
    gradient = gradients(data, solved.X)
    excess = np.where(data.eligible, np.abs(gradient) - lam, -np.inf)
    chosen = candidates.rows[active]
    excess[chosen] = np.abs(gradient[chosen] - lam * np.sign(b[active]))
    tolerance = max(settings.kkt.tol, settings.kkt.rel_tol * max(1.0, lam))
    outside = excess.copy()
    outside[candidates.rows] = -np.inf
    violators = np.flatnonzero(outside > tolerance)
    violators = violators[np.argsort(-outside[violators], kind="stable")]
    # rounding the right-hand side to the products' type is an error of the solve as well
    left = float(np.sqrt(column_dots(solved.R, solved.R)[0]))
    left += np.finfo(solved.X.dtype).eps / 2 * float(np.linalg.norm(residual))
    longest = float(np.sqrt(data.covariance.products.genotypes.squared_norm[data.eligible].max(initial=0)))
    shares = (max(0.0, float(excess.max())), longest * left / point.theta[-1], tolerance)
    scale = lam if lam > 0 else 1.0
    return Certificate(*(float(share / scale) for share in shares), rounds, data.num_eligible, violators)


def lasso_at(
    data: LassoData, point: AtTheta, support: np.ndarray, warm: Candidates | None, settings: LassoSettings | None = None
) -> LassoFit:
    """The LASSO of lowest EBIC along its path, certified over all variants.

    support: variants that are candidates first; warm: candidates at another theta.  Cost: half a pass for the scores,
    PCG steps' passes of every candidate, and for every round of the certificate a solve and half a pass of one column.
    """
    settings = settings or LassoSettings()
    scores = np.abs(gradients(data, point.Py.X))
    rows = first_candidates(scores, support, data.eligible, settings.candidates)
    candidates = extend(data, point, None, rows, warm, settings)
    for rounds in range(1, settings.kkt.max_rounds + 1):
        num_variants = data.num_eligible if settings.full_p else len(candidates.rows)
        path = lasso_path(candidates.problem, num_variants, settings.path, settings.descent)
        found = LassoFit(candidates, path, None)
        if not settings.kkt.check:
            return found
        found = found._replace(certificate=certify(data, point, found, rounds, settings))
        new = found.certificate.violators[: settings.kkt.add]
        if not len(new) or rounds == settings.kkt.max_rounds:
            break
        limit = settings.kkt.max_candidates
        if limit is not None and len(candidates.rows) + len(new) > limit:
            return found._replace(full=True)
        candidates = extend(data, point, candidates, new, warm, settings)
    return found
