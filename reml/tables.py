"""Tables of variance components, the same for every estimator: rows of a frame, plain records, lines of text."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .inference import (
    Derived,
    explained_variances,
    heritability,
    share_of_phenotypic,
    shares_of_genetic,
    total_variance,
)

if TYPE_CHECKING:  # pandas is loaded only where a frame is asked for
    import pandas as pd
    from matplotlib.figure import Figure


# A result's repr has at most so many lines: a screen.
MOST_LINES = 30


class Sum(NamedTuple):
    """Components that are reported together: ``members`` by position, ``label`` and what it stands for."""

    label: str
    meaning: str
    members: tuple[int, ...]


class Components:
    """What follows from theta and its two covariances, for every result that has them.

    A result gives ``names`` (G,), ``theta`` (G + J,) with the residuals last, ``covariance`` (sampling) and
    ``mc_covariance`` (Monte-Carlo), ``mean_traces`` (G,) tr(K_g) / n, and ``num_samples``; where there are other
    residuals than one identity, their ``residual_names`` and ``residual_traces`` tr(R_j) / n (J,).
    theta_g is the variance per unit of K_g; what the tables call the variance of a component is what it explains,
    theta_g tr(K_g) / n, GCTA's V(G).  ``sums``: what is reported beside single components, such as additive and
    dominance variance apart; empty for h2 of all components together.  ``remarks`` (G + J,): a word on each variance.
    """

    names: tuple[str, ...]
    theta: np.ndarray
    covariance: np.ndarray
    mc_covariance: np.ndarray
    mean_traces: np.ndarray
    num_samples: int
    residual_names: tuple[str, ...] = ("residual",)
    residual_traces: Sequence[float] = (1.0,)
    sums: tuple[Sum, ...] = ()
    profiles: tuple = ()
    kind: str  # the name of the estimator, for the text
    scale: ClassVar[str | None] = None  # the scale of the variances, where it is not the phenotype's

    @property
    def remarks(self) -> list[str]:
        """(G + J,) what to know of single variances, empty where there is nothing."""
        return [""] * len(self.theta)

    @property
    def se(self) -> np.ndarray:
        """(G + J,) sampling standard errors of theta."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def mc_se(self) -> np.ndarray:
        """(G + J,) Monte-Carlo standard errors of theta."""
        return np.sqrt(np.maximum(np.diag(self.mc_covariance), 0))

    def _derived(self, function) -> Derived:
        return function(self.theta, self.mean_traces, self.covariance, self.mc_covariance, self.residual_traces)

    @property
    def variances(self) -> Derived:
        """(G + J,) variance that each explains: theta_g tr(K_g) / n and eta_j tr(R_j) / n."""
        return self._derived(explained_variances)

    @property
    def h2(self) -> Derived:
        """Share of the phenotypic variance of every component, then of all together (G + 1,).

        The last is h2 where all components are additive; ``heritabilities`` has them apart where they are not.
        """
        return self._derived(heritability)

    @property
    def heritabilities(self) -> tuple[tuple[Sum, Derived], ...]:
        """Every sum that is reported, with its share of the phenotypic variance (1,); h2 comes first."""
        G = len(self.names)
        sums = self.sums or (Sum("h2", "", tuple(range(G))),)
        counted = np.array([np.isin(np.arange(G), each.members) for each in sums], np.float64)
        found = share_of_phenotypic(
            self.theta, self.mean_traces, self.covariance, self.mc_covariance, self.residual_traces, counted
        )
        return tuple((each, Derived(*(part[k : k + 1] for part in found))) for k, each in enumerate(sums))

    @property
    def shares(self) -> Derived:
        """(G,) shares of the genetic variance."""
        return self._derived(shares_of_genetic)

    @property
    def vp(self) -> Derived:
        """Phenotypic variance given the fixed effects, (1,)."""
        return self._derived(total_variance)

    @property
    def about(self) -> str:
        """What was estimated, by what and from how much, in one line."""
        return f"{self.kind}, {self.num_samples} samples; {sum_line(*self.heritabilities[0], self.names)}"

    def summary(self) -> str:
        """The result as text: a table, and what is known of the whole."""
        return "\n".join(component_lines(self))

    def __repr__(self) -> str:
        """One screen: the summary, without its middle where it is long."""
        lines = self.summary().splitlines()
        if len(lines) > MOST_LINES:
            half = MOST_LINES // 2
            lines = [*lines[:half], f"... {len(lines) - 2 * half} more lines: print(result.summary())", *lines[-half:]]
        return "\n".join([f"{type(self).__name__}: {self.about}", *lines])

    def _repr_html_(self) -> str:
        """The same in a notebook, with the components as a table."""
        after = self.summary().splitlines()[len(component_columns(self)["component"]) + 1 :]
        table = self.to_frame().to_html(index=False, max_rows=MOST_LINES, na_rep="", float_format="{:.5g}".format)
        return f"<p>{escape(self.about)}</p>{table}<pre>{escape(chr(10).join(after))}</pre>"

    def plot(self) -> "Figure":
        """Forest plot of the components' shares with their intervals (matplotlib: the extra ``report``)."""
        from gpu_reml.figures import plot_components

        return plot_components(self)

    def to_frame(self) -> "pd.DataFrame":
        """One row per variance component, residuals last."""
        import pandas as pd

        return pd.DataFrame(component_columns(self))


def component_columns(result: Components) -> dict[str, Sequence]:
    """One entry per variance component in every column, residuals last."""
    G = len(result.names)
    h2, shares, variances, none = (
        result.h2,
        result.shares,
        result.variances,
        np.full(len(result.residual_names), np.nan),
    )
    return {
        "component": [*result.names, *result.residual_names],
        "variance": variances.estimate,
        "se": variances.se,
        "mc_se": variances.mc_se,
        "theta": result.theta,
        "theta_se": result.se,
        "theta_mc_se": result.mc_se,
        "h2": np.append(h2.estimate[:G], none),
        "h2_se": np.append(h2.se[:G], none),
        "h2_mc_se": np.append(h2.mc_se[:G], none),
        "share": np.append(shares.estimate, none),
        "share_se": np.append(shares.se, none),
    }


def component_records(result: Components) -> dict[str, Any]:
    """``components``, ``residuals``, the sums (``h2`` among them) and ``vp`` as plain numbers, ready for JSON."""
    columns = component_columns(result)
    numbers = [values.tolist() for name, values in columns.items() if name != "component"]
    names = ["name", *(name for name in columns if name != "component")]
    rows = [dict(zip(names, row, strict=True)) for row in zip(columns["component"], *numbers, strict=True)]
    G, n = len(result.names), result.num_samples
    traces = [float(t * n) for t in (*result.mean_traces, *result.residual_traces)]
    rows = [{**row, "trace": trace} for row, trace in zip(rows, traces, strict=True)]
    return {
        **{each.label: sum_record(each, derived, result) for each, derived in result.heritabilities},
        "vp": derived_record(result.vp, 0),
        "components": rows[:G],
        "residuals": [{key: value for key, value in row.items() if key[:2] not in ("h2", "sh")} for row in rows[G:]],
        "variance_unit": "variance: what a component explains, theta tr(K) / n; theta: per unit of K",
    }


def sum_record(each: Sum, derived: Derived, result: Components) -> dict[str, Any]:
    """A sum, with what it is of where that is not all components."""
    record: dict[str, Any] = derived_record(derived, 0)
    if each.meaning:
        record.update(meaning=each.meaning, components=[result.names[g] for g in each.members])
    return record


def derived_record(derived: Derived, which: int) -> dict[str, float]:
    """One entry of a :class:`~gpu_reml.reml.inference.Derived`."""
    return {name: float(values[which]) for name, values in derived._asdict().items()}


def shown(value: float, spec: str) -> str:
    """A number as ``spec`` has it, or NA, as wide, where it is not known."""
    return format(value, spec) if np.isfinite(value) else "NA".rjust(int(spec.partition(".")[0] or 0))


def derived_rows(names: Sequence[str], derived: Derived, digits: str = ".6f") -> list[str]:
    """Rows of .hsq: name, estimate, SE (NA where there is none)."""
    rows = zip(names, derived.estimate, derived.se, strict=False)
    return [f"{name}\t{value:{digits}}\t{shown(se, digits)}" for name, value, se in rows]


def component_lines(result: Components) -> list[str]:
    """The table a person reads; variances are those explained, and where a tr(K) / n is not 1 theta stands beside.

    The sums come last, h2 the first of them.
    """
    G, h2, shares, vp, variances = len(result.names), result.h2, result.shares, result.vp, result.variances
    rows = [*result.names, *result.residual_names]
    width = max(12, *(len(name) for name in rows))
    traces = np.append(result.mean_traces, result.residual_traces)
    with_theta = not np.allclose(traces, 1, rtol=0, atol=1e-6)
    titles = f"{'variance':>12s} {'SE':>10s} {'MC error':>10s}" + f" {'theta':>12s}" * with_theta
    lines = [f"{'component':{width}s} {titles} {'V/Vp':>9s} {'SE':>8s} {'share':>7s}"]
    for g, name in enumerate(rows):
        line = f"{name:{width}s} {_three(*(part[g] for part in variances))}"
        line += f" {result.theta[g]:12.6g}" * with_theta
        if g < G:
            share = f"{shares.estimate[g]:7.1%}" if np.isfinite(shares.estimate[g]) else f"{'-':>7s}"
            line += f" {h2.estimate[g]:9.5f} {shown(h2.se[g], '8.5f')} {share}"
        lines.append(line + f"  {result.remarks[g]}" * bool(result.remarks[g]))
    lines.append(f"{'phenotypic':{width}s} {_three(*(part[0] for part in vp))}")
    return [*lines, "", *(sum_line(each, derived, result.names) for each, derived in result.heritabilities)]


def _three(estimate: float, se: float, mc_se: float) -> str:
    return f"{estimate:12.6g} {shown(se, '10.4g')} {shown(mc_se, '10.2g')}"


def sum_line(each: Sum, derived: Derived, names: Sequence[str]) -> str:
    """A sum with its errors, and what is in it."""
    (estimate,), (se,), (mc_se,) = derived
    line = f"{each.label} = {estimate:.6f}  SE {shown(se, '.6f')}  Monte-Carlo error {shown(mc_se, '.2g')}"
    return f"{line}  ({each.meaning}: {', '.join(names[g] for g in each.members)})" if each.meaning else line
