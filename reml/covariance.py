"""What the estimators ask of a covariance, and how to build one from plain functions."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import chain, count, pairwise
from operator import add
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from gpu_reml.ops.arguments import as_array, as_block, as_count, as_number, as_symmetric, as_vector

from .contract import CheckedFunction
from .kernels import kernels_of
from .linalg import Block, columns, times, zeros_like

Apply = Callable[[np.ndarray], np.ndarray]
INDEFINITE = 0.05  # of the mean diagonal, that an eigenvalue of a matrix may be below zero


class Covariance(Protocol):
    """G genetic components K_g (n, n), never formed.  Blocks B are (n, k).

    ``block`` puts an array where the products are computed, in their type; what it returns is a
    :data:`~gpu_reml.reml.linalg.Block`, as are all B and all results here.  ``features(B)`` is whatever makes
    ``inner``, ``gram``, ``apply_each`` and ``apply_features`` cheap: for genotypes Z'B, half a pass.  Features times a
    small matrix, ``F @ C``, are those of B C.  ``core(B)`` is (G, k, k) B'K_gB without features kept.  A covariance may
    have ``kernels()``, which makes every K_g itself (:func:`~gpu_reml.reml.kernels.kernels_of`), or None.
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
    def gram(self, FA: Any, FB: Any = None) -> np.ndarray: ...
    def core(self, B: Block) -> np.ndarray: ...
    def apply_each(self, F: Any) -> Any: ...
    def apply_features(self, theta: np.ndarray, F: Any) -> Block: ...


class SymmetricMatrix:
    """B -> K B for a symmetric matrix, dense or sparse: a function that needs no further check."""

    def __init__(self, K):
        self.K = K

    def __call__(self, B: np.ndarray) -> np.ndarray:
        return self.K @ B

    def toarray(self) -> np.ndarray:
        """A copy of K, dense."""
        return self.K.toarray() if sparse.issparse(self.K) else np.array(self.K)


class FunctionCovariance:
    """Components given as functions B (n, k) -> K_g B with their exact traces, or None where nothing asks for them.

    diagonals (n, G): of the K_g, for models that scale samples (:mod:`gpu_reml.reml.scaled`) and need them.
    Every answer of a function is checked (:mod:`gpu_reml.reml.contract`): ValueError for one of another shape, that is
    not finite or not symmetric, or for a function that changes its input.
    """

    dtype = np.float64
    overlap = 1.0
    sweeps = 1
    backend = home = "functions"

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
                f"{', '.join(self.names)}: samples are scaled, so traces need the diagonals of the operators; give "
                "FunctionCovariance(..., diagonals=(n, G))"
            )
        return self._diagonals

    def kernels(self):
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

    def core(self, B):
        return self.gram(self.features(B))

    def apply_each(self, F):
        return F[1:].copy()

    def apply_features(self, theta, F):
        return np.tensordot(np.asarray(theta, np.float64), F[1:], axes=1)


class MixedFeatures:
    """Features of a block for every part of a :class:`MixedCovariance`, indexed and joined by columns."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = tuple(parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Only the last entry, the number of columns, means the same for every part."""
        return self.parts[0].shape

    def __getitem__(self, key) -> "MixedFeatures":
        return MixedFeatures([part[key] for part in self.parts])

    def __matmul__(self, C: np.ndarray) -> "MixedFeatures":
        return MixedFeatures([times(part, C) for part in self.parts])

    def __add__(self, other: "MixedFeatures") -> "MixedFeatures":
        return MixedFeatures([a + b for a, b in zip(self.parts, other.parts, strict=True)])

    def __iadd__(self, other: "MixedFeatures") -> "MixedFeatures":
        for a, b in zip(self.parts, other.parts, strict=True):
            a += b
        return self

    @staticmethod
    def side_by_side(blocks: Sequence["MixedFeatures"]) -> "MixedFeatures":
        return MixedFeatures([columns(*parts) for parts in zip(*(block.parts for block in blocks), strict=True)])


class MixedCovariance:
    """The components of several covariances of the same samples as one: genotypes beside dense matrices.

    Blocks are those of the first part, which should be the one on a device.  A part whose ``home`` is the same takes
    them as they are, another by ``block`` from an array, and its results go back the same way.  Cost: the parts'.
    """

    def __init__(self, parts: Sequence[Covariance]):
        self.parts = tuple(parts)
        for part in self.parts:
            refuse_layout(part)
        self.names = tuple(name for part in self.parts for name in part.names)
        self.num_samples = self.parts[0].num_samples
        self.num_components = len(self.names)
        self.dtype = self.parts[0].dtype
        self.backend = backend_of(self.parts[0])
        unlike = [part.num_samples for part in self.parts if part.num_samples != self.num_samples]
        if unlike:
            raise ValueError(f"parts: expected {self.num_samples} samples in each, found {unlike[0]}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"parts: component name(s) {', '.join(twice)} occur more than once; make them unique")
        self.home = home_of(self.parts[0])
        self._near = [home_of(part) in (None, self.home) for part in self.parts]
        bounds = np.cumsum([0, *(part.num_components for part in self.parts)])
        self._own = [slice(first, last) for first, last in pairwise(bounds)]

    @property
    def overlap(self) -> float:
        return max(part.overlap for part in self.parts)

    @property
    def traces(self) -> np.ndarray:
        return np.concatenate([part.traces for part in self.parts])

    @property
    def sweeps(self) -> int:
        """Reads of the genotypes in a product."""
        return sum(getattr(part, "sweeps", 1) for part in self.parts)

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every component."""
        return np.concatenate([diagonals_of(part) for part in self.parts], axis=1)

    def _blocks(self, B: Block) -> list[Block]:
        """B for every part, where that part computes."""
        return [B if near else part.block(np.asarray(B)) for part, near in zip(self.parts, self._near, strict=True)]

    def _back(self, image: Block, near: bool) -> Block:
        return image if near else self.block(np.asarray(image))

    def kernels(self):
        return chain.from_iterable(map(kernels_of, self.parts))

    def block(self, array):
        return self.parts[0].block(array)

    def apply(self, theta, B):
        """sum_g theta_g K_g B; a part whose theta are all zero costs nothing."""
        theta = np.asarray(theta)
        total = None
        for part, own, near in zip(self.parts, self._own, self._near, strict=True):
            if not theta[own].any():
                continue
            image = self._back(part.apply(theta[own], B if near else part.block(np.asarray(B))), near)
            total = image if total is None else total + image
        return zeros_like(B) if total is None else total

    def features(self, B):
        return MixedFeatures([part.features(b) for part, b in zip(self.parts, self._blocks(B), strict=True)])

    def inner(self, FA, FB):
        return np.concatenate([part.inner(*F) for part, *F in zip(self.parts, FA.parts, FB.parts, strict=True)])

    def image_squares(self, F):
        """(G, k) |K_g b|^2 by columns, nan for parts whose features do not hold the images."""
        return np.concatenate([squares_of(part, f) for part, f in zip(self.parts, F.parts, strict=True)])

    def gram(self, FA, FB=None):
        others = [None] * len(self.parts) if FB is None else FB.parts
        return np.concatenate([part.gram(*F) for part, *F in zip(self.parts, FA.parts, others, strict=True)])

    def core(self, B):
        return np.concatenate([part.core(b) for part, b in zip(self.parts, self._blocks(B), strict=True)])

    def apply_each(self, F):
        """A list of G blocks (n, k)."""
        return [
            self._back(image, near)
            for part, f, near in zip(self.parts, F.parts, self._near, strict=True)
            for image in part.apply_each(f)
        ]

    def apply_features(self, theta, F):
        theta = np.asarray(theta)
        images = (
            self._back(part.apply_features(theta[own], f), near)
            for part, f, own, near in zip(self.parts, F.parts, self._own, self._near, strict=True)
        )
        return reduce(add, images)


def squares_of(covariance: Covariance, F: Any) -> np.ndarray:
    """(G, k) |K_g b|^2 by columns from features of B where they tell, else nan; no pass."""
    if hasattr(covariance, "image_squares"):
        return covariance.image_squares(F)
    return np.full((covariance.num_components, F.shape[-1]), np.nan)


def refuse_layout(covariance: Covariance) -> None:
    """ValueError for a covariance with residuals of its own, of which a part would be lost within another."""
    if getattr(covariance, "layout", None) is not None:
        raise ValueError(
            f"covariance: that of {', '.join(covariance.names)} has residuals; scale and mix the genetic components "
            "first, and give with_residuals all residuals at once, last"
        )


def backend_of(covariance: Covariance) -> str:
    """What computes a covariance's products; those that do not say are a caller's own functions."""
    return getattr(covariance, "backend", FunctionCovariance.backend)


def home_of(covariance: Covariance) -> Any:
    """Where a covariance's blocks live: those of the same home need no copy.  None takes any block; one that does not
    say takes its own alone."""
    if hasattr(covariance, "home"):
        return covariance.home
    return getattr(covariance, "backend", id(covariance))


def dense_covariance(matrices: Sequence[np.ndarray], names: Sequence[str] | None = None) -> FunctionCovariance:
    """Matrices K_g (n, n) as components, dense ones kept as float64, sparse ones sparse.

    Cost: a Cholesky decomposition of each dense one.  ValueError for one that is not symmetric to rounding, not finite,
    zero throughout, or has a negative diagonal or an eigenvalue below -5 % of the mean diagonal, as far as pairs of
    samples that lack different calls take a relationship matrix.
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
    return _of_symmetric(Ks, names)


def check_definite(K: Any, name: str) -> None:
    """ValueError where a dense symmetric K (n, n) has an eigenvalue below -5 % of its mean diagonal."""
    if sparse.issparse(K):
        return
    shifted = K.copy()
    shifted[np.diag_indices_from(K)] += INDEFINITE * K.diagonal().mean()
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        least, mean = np.linalg.eigvalsh(K)[0], K.diagonal().mean()
        if least < -INDEFINITE * mean:
            raise ValueError(
                f"{name}: has an eigenvalue of {least:.4g} beside a mean diagonal of {mean:.4g}; a covariance has none "
                "below zero"
            ) from None


def _of_symmetric(Ks: Sequence[Any], names: Sequence[str] | None) -> FunctionCovariance:
    """Components of symmetric matrices."""
    diagonals = np.column_stack([K.diagonal() for K in Ks])
    traces = diagonals.sum(axis=0)
    if not (traces > 0).all():
        which = int(np.argmin(traces))
        name = f"component {names[which]}" if names else f"covariance[{which}]"
        raise ValueError(f"{name}: has a trace of zero; leave the component out")
    return FunctionCovariance([SymmetricMatrix(K) for K in Ks], traces, len(diagonals), names, diagonals)


def placed(covariance: Covariance, B: Any, name: str) -> Block:
    """A block (n, k) where the covariance computes: one that is there as it is, numbers by ``block``."""
    block = as_block(B, name, covariance.num_samples)
    return covariance.block(block) if isinstance(block, np.ndarray) else block


def diagonals_of(covariance: Covariance) -> np.ndarray:
    """(n, G) the diagonal of every component; at most half a pass.  ValueError where a covariance has none to give."""
    if not hasattr(covariance, "diagonals"):
        raise ValueError(f"covariance: {type(covariance).__name__} needs a method diagonals() -> (n, G) here")
    return covariance.diagonals()


class Operator(NamedTuple):
    """A component of your own: ``apply`` B (n, k) -> K B, its exact ``trace`` tr(K), None where nothing asks for it, a
    name, and the diagonal of K (n,), which only models that scale samples need."""

    apply: Apply
    trace: float | None
    name: str | None = None
    diagonal: np.ndarray | None = None


def as_covariance(covariance: Any, num_samples: int | None = None) -> Covariance:
    """A covariance as it is; or a component, or a list of components of any kinds, as one covariance.

    A component is a covariance (genotypes, say), a matrix (n, n), dense or sparse, an :class:`Operator`, (function,
    trace), or a function, with its trace as the attribute ``trace`` or without; so are SciPy's LinearOperators.
    Fits and moments need traces; ``loglik``, ``score`` and ``average_information`` do without.
    An array (G, n, n) is a list of matrices.  Unnamed ones are component_000, ... by their place.
    num_samples: needed where the list has nothing but functions.  ValueError for what is none of these.
    """
    if _is_matrix(covariance) and np.ndim(covariance) == 3:
        covariance = list(covariance)
    if _is_matrix(covariance) or isinstance(covariance, Operator) or _is_pair(covariance) or _is_function(covariance):
        covariance = [covariance]
    if not isinstance(covariance, list | tuple):
        return _as_protocol(covariance, "covariance")
    if not covariance:
        raise ValueError("covariance: expected at least one component, found none")
    if all(_is_matrix(item) for item in covariance):
        return dense_covariance(covariance)
    sizes = [np.shape(item)[0] for item in covariance if _is_matrix(item) and np.ndim(item)]
    sizes += [item.num_samples for item in covariance if hasattr(item, "num_samples")]
    sizes += [item.shape[0] for item in covariance if _is_function(item) and hasattr(item, "shape")]
    n = next(iter(sizes), num_samples)
    if n is None:
        raise ValueError("covariance: functions alone do not tell the number of samples; give as_covariance(ops, n)")
    taken = {name for item in covariance for name in getattr(item, "names", ())}
    free = (name for name in (f"component_{g:03d}" for g in count()) if name not in taken)
    parts = [
        _as_part(item, n, "" if hasattr(item, "names") else next(free), f"covariance[{g}]")
        for g, item in enumerate(covariance)
    ]
    return parts[0] if len(parts) == 1 else MixedCovariance(parts)


def _is_matrix(item: Any) -> bool:
    """Whether it is an array, a data frame or a sparse matrix, of any shape."""
    return isinstance(item, np.ndarray) or sparse.issparse(item) or hasattr(item, "to_numpy")


def _is_function(item: Any) -> bool:
    """Whether it is a bare function, or an operator of SciPy's."""
    return callable(item) and not hasattr(item, "num_components")


def _is_pair(item: Any) -> bool:
    """Whether it is (function, trace, ...)."""
    return isinstance(item, tuple) and 2 <= len(item) <= 4 and callable(item[0]) and not callable(item[1])


def _as_protocol(covariance: Any, argument: str) -> Covariance:
    """A covariance as it is, or a ValueError for an object that is none."""
    asked = ("names", "num_samples", "num_components", "traces", "block", "apply", "features", "inner", "apply_each")
    missing = [name for name in asked if not (hasattr(type(covariance), name) or hasattr(covariance, name))]
    if missing:
        raise ValueError(
            f"{argument}: expected a covariance, a matrix (n, n), an Operator or (function, trace), or a list of "
            f"these, found {type(covariance).__name__} without {', '.join(missing)}"
        )
    return covariance


def _as_part(item: Any, n: int, name: str, argument: str) -> Covariance:
    if _is_matrix(item):
        return _of_symmetric([as_symmetric(item, argument, n)], [name])
    if isinstance(item, Operator) or _is_pair(item):
        op = Operator(*item)
        name = op.name or name
        diagonal = None if op.diagonal is None else as_vector(op.diagonal, f"diagonal of {name}", n)[:, None]
        return FunctionCovariance([op.apply], [op.trace], n, [name], diagonal)
    if _is_function(item):
        return FunctionCovariance([item], [getattr(item, "trace", None)], n, [name])
    return _as_protocol(item, argument)


class CountingCovariance:
    """Another covariance with its column-passes counted: one is a product with one vector, both directions.

    ``column_passes`` adds up k for ``apply``, k / 2 for ``features``, ``core`` and ``apply_features``, overlap k / 2
    for ``apply_each``, overlap n / 2 for ``kernels``,
    times the covariance's ``sweeps`` (reads of the genotypes in a product) where those are not one.
    """

    def __init__(self, covariance: Covariance, callback: Callable[[float], None] | None = None):
        self._covariance = covariance
        self._callback = callback
        self.column_passes = 0.0
        self.calls = {"apply": 0, "features": 0, "core": 0, "apply_each": 0, "apply_features": 0, "kernels": 0}

    def __getattr__(self, name):
        return getattr(self._covariance, name)

    def _count(self, name: str, columns: float) -> None:
        self.calls[name] += 1
        self.column_passes += columns * getattr(self._covariance, "sweeps", 1)
        if self._callback is not None:
            self._callback(self.column_passes)

    def apply(self, theta, B):
        self._count("apply", B.shape[1])
        return self._covariance.apply(theta, B)

    def features(self, B):
        self._count("features", B.shape[1] / 2)
        return self._covariance.features(B)

    def kernels(self):
        made = self._covariance.kernels() if hasattr(self._covariance, "kernels") else None
        if made is not None:
            self._count("kernels", self._covariance.overlap * self._covariance.num_samples / 2)
        return made

    def core(self, B):
        self._count("core", B.shape[1] / 2)
        return self._covariance.core(B)

    def apply_each(self, F):
        self._count("apply_each", self._covariance.overlap * F.shape[-1] / 2)
        return self._covariance.apply_each(F)

    def apply_features(self, theta, F):
        self._count("apply_features", F.shape[-1] / 2)
        return self._covariance.apply_features(theta, F)
