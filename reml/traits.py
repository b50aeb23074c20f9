"""Phenotypes of the same samples, with what scales and projects them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_numbers

from .linalg import column_lengths, orthonormal_basis, powers_of_two, project
from .residuals import layout_of

# What the fixed effects leave of a phenotype is rounding below this share of its largest value.
LEAST_SPREAD = 1e-12
# Effects of covariates are between the inverse of this and this, since float64 has to hold their squares, the
# variances of estimates.
LARGEST_EFFECT = 1e151
# Standard deviations are between the inverse of this and this, since float64 has to hold their fourth powers, the
# variances of variances.
LARGEST = 1e70


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
        """One trait, as Traits."""
        return Traits(self.Y[:, which : which + 1], self.X, self.Q, self.scales[which : which + 1])


def make_traits(Y: np.ndarray, X: np.ndarray, names: Sequence[str] | None = None) -> Traits:
    """Phenotypes Y (n, t) and fixed effects X (n, c) with their scales, or a ValueError that says what is wrong.

    names: of the phenotypes, in the words of an argument.
    """
    names = trait_names(Y) if names is None else names
    Q = orthonormal_basis(X)
    units = powers_of_two(np.abs(Y).max(axis=0))
    scales = units * np.linalg.norm(project(Q, Y / units), axis=0) / np.sqrt(len(Y) - Q.shape[1])
    check_varying(scales, Y, names)
    for name, scale in zip(names, scales, strict=True):
        check_unit(scale, name)
        check_effects(X, scale)
    return Traits(Y, X, Q, scales)


def varying(scales: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """(t,) bool: whether standard deviations beside the fixed effects are more than the rounding of Y (n, t)."""
    return scales > LEAST_SPREAD * np.abs(Y).max(axis=0)


def trait_names(Y: np.ndarray) -> list[str]:
    """The columns of Y (n, t) in the words of an argument."""
    return ["y"] if Y.shape[1] == 1 else [f"Y[:, {t}]" for t in range(Y.shape[1])]


def check_varying(scales: np.ndarray, Y: np.ndarray, names: Sequence[str] | None = None) -> None:
    """ValueError that names the first trait of Y (n, t) which does not vary beside the fixed effects."""
    names = trait_names(Y) if names is None else names
    for name, varies in zip(names, varying(scales, Y), strict=True):
        if not varies:
            raise ValueError(
                f"{name}: does not vary once the fixed effects are taken out; there is no variance to divide"
            )


def check_unit(scale: float, name: str) -> None:
    """ValueError for a standard deviation whose fourth power, the size of a variance's error squared, float64 lacks."""
    if not 1 / LARGEST < scale < LARGEST:
        raise ValueError(
            f"{name}: a standard deviation of {scale:.3g} beside the fixed effects, in whose units squared results "
            f"cannot be held; give it in another unit, {name} / {float(10 ** np.round(np.log10(scale))):.0e}"
        )


def check_effects(X: np.ndarray, scale: float) -> None:
    """ValueError for a column of X (n, c) whose effect on a phenotype of that scale has a variance float64 lacks."""
    sizes = column_lengths(X) / np.sqrt(len(X))
    held = (sizes / scale < LARGEST_EFFECT) & (scale / sizes < LARGEST_EFFECT)
    if not held.all():
        column = int(np.argmin(held))
        unit = float(10 ** np.round(np.log10(sizes[column])))
        raise ValueError(
            f"X: column {column} has values of about {sizes[column]:.3g}, of whose effect the variance cannot be held; "
            f"give it in another unit, X[:, {column}] / {unit:.0e}"
        )


def one_phenotype(y: np.ndarray) -> np.ndarray:
    """y (n,) as float64, finite or not, or a ValueError."""
    y = as_numbers(y, "y")
    if y.ndim != 1:
        raise ValueError(f"y: expected one phenotype (n,), found {y.shape}; several are for fit_traits")
    return y


def check_measured(y: np.ndarray) -> None:
    """ValueError for a value of y (n,) that is not finite."""
    if not np.isfinite(y).all():
        sample = int(np.argmin(np.isfinite(y)))
        raise ValueError(f"y: value {y[sample]} of sample {sample} is not finite")


def checked(Y: np.ndarray, X: np.ndarray, covariance) -> tuple[np.ndarray, np.ndarray]:
    """Y and X as float64, whitened by the reference residual, or a ValueError that says what is wrong with them."""
    Y, X = as_numbers(Y, "y"), as_numbers(X, "X")
    n = covariance.num_samples
    if Y.ndim != 2 or not Y.shape[1]:
        raise ValueError(f"Y: expected traits ({n}, t), found {Y.shape}")
    if len(Y) != n:
        raise ValueError(f"y: expected {n} samples, as the covariance has, found {len(Y)}")
    if X.ndim != 2 or len(X) != n:
        hint = "; one column is x[:, None]" if X.ndim == 1 else ""
        raise ValueError(f"X: expected ({n}, c), found {X.shape}{hint}")
    for y in Y.T:
        check_measured(y)
    layout = layout_of(covariance)
    return layout.whitened(Y), layout.whitened(X)


def one_trait(y: np.ndarray, X: np.ndarray, covariance) -> Traits:
    """y (n,) and X (n, c), checked and scaled, or a ValueError that says what is wrong with them."""
    Y, X = checked(one_phenotype(y)[:, None], X, covariance)
    return make_traits(Y, X)
