"""Covariances that stand for another one: a caller's own class, or any with its passes counted."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_reml.ops.base import Covariance

NEEDED = ("names", "num_samples", "num_components", "dtype", "traces")
NEEDED += ("block", "apply", "features", "inner", "gram", "apply_each", "apply_features")
OPTIONAL = ("overlap", "sweeps", "backend", "products", "weights")
OPTIONAL += ("core", "image_squares", "matrices", "diagonals", "variant_effects")


class Forwarding(Covariance):
    """The members that every covariance has, from another one, ``base``."""

    def __init__(self, base: Any):
        self.base = base
        self.names, self.dtype = tuple(base.names), base.dtype
        self.num_samples, self.num_components = base.num_samples, base.num_components

    @property
    def traces(self) -> np.ndarray:
        return self.base.traces

    def block(self, array):
        return self.base.block(array)

    def apply(self, theta, B):
        return self.base.apply(theta, B)

    def features(self, B):
        return self.base.features(B)

    def inner(self, FA, FB):
        return self.base.inner(FA, FB)

    def gram(self, FA, FB=None):
        return self.base.gram(FA, FB)

    def apply_each(self, F):
        return self.base.apply_each(F)

    def apply_features(self, theta, F):
        return self.base.apply_features(theta, F)


class AdoptedCovariance(Forwarding):
    """An object of a caller's own class; members that it lacks have the default."""

    def __init__(self, own: Any):
        super().__init__(own)
        for name in OPTIONAL:
            if hasattr(own, name):
                setattr(self, name, getattr(own, name))
        known = [name for name in ("home", "backend") if hasattr(own, name)]
        self._home = getattr(own, known[0]) if known else id(own)

    @property
    def home(self) -> Any:
        return self._home


def adopted(covariance: Any, argument: str = "covariance") -> Covariance:
    """A covariance of this package as it is, a caller's own class as one; ValueError for an object that is none."""
    if isinstance(covariance, Covariance):
        return covariance
    # a property is looked up in the class, since its value may cost a pass or be an error
    missing = [name for name in NEEDED if not (hasattr(type(covariance), name) or hasattr(covariance, name))]
    if missing:
        nearly = len(missing) < len(NEEDED)
        raise ValueError(
            f"{argument}: expected a covariance, a matrix (n, n), an Operator or (function, trace), or a list of "
            f"these, found {type(covariance).__name__}{' without ' + ', '.join(missing) if nearly else ''}"
        )
    return AdoptedCovariance(covariance)


def genetic(covariance: Any) -> Covariance:
    """A covariance beside whose components there is one identity residual; ValueError for those of with_residuals."""
    covariance = adopted(covariance)
    if covariance.layout is not None:
        raise ValueError(
            f"covariance: expected genetic components beside one identity residual, found those of with_residuals "
            f"({', '.join(covariance.names)}); scale and mix components before, then give with_residuals all residuals "
            "at once, and what it returns to fit or effects"
        )
    return covariance


class WrappedCovariance(Forwarding):
    """Another covariance, with some of its members changed by a subclass."""

    def __init__(self, base: Any):
        super().__init__(adopted(base))
        self.sweeps, self.backend = self.base.sweeps, self.base.backend
        self.layout, self.factors = self.base.layout, self.base.factors

    @property
    def overlap(self) -> float:
        return self.base.overlap

    @property
    def home(self) -> Any:
        return self.base.home

    def core(self, B):
        return self.base.core(B)

    def image_squares(self, F):
        return self.base.image_squares(F)

    def diagonals(self):
        return self.base.diagonals()


class CountingCovariance(WrappedCovariance):
    """Another covariance with its column-passes counted: one is a product with one vector, both directions.

    ``column_passes`` adds up k for ``apply``, k / 2 for ``features``, ``core`` and ``apply_features``, overlap k / 2
    for ``apply_each``, overlap n / 2 for ``matrices``, times the covariance's ``sweeps`` (reads of the genotypes in a
    product) where those are not one.  ``callback`` gets it after every product.  before: the passes of a run that this
    one goes on from.
    """

    def __init__(self, covariance: Any, callback: Callable[[float], None] | None = None, before: float = 0.0):
        super().__init__(covariance)
        self.products, self.weights = self.base.products, self.base.weights
        self._callback = callback
        self._column_passes = before
        self.calls = {"apply": 0, "features": 0, "core": 0, "apply_each": 0, "apply_features": 0, "matrices": 0}

    @property
    def column_passes(self) -> float:
        return self._column_passes

    def _count(self, name: str, columns: float) -> None:
        self.calls[name] += 1
        self._column_passes += columns * self.sweeps
        if self._callback is not None:
            self._callback(self._column_passes)

    def apply(self, theta, B):
        self._count("apply", B.shape[1])
        return self.base.apply(theta, B)

    def features(self, B):
        self._count("features", B.shape[1] / 2)
        return self.base.features(B)

    def grams(self, pieces, F):
        return self.base.grams(pieces, F)

    def matrices(self):
        made = self.base.matrices()
        if made is not None:
            self._count("matrices", self.overlap * self.num_samples / 2)
        return made

    def core(self, B):
        self._count("core", B.shape[1] / 2)
        return self.base.core(B)

    def apply_each(self, F):
        self._count("apply_each", self.overlap * F.shape[-1] / 2)
        return self.base.apply_each(F)

    def apply_features(self, theta, F):
        self._count("apply_features", F.shape[-1] / 2)
        return self.base.apply_features(theta, F)

    def variant_effects(self, theta, F):
        return self.base.variant_effects(theta, F)
