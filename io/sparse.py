"""Files of a sparse fit: chosen variants, the LASSO's path as a table, and its picture as SVG."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd

WIDTH, HEIGHT = 900, 540
LEFT, RIGHT, TOP, BOTTOM = 90, 150, 50, 60
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")


class PathTable(NamedTuple):
    """A path: one lambda, df, RSS and EBIC a step, ``coefficients`` (steps, k) of variants ``ids`` with their
    ``snp_index``, and the step that was ``chosen``."""

    lambdas: np.ndarray
    df: np.ndarray
    rss: np.ndarray
    ebic: np.ndarray
    coefficients: np.ndarray
    ids: Sequence[str]
    snp_index: np.ndarray
    chosen: int


def path_frame(path: PathTable) -> pd.DataFrame:
    """Long format: a row for every coefficient that is not 0, and one without a variant for a step that has none."""
    steps, variants = np.nonzero(path.coefficients)
    empty = np.flatnonzero(~path.coefficients.any(axis=1))
    ids = np.asarray(path.ids, object)
    rows = pd.DataFrame(
        {
            "step": np.concatenate([steps, empty]),
            "snp_index": pd.array([*path.snp_index[variants].tolist(), *[None] * len(empty)], "Int64"),
            "snp_id": [*ids[variants], *[None] * len(empty)],
            "beta": np.concatenate([path.coefficients[steps, variants], np.full(len(empty), np.nan)]),
        }
    ).sort_values("step", kind="stable", ignore_index=True)
    step = rows["step"].to_numpy()
    for place, name in enumerate(("lambda", "df", "rss", "ebic"), start=1):
        rows.insert(place, name, path[place - 1][step])
    rows.insert(5, "chosen", (step == path.chosen).astype(int))
    return rows


def path_svg(path: PathTable, title: str, unit: str) -> str:
    """Coefficients against log10 lambda, large lambda on the left, with a dashed line at the chosen one; SVG 1.1."""
    used = np.flatnonzero(path.coefficients.any(axis=0))
    x = -np.log10(path.lambdas) if path.lambdas.min(initial=1) > 0 else np.zeros(len(path.lambdas))
    values = path.coefficients[:, used]
    across = _scale(x.min(), x.max(), LEFT, WIDTH - RIGHT)
    up = _scale(min(0.0, values.min(initial=0)), max(0.0, values.max(initial=0)), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 24, title, anchor="middle", size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "log10 lambda", anchor="middle"),
        f'<g transform="rotate(-90 20 {HEIGHT / 2:.0f})">'
        + _text(20, HEIGHT / 2, f"effect of one standard deviation ({unit})", anchor="middle")
        + "</g>",
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" '
        'fill="none" stroke="#444"/>',
        _line(LEFT, up(0.0), WIDTH - RIGHT, up(0.0), "#bbb"),
    ]
    for tick in _ticks(x.min(), x.max()):
        parts.append(_text(across(tick), HEIGHT - BOTTOM + 18, f"{-tick:.3g}", anchor="middle"))
    for tick in _ticks(min(0.0, values.min(initial=0)), max(0.0, values.max(initial=0))):
        parts.append(_text(LEFT - 8, up(tick) + 4, f"{tick:.3g}", anchor="end"))
    for position, column in enumerate(used):
        points = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(x, path.coefficients[:, column], strict=True))
        colour = COLOURS[position % len(COLOURS)]
        name = escape(str(path.ids[column]))
        drawn = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5">'
        parts.append(f"{drawn}<title>{name}</title></polyline>")
    parts.append(_line(across(x[path.chosen]), TOP, across(x[path.chosen]), HEIGHT - BOTTOM, "#000", dashed=True))
    parts += _labels(path, used, up)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _labels(path: PathTable, used: np.ndarray, up) -> list[str]:
    """Ids of the variants chosen, at the end of their lines, moved apart; as many as there is room for."""
    chosen = [c for c in used if path.coefficients[path.chosen, c] != 0]
    chosen = sorted(chosen, key=lambda c: -abs(path.coefficients[path.chosen, c]))[: (HEIGHT - TOP - BOTTOM) // 13]
    chosen = sorted(chosen, key=lambda c: up(path.coefficients[-1, c]))
    places, last = [up(path.coefficients[-1, c]) for c in chosen], TOP - 13.0
    for i, place in enumerate(places):  # places go down from the top, then up from the bottom
        places[i] = last = max(place, last + 13)
    last = HEIGHT - BOTTOM + 13.0
    for i in reversed(range(len(places))):
        places[i] = last = min(places[i], last - 13)
    out = []
    for column, place in zip(chosen, places, strict=True):
        colour = COLOURS[int(np.searchsorted(used, column)) % len(COLOURS)]
        out.append(_text(WIDTH - RIGHT + 6, place + 4, str(path.ids[column])[:20], colour=colour))
    return out


def _scale(low: float, high: float, first: float, last: float):
    width = (high - low) or 1.0
    return lambda value: first + (value - low) / width * (last - first)


def _ticks(low: float, high: float) -> np.ndarray:
    """Round numbers within a range, four to nine of them."""
    if not high > low:
        return np.array([low])
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (5, 2, 1) if factor * step <= (high - low) / 4)
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
