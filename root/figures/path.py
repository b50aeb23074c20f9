"""The path of a LASSO."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .canvas import GREY, LIGHT, RED, new_figure, shortened, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELS = 25


class Path(Protocol):
    """``lambdas`` (steps,), ``coefficients`` (steps, k) of the variants ``ids``, and the step that was ``chosen``."""

    lambdas: np.ndarray
    coefficients: np.ndarray
    ids: Sequence[str]
    chosen: int


def plot_path(path: Path, title: str = "", unit: str = "phenotype units") -> "Figure":
    """Effects against lambda, large lambda on the left: chosen variants in colour with their ids, the others in grey.

    The dashed line is at the chosen lambda.  At most 25 ids are written, those of the largest effects there.
    """
    used = np.flatnonzero(path.coefficients.any(axis=0))
    x = -np.log10(path.lambdas) if path.lambdas.min(initial=1) > 0 else np.zeros(len(path.lambdas))
    at_choice = path.coefficients[path.chosen]
    chosen = [column for column in used if at_choice[column] != 0]
    labelled = sorted(chosen, key=lambda column: -abs(at_choice[column]))[:MOST_LABELS]
    with style():
        import matplotlib

        figure, axes = new_figure(7.2, 4.4)
        for column in used:
            if column not in chosen:
                axes.plot(x, path.coefficients[:, column], color="#cccccc", linewidth=0.6, gid=f"other-{column}")
        colours = matplotlib.colormaps["tab10"].colors
        shades = {column: colours[place % 10] for place, column in enumerate(chosen)}
        for column in chosen:
            axes.plot(x, path.coefficients[:, column], color=shades[column], linewidth=1.5, gid=f"chosen-{column}")
        axes.axvline(x[path.chosen], color=RED, linestyle="--", linewidth=0.8)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.margins(x=0.01)
        if len(path.lambdas) > 1:
            label_ends(axes, x[-1], [(path.coefficients[-1, c], str(path.ids[c]), shades[c]) for c in labelled])
        axes.set_xlabel("-log10 lambda")
        axes.set_ylabel(f"effect of one SD ({unit})")
        axes.set_title(title)
        if not len(used):
            axes.text(0.5, 0.5, "no variant enters", transform=axes.transAxes, ha="center", color=LIGHT)
    return figure


def label_ends(axes, x: float, ends: list[tuple[float, str, tuple]]) -> None:
    """Ids at the right, moved apart from below, with thin lines to where their curves end."""
    low, high = axes.get_ylim()
    apart, place = (high - low) / (MOST_LABELS + 1), -np.inf
    ends = sorted(ends)
    room = high - apart * np.arange(len(ends))[::-1]
    for (value, name, colour), most in zip(ends, room, strict=True):
        place = min(max(value, place + apart, low), most)
        axes.annotate(
            shortened(name, 20), (x, value), (1.03, place), xycoords="data", textcoords=("axes fraction", "data"),
            color=colour, fontsize=8, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4},
        )  # fmt: skip
