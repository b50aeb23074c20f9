"""Components given as functions B -> K_g B, or as matrices."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml.ops.arguments import as_array, as_count, as_number, as_symmetric
from gpu_reml.ops.base import Covariance

from ..contract import CheckedFunction

Apply = Callable[[np.ndarray], np.ndarray]
# An eigenvalue of a matrix may be below zero by this share of the mean diagonal.
MOST_INDEFINITE = 0.05


class Operator(NamedTuple):
    """A component of your own: ``apply`` B (n, k) -> K B, its exact ``trace`` tr(K), None where nothing asks for it, a
    name, and the diagonal of K (n,), which only models that scale samples need."""

    apply: Apply
    trace: float | None
    name: str | None = None
    diagonal: np.ndarray | None = None


class SymmetricMatrix:
    """B -> K B for a symmetric matrix, dense or sparse: a function that needs no further check."""

    def __init__(self, K):
        self.K = K

    def __call__(self, B: np.ndarray) -> np.ndarray:
        return self.K @ B

    def toarray(self) -> np.ndarray:
        """A copy of K, dense."""
        return self.K.toarray() if sparse.issparse(self.K) else np.array(self.K)


class FunctionCovariance(Covariance):
    """Components given as functions B (n, k) -> K_g B with their exact traces, or None where nothing asks for them.

    diagonals (n, G): of the K_g, for models that scale samples (:mod:`gpu_reml.reml.scaled`) and need them.
    Every answer of a function is checked (:mod:`gpu_reml.reml.contract`): ValueError for one of another shape, that is
    not finite or not symmetric, or for a function that changes its input.
    """

    dtype = np.float64
    home = Covariance.backend

    def __init__(
        self, apply_ks: Sequence[Apply], traces: Sequence[float | None], num_samples: int, names=None, diagonals=None
    ):
        n, G = as_count(num_samples, "num_samples"), len(apply_ks)
        if not G:
            raise ValueError("apply_ks: expected at least one function, found none")
        if len(traces) != G:
            raise ValueError(f"traces: expected one for each of the {G} functions, found {len(traces)}")
        self.num_samples, self.num_components = n, G
        self.names = tuple(f"component_{g:03d}" for g in range(G)) if names is None else tuple(names)
        if len(self.names) != G:
            raise ValueError(f"names: expected one for each of the {G} functions, found {len(self.names)}")
        self._traces = [
            None if t is None else as_number(t, f"trace of component {name}", above=0)
            for t, name in zip(traces, self.names, strict=True)
        ]
        self._diagonals = None if diagonals is None else as_array(diagonals, "diagonals")
        if self._diagonals is not None:
            self._check_diagonals()
        self.apply_ks = tuple(
            self._checked(apply_k, name, 0.0 if t is None else t / n)
            for apply_k, name, t in zip(apply_ks, self.names, self._traces, strict=True)
        )

    @property
    def traces(self) -> np.ndarray:
        """(G,) tr(K_g); ValueError where one was not given."""
        for name, trace in zip(self.names, self._traces, strict=True):
            if trace is None:
                raise ValueError(
                    f"covariance: {name} is a function without its trace, which is needed here; give (function, trace)"
                )
        return np.array(self._traces)

    @staticmethod
    def _checked(apply_k: Apply, name: str, mean_trace: float) -> Apply:
        if not callable(apply_k):
            raise ValueError(f"component {name}: expected a function B (n, k) -> K B, found {type(apply_k).__name__}")
        return apply_k if isinstance(apply_k, SymmetricMatrix) else CheckedFunction(apply_k, name, mean_trace)

    def _check_diagonals(self) -> None:
        """ValueError where a diagonal is negative, or does not add up to the trace that is stated."""
        expected = (self.num_samples, self.num_components)
        if self._diagonals.shape != expected:
            raise ValueError(
                f"diagonals: expected {expected}, a column for each function, found {self._diagonals.shape}"
            )
        for name, values, trace in zip(self.names, self._diagonals.T, self.traces, strict=True):
            if (values < 0).any() or abs(values.sum() - trace) > 1e-4 * trace:
                raise ValueError(
                    f"diagonals: component {name} has a diagonal that adds up to {values.sum():.6g}, least "
                    f"{values.min():.6g}, and a trace of {trace:.6g}; state K_ii >= 0 and their sum"
                )

    def block(self, array):
        return np.asarray(array, self.dtype)

    def diagonals(self):
        """(n, G) the diagonals that were given."""
        if self._diagonals is None:
            raise ValueError(
                f"{', '.join(self.names)}: samples are scaled, or a trait has not all, so traces need the diagonals of "
                "the operators; give FunctionCovariance(..., diagonals=(n, G))"
            )
        return self._diagonals

    def matrices(self):
        """The matrices themselves where all components are; None where one is known by its products alone."""
        if not all(isinstance(apply_k, SymmetricMatrix) for apply_k in self.apply_ks):
            return None
        return (apply_k.toarray() for apply_k in self.apply_ks)

    def apply(self, theta, B):
        out = np.zeros_like(B)
        for weight, apply_k in zip(theta, self.apply_ks, strict=True):
            if weight:
                out += weight * apply_k(B)
        return out

    def features(self, B):
        return np.stack([B, *(apply_k(B) for apply_k in self.apply_ks)])

    def inner(self, FA, FB):
        return np.einsum("nk,gnk->gk", FA[0], FB[1:])

    def image_squares(self, F):
        """(G, k) |K_g b|^2 by columns, from features of B."""
        return np.einsum("gnk,gnk->gk", F[1:], F[1:])

    def gram(self, FA, FB=None):
        grams = FA[0].T @ (FA if FB is None else FB)[1:]
        return (grams + grams.transpose(0, 2, 1)) / 2 if FB is None else grams

    def apply_each(self, F):
        return F[1:].copy()

    def apply_features(self, theta, F):
        return np.tensordot(np.asarray(theta, np.float64), F[1:], axes=1)


def dense_covariance(matrices: Sequence[np.ndarray], names: Sequence[str] | None = None) -> FunctionCovariance:
    """Matrices K_g (n, n) as components, dense ones kept as float64, sparse ones sparse.

    Cost: a Cholesky decomposition of each dense one.  ValueError for one that is not symmetric to rounding, not finite,
    zero throughout, or has a negative diagonal or an eigenvalue below -5 % of the mean diagonal, as far as pairs of
    samples that lack different calls take a relationship matrix.

    >>> import numpy as np
    >>> from gpu_reml.reml import dense_covariance
    >>> K = dense_covariance([np.eye(3), np.ones((3, 3))], ["person", "household"])
    >>> K.names, K.traces.tolist()
    (('person', 'household'), [3.0, 3.0])
    """
    if not len(matrices):
        raise ValueError("covariance: expected at least one matrix (n, n), found none")
    if names is not None and len(names) != len(matrices):
        raise ValueError(f"names: expected one for each of {len(matrices)} matrices, found {len(names)}")
    n = next((np.shape(K)[0] for K in matrices if np.ndim(K)), None)
    named = [f"covariance[{g}]" if names is None else f"component {names[g]}" for g in range(len(matrices))]
    Ks = [as_symmetric(K, name, n) for K, name in zip(matrices, named, strict=True)]
    for K, name in zip(Ks, named, strict=True):
        check_definite(K, name)
    return of_symmetric(Ks, names)


def check_definite(K: Any, name: str) -> None:
    """ValueError where a dense symmetric K (n, n) has an eigenvalue below -5 % of its mean diagonal."""
    if sparse.issparse(K):
        return
    shifted = K.copy()
    shifted[np.diag_indices_from(K)] += MOST_INDEFINITE * K.diagonal().mean()
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        least, mean = np.linalg.eigvalsh(K)[0], K.diagonal().mean()
        if least < -MOST_INDEFINITE * mean:
            raise ValueError(
                f"{name}: has an eigenvalue of {least:.4g} beside a mean diagonal of {mean:.4g}; a covariance has none "
                "below zero"
            ) from None


def of_symmetric(Ks: Sequence[Any], names: Sequence[str] | None) -> FunctionCovariance:
    """Components of symmetric matrices."""
    diagonals = np.column_stack([K.diagonal() for K in Ks])
    traces = diagonals.sum(axis=0)
    if not (traces > 0).all():
        which = int(np.argmin(traces))
        name = f"component {names[which]}" if names else f"covariance[{which}]"
        raise ValueError(f"{name}: has a trace of zero; leave the component out")
    return FunctionCovariance([SymmetricMatrix(K) for K in Ks], traces, len(diagonals), names, diagonals)
