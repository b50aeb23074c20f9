"""Projected-core preconditioner: V exactly on a subspace U, its mean eigenvalue elsewhere (docs/design.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_vector

from .covariance import Covariance, placed
from .linalg import Block, project, range_basis, symmetric
from .probes import probe_block


@dataclass(frozen=True)
class ProjectedCore:
    """What makes a preconditioner for any theta at k^3 cost.

    ``U`` (n, r) orthonormal in the complement of X (r may be 0), made for components in the proportions ``theta_g``
    (G,); ``cores`` (G, r, r) U'K_gU; ``traces`` (G,) tr(K_g) on that complement, of ``dimension`` n - c.  ``sketch``
    (n, r): what U was made from, of which no trace probe may be a copy; None where that is not known.
    """

    U: Block
    cores: np.ndarray
    traces: np.ndarray
    dimension: int
    theta_g: np.ndarray
    sketch: np.ndarray | None = None

    @property
    def rank(self) -> int:
        return self.U.shape[1]

    def distance(self, theta_g: np.ndarray) -> float:
        """How far other proportions of the components are from those U was made for: 0 (the same) to 1 (disjoint)."""
        made, now = (np.maximum(value, 0) / max(float(np.sum(value)), 1e-300) for value in (self.theta_g, theta_g))
        return 0.5 * float(np.abs(made - now).sum())

    @property
    def tail_traces(self) -> np.ndarray:
        """(G,) tr((I - UU')K_g) on the complement of X."""
        return self.traces - np.trace(self.cores, axis1=1, axis2=2)


class Preconditioner(NamedTuple):
    """M = U H U' + d (I - UU') on the complement of X; d is V's mean eigenvalue off U, so tr M = tr V."""

    core: ProjectedCore
    d: float
    eigenvalues: np.ndarray
    vectors: np.ndarray

    def apply_power(self, B: np.ndarray, power: float) -> np.ndarray:
        """M^power B for B (n, k) in the complement of X."""
        off = self.d**power
        if not self.core.rank:
            return B * B.dtype.type(off)
        U = self.core.U
        small = (self.vectors * (self.eigenvalues**power - off)) @ (self.vectors.T @ (U.T @ B))
        return B * B.dtype.type(off) + U @ small.astype(B.dtype)

    def apply_minv(self, B: np.ndarray) -> np.ndarray:
        """M^-1 B."""
        return self.apply_power(B, -1.0)

    def balanced(self, apply_v: Callable[[Block], Block]) -> Callable[[Block], Block]:
        """B -> M^-1/2 V M^-1/2 B."""
        return lambda B: self.apply_power(apply_v(self.apply_power(B, -0.5)), -0.5)

    @property
    def logdet(self) -> float:
        """log|M| on the complement of X."""
        return float(np.log(self.eigenvalues).sum() + (self.core.dimension - self.core.rank) * np.log(self.d))

    @property
    def inverse_traces(self) -> np.ndarray:
        """(G,) tr(M^-1 K_g) on the complement of X, exact."""
        inverse = (self.vectors / self.eigenvalues) @ self.vectors.T
        return np.einsum("ab,gab->g", inverse, self.core.cores) + self.core.tail_traces / self.d


def complement_traces(covariance: Covariance, Q: Block) -> np.ndarray:
    """(G,) tr((I-QQ')K_g(I-QQ')) = tr K_g - tr Q'K_gQ, exact; half a pass of c columns.

    >>> import numpy as np
    >>> from gpu_reml.reml import as_covariance, complement_traces
    >>> complement_traces(as_covariance(np.eye(4)), np.full((4, 1), 0.5)).tolist()
    [3.0]
    """
    Q = placed(covariance, Q, "Q")
    if not Q.shape[1]:
        return np.asarray(covariance.traces, np.float64)
    F = covariance.features(Q)
    return covariance.traces - covariance.inner(F, F).sum(axis=1)


def make_projected_core(
    covariance: Covariance, Q: Block, traces: np.ndarray, theta_g: np.ndarray, sketch: np.ndarray
) -> ProjectedCore:
    """Basis of the range of sum_g theta_g K_g on the complement of Q from a random sketch (n, r), and its cores.

    The sketch must be independent of the probes, or the trace estimates are biased.  The second of two subspace
    iterations halves the Monte-Carlo variance on a cohort with relatives (docs/performance.md), so it pays for itself.
    Cost: 2.5 passes of r columns.  Source: Halko, Martinsson & Tropp 2011, SIAM Review 53:217, algorithm 4.4.

    >>> import numpy as np
    >>> from gpu_reml.reml import as_covariance, complement_traces, draw_probes, make_projected_core
    >>> Z, Q = np.random.default_rng(0).standard_normal((200, 40)), np.full((200, 1), 200**-0.5)
    >>> covariance = as_covariance(Z @ Z.T / 40)
    >>> traces, sketch = complement_traces(covariance, Q), draw_probes(200, 0, rank=50).sketch
    >>> core = make_projected_core(covariance, Q, traces, np.ones(1), sketch)
    >>> core.U.shape  # all that K has on the complement of Q
    (200, 40)
    """
    sketch, Q = probe_block(sketch, "sketch"), placed(covariance, Q, "Q")
    traces = as_vector(traces, "traces", covariance.num_components)
    theta_g = as_vector(theta_g, "theta_g", covariance.num_components)
    n, r = sketch.shape
    if n != covariance.num_samples:
        raise ValueError(f"sketch: expected ({covariance.num_samples}, r), found {sketch.shape}")
    dimension = n - Q.shape[1]
    if r > dimension:
        raise ValueError(f"sketch: expected at most n - c = {dimension} columns, found {r}")
    U = covariance.block(np.zeros((n, 0)))
    if r:
        U = project(Q, covariance.block(sketch))
        for _ in range(2):
            U = range_basis(project(Q, covariance.apply(theta_g, U)))
        U = project(Q, U)
    cores = covariance.core(U) if U.shape[1] else np.zeros((covariance.num_components, 0, 0))
    return ProjectedCore(U, cores, traces, dimension, theta_g, sketch)


def precondition(core: ProjectedCore, theta: np.ndarray) -> Preconditioner:
    """The preconditioner at theta (G + 1, residual last); k^3 work, no pass.

    >>> import numpy as np
    >>> from gpu_reml.reml import as_covariance, complement_traces, draw_probes, make_projected_core, pcg, precondition
    >>> Z, Q = np.random.default_rng(0).standard_normal((200, 40)), np.full((200, 1), 200**-0.5)
    >>> covariance = as_covariance(Z @ Z.T / 40)
    >>> traces, sketch = complement_traces(covariance, Q), draw_probes(200, 0, rank=50).sketch
    >>> core = make_projected_core(covariance, Q, traces, np.ones(1), sketch)
    >>> b = np.random.default_rng(1).standard_normal(200)
    >>> V = Z @ Z.T / 40 + np.eye(200)
    >>> steps = [pcg(V, b - b.mean(), preconditioner=M).iterations for M in (None, precondition(core, np.ones(2)))]
    >>> bool(steps[1] < steps[0])
    True
    """
    theta = as_vector(theta, "theta", len(core.cores) + 1)
    tail = core.dimension - core.rank
    d = float(theta[:-1] @ core.tail_traces / tail + theta[-1]) if tail else float(theta[-1])
    H = symmetric(np.tensordot(theta[:-1], core.cores, axes=1)) + theta[-1] * np.eye(core.rank)
    eigenvalues, vectors = np.linalg.eigh(H)
    return Preconditioner(core, d, eigenvalues, vectors)


def preconditioner_at(preconditioner: Any, theta: np.ndarray, scale: float = 1.0) -> Any:
    """A preconditioner for V(theta), with theta in units of scale^2, from one of any kind.

    A :class:`ProjectedCore` makes its :class:`Preconditioner` at theta.  A Preconditioner, which was made for variances
    in y's units squared, is brought into theta's.  Anything else is returned as it is.
    """
    if isinstance(preconditioner, ProjectedCore):
        return precondition(preconditioner, theta)
    if isinstance(preconditioner, Preconditioner):
        d, eigenvalues = preconditioner.d / scale**2, preconditioner.eigenvalues / scale**2
        return preconditioner._replace(d=d, eigenvalues=eigenvalues)
    return preconditioner
