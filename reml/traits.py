"""Phenotypes of the same samples, with what scales and projects them."""

from typing import NamedTuple

import numpy as np

from .linalg import project


class Traits(NamedTuple):
    """Phenotypes ``Y`` (n, t) as given, fixed effects ``X`` (n, c) with orthonormal basis ``Q``, and ``scales`` (t,):
    the standard deviation of every phenotype off X."""

    Y: np.ndarray
    X: np.ndarray
    Q: np.ndarray
    scales: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """(n, t) projected off X, unit variance."""
        return project(self.Q, self.Y) / self.scales

    def only(self, which: int) -> "Traits":
        """One of them."""
        return Traits(self.Y[:, which : which + 1], self.X, self.Q, self.scales[which : which + 1])
