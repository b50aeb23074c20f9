"""What the estimators ask of a covariance, and how to build one from plain functions."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from .linalg import Block

Apply = Callable[[np.ndarray], np.ndarray]


class Covariance(Protocol):
    """G genetic components K_g (n, n), never formed.  Blocks B are (n, k).

    ``block`` puts an array where the products are computed, in their type; what it returns is a
    :data:`~gpu_reml.reml.linalg.Block`, as are all B and all results here.  ``features(B)`` is whatever makes
    ``inner``, ``gram`` and ``apply_each`` cheap: for genotypes Z'B, half a pass.  ``core(B)`` is (G, k, k) B'K_gB
    without features kept.
    """

    names: tuple[str, ...]
    num_samples: int
    num_components: int
    dtype: type
    overlap: float

    @property
    def traces(self) -> np.ndarray: ...
    def block(self, array: np.ndarray) -> Block: ...
    def apply(self, theta: np.ndarray, B: Block) -> Block: ...
    def features(self, B: Block) -> Any: ...
    def inner(self, FA: Any, FB: Any) -> np.ndarray: ...
    def gram(self, F: Any) -> np.ndarray: ...
    def core(self, B: Block) -> np.ndarray: ...
    def apply_each(self, F: Any) -> Any: ...


class FunctionCovariance:
    """Components given as functions B (n, k) -> K_g B with their exact traces: your own operators."""

    dtype = np.float64
    overlap = 1.0
    backend = "functions"

    def __init__(self, apply_ks: Sequence[Apply], traces: Sequence[float], num_samples: int, names=None):
        if len(apply_ks) != len(traces):
            raise ValueError(f"traces: expected one for each of the {len(apply_ks)} functions, found {len(traces)}")
        self.apply_ks = tuple(apply_ks)
        self.traces = np.asarray(traces, np.float64)
        self.num_samples = num_samples
        self.num_components = len(self.apply_ks)
        self.names = tuple(names) if names else tuple(f"component_{g:03d}" for g in range(len(apply_ks)))

    def block(self, array):
        return np.asarray(array, self.dtype)

    def apply(self, theta, B):
        out = np.zeros_like(B)
        for weight, apply_k in zip(theta, self.apply_ks, strict=True):
            out += weight * apply_k(B)
        return out

    def features(self, B):
        return np.stack([B, *(apply_k(B) for apply_k in self.apply_ks)])

    def inner(self, FA, FB):
        return np.einsum("nk,gnk->gk", FA[0], FB[1:])

    def gram(self, F):
        grams = np.einsum("na,gnb->gab", F[0], F[1:])
        return (grams + grams.transpose(0, 2, 1)) / 2

    def core(self, B):
        return self.gram(self.features(B))

    def apply_each(self, F):
        return F[1:].copy()


def as_covariance(covariance: Any) -> Covariance:
    """A covariance as it is; or dense matrices [K_1, ...] (n, n) as a covariance, for tests and small n."""
    if not isinstance(covariance, list | tuple):
        return covariance
    matrices = [np.asarray(K, np.float64) for K in covariance]
    n = len(matrices[0])
    for g, K in enumerate(matrices):
        if K.shape != (n, n):
            raise ValueError(f"covariance[{g}]: expected a matrix ({n}, {n}), found {K.shape}")
    return FunctionCovariance([K.__matmul__ for K in matrices], [np.trace(K) for K in matrices], n)


class CountingCovariance:
    """Another covariance with its column-passes counted: one is a product with one vector, both directions.

    ``column_passes`` adds up k for ``apply``, k / 2 for ``features`` and ``core``, overlap k / 2 for ``apply_each``.
    """

    def __init__(self, covariance: Covariance, callback: Callable[[float], None] | None = None):
        self._covariance = covariance
        self._callback = callback
        self.column_passes = 0.0
        self.calls = {"apply": 0, "features": 0, "core": 0, "apply_each": 0}

    def __getattr__(self, name):
        return getattr(self._covariance, name)

    def _count(self, name: str, columns: float) -> None:
        self.calls[name] += 1
        self.column_passes += columns
        if self._callback is not None:
            self._callback(self.column_passes)

    def apply(self, theta, B):
        self._count("apply", B.shape[1])
        return self._covariance.apply(theta, B)

    def features(self, B):
        self._count("features", B.shape[1] / 2)
        return self._covariance.features(B)

    def core(self, B):
        self._count("core", B.shape[1] / 2)
        return self._covariance.core(B)

    def apply_each(self, F):
        self._count("apply_each", self._covariance.overlap * F.shape[-1] / 2)
        return self._covariance.apply_each(F)
