"""Manhattan and quantile-quantile plots as SVG text.

A plot is thinned to its pixels: points of a pixel are one, and a column's neighbouring pixels are one stroke, so that a
million variants take some 100 kB; no point of its own is lost.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from scipy import special

WIDTH, HEIGHT = 1200, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 50
COLOURS = ("#1f4e79", "#7fa7c9")
GENOME_WIDE = -np.log10(5e-8)
STYLE = 'font-family="sans-serif" font-size="12"'


def manhattan_svg(
    chrom: Sequence[str], bp: np.ndarray, log10p: np.ndarray, title: str, threshold: float = GENOME_WIDE
) -> str:
    """-log10 p against position, chromosomes side by side in the order of first occurrence; tests only.
    ``threshold``: where the dashed line is.

    An infinite -log10 p, of a variant that fits perfectly, is drawn at the top.
    """
    chrom, bp = np.asarray(chrom, dtype=object), np.asarray(bp, np.float64)
    names = list(dict.fromkeys(chrom))
    spans = {name: (bp[chrom == name].min(), bp[chrom == name].max()) for name in names}
    lengths = np.array([high - low + 1 for low, high in spans.values()], np.float64)
    gap = 0.01 * lengths.sum()
    starts = np.concatenate([[0.0], np.cumsum(lengths + gap)])
    box = Box(WIDTH, starts[-1] or 1.0, _top(log10p))
    parts = [box.axes(title, "-log10 p"), box.line(threshold, "#c00000")]
    for i, name in enumerate(names):
        here = np.flatnonzero((chrom == name) & ~np.isnan(log10p))
        x = starts[i] + bp[here] - spans[name][0]
        parts.append(box.points(x, log10p[here], COLOURS[i % 2]))
        middle = box.x(np.array([starts[i] + lengths[i] / 2]))[0]
        parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 30}" text-anchor="middle">{escape(str(name))}</text>')
    return _document(WIDTH, parts)


def qq_svg(log10p: np.ndarray, title: str) -> str:
    """Observed against expected -log10 p, with the line of identity and the pointwise 95% band of independent tests."""
    observed = np.sort(log10p[~np.isnan(log10p)])[::-1]
    m = len(observed)
    expected = -np.log10((np.arange(m) + 0.5) / max(m, 1))
    most = max(float(expected[0]) if m else 1.0, 1.0)
    box = Box(HEIGHT, most, _top(log10p))
    parts = [box.axes(title, "observed -log10 p", "expected -log10 p")]
    if m:
        ranks = np.unique(np.round(np.geomspace(1, m, 60)).astype(int))
        at = box.x(expected[ranks - 1])
        edges = [box.y(-np.log10(special.betaincinv(ranks, m - ranks + 1, q))) for q in (0.025, 0.975)]
        corners = [*zip(at, edges[0], strict=True), *zip(at[::-1], edges[1][::-1], strict=True)]
        band = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polygon points="{band}" fill="#dddddd"/>')
    end = min(box.most_x, box.most_y)
    (x0, x1), (y0, y1) = box.x(np.array([0.0, end])), box.y(np.array([0.0, end]))
    parts.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#c00000"/>')
    parts.append(box.points(expected, observed, COLOURS[0]))
    return _document(HEIGHT, parts)


class Box:
    """A frame of a plot: data from 0 to ``most_x``, 0 to ``most_y`` on pixels."""

    def __init__(self, width: int, most_x: float, most_y: float):
        self.width, self.most_x, self.most_y = width, most_x, most_y

    def x(self, values: np.ndarray) -> np.ndarray:
        return LEFT + values / self.most_x * (self.width - LEFT - RIGHT)

    def y(self, values: np.ndarray) -> np.ndarray:
        return HEIGHT - BOTTOM - np.minimum(values, self.most_y) / self.most_y * (HEIGHT - TOP - BOTTOM)

    def points(self, x: np.ndarray, y: np.ndarray, colour: str) -> str:
        """Round dots of two pixels; runs of neighbours in a column are strokes."""
        pixels = np.unique(np.round(np.column_stack([self.x(x), self.y(y)])).astype(int), axis=0)
        if not len(pixels):
            return ""
        begins = np.append(True, (np.diff(pixels[:, 0]) != 0) | (np.diff(pixels[:, 1]) != 1))
        first = np.flatnonzero(begins)
        lengths = np.diff(np.append(first, len(pixels))) - 1
        strokes = "".join(f"M{a} {b}v{run}" for (a, b), run in zip(pixels[first], lengths, strict=True))
        return f'<path d="{strokes}" stroke="{colour}" stroke-width="2.4" stroke-linecap="round" fill="none"/>'

    def line(self, value: float, colour: str) -> str:
        """A dashed line at a height."""
        y = self.y(np.array([value]))[0]
        ends = f'x1="{LEFT}" y1="{y:.1f}" x2="{self.width - RIGHT}" y2="{y:.1f}"'
        return f'<line {ends} stroke="{colour}" stroke-dasharray="4 3"/>'

    def axes(self, title: str, y_label: str, x_label: str | None = None) -> str:
        """Frame, ticks and labels; ``x_label`` None leaves the horizontal axis without ticks."""
        parts = [f'<text x="{self.width / 2:.0f}" y="20" text-anchor="middle" font-size="14">{escape(title)}</text>']
        frame = f'width="{self.width - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect x="{LEFT}" y="{TOP}" {frame} fill="none" stroke="#000000"/>')
        for value in _ticks(self.most_y):
            y = self.y(np.array([value]))[0]
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        middle = (TOP + HEIGHT - BOTTOM) // 2
        parts.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{y_label}</text>')
        if x_label is not None:
            for value in _ticks(self.most_x):
                x = self.x(np.array([value]))[0]
                parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
        below = x_label or "chromosome"
        parts.append(f'<text x="{self.width / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{below}</text>')
        return "".join(parts)


def _top(log10p: np.ndarray) -> float:
    """The height of a plot: a little over the largest value, and over the genome-wide line."""
    finite = log10p[np.isfinite(log10p)]
    return max(1.05 * float(finite.max(initial=0)), 1.1 * GENOME_WIDE)


def _ticks(most: float) -> np.ndarray:
    """Round values from 0 to ``most``, about eight."""
    rough = most / 8
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(k for k in (1, 2, 5, 10) if k * power >= rough)
    return np.arange(0, most, step)


def _document(width: int, parts: Sequence[str]) -> str:
    size = f'width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {STYLE}><rect width="100%" height="100%" fill="#ffffff"/>'
    return head + "\n" + "\n".join(part for part in parts if part) + "\n</svg>\n"
