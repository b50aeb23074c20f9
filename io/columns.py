"""Columns by name, range or pattern: PC1,PC2; PC{1:10} as BOLT has it; PC1-PC10 as PLINK has it; PC*."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from .errors import InputError

_NUMBERS = re.compile(r"\{(\d+):(\d+)\}")
MOST_NUMBERS = 100_000
MOST_SHOWN = 30
_GLOB = re.compile(r"[*?\[]")


def columns_named(wanted: str, columns: Sequence[str], where: str, what: str = "column") -> list[str]:
    """The columns that a user's text means, each once, in its order.

    ``wanted``: one column as it is written, "all", or several separated by commas; each a name, ``PC{1:10}``,
    ``PC1-PC10`` (all columns from one to the other, as they stand in the file) or a pattern with ``*`` and ``?``.  A
    column that has the very name goes first.

    Raises:
        InputError: that starts with ``where``, for a name or pattern that no column has, and a column named twice.

    >>> from gpu_reml.io.columns import columns_named
    >>> columns_named("PC{1:2},age", ["age", "PC1", "PC2", "PC3"], "covar.txt")
    ['PC1', 'PC2', 'age']
    >>> columns_named("PC2-PC3", ["age", "PC1", "PC2", "PC3"], "covar.txt")
    ['PC2', 'PC3']
    """
    columns = list(columns)
    if wanted in columns:
        return [wanted]
    if wanted == "all":
        return columns
    found = [name for word in wanted.split(",") for name in _columns_of(word.strip(), columns, where, what)]
    twice = list(dict.fromkeys(name for name in found if found.count(name) > 1))
    if twice:
        raise InputError(f"{where}: {what}(s) {', '.join(twice)} occur more than once; name each once")
    return found


def _columns_of(word: str, columns: list[str], where: str, what: str) -> list[str]:
    if word in columns:
        return [word]
    numbers = _NUMBERS.search(word)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if not first <= last <= first + MOST_NUMBERS:
            raise InputError(f"{where}: {word!r}: expected {{first:last}}, such as PC{{1:10}}")
        names = [word[: numbers.start()] + str(i) + word[numbers.end() :] for i in range(first, last + 1)]
        return [name for each in names for name in _columns_of(each, columns, where, what)]
    if _GLOB.search(word):
        names = [name for name in columns if fnmatchcase(name, word)]
        if names:
            return names
    for dash in (i for i, letter in enumerate(word) if letter == "-"):
        first, last = word[:dash], word[dash + 1 :]
        if first in columns and last in columns and columns.index(first) <= columns.index(last):
            return columns[columns.index(first) : columns.index(last) + 1]
    more = ", ..." if len(columns) > MOST_SHOWN else ""
    hint = "; a position is given by number, not by name" if word.isdecimal() else ""
    shown = ", ".join(columns[:MOST_SHOWN])
    raise InputError(f"{where}: no {what} {word!r}; the file has {shown}{more}{hint}")
