"""Hypothesis strategies: small problems with the awkward cases that real cohorts have."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from .dense import MISSING

_ordinary = st.floats(-3, 3, allow_nan=False, width=32)


@st.composite
def counts(draw, min_samples: int = 3, max_samples: int = 21, max_variants: int = 12) -> np.ndarray:
    """int8 (n, m) allele counts with missing calls, of any n modulo 4.

    Columns are ordinary, monomorphic, never called, called once, or a single heterozygote among homozygotes; at least
    one varies.
    """
    n = draw(st.integers(min_samples, max_samples))
    m = draw(st.integers(1, max_variants))
    genotypes = draw(hnp.arrays(np.int8, (n, m), elements=st.sampled_from([0, 1, 2, MISSING])))
    kinds = draw(st.lists(st.sampled_from(["any"] * 4 + ["same", "never", "once", "rare"]), min_size=m, max_size=m))
    for j, kind in enumerate(kinds):
        level = draw(st.sampled_from([0, 1, 2]))
        if kind == "same":
            genotypes[:, j] = np.where(genotypes[:, j] == MISSING, MISSING, level)
        elif kind in ("never", "once"):
            genotypes[:, j] = MISSING
            genotypes[: kind == "once", j] = level
        elif kind == "rare":
            genotypes[:, j] = 2 * (level > 0)
            genotypes[draw(st.integers(0, n - 1)), j] = 1
    varying = draw(st.integers(0, m - 1))
    genotypes[:2, varying] = [0, 2]
    return genotypes


@st.composite
def weights(draw, num_variants: int, max_components: int = 3) -> np.ndarray:
    """(m, G) float64, not negative, with zeros and overlaps; every component has a variant."""
    G = draw(st.integers(1, max_components))
    elements = st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 10, allow_nan=False))
    W = draw(hnp.arrays(np.float64, (num_variants, G), elements=elements))
    for g in range(G):
        if not W[:, g].any():
            W[draw(st.integers(0, num_variants - 1)), g] = 1.0
    return W


@st.composite
def covariates(draw, num_samples: int, max_columns: int = 3) -> np.ndarray:
    """(n, c) float64 of full rank, an intercept first, on scales from 1e-3 to 1e3; c < n."""
    c = draw(st.integers(1, min(max_columns, num_samples - 1)))
    seed = draw(st.integers(0, 2**32 - 1))
    scales = draw(st.lists(st.sampled_from([1e-3, 1.0, 1e3]), min_size=c, max_size=c))
    X = np.random.default_rng(seed).standard_normal((num_samples, c)) * scales
    X[:, 0] = 1.0
    return X


def thetas(num_components: int, unit: float = 1.0) -> st.SearchStrategy[np.ndarray]:
    """(G + 1,) variances in ``unit`` squared: genetic ones may be 0, the residual one, last, is not."""
    genetic = st.one_of(st.just(0.0), st.floats(1e-3, 10, allow_nan=False))
    values = st.tuples(*[genetic] * num_components, st.floats(0.05, 10, allow_nan=False))
    return values.map(lambda theta: unit**2 * np.array(theta))


class Problem(NamedTuple):
    """``counts`` (n, m), ``weights`` (m, G) with every component on a variant that varies, y (n,), X (n, c), theta."""

    counts: np.ndarray
    weights: np.ndarray
    y: np.ndarray
    X: np.ndarray
    theta: np.ndarray


@st.composite
def problems(draw, max_components: int = 3) -> Problem:
    """Everything a REML quantity takes."""
    genotypes = draw(counts(min_samples=6))
    n, m = genotypes.shape
    W = draw(weights(m, max_components))
    called = genotypes != MISSING
    highest = np.where(called, genotypes, -1).max(axis=0)
    lowest = np.where(called, genotypes, 3).min(axis=0)
    # A component without a variant that varies is an error elsewhere, not a case here.
    W[np.argmax(highest > lowest), ~W[highest > lowest].any(axis=0)] = 1.0
    y = draw(hnp.arrays(np.float64, n, elements=_ordinary))
    return Problem(genotypes, W, y, draw(covariates(n)), draw(thetas(W.shape[1])))
