"""Variance components: a forest plot with intervals, profile likelihoods, and how a fit got there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import BLUE, GREY, LIGHT, RED, new_figure, record_of, shortened, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Half the width of a 95 % interval in standard errors; a log-likelihood that far below its top ends the interval.
Z95, DROP95 = 1.959964, 1.920729
MOST_ROWS = 60


def plot_components(result: Any) -> "Figure":
    """Forest plot of every component's share of the phenotypic variance with its 95 % interval, and of h2.

    Args:
        result: a fit (FitResult, HEResult), or the record of one (OUT.json).

    A bar is the estimate and 1.96 standard errors on either side, whiskers are those of the Monte-Carlo error; h2 has
    its profile-likelihood interval where the fit has one.  A component at its bound is hollow.  With more than 60
    components the largest are shown.  Returns a Figure of G + 1 rows.  Raises ImportError without matplotlib.

    >>> import numpy as np
    >>> import gpu_reml
    >>> y, X, K = np.array([1.0, -1.0, 2.0, 0.5]), np.ones((4, 1)), np.diag([0.5, 1.0, 1.5, 2.0])
    >>> figure = gpu_reml.plot_components(gpu_reml.fit_exact(y, X, K))
    >>> figure.axes[0].get_yticklabels()[0].get_text()
    'h2'
    """
    rows = forest_rows(record_of(result))
    with style():
        figure, axes = new_figure(5.4, 1.1 + 0.28 * len(rows))
        for place, row in enumerate(rows):
            colour = RED if row["total"] else BLUE
            axes.plot([row["lower"], row["upper"]], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            if np.isfinite(row["mc_se"]):
                near = row["estimate"] + np.array([-Z95, Z95]) * row["mc_se"]
                axes.plot(near, [place, place], color=colour, linewidth=6, alpha=0.35, solid_capstyle="butt")
            face = "white" if row["at_bound"] else colour
            axes.plot(row["estimate"], place, "D" if row["total"] else "o", color=colour, mfc=face, markersize=6)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [shortened(row["name"]) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("share of the phenotypic variance (95 % interval)")
        axes.margins(x=0.05)
    return figure


def forest_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, estimate, interval and Monte-Carlo error of every component, then of the sums."""
    parts = [
        {**interval(each["h2"], each["h2_se"]), "name": each["name"], "total": False,
         "mc_se": number(each["h2_mc_se"]), "at_bound": bool(each.get("at_bound"))}
        for each in record["components"]
    ]  # fmt: skip
    if len(parts) > MOST_ROWS:
        largest = sorted(sorted(range(len(parts)), key=lambda g: -parts[g]["estimate"])[:MOST_ROWS])
        parts = [parts[g] for g in largest]
    for name in ("h2", "d2", "H2", "gxe"):
        if name in record and (len(parts) > 1 or name == "h2"):
            each = record[name]
            row = {**interval(each["estimate"], each["se"]), "name": name, "total": True, "at_bound": False,
                   "mc_se": number(each["mc_se"])}  # fmt: skip
            profile = record.get("h2_profile") if name == "h2" else None
            if profile is not None:
                row.update(lower=number(profile["lower"]), upper=number(profile["upper"]))
            parts.append(row)
    return parts if len(record["components"]) > 1 else parts[-1:]


def interval(estimate: Any, se: Any) -> dict[str, float]:
    """An estimate and the ends of its 95 % interval, NaN where there is no error."""
    estimate, se = number(estimate), number(se)
    return {"estimate": estimate, "lower": estimate - Z95 * se, "upper": estimate + Z95 * se}


def number(value: Any) -> float:
    """A number of a record, in which null stands for NaN."""
    return float("nan") if value is None else float(value)


def plot_profile(result: Any, quantity: str = "h2") -> "Figure":
    """Profile log-likelihood below its top, with the drop that ends a 95 % interval.

    Args:
        result: a fit with a profile (of one component by Lanczos, or any with ``FitSettings(profile=True)``), or its
            record.
        quantity: ``h2``, or the name of a component, whose curve has values and differences (k,).

    Raises:
        ValueError: the fit has no such profile.

    >>> import numpy as np
    >>> import gpu_reml
    >>> y, X, K = np.array([1.0, -1.0, 2.0, 0.5]), np.ones((4, 1)), np.diag([0.5, 1.0, 1.5, 2.0])
    >>> gpu_reml.plot_profile(gpu_reml.fit_exact(y, X, K)).axes[0].get_xlabel()
    'h2 (dashed: 95 % interval)'
    """
    value, difference, lower, upper = curve_of(record_of(result), quantity)
    near = difference > -4 * DROP95
    with style():
        figure, axes = new_figure(5.4, 3.0)
        axes.plot(*smooth(value[near], difference[near]), color=BLUE)
        if near.sum() < 30:
            axes.plot(value[near], difference[near], ".", color=BLUE)
        axes.axhline(-DROP95, color=GREY, linestyle="--", linewidth=0.8)
        for end in (lower, upper):
            if np.isfinite(end):
                axes.axvline(end, color=LIGHT, linewidth=1)
        axes.set_xlabel(f"{shortened(quantity)} (dashed: 95 % interval)")
        axes.set_ylabel("log-likelihood below its top")
    return figure


def smooth(value: np.ndarray, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve between the values that were looked at: the signed root of the likelihood ratio is nearly linear."""
    top = value[np.argmax(difference)]
    root = np.sign(value - top) * np.sqrt(np.maximum(-difference, 0))
    fine = np.linspace(value.min(), value.max(), 200)
    return fine, -(np.interp(fine, value, root) ** 2)


def curve_of(record: Mapping[str, Any], quantity: str) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Values, log-likelihood below the top, and the ends of the interval."""
    for curve in record.get("profiles") or ():
        if curve["quantity"] == quantity:
            value, difference = (np.array([number(x) for x in curve[key]]) for key in ("value", "difference"))
            return value, difference, number(curve["lower"]), number(curve["upper"])
    profile = record.get("h2_profile")
    if quantity == "h2" and profile is not None:
        value, height = (np.array([number(x) for x in profile[key]]) for key in ("h2", "loglik"))
        return value, height - np.nanmax(height), number(profile["lower"]), number(profile["upper"])
    raise ValueError(f"quantity: the fit has no profile of {quantity}; fit with FitSettings(profile=True) (--profile)")


def plot_convergence(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Squared step in standard errors at every iteration, on a logarithmic scale, with the probes in use.

    Args:
        history: one entry an iteration with ``iteration``, ``decrement`` and ``num_probes``
            (``[record._asdict() for record in result.history]``, or the rows of OUT.history.tsv).
    """
    at = [int(row["iteration"]) for row in history]
    squared = np.array([number(row["decrement"]) for row in history])
    change = np.sqrt(np.where(squared > 0, squared, np.nan))  # the first step of a Lanczos run has none before it
    probes = [number(row["num_probes"]) for row in history]
    with style():
        figure, axes = new_figure(5.4, 2.8)
        axes.semilogy(at, change, "o-", color=BLUE, markersize=4)
        axes.set_xlabel("iteration")
        axes.set_ylabel("step in standard errors")
        if len(set(probes)) > 1:
            twin = axes.twinx()
            twin.spines["right"].set_visible(True)
            twin.step(at, probes, where="mid", color=LIGHT)
            twin.set_ylim(0, 1.1 * max(probes))
            twin.set_ylabel("probes", color=LIGHT)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
