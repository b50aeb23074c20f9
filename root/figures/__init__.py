"""Figures of results, drawn by matplotlib (extra ``report``), which is loaded when the first one is drawn.

Every function takes a result, or the plain record that a command writes of it, and returns a matplotlib ``Figure``:
``figure.savefig("h2.pdf")`` keeps it, and a notebook shows it.
"""

from .association import GENOME_WIDE, manhattan, qq
from .canvas import available, svg_of
from .components import plot_components, plot_convergence, plot_profile
from .correlations import plot_correlations
from .diagnostics import plot_residuals, plot_spectrum
from .path import plot_path
from .prediction import plot_prediction
from .search import plot_search

__all__ = [
    "GENOME_WIDE",
    "available",
    "manhattan",
    "plot_components",
    "plot_convergence",
    "plot_correlations",
    "plot_path",
    "plot_prediction",
    "plot_profile",
    "plot_residuals",
    "plot_search",
    "plot_spectrum",
    "qq",
    "svg_of",
]
