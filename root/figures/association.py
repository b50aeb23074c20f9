"""Manhattan and quantile-quantile plots."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from .canvas import BLUE, LIGHT, RED, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GENOME_WIDE = float(-np.log10(5e-8))
# Room above the largest value, as a share of the height.
HEADROOM = 1.08


def manhattan(
    chrom: Sequence[str], bp: np.ndarray, log10p: np.ndarray, title: str = "", threshold: float = GENOME_WIDE
) -> "Figure":
    """-log10 p against position, chromosomes side by side in the order of first occurrence.

    Args:
        chrom, bp, log10p: (m,) one entry a test; NaN is no test.
        threshold: where the dashed line is, by default at p = 5e-8.

    An infinite -log10 p, of a variant that fits perfectly, is a triangle at the top.  Points are an image within an
    SVG, so that a million of them take little room.  Raises ImportError without matplotlib.

    >>> import numpy as np
    >>> import gpu_reml
    >>> figure = gpu_reml.manhattan(["1", "1", "2"], np.array([5, 9, 5]), np.array([0.3, 8.0, 1.2]), "height")
    >>> figure.axes[0].get_title(loc="left")
    'height'
    """
    chrom, bp, log10p = np.asarray(chrom, dtype=object), np.asarray(bp, np.float64), np.asarray(log10p, np.float64)
    names = list(dict.fromkeys(chrom))
    top = height_of(log10p, threshold)
    with style():
        figure, axes = new_figure(10.0, 3.4)
        start, centres = 0.0, []
        gap = 0.01 * sum(np.ptp(bp[chrom == name]) + 1 for name in names)
        for place, name in enumerate(names):
            here = np.flatnonzero((chrom == name) & ~np.isnan(log10p))
            first, length = bp[chrom == name].min(), np.ptp(bp[chrom == name]) + 1
            x, y = start + bp[here] - first, log10p[here]
            colour = (BLUE, LIGHT)[place % 2]
            axes.plot(x[np.isfinite(y)], y[np.isfinite(y)], ".", color=colour, markersize=3, rasterized=True)
            axes.plot(x[np.isinf(y)], np.full(np.isinf(y).sum(), 0.97 * top), "^", color=colour, markersize=5)
            centres.append(start + length / 2)
            start += length + gap
        axes.axhline(threshold, color=RED, linestyle="--", linewidth=0.8)
        axes.set_xticks(centres, names, fontsize=8 if len(names) > 12 else 10)
        axes.set_xlim(-gap, max(start, 1.0))
        axes.set_ylim(0, top)
        axes.set_xlabel("chromosome")
        axes.set_ylabel("-log10 p")
        axes.set_title(title)
    return figure


def qq(log10p: np.ndarray, title: str = "") -> "Figure":
    """Observed against expected -log10 p, with the line of identity and the pointwise 95 % band of independent tests.

    Args:
        log10p: (m,) one entry a test; NaN is no test, and an infinite one is a triangle at the top.

    Raises ImportError without matplotlib.

    >>> import numpy as np
    >>> import gpu_reml
    >>> gpu_reml.qq(np.array([0.3, 0.6, 1.2])).axes[0].get_ylabel()
    'observed -log10 p'
    """
    log10p = np.asarray(log10p, np.float64)
    observed = np.sort(log10p[~np.isnan(log10p)])[::-1]
    m = len(observed)
    expected = -np.log10((np.arange(m) + 0.5) / max(m, 1))
    most = HEADROOM * max(float(expected[0]) if m else 1.0, 1.0)
    top = height_of(log10p, most)
    with style():
        figure, axes = new_figure(4.2, 4.2)
        if m:
            ranks = np.unique(np.round(np.geomspace(1, m, 60)).astype(int))
            low, high = (-np.log10(special.betaincinv(ranks, m - ranks + 1, q)) for q in (0.975, 0.025))
            axes.fill_between(expected[ranks - 1], low, high, color="#dddddd", linewidth=0)
        axes.plot([0, min(most, top)], [0, min(most, top)], color=RED, linewidth=1)
        finite = np.isfinite(observed)
        axes.plot(expected[finite], observed[finite], ".", color=BLUE, markersize=4, rasterized=True)
        axes.plot(expected[~finite], np.full((~finite).sum(), 0.97 * top), "^", color=BLUE, markersize=5)
        axes.set_xlim(-0.03 * most, most)
        axes.set_ylim(-0.03 * top, top)
        axes.set_xlabel("expected -log10 p")
        axes.set_ylabel("observed -log10 p")
        axes.set_title(title)
    return figure


def height_of(log10p: np.ndarray, least: float) -> float:
    """The height of a plot: it has room over the largest value, and over ``least``."""
    finite = log10p[np.isfinite(log10p)]
    return HEADROOM * max(float(finite.max(initial=0.0)), least)
