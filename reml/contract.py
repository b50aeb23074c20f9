"""What a component of a covariance has to keep, checked on products that are made anyway, and the words for it.

K_g is a symmetric, positive semidefinite matrix whose trace is the one that is stated; a function B -> K_g B answers
with numbers of B's shape and leaves B as it was.  Nothing here costs a product: shapes and signs are looked at in every
answer of a caller's function, symmetry in the first blocks, traces where probes meet K_g.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from .linalg import Block, column_dots, gram

SKEW = 1e-4  # share of |Ku||v| by which u'Kv and v'Ku of float32 products may differ
SEEN = 8  # columns of a block that are paired to see whether K is symmetric
SEEN_BLOCKS = 4  # of each function: covariates come first, and see less of K than y and probes
CHANCE = 1e-9  # of a normal variable beyond six standard errors, on one side
STANDARD_ERRORS = 6
FEW_PROBES = 32  # under which their spread alone does not tell how far chance may take them
NEGATIVE = 0.01  # share of the trace that z'Kz must fall below zero: relatedness estimates are indefinite by less

WRONG_SHAPE = "returns {found} for a block {shape}; return one of the same shape"
NOT_FINITE = "returns values that are not finite"
CHANGES_INPUT = "changes its input; work on a copy, for the solver goes on with it"
NOT_SYMMETRIC = "is not symmetric: a'Kb and b'Ka differ by {skew:.2g} of the largest; apply (K + K') / 2"
REMEDY = "state tr(K), not tr(K)/n"
WRONG_TRACE = "has a trace of {found:.6g} (SE {se:.2g}) by probes, not {stated:.6g}; " + REMEDY
NOT_DEFINITE = "is not positive semidefinite: {direction} (largest {largest:.3g}); a covariance cannot be negative"


def refuse(name: str, problem: str) -> None:
    """ValueError of the component ``name`` of the argument ``covariance``."""
    raise ValueError(f"covariance: component {name} {problem}")


class CheckedFunction:
    """A caller's function B (n, k) -> K B whose answers are checked: float64 of B's shape, finite, B untouched.

    The first blocks of several columns also tell whether K is symmetric.  mean_trace: tr(K)/n, the size of K against
    which rounding is judged.
    """

    def __init__(self, apply_k: Callable, name: str, mean_trace: float):
        self.apply_k, self.name, self.mean_trace = apply_k, name, mean_trace
        self.unseen = SEEN_BLOCKS

    def __call__(self, B: np.ndarray) -> np.ndarray:
        if not B.shape[1]:
            return np.zeros_like(B)
        given = B.copy()
        answer = self.apply_k(B)
        if not np.array_equal(B, given):
            refuse(self.name, CHANGES_INPUT)
        image = numbers_of(answer)
        if image is None or image.shape != B.shape:
            found = f"{type(answer).__name__} of {np.asarray(answer).dtype}" if image is None else image.shape
            refuse(self.name, WRONG_SHAPE.format(found=found, shape=B.shape))
        if not np.isfinite(image).all():
            refuse(self.name, NOT_FINITE)
        if self.unseen > 0 and B.shape[1] > 1:
            check_symmetric(self.name, B, image, self.mean_trace)
            self.unseen -= 1
        return image


def numbers_of(answer: Any) -> np.ndarray | None:
    """A real array as float64, None for what is none."""
    array = np.asarray(answer)
    return array.astype(np.float64, copy=False) if array.dtype.kind in "biuf" else None


def check_symmetric(name: str, B: Block, image: Block, mean_trace: float) -> None:
    """ValueError where u'Kv is not v'Ku for the first columns u, v of B and of their image K B; see :func:`skew_of`."""
    skew = skew_of(B, image, mean_trace)
    if skew:
        refuse(name, NOT_SYMMETRIC.format(skew=skew))


def skew_of(B: Block, image: Block, size: float) -> float:
    """The largest |u'Kv - v'Ku| over the largest |u'Kv|, for the first columns of B and K B; 0 where it is rounding.

    Rounding is judged by |Ku||v| and, where K has hardly anything of a column, by the size of K, such as tr(K)/n.
    """
    B, image = B[:, :SEEN], image[:, :SEEN]
    small = gram(B, image)
    lengths, images = np.sqrt(column_dots(B, B)), np.sqrt(column_dots(image, image))
    reach = np.outer(lengths, images)
    rounding = np.maximum(reach, reach.T) + abs(size) * np.outer(lengths, lengths)
    beyond = np.abs(small - small.T) > SKEW * rounding
    return float(np.abs(small - small.T).max() / np.abs(small).max()) if beyond.any() else 0.0


def check_traces(covariance: Any, forms: np.ndarray, squares: np.ndarray, left: np.ndarray) -> None:
    """ValueError where z'K_g z (G, s) over probes of E[zz'] = I cannot have the mean left (G,), or are negative.

    squares (G, s): |K_g z|^2, nan where it is not known.
    """
    stated, units = np.asarray(covariance.traces, np.float64), units_of(covariance)
    for g, name in enumerate(covariance.names):
        rounding = SKEW * stated[g]
        if (forms[g] < -NEGATIVE * left[g] - rounding).any():
            least, largest = units[g] * forms[g].min(), units[g] * forms[g].max()
            refuse(name, NOT_DEFINITE.format(direction=f"a probe with z'Kz = {least:.3g}", largest=largest))
        found = float(forms[g].mean())
        low, high, se = allowed(found, squares[g], float(left[g]))
        if not low - rounding <= found <= high + rounding:
            whole = found + stated[g] - left[g]
            refuse(name, WRONG_TRACE.format(found=units[g] * whole, se=units[g] * se, stated=units[g] * stated[g]))


def units_of(covariance: Any) -> np.ndarray:
    """(G,) what traces are multiplied by to be those that were stated."""
    return np.ones(len(covariance.names)) if covariance.factors is None else covariance.factors


def allowed(found: float, squares: np.ndarray, left: float) -> tuple[float, float, float]:
    """The least and largest mean of z'Kz over s probes that a trace ``left`` allows, and the mean's standard error.

    K of rank one has the widest law, tr(K) chi^2_s / s, and its quantiles bound any other's, however few the probes.
    Where squares (s,) = |Kz|^2 are known, Var z'Kz <= 2 |K|_F^2 = 2 E|Kz|^2 for normal and for +-1 probes, and six
    standard errors are narrower.  A few directions may hold most of K and the probes miss them: so |K|_F^2 is taken
    three of its own standard errors higher, scaled up with the mean to the trace that is stated, and for few probes by
    what chance may lack of it.
    """
    s = len(squares)
    least, most = (special.chdtri(s, chance) / s for chance in (1 - CHANCE, CHANCE))
    if np.isnan(squares).any() or not found > 0:
        return least * left, most * left, np.sqrt(2 / s) * abs(left)
    high = squares.mean() + 3 * squares.std() / np.sqrt(s)
    if s < FEW_PROBES:
        high /= least
    reach = STANDARD_ERRORS * np.sqrt(2 * high / s * max(1.0, left / found))
    return max(least * left, left - reach), min(most * left, left + reach), np.sqrt(2 * squares.mean() / s)
