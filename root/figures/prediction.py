"""Predicted values, beside phenotypes where these are known."""

from typing import TYPE_CHECKING

import numpy as np

from .canvas import BLUE, LIGHT, RED, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_prediction(predicted: np.ndarray, y: np.ndarray | None = None, label: str = "predicted") -> "Figure":
    """Phenotypes against their predictions, with the line of identity; without phenotypes a histogram.

    Args:
        predicted: (n,) predictions.
        y: (n,) phenotypes, NaN where one is missing.
        label: what was predicted.

    Raises ImportError without matplotlib.

    >>> import numpy as np
    >>> from gpu_reml import figures
    >>> figures.plot_prediction(np.array([1.0, 2.0]), np.array([1.5, np.nan])).axes[0].get_ylabel()
    'phenotype'
    """
    predicted = np.asarray(predicted, np.float64)
    known = np.zeros(len(predicted), bool) if y is None else np.isfinite(np.asarray(y, np.float64))
    with style():
        figure, axes = new_figure(5.4, 3.4)
        axes.set_xlabel(label)
        if not known.any():
            axes.hist(predicted, bins=min(60, max(10, len(predicted) // 20)), color=LIGHT)
            axes.set_ylabel("people")
            return figure
        x, values = predicted[known], np.asarray(y, np.float64)[known]
        axes.plot(x, values, ".", color=BLUE, markersize=3, rasterized=True)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, ends, color=RED, linewidth=1)
        axes.set_ylabel("phenotype")
    return figure
