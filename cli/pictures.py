"""Pictures beside tables: figures as SVG, where matplotlib is installed."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpu_reml import figures, io
from gpu_reml.reports.page import missing_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = "matplotlib, which is not installed (pip install 'gpu-reml[report]' brings it)"


def check_drawable(flag: str) -> None:
    """Raises InputError where what a flag asks for cannot be drawn."""
    if not figures.available():
        raise io.InputError(f"{flag}: needs {EXTRA}; install it, or leave {flag} out")


def check_reportable(wanted: bool) -> None:
    """Raises InputError where a report is wanted and none can be made."""
    missing = missing_packages() if wanted else []
    if missing:
        raise io.InputError(
            f"--report: needs {' and '.join(missing)}, not installed here (pip install 'gpu-reml[report]' brings what "
            "it needs); install it, or leave --report out"
        )


def drawn(path: str, figure: Callable[[], "Figure"]) -> dict[str, str]:
    """The picture that belongs to a table, by its path; none, with a note, where it cannot be drawn."""
    if figures.available():
        return {path: figures.svg_of(figure())}
    print(f"note: no picture {path}: it needs {EXTRA}")
    return {}
