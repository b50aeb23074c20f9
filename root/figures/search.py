"""How a search for groups of variants raised the likelihood."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import BLUE, LIGHT, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_search(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Log-likelihood of every outer iteration above that of the first; hollow where the step was rejected.

    Args:
        history: one entry an outer iteration with ``outer``, ``loglik``, ``gain_mc_se`` and ``accepted``
            (``[record._asdict() for record in result.history]``, or those of OUT.history.json).

    Bars are two Monte-Carlo errors of the gain over the best before.  Raises ImportError without matplotlib.

    >>> from gpu_reml import figures
    >>> rows = [{"outer": 1, "loglik": -10.0, "gain_mc_se": None, "accepted": True}]
    >>> figures.plot_search(rows).axes[0].get_xlabel()
    'outer iteration'
    """
    known = [row for row in history if row["loglik"] is not None and row["loglik"] == row["loglik"]]
    at = np.array([row["outer"] for row in known], np.float64)
    height = np.array([row["loglik"] for row in known], np.float64)
    height = height - height[:1]
    error = np.nan_to_num(np.array([row["gain_mc_se"] for row in known], np.float64))
    accepted = np.array([bool(row["accepted"]) for row in known], bool)
    with style():
        figure, axes = new_figure(5.4, 2.8)
        axes.errorbar(at, height, 2 * error, fmt="none", ecolor=LIGHT)
        axes.plot(at[accepted], height[accepted], "o-", color=BLUE, markersize=5)
        axes.plot(at[~accepted], height[~accepted], "o", color=BLUE, mfc="white", markersize=5)
        axes.set_xlabel("outer iteration")
        axes.set_ylabel("log-likelihood gained")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
