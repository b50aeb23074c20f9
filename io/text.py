"""Delimited text as strings: one reader for every table, which can name the line of any row.

pandas does the parsing.  Line numbers are not kept but recovered when an error has to be reported, so a file without
errors pays nothing for them.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .content import Content, read_content
from .errors import InputError
from .plausible import LARGEST, MOST_BP, check_words

WHITESPACE = r"\s+"
MOST_WHOLE = 2.0**53  # float64 holds every whole number below it exactly
MOST_FIELDS = 100_000  # a file with more columns is no table, and parsing it would take all memory


@dataclass(frozen=True)
class TextTable:
    """``fields``: one string column (0, 1, ...) for each field and one row for each line that is not blank."""

    content: Content
    sep: str
    fields: pd.DataFrame

    @property
    def path(self) -> Path:
        return self.content.path

    def line(self, row: int) -> int:
        """One-based number of the line that row ``row`` came from (goes through the text again)."""
        for position, (number, _) in enumerate(_lines(self.content, self.sep)):
            if position == row:
                return number
        raise IndexError(f"{self.path} has no row {row}")

    def where(self, row: int) -> str:
        """``path, line 12``: the start of an error message."""
        return f"{self.path}, line {self.line(row)}"


def _lines(content: Content, sep: str) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their one-based numbers."""
    with content.text() as file:
        for number, line in enumerate(file, 1):
            if line.strip(" \t\r\n" + ("," if sep == "," else "")):
                yield number, line.rstrip("\r\n")


def _split(where: str, line: str, sep: str) -> list[str]:
    if sep == ",":
        try:
            return next(csv.reader([line]))
        except csv.Error as error:
            raise InputError(f"{where}: {error}; check quotes and commas") from None
    if sep == "\t":
        return line.split("\t")
    return re.split(r"[ \t]+", line.strip(" \t"))


def _find_separator(path: Path, line: str) -> str:
    """Comma in a .csv file; tab where every field of the first line is one word; else any run of blanks."""
    if path.name.removesuffix(".gz").endswith(".csv") and "," in line:
        return ","
    words = [field.strip() for field in line.split("\t")]
    return "\t" if len(words) > 1 and not any(" " in word for word in words) else WHITESPACE


def _raise_if_ragged(content: Content, sep: str, width: int) -> None:
    for position, (number, line) in enumerate(_lines(content, sep)):
        where = f"{content.path}, line {number}"
        fields = _split(where, line, sep)
        if position == 0:
            first, heading = number, line
        if len(fields) != width:
            ids = " ".join(fields[:2])
            raise InputError(
                f"{where} ({ids}): expected {width} fields as in line {first}, found {len(fields)}; fields are "
                f"separated by {_SEPARATOR_NAMES[sep]}: {_remedy(heading, line, sep)}"
            )


def _remedy(first: str, line: str, sep: str) -> str:
    """What to do about a line with another number of fields than the first."""
    if first.count("\t") and first.count("\t") == line.count("\t"):
        return "between tabs there are as many, so a name or value has a blank in it: write _ in its place"
    if sep != "," and len(_split("", line, sep)) == len(_split("", first, sep)) + 1:
        return "if the first are row names of R, write.table(row.names = FALSE); else leave out one of them"
    return "complete the line, writing NA for a missing value"


_SEPARATOR_NAMES = {WHITESPACE: "blanks or tabs", "\t": "tabs", ",": "commas"}


def read_text_table(path: str | Path, what: str, layout: str, min_width: int, sep: str | None = None) -> TextTable:
    """Read a delimited text file; every line has as many fields as the first.

    ``what`` names the file in errors ("phenotype"), ``layout`` the fields it should have ("FID IID value");
    ``sep=None`` finds the separator from the file name and the first line.  An empty file gives no rows.

    Raises:
        InputError: no such file, not text, fewer than ``min_width`` fields, or a line of another length than the first.
    """
    return text_table(read_content(path, f"{what} file"), layout, min_width, sep)


def text_table(content: Content, layout: str, min_width: int, sep: str | None = None) -> TextTable:
    """The table that a text is; otherwise as :func:`read_text_table`."""
    path = content.path
    start = next(_lines(content, ""), None)
    if start is None:
        return TextTable(content, sep or WHITESPACE, pd.DataFrame(columns=range(min_width), dtype=str))
    number, line = start
    sep = sep or _find_separator(path, line)
    width = count_fields(f"{path}, line {number}", line, sep)
    if width < min_width:
        commas = "; commas separate fields only in a file named .csv" if sep != "," and "," in line else ""
        raise InputError(f"{path}, line {number}: expected {layout}, found {width} field(s){commas}")
    try:
        with content.text() as file:
            fields = pd.read_csv(
                file,
                sep=sep,
                header=None,
                names=range(width + 1),  # one column more than expected shows lines that are too long
                index_col=False,
                dtype=str,
                keep_default_na=False,
                quoting=csv.QUOTE_MINIMAL if sep == "," else csv.QUOTE_NONE,
            )
    except pd.errors.ParserError as error:
        if "out of memory" in str(error):
            raise MemoryError(f"reading {path}") from None
        _raise_if_ragged(content, sep, width)
        raise InputError(f"{path}: {str(error).strip()}; check quotes and separators") from None
    if sep != WHITESPACE:
        fields = fields.apply(lambda column: column.str.strip())
        fields = fields[(fields != "").any(axis=1)].reset_index(drop=True)
    if sep == ",":  # within quotes any character may stand
        for column in fields:
            check_words(str(path), fields[column])
    if (fields[width] != "").any() or (fields[width - 1] == "").any():
        _raise_if_ragged(content, sep, width)
    return TextTable(content, sep, fields.drop(columns=width))


def count_fields(where: str, line: str, sep: str) -> int:
    """Fields of a line; InputError, which starts with ``where``, for more than a table has."""
    separators = len(line.split()) if sep == WHITESPACE else line.count(sep)
    if separators > MOST_FIELDS:
        raise InputError(f"{where}: has {separators} fields, more than {MOST_FIELDS}; is it a table, one row a line?")
    return len(_split(where, line, sep))


def parse_numbers(column: pd.Series, name: str, where: Callable[[int], str], whole: bool = False) -> np.ndarray:
    """(rows,) float64 of a string column; an InputError says ``where(row)`` a field is no (whole) number."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    good = np.isfinite(numbers) & (np.abs(numbers) <= (MOST_BP if whole else LARGEST))
    if whole:
        good &= (numbers == np.round(numbers)) & (np.abs(numbers) < MOST_WHOLE)
    if not good.all():
        row = int(np.argmin(good))
        kind = f"a whole number of at most {MOST_BP:g}" if whole else "a number"
        raise InputError(
            f"{where(row)}: expected {kind} for the {name}, found {column.iloc[row]!r}; write 0 where it is unknown"
        )
    return numbers


def parse_positions(column: pd.Series, where: Callable[[int], str]) -> np.ndarray:
    """(rows,) int64 base-pair positions of a string column; errors as of :func:`parse_numbers`."""
    return parse_numbers(column, "base-pair position", where, whole=True).astype(np.int64)
