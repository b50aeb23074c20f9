"""Genetic covariances and correlations with their errors and tests, in the units of the traits."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..inference import Derived, delta_method
from ..tables import MOST_LINES, shown
from .rg_cone import AT_BOUND, Entries, entries_of
from .rg_pairs import NO_VARIANCE
from .rg_tests import Ratio

if TYPE_CHECKING:  # pandas is loaded only where a frame is asked for
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    *("trait_1", "trait_2", "component", "n_1", "n_2", "n_common", "variance_1", "variance_2"),
    *("covariance", "covariance_se", "covariance_mc_se", "rg", "rg_se", "rg_mc_se"),
    *("lrt_rg0", "p_rg0", "lrt_rg1", "p_rg1", "status"),
)


class Row(NamedTuple):
    """Of two traits in one component, all together (``total``) or the ``residual``: variances that each explains, with
    their covariance and correlation; ``rg0`` and ``rg1``: likelihood ratios of no correlation and of one of 1 or -1."""

    component: str
    variances: Derived
    covariance: Derived
    rg: Derived
    rg0: Ratio
    rg1: Ratio
    status: str


@dataclass(frozen=True)
class PairResult:
    """A fit of two or more traits (by their place among all).

    ``S`` (H, t, t): variances and covariances per unit of K_h, in the traits' units, the residual last.  Of its entries
    on and above the diagonal, matrix by matrix, ``covariance`` (p, p) is the sampling covariance, the inverse of the
    average information, NaN for what is at its bound or not ``told`` (p,), residual covariances of traits that share
    nobody; ``mc_covariance`` that of the probes.  ``residual_at_floor`` (t,) bool: traits whose residual is at its
    bound, alone or in a combination.  ``singular``: the information is, so nothing tells covariances, as of a trait and
    its multiple.
    ``mean_traces`` (G, t): tr(K_g) / n of each trait's people.  ``converged``: where not, ``S`` has the screened values
    of one step from the fits of each trait alone.  ``rg0`` and ``rg1``: likelihood ratios of every two of the traits,
    in the order of ``pairs``, by component, of all, of the residual (H + 1,).
    """

    traits: tuple[int, ...]
    S: np.ndarray
    covariance: np.ndarray
    mc_covariance: np.ndarray
    mean_traces: np.ndarray
    told: np.ndarray
    converged: bool
    answered: bool
    residual_at_floor: np.ndarray
    singular: bool
    rg0: tuple[tuple[Ratio, ...], ...]
    rg1: tuple[tuple[Ratio, ...], ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Every two of the traits, by their place in the fit."""
        return list(combinations(range(len(self.traits)), 2))

    @property
    def entries(self) -> Entries:
        """Which entry of S each parameter is."""
        return entries_of(*self.S.shape[:2])

    @property
    def genetic(self) -> np.ndarray:
        """(G, t, t) S_g."""
        return self.S[:-1]

    @property
    def residual(self) -> np.ndarray:
        """(t, t) S_e; its entry for traits that share nobody is 0, as the data say nothing of it."""
        return self.S[-1]

    def se(self, h: int, a: int, b: int) -> float:
        """Sampling standard error of S[h, a, b]."""
        k = self.entries.index(h, a, b)
        return float(np.sqrt(self.covariance[k, k]))

    def rows(self, names: tuple[str, ...], a: int = 0, b: int = 1) -> list[Row]:
        """Of two of the traits, by their place in the fit: components, total, residual."""
        G = len(names)
        kinds = [(name, np.eye(G + 1)[g]) for g, name in enumerate(names)]
        kinds += [("total", np.append(np.ones(G), 0.0)), ("residual", np.eye(G + 1)[G])]
        return [self._row(name, counted, k, a, b) for k, (name, counted) in enumerate(kinds)]

    def _row(self, name: str, counted: np.ndarray, which: int, a: int, b: int) -> Row:
        """``counted`` (H,): which matrices are summed."""
        own = self.entries
        x = own.vector(self.S)
        roots = np.sqrt(np.vstack([self.mean_traces, np.ones(self.S.shape[1])]))
        scaled = counted[own.h] * roots[own.h, own.a] * roots[own.h, own.b]
        J = np.array([np.where((own.a == i) & (own.b == j), scaled, 0.0) for i, j in ((a, a), (b, b), (a, b))])
        J[2] = J[2] if a <= b else np.where((own.a == b) & (own.b == a), scaled, 0.0)
        values = J @ x
        moments = delta_method(values, J, self.covariance, self.mc_covariance)
        variances, covariance = (Derived(*(part[which] for part in moments)) for which in (slice(0, 2), slice(2, 3)))
        flags = self._flags(counted, values, a, b)
        rg = self._correlation(values, J, flags)
        if any(flag.startswith("variance") for flag in flags):
            covariance = Derived(values[2:], np.full(1, np.nan), np.full(1, np.nan))
        if "no_common_people" in flags or self.singular:
            covariance, rg = (Derived(*np.full((3, 1), np.nan)) for _ in range(2))
        status = ",".join(["converged" if self.converged else "screened", *flags])
        rg0, rg1 = (tests[self.pairs.index((min(a, b), max(a, b)))][which] for tests in (self.rg0, self.rg1))
        return Row(name, variances, covariance, rg, rg0, rg1, status)

    def _flags(self, counted: np.ndarray, values: np.ndarray, a: int, b: int) -> list[str]:
        """What is at a bound, or not known."""
        own, flags = self.entries, []
        total = np.einsum("haa->a", self.S)[[a, b]]
        flags += [f"variance_{k + 1}_zero" for k in range(2) if values[k] <= NO_VARIANCE * total[k]]
        if not flags and abs(values[2]) >= (1 - AT_BOUND) * np.sqrt(values[0] * values[1]):
            flags.append("rg_at_bound")
        if counted[-1] and not self.told[own.index(len(self.S) - 1, a, b)]:
            flags.append("no_common_people")
        if counted[-1] and self.residual_at_floor[[a, b]].any():
            flags.append("residual_at_bound")
        if self.singular:
            flags.append("singular")
        return flags if self.answered else [*flags, "basis_too_small"]

    def _correlation(self, values: np.ndarray, J: np.ndarray, flags: list[str]) -> Derived:
        """rg by the delta method; NaN where a variance is zero, without errors where it is at its bound."""
        unknown = np.full(1, np.nan)
        if any(flag.startswith("variance") for flag in flags):
            return Derived(unknown, unknown, unknown)
        root = np.sqrt(values[0] * values[1])
        rg = values[2] / root
        if "rg_at_bound" in flags:
            return Derived(np.sign(values[2:]), unknown, unknown)
        slopes = np.array([-rg / (2 * values[0]), -rg / (2 * values[1]), 1 / root]) @ J
        return delta_method(np.array([rg]), slopes[None], self.covariance, self.mc_covariance)


def pair_values(fit: PairResult, row: Row) -> list:
    """What a table has of a row after its names and numbers of people."""
    one, two = row.variances.estimate
    return [
        *(one, two),
        *(float(value[0]) for value in (*row.covariance, *row.rg)),
        *(row.rg0.statistic, row.rg0.p, row.rg1.statistic, row.rg1.p, row.status),
    ]


@dataclass(frozen=True, repr=False)
class GeneticCorrelations:
    """Fits of pairs of traits, or of all jointly.

    ``traits`` and components ``names``; ``fits``: of pairs, or one of all; ``num_samples`` (T, T): people whom traits
    share, their own on the diagonal; ``variances`` (T, G + 1): theta of each trait on its own, the residual last.
    """

    traits: tuple[str, ...]
    names: tuple[str, ...]
    fits: tuple[PairResult, ...]
    num_samples: np.ndarray
    variances: np.ndarray
    num_probes: int
    column_passes: float

    @property
    def converged(self) -> bool:
        """Whether every fit has converged, in bases that answer for it."""
        return all(fit.converged and fit.answered for fit in self.fits)

    def rows(self) -> list[tuple[int, int, PairResult, Row]]:
        """Every pair's rows, traits by their place."""
        return [
            (fit.traits[a], fit.traits[b], fit, row)
            for fit in self.fits
            for a, b in fit.pairs
            for row in fit.rows(self.names, a, b)
        ]

    def to_frame(self) -> "pd.DataFrame":
        """A row for each pair and component, one for all components together (``total``) and one for the residual."""
        import pandas as pd

        table = [
            [
                *(self.traits[i], self.traits[j], row.component),
                *(int(self.num_samples[at]) for at in ((i, i), (j, j), (i, j))),
                *pair_values(fit, row),
            ]
            for i, j, fit, row in self.rows()
        ]
        return pd.DataFrame(table, columns=list(COLUMNS))

    def plot(self) -> "Figure":
        """Heat map: genetic correlations above the diagonal, residual ones below (matplotlib: extra ``report``)."""
        from gpu_reml.figures import plot_correlations

        return plot_correlations(self)

    def matrix(self, component: str = "total") -> "pd.DataFrame":
        """Correlations of all traits (T, T) in a component, ``total`` or ``residual``; NaN where there is none."""
        import pandas as pd

        if component not in (*self.names, "total", "residual"):
            raise ValueError(f"component: expected one of {', '.join(self.names)}, total, residual, found {component}")
        out = np.where(np.eye(len(self.traits), dtype=bool), 1.0, np.nan)
        for i, j, _, row in self.rows():
            if row.component == component:
                out[i, j] = out[j, i] = row.rg.estimate[0]
        return pd.DataFrame(out, index=list(self.traits), columns=list(self.traits))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        own = [
            dict(zip(fit.entries._fields, (each.tolist() for each in fit.entries), strict=True)) for fit in self.fits
        ]
        return {
            "method": "reml",
            "status": "converged" if self.converged else "not_converged",
            "traits": list(self.traits),
            "component_names": list(self.names),
            "n": self.num_samples,
            "variances_alone": self.variances,
            "num_probes": self.num_probes,
            "passes": self.column_passes,
            "fits": [
                {
                    "traits": [self.traits[k] for k in fit.traits],
                    "status": "converged" if fit.converged else "screened",
                    "basis_answers": fit.answered,
                    "S": fit.S,
                    "entries": entries,
                    "covariance": fit.covariance,
                    "mc_covariance": fit.mc_covariance,
                    "mean_traces": fit.mean_traces,
                }
                for fit, entries in zip(self.fits, own, strict=True)
            ],
            "pairs": [
                {**row, "rg1_boundary": float(np.sign(row["covariance"]))} for row in self.to_frame().to_dict("records")
            ],
            "variance_unit": "variances and covariances of pairs: what a component explains, S sqrt(tr(K) / n) by "
            "trait; S: per unit of K",
        }

    def summary(self) -> str:
        """A line for each pair: covariance and correlation of all components together, and tests."""
        width = max(12, *(len(name) for name in self.traits))
        lines = [
            f"{'trait_1':{width}s} {'trait_2':{width}s} {'rg':>9s} {'SE':>8s} {'MC error':>9s} {'p(rg=0)':>9s}  status"
        ]
        for i, j, _, row in self.rows():
            if row.component == "total":
                rg = (
                    shown(float(value[0]), spec) for value, spec in zip(row.rg, ("9.5f", "8.5f", "9.2g"), strict=True)
                )
                p = shown(row.rg0.p, "9.3g")
                lines.append(f"{self.traits[i]:{width}s} {self.traits[j]:{width}s} {' '.join(rg)} {p}  {row.status}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """One screen of the summary."""
        lines = self.summary().splitlines()
        if len(lines) > MOST_LINES:
            lines = [*lines[:MOST_LINES], f"... {len(lines) - MOST_LINES} more: print(result.summary())"]
        return "\n".join([f"GeneticCorrelations: {len(self.traits)} traits", *lines])
