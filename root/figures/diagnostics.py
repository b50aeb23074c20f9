"""What a fit's data look like: eigenvalues of the relationship matrix, and residuals."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from .canvas import BLUE, GREY, LIGHT, RED, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_spectrum(nodes: np.ndarray, weights: np.ndarray) -> "Figure":
    """Share of the eigenvalues of K above every value, on logarithmic scales.

    Args:
        nodes: (q,) eigenvalues, or nodes of a Lanczos quadrature.
        weights: (q,) how many eigenvalues each stands for; in sum n.

    Unrelated people of one population have all of them near 1.  A few large ones are populations, and a tail of many
    is relatives or variants in linkage disequilibrium.
    """
    order = np.argsort(nodes)[::-1]
    values, counts = np.asarray(nodes, np.float64)[order], np.cumsum(np.asarray(weights, np.float64)[order])
    kept = (values > 0) & (counts > 0)
    with style():
        figure, axes = new_figure(5.4, 3.0)
        axes.loglog(counts[kept], values[kept], drawstyle="steps-pre", color=BLUE)
        axes.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
        axes.set_xlabel("number of eigenvalues")
        axes.set_ylabel("that are at least so large")
    return figure


def plot_residuals(residuals: np.ndarray) -> "Figure":
    """Normal quantiles against those of y - X b, in standard deviations: a straight line where they are normal.

    Args:
        residuals: (n,) the phenotype without its fixed effects.
    """
    values = np.sort(np.asarray(residuals, np.float64))
    n = len(values)
    values = (values - values.mean()) / values.std()
    normal = special.ndtri((np.arange(n) + 0.5) / n)
    with style():
        figure, axes = new_figure(5.4, 3.0)
        edges = np.array([normal[0], normal[-1]])
        axes.plot(edges, edges, color=RED, linewidth=1)
        axes.plot(normal, values, ".", color=BLUE, markersize=3, rasterized=True)
        axes.set_xlabel("normal quantile")
        axes.set_ylabel("residual in SD")
        inset = axes.inset_axes([0.06, 0.6, 0.32, 0.36])
        inset.hist(values, bins=min(60, max(10, n // 20)), color=LIGHT)
        inset.set_yticks([])
        inset.tick_params(labelsize=7)
    return figure
