"""Tables of variance components, the same for every estimator: rows of a frame, plain records, lines of text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .inference import Derived, heritability, shares_of_genetic, total_variance

if TYPE_CHECKING:  # loaded only where a frame is asked for
    import pandas as pd


class Components:
    """What follows from theta and its two covariances, for every result that has them.

    A result gives ``names`` (G,), ``theta`` (G + J,) with the residuals last, ``covariance`` (sampling) and
    ``mc_covariance`` (Monte-Carlo), ``mean_traces`` (G,) tr(K_g) / n, and ``num_samples``; where there are other
    residuals than one identity, their ``residual_names`` and ``residual_traces`` tr(R_j) / n (J,).
    """

    names: tuple[str, ...]
    theta: np.ndarray
    covariance: np.ndarray
    mc_covariance: np.ndarray
    mean_traces: np.ndarray
    num_samples: int
    residual_names: tuple[str, ...] = ("residual",)
    residual_traces: Sequence[float] = (1.0,)

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
    def h2(self) -> Derived:
        """h2 of every component, then of all together (G + 1,); weighted by tr(K_g) / n."""
        return self._derived(heritability)

    @property
    def shares(self) -> Derived:
        """(G,) shares of the genetic variance."""
        return self._derived(shares_of_genetic)

    @property
    def vp(self) -> Derived:
        """Phenotypic variance given the fixed effects, (1,)."""
        return self._derived(total_variance)

    def to_frame(self) -> "pd.DataFrame":
        """One row per variance component, residuals last."""
        import pandas as pd

        return pd.DataFrame(component_columns(self))


def component_columns(result: Components) -> dict[str, Sequence]:
    """One entry per variance component in every column, residuals last."""
    G = len(result.names)
    h2, shares, none = result.h2, result.shares, np.full(len(result.residual_names), np.nan)
    return {
        "component": [*result.names, *result.residual_names],
        "variance": result.theta,
        "se": result.se,
        "mc_se": result.mc_se,
        "h2": np.append(h2.estimate[:G], none),
        "h2_se": np.append(h2.se[:G], none),
        "h2_mc_se": np.append(h2.mc_se[:G], none),
        "share": np.append(shares.estimate, none),
        "share_se": np.append(shares.se, none),
    }


def component_records(result: Components) -> dict[str, Any]:
    """``components``, ``residuals``, total ``h2`` and ``vp`` as plain numbers, ready for JSON."""
    columns = component_columns(result)
    numbers = [values.tolist() for name, values in columns.items() if name != "component"]
    names = ["name", *(name for name in columns if name != "component")]
    rows = [dict(zip(names, row, strict=True)) for row in zip(columns["component"], *numbers, strict=True)]
    G, n = len(result.names), result.num_samples
    traces = [float(t * n) for t in (*result.mean_traces, *result.residual_traces)]
    rows = [{**row, "trace": trace} for row, trace in zip(rows, traces, strict=True)]
    return {
        "h2": derived_record(result.h2, -1),
        "vp": derived_record(result.vp, 0),
        "components": rows[:G],
        "residuals": [{key: row[key] for key in ("name", "variance", "se", "mc_se", "trace")} for row in rows[G:]],
    }


def derived_record(derived: Derived, which: int) -> dict[str, float]:
    """One entry of a :class:`~gpu_reml.reml.inference.Derived`."""
    return {name: float(values[which]) for name, values in derived._asdict().items()}


def component_lines(result: Components, remarks: Sequence[str]) -> list[str]:
    """The table a person reads, the total h2 last; remarks: one for each component, empty where there is none."""
    G = len(result.names)
    h2, shares, vp = result.h2, result.shares, result.vp
    rows = [*result.names, *result.residual_names]
    width = max(12, *(len(name) for name in rows))
    titles = f"{'variance':>12s} {'SE':>10s} {'MC error':>10s} {'h2':>9s} {'SE':>8s} {'share':>7s}"
    lines = [f"{'component':{width}s} {titles}"]
    for g, name in enumerate(rows):
        line = f"{name:{width}s} {result.theta[g]:12.6g} {result.se[g]:10.4g} {result.mc_se[g]:10.2g}"
        if g < G:
            share = f"{shares.estimate[g]:7.1%}" if np.isfinite(shares.estimate[g]) else f"{'-':>7s}"
            line += f" {h2.estimate[g]:9.5f} {h2.se[g]:8.5f} {share}"
            line += f"  {remarks[g]}" if remarks[g] else ""
        lines.append(line)
    lines.append(f"{'phenotypic':{width}s} {vp.estimate[0]:12.6g} {vp.se[0]:10.4g} {vp.mc_se[0]:10.2g}")
    total = f"h2 = {h2.estimate[-1]:.6f}  SE {h2.se[-1]:.6f}  Monte-Carlo error {h2.mc_se[-1]:.2g}"
    return [*lines, "", total]
