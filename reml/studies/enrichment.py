"""Heritability of annotations, correct where components and annotations overlap, and joint tests of components."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse, special

from gpu_reml.ops.arguments import as_sparse, as_vector

from ..inference import Derived, boundary_weights, delta_method
from ..result import FitResult
from ..tables import Components

if TYPE_CHECKING:  # loaded only where a frame is asked for
    import pandas as pd


@dataclass(frozen=True)
class Enrichment:
    """What A annotations hold of the heritability; every field of the fit is (A,).

    ``share_of_variants``: sum_j a_j / m.  ``h2``: h2(a).  ``share``: of the variance that variants explain.
    ``enrichment``: share / share_of_variants.  ``excess``: variance of a variant of the annotation less that of the
    average variant, and ``p``, two-sided, of its being zero: that is linear in theta, so the better test than a ratio.
    """

    names: tuple[str, ...]
    num_variants: np.ndarray
    share_of_variants: np.ndarray
    h2: Derived
    share: Derived
    enrichment: Derived
    excess: Derived
    p: np.ndarray

    def to_frame(self) -> "pd.DataFrame":
        """One row for each annotation."""
        import pandas as pd

        return pd.DataFrame(self._columns())

    def to_records(self) -> list[dict[str, Any]]:
        """Plain numbers, ready for JSON."""
        columns = {name: np.asarray(values).tolist() for name, values in self._columns().items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _columns(self) -> dict[str, Sequence]:
        columns = {"annotation": self.names, "variants": self.num_variants, "share_of_variants": self.share_of_variants}
        for name in ("h2", "share", "enrichment", "excess"):
            for kind, values in getattr(self, name)._asdict().items():
                columns[name if kind == "estimate" else f"{name}_{kind}"] = values
        return {**columns, "p": self.p}


def enrichment(
    result: Components,
    weights: sparse.sparray,
    mean_squares: np.ndarray,
    membership: np.ndarray | sparse.sparray,
    names: Sequence[str],
) -> Enrichment:
    """Heritability of annotations: the variance that a fit attributes to each variant, added up.

    A variant's variance is s_j = sum_g theta_g w_jg |z_j|^2 / n over the components it is in, with w already divided by
    c_g, so that sum_j s_j = sum_g theta_g tr(K_g) / n.  For an annotation of values a_j (0/1 or continuous)

        v(a) = sum_j a_j s_j,  h2(a) = v(a) / V_P,  share(a) = v(a) / sum_j s_j,  enrichment(a) = m share(a) / sum_j a_j

    result: a fit of G components, theta residual last.  weights (m, G): of its GenotypeCovariance; a component that is
    not made of variants has a column of zeros, and counts in V_P only.  mean_squares (m,): |z_j|^2 / n, 0 for the
    variants that do not vary, which are left out of m and of every sum.  membership (m, A), names (A,).
    All are functions of theta: errors are by the delta method from its two covariances, and a component at its bound
    is as uncertain as the average information says, which ignores the bound.  No pass: products of sparse matrices.
    Source: the shares are those of Finucane et al. 2015, Nat. Genet. 47:1228, there from summary statistics.
    Raises ValueError when the shapes or the weights are not those of the fit, or an annotation has no variant.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> from gpu_reml.reml import enrichment, fit_exact
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> halves = np.repeat(np.eye(2), 200, axis=0)
    >>> covariance = make_covariance(make_products(genotypes, "cpu"), halves, ["first", "second"])
    >>> y = counts[:, :200] @ rng.standard_normal(200) / 9 + rng.standard_normal(200)
    >>> result = fit_exact(y, np.ones((200, 1)), covariance)
    >>> found = enrichment(result, covariance.weights, genotypes.squared_norm / 200, halves, ["first", "second"])
    >>> found.share_of_variants.tolist(), bool(found.enrichment.estimate[0] > 1)
    ([0.5, 0.5], True)
    """
    weights, membership = as_sparse(weights, "weights"), as_sparse(membership, "membership")
    mean_squares = as_vector(mean_squares, "mean_squares")
    m, G = weights.shape
    if G != len(result.names):
        raise ValueError(f"weights: expected a column for each of {len(result.names)} components, found {G}")
    if membership.shape != (m, len(names)) or mean_squares.shape != (m,):
        raise ValueError(
            f"expected membership ({m}, {len(names)}) and mean_squares ({m},), found {membership.shape} and "
            f"{mean_squares.shape}"
        )
    traces = weights.T @ mean_squares
    unlike = (traces > 0) & ~np.isclose(traces, result.mean_traces, rtol=1e-6)
    if unlike.any():
        name = result.names[int(np.argmax(unlike))]
        raise ValueError(f"weights: their trace for component {name} is not that of the fit; give the fit's weights")
    varies = (mean_squares > 0).astype(np.float64)
    sums = membership.T @ varies
    if not (sums > 0).all():
        raise ValueError(f"membership: annotation {names[int(np.argmin(sums > 0))]} has no variant that varies")
    held = (membership.T @ (sparse.diags_array(mean_squares) @ weights)).toarray()  # (A, G): v(a) = held @ theta_g
    return _enrichment(result, tuple(names), membership, held, traces, sums / varies.sum(), varies)


def _enrichment(result, names, membership, held, traces, share_of_variants, varies) -> Enrichment:
    theta, covariances = result.theta, (result.covariance, result.mc_covariance)
    pad = np.zeros((len(names), len(theta) - len(traces)))
    parts, atoms = np.hstack([held, pad]), np.append(traces, pad[0])
    genetic = float(theta @ atoms)
    phenotypic = np.append(result.mean_traces, result.residual_traces)
    values, total = parts @ theta, float(theta @ phenotypic)
    h2 = delta_method(values / total, (parts - np.outer(values / total, phenotypic)) / total, *covariances)
    nan = np.full(len(names), np.nan)
    share = Derived(nan, nan, nan)
    if genetic > 0:
        share = delta_method(values / genetic, (parts - np.outer(values / genetic, atoms)) / genetic, *covariances)
    m = varies.sum()
    contrast = parts / (m * share_of_variants)[:, None] - atoms / m
    excess = delta_method(contrast @ theta, contrast, *covariances)
    with np.errstate(divide="ignore", invalid="ignore"):
        # an annotation of every variant alike has no contrast: its excess is rounding
        known = np.abs(contrast).max(axis=1) > 1e-12 * np.abs(atoms).max(initial=0) / m
        p = np.where(known, 2 * special.ndtr(-np.abs(excess.estimate / excess.se)), np.nan)
    ratio = Derived(*(part / share_of_variants for part in share))
    counts = ((membership != 0).astype(np.float64).T @ varies).astype(np.int64)
    return Enrichment(names, counts, share_of_variants, h2, share, ratio, excess, p)


class Wald(NamedTuple):
    """Joint Wald test; ``df``: components off their bound.  ``p``: of chi-square with df, ``p_mixture``: of the
    chi-bar-squared law with ``weights`` (k + 1,)."""

    statistic: float
    df: int
    p: float
    p_mixture: float
    weights: np.ndarray


def wald_test(result: FitResult, which: Sequence[str]) -> Wald:
    """Test that the components ``which`` are all zero: theta_S' I_S theta_S, I_S the information about them.

    I_S is the average information with the other parameters profiled out; a nuisance component at its bound is fixed
    there.  Variances cannot be negative, so the statistic is not chi-square with as many degrees of freedom as
    components: asymptotically it is a mixture (``p_mixture``).  ``p`` takes the degrees of freedom that the data left
    off the bound, a valid conditional test; 1 when none is.  Like every Wald test of variances it depends on the
    quadratic approximation at the estimate: prefer the likelihood ratio where it is at hand.
    Source: Kudo 1963, Biometrika 50:403; Susko 2013, Biometrika 100:1019.
    Raises ValueError for an unknown name or a name twice.

    >>> import numpy as np
    >>> from gpu_reml.reml import fit_exact, wald_test
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> X, K = np.ones((200, 1)), Z @ Z.T / 400
    >>> wald_test(fit_exact(y, X, K), ["component_000"]).df
    1
    """
    unknown = [name for name in which if name not in result.names]
    if unknown or not which or len(set(which)) < len(which):
        known = ", ".join(result.names)
        raise ValueError(f"which: expected different names among {known}; found {', '.join(which) or 'none'}")
    tested = np.array([result.names.index(name) for name in which])
    at_bound = result.at_bound
    kept = np.flatnonzero(~at_bound | np.isin(np.arange(len(at_bound)), tested))
    information = result.information[np.ix_(kept, kept)]
    position = np.searchsorted(kept, tested)
    profiled = np.linalg.inv(np.linalg.inv(information)[np.ix_(position, position)])
    theta = np.where(at_bound[tested], 0.0, result.theta[tested])
    statistic, df = float(theta @ profiled @ theta), int((~at_bound[tested]).sum())
    whole = np.eye(len(tested) + 1)
    whole[:-1, :-1] = profiled
    weights = boundary_weights(whole) if result.constrained else np.eye(len(tested) + 1)[-1]
    tail = np.array([float(statistic <= 0), *(special.chdtrc(i, statistic) for i in range(1, len(weights)))])
    return Wald(statistic, df, float(special.chdtrc(df, statistic)) if df else 1.0, float(weights @ tail), weights)
