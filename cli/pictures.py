"""Pictures beside tables: figures as SVG, where matplotlib is installed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpu_reml import figures, io

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = "matplotlib, which is not installed (pip install 'gpu-reml[report]' brings it)"


def check_drawable(flag: str) -> None:
    """Raises InputError where what a flag asks for cannot be drawn."""
    if not figures.available():
        raise io.InputError(f"{flag}: needs {EXTRA}; install it, or leave {flag} out")


def drawn(path: str, figure: Callable[[], "Figure"]) -> dict[str, str]:
    """The picture that belongs to a table, by its path; none, with a note, where it cannot be drawn."""
    if figures.available():
        return {path: figures.svg_of(figure())}
    print(f"note: no picture {path}: it needs {EXTRA}")
    return {}
