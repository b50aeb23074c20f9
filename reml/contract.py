"""The rules that every component of a covariance has to keep, how they are checked, and what errors say.

K_g is a symmetric, positive semidefinite matrix whose trace is the one that is stated.  A function B -> K_g B returns
numbers of B's shape and leaves B as it was.  The checks look at products that are made anyway: at the shape of every
answer of a caller's function, at symmetry in the first blocks, at traces and signs where probes meet K_g.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from .linalg import Block, column_dots, gram

# Products in float32 may differ in u'Kv and v'Ku by this share of |Ku||v|, and a stated trace by this share of
# itself.
SKEW = 1e-4
# Symmetry is judged on so many columns of a block: every pair of them is one test.
SEEN_COLUMNS = 8
# Symmetry is looked at in so many blocks of each function, since the first ones hold covariates, which K may map to
# little.
SEEN_BLOCKS = 4
# A normal variable is beyond six standard errors, on one side, with this probability.
TAIL_PROBABILITY = 1e-9
# A trace is denied where probes differ from it by so many of their standard errors.
STANDARD_ERRORS = 6
# With fewer probes than this their own spread does not tell how far chance may take their mean.
FEW_PROBES = 32
# A probe denies that K is positive semidefinite where z'Kz is below zero by this share of the trace. Estimates of
# relatedness are indefinite by less.
NEGATIVE = 0.01

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
    B, image = B[:, :SEEN_COLUMNS], image[:, :SEEN_COLUMNS]
    small = gram(B, image)
    lengths, images = np.sqrt(column_dots(B, B)), np.sqrt(column_dots(image, image))
    reach = np.outer(lengths, images)
    rounding = np.maximum(reach, reach.T) + abs(size) * np.outer(lengths, lengths)
    beyond = np.abs(small - small.T) > SKEW * rounding
    return float(np.abs(small - small.T).max() / np.abs(small).max()) if beyond.any() else 0.0


def check_traces(covariance: Any, forms: np.ndarray, squares: np.ndarray, left: np.ndarray) -> None:
    """Raise ValueError where the forms z'K_g z (G, s) of probes deny their mean ``left`` (G,), or are negative.

    left: tr(K_g) on the complement of the fixed effects.  squares (G, s): |K_g z|^2, nan where it is not known.
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
    """(G,) factors that bring traces into the units in which they were stated."""
    return np.ones(len(covariance.names)) if covariance.factors is None else covariance.factors


def allowed(found: float, squares: np.ndarray, left: float) -> tuple[float, float, float]:
    """The least and largest mean of z'Kz over s probes that a trace ``left`` allows, and the mean's standard error.

    K of rank one has the widest law, tr(K) chi^2_s / s, and its quantiles bound any other's, however few the probes.
    Where squares (s,) = |Kz|^2 are known, Var z'Kz <= 2 |K|_F^2 = 2 E|Kz|^2 for normal and for +-1 probes, and six
    standard errors are narrower.  A few directions may hold most of K, and probes may miss them.  Therefore |K|_F^2 is
    taken three of its own standard errors higher, it is scaled up where the trace that is stated exceeds the mean, and
    with few probes by as much as they may fall short by chance.
    """
    s = len(squares)
    least, most = (special.chdtri(s, chance) / s for chance in (1 - TAIL_PROBABILITY, TAIL_PROBABILITY))
    if np.isnan(squares).any() or not found > 0:
        return least * left, most * left, np.sqrt(2 / s) * abs(left)
    high = squares.mean() + 3 * squares.std() / np.sqrt(s)
    if s < FEW_PROBES:
        high /= least
    reach = STANDARD_ERRORS * np.sqrt(2 * high / s * max(1.0, left / found))
    return max(least * left, left - reach), min(most * left, left + reach), np.sqrt(2 * squares.mean() / s)
