"""A heat map of genetic and residual correlations."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import new_figure, shortened, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 30  # with more traits, squares have no room for numbers


def plot_correlations(result: Any) -> "Figure":
    """Genetic correlations of all components together above the diagonal, residual ones below; grey is unknown.

    Args:
        result: GeneticCorrelations, or its record (OUT.json of ``--rg``).

    Example: ``gpu_reml.reml.fit_rg(Y, X, covariance, probes).plot()``
    """
    traits, values = correlation_matrix(result if isinstance(result, dict) else result.to_dict())
    T = len(traits)
    with style():
        import matplotlib

        figure, axes = new_figure(max(3.6, 1.6 + 0.36 * T), max(3.0, 1.0 + 0.36 * T))
        colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#cccccc")
        image = axes.imshow(np.ma.masked_invalid(values), vmin=-1, vmax=1, cmap=colours)
        labels = [shortened(name, 16) for name in traits]
        axes.set_xticks(range(T), labels, rotation=90)
        axes.set_yticks(range(T), labels)
        if T <= MOST_NUMBERS:
            for i, j in np.argwhere(np.isfinite(values)):
                colour = "white" if abs(values[i, j]) > 0.6 else "black"
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=colour)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title("rg above, residual below", fontsize=10)
        figure.colorbar(image, shrink=0.7)
    return figure


def correlation_matrix(record: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """Names of the traits, and (T, T) correlations: genetic above the diagonal, residual below, NaN on it."""
    traits = list(record["traits"])
    values = np.full((len(traits), len(traits)), np.nan)
    for row in record["pairs"]:
        i, j = sorted((traits.index(row["trait_1"]), traits.index(row["trait_2"])))
        found = np.nan if row["rg"] is None else row["rg"]
        if row["component"] == "total":
            values[i, j] = found
        elif row["component"] == "residual":
            values[j, i] = found
    return traits, values
