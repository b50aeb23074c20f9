"""What all figures share: matplotlib when it is there, one look, and SVG text that is the same every time."""

import io
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, LIGHT, RED, GREY = "#1f4e79", "#7fa7c9", "#b3261e", "#767676"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",  # text stays text: it is searchable and small
    "svg.hashsalt": "gpu-reml",
}
# A point-cloud becomes an image in an SVG, of so many dots an inch: a million points take some 50 kB.
DPI = 150


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def style():
    """A context in which a figure is drawn and written; raises ImportError, with the remedy, without matplotlib."""
    if not available():
        raise ImportError("figures need matplotlib, which is not installed: pip install 'gpu-reml[report]'")
    import matplotlib

    return matplotlib.rc_context(STYLE)


def new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of so many inches with one pair of axes; it belongs to no window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg_of(figure: "Figure") -> str:
    """The figure as SVG: the same text for the same figure."""
    text = io.StringIO()
    with style():
        figure.savefig(text, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    return text.getvalue()


def inline_svg(figure: "Figure", label: str) -> str:
    """The figure as an element of an HTML page: it has no declaration, names of its own, and a label to read aloud."""
    svg = svg_of(figure)
    svg = svg[svg.index("<svg") :]
    own = re.sub(r"\W+", "-", label.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[1]}{own}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escaped(label)}" ', 1)


def escaped(text: str) -> str:
    """Text as an attribute's value."""
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def record_of(result: Any) -> Mapping[str, Any]:
    """A result's record: of a result what its ``to_dict`` gives, and a record as it is."""
    return result if isinstance(result, Mapping) else result.to_dict()


def shortened(name: str, most: int = 24) -> str:
    """A name as a label: its beginning and its end, where it is long."""
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"
