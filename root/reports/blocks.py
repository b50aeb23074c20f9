"""What a page is made of: sections of tables, figures, lists and sentences, as plain values."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

MISSING = "NA"


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; numbers are right-aligned.  ``most``: so many rows are open, the rest folded
    under the words ``fold``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kind: str = "table"
    most: int = 40
    fold: str = "more rows"


@dataclass(frozen=True)
class Picture:
    """An inline SVG; a ``wide`` one keeps its width on a small screen, where it is moved sideways."""

    svg: str
    caption: str
    wide: bool = False
    kind: str = "picture"


@dataclass(frozen=True)
class Words:
    """A sentence, or several."""

    text: str
    kind: str = "words"


@dataclass(frozen=True)
class Lines:
    """A list of sentences; ``tone``: "" or "caution"."""

    lines: tuple[str, ...]
    tone: str = ""
    kind: str = "lines"


@dataclass(frozen=True)
class Code:
    """A command as it is typed."""

    text: str
    kind: str = "code"


Block = Table | Picture | Words | Lines | Code


@dataclass(frozen=True)
class Section:
    """A title, its blocks, and the name by which the page links to it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table of any values."""
    return Table(tuple(columns), tuple(tuple(map(shown, row)) for row in rows))


def is_number(cell: str) -> bool:
    """Whether a cell is a number, and goes to the right of its column."""
    return cell == MISSING or re.fullmatch(r"-?[\d,]*\.?\d+(e[-+]?\d+)?|-?inf", cell) is not None


def shown(value: Any) -> str:
    """A value as a cell: five digits of a number, and NA for what is not known."""
    if value is None or value != value:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)
