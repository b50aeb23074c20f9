"""Phenotypes, covariates and sample lists: text tables keyed by FID and IID.

Fields are separated by blanks or tabs, or by commas in a file named .csv; .gz is read as it is.  A first line that
starts with FID or IID (also #FID, #IID) is a header.  A file whose header starts with IID has no FID column and
matches by IID alone.  Other names of ids (:mod:`.headings`) make a line a header where no number follows them.
Without a header the first two fields are FID and IID.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from .columns import columns_named
from .errors import InputError
from .headings import PEDIGREE_NAMES, family_first, is_strict, key_of, plain
from .ids import SampleTable, first_ids, repeated
from .plausible import LARGEST
from .text import TextTable, read_text_table

MISSING_WORDS = frozenset(["", "na", "nan", "."])
MISSING_NUMBER = -9.0
FAM_PHENOTYPE = 4  # of the columns after the ids
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

Kind = Literal["quantitative", "categorical"]


@dataclass(frozen=True, kw_only=True)
class Phenotype(SampleTable):
    """One trait: ``values`` (rows of ``samples``,) float64 in the file's units, NaN where missing."""

    name: str
    values: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Covariates(SampleTable):
    """Named covariates: ``values`` has float64 columns with NaN (quantitative) or strings with None (categorical).

    ``what``: of those whom the table lacks it is said that they have none.
    """

    kind: Kind
    values: pd.DataFrame
    notes: tuple[str, ...] = ()
    what: str = "covariates"

    @property
    def is_of_samples(self) -> bool:
        """Whether who is in the table should be among the samples, as not all animals of a pedigree need be."""
        return self.what == "covariates"


@dataclass(frozen=True)
class _KeyedTable:
    """A parsed text table: who the rows are, and which columns hold values."""

    text: TextTable
    first_row: int
    samples: pd.DataFrame
    has_fid: bool
    names: list[str]
    heading: tuple[str, ...]

    @property
    def first_column(self) -> int:
        return 2 if self.has_fid else 1

    def column(self, position: int) -> pd.Series:
        """Strings of value column ``position`` (0 is the first after the ids)."""
        return self.text.fields[self.first_column + position].iloc[self.first_row :].reset_index(drop=True)

    def where(self, row: int) -> str:
        """``path, line 3 (FID 1 IID a)`` for row ``row`` of ``samples``."""
        return f"{self.text.where(self.first_row + row)} ({first_ids(self.samples.iloc[[row]])})"


def read_phenotype(
    path: str | Path, name: str | None = None, number: int | None = None, *, records: bool = False
) -> Phenotype:
    """Read one trait from a file of FID IID value [value ...].

    The trait is chosen by its ``name`` in the header or by its ``number`` (1 is the first after the ids, as GCTA's
    ``--mpheno``); by default it is the first.  Without a header the traits are called phenotype_1, phenotype_2, ...
    A first line that does not start with FID or IID is also a header when none of its values is a number or a missing
    code; ``notes`` then says so.  Of a .fam the trait is the last column.  Missing: NA, NaN (any case), ``.``, -9 in
    any spelling (``notes`` counts these, as one could be a true value), an empty field.  ``records``: a sample may have
    several rows.

    Raises:
        InputError: no file or no rows, a line of another length, a repeated sample, no such trait or several of that
            name, parents' ids in the first column where none is chosen, a value that is text, infinite or larger than
            any measurement (with its line and ids).

    >>> import pathlib, tempfile
    >>> from gpu_reml import read_phenotype
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "traits.txt").write_text("FID IID height\\n1 a 1.5\\n1 b NA\\n")
    >>> found = read_phenotype(folder / "traits.txt", "height")
    >>> found.name, found.values.tolist()
    ('height', [1.5, nan])
    """
    if name is not None and number is not None:
        raise InputError(f"{path}: choose the phenotype by name ({name!r}) or by number ({number}), not by both")
    table = _read_keyed(path, "phenotype", "phenotype", guess_header=True, records=records)
    if name is None and number is None and _is_fam(table):
        return _of_fam(table)
    if name is None and number is None:
        _refuse_pedigree(table, 1, "choose the phenotype by its name or number")
    return _phenotype(table, _choose(table, name, number))


def read_phenotypes(
    path: str | Path, names: Sequence[str] | str | None = None, *, records: bool = False
) -> list[Phenotype]:
    """Read the traits of these names, in this order, or every column; otherwise as :func:`read_phenotype`.

    ``names`` in one string: as :func:`~gpu_reml.io.columns.columns_named` has it; a column that is itself called "all",
    or has a comma in its name, goes first.

    Raises:
        InputError: as :func:`read_phenotype`, and a name asked for twice.
    """
    table = _read_keyed(path, "phenotype", "phenotype", guess_header=True, records=records)
    if isinstance(names, str):
        is_all = names == "all" and names not in table.names
        names = None if is_all else columns_named(names, table.names, str(path), "phenotype")
    if names is None:
        names = table.names
        _refuse_pedigree(table, len(names), "choose phenotypes by name")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputError(f"{path}: phenotype(s) {', '.join(twice)} occur more than once; name each column once")
    return [_phenotype(table, _choose(table, name, None)) for name in names]


def _is_fam(table: _KeyedTable) -> bool:
    return table.text.path.suffix == ".fam" and not table.first_row and len(table.names) == FAM_PHENOTYPE


def _of_fam(table: _KeyedTable) -> Phenotype:
    """The last column of a .fam; where it has 1 and 2 alone, 0 is missing, as for PLINK."""
    found = replace(_phenotype(table, FAM_PHENOTYPE - 1), name="phenotype")
    zero, known = found.values == 0, found.values[~np.isnan(found.values)]
    if not zero.any() or not np.isin(known, (0, 1, 2)).all() or not np.isin(known, (1, 2)).any():
        return found
    note = f"{table.text.path}: {int(zero.sum())} value(s) of 0 beside 1 and 2 taken as missing"
    return replace(found, values=np.where(zero, np.nan, found.values), notes=(*found.notes, note))


def _phenotype(table: _KeyedTable, position: int) -> Phenotype:
    name = table.names[position]
    values, num_minus_nine = _numbers(table, position)
    return Phenotype(
        path=str(table.text.path),
        samples=table.samples,
        has_fid=table.has_fid,
        heading=table.heading,
        name=name,
        values=values,
        notes=(*_heading_note(table), *_minus_nine_note(table, f"phenotype {name}", num_minus_nine)),
    )


def read_covariates(
    path: str | Path,
    kind: Kind = "quantitative",
    *,
    names: str | None = None,
    without: Sequence[str] = (),
    records: bool = False,
) -> Covariates:
    """Read covariates from a file of FID IID value [value ...]; every column is one covariate, or those of ``names``
    (:func:`~gpu_reml.io.columns.columns_named`); of all columns those named in ``without`` are left out, with a note.

    As for GCTA and the phenotype, -9 is a missing value, and ``notes`` counts them by column.  Categorical levels are
    kept as written.  Without a header the covariates are called quantitative_1, ...; a categorical file has a header
    only if its first line starts with FID or IID or other names of ids, since its values may all be words.

    Raises:
        InputError: as :func:`read_phenotype`, and a column without a name or two of one name.
    """
    if kind not in ("quantitative", "categorical"):
        raise InputError(f"kind: expected 'quantitative' or 'categorical', found {kind!r}")
    guess = kind == "quantitative" or names is not None
    table = _read_keyed(path, f"{kind} covariate", kind, guess_header=guess, records=records)
    if names is None:
        _refuse_pedigree(table, len(table.names), "give a file of the ids and covariates alone")
    if "" in table.names:
        raise InputError(
            f"{table.text.where(0)}: value column {table.names.index('') + 1} has no name; name or remove it"
        )
    twice = sorted({name for name in table.names if table.names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: covariate name(s) {', '.join(twice)} occur more than once; rename the columns")
    parse = _numbers if kind == "quantitative" else _levels
    columns, notes = {}, list(_heading_note(table))
    wanted = table.names if names is None else columns_named(names, table.names, str(path), "covariate")
    left = [name for name in table.names if names is None and name in without]
    if left:
        notes.append(f"{path}: column(s) {', '.join(left)} are taken otherwise, and are no covariates")
    if len(left) == len(wanted):
        raise InputError(f"{path}: all of its columns ({', '.join(left)}) are taken otherwise, and none is a covariate")
    for name in (name for name in wanted if name not in left):
        columns[name], num_minus_nine = parse(table, table.names.index(name))
        notes += _minus_nine_note(table, f"covariate {name}", num_minus_nine)
    return Covariates(
        path=str(path),
        samples=table.samples,
        has_fid=table.has_fid,
        heading=table.heading,
        kind=kind,
        values=pd.DataFrame(columns),
        notes=tuple(notes),
    )


def read_sample_list(path: str | Path) -> SampleTable:
    """Read the samples to keep or remove: FID IID (further fields are ignored), or IIDs alone, one per line.

    A first line that starts with FID or IID (also #FID, #IID) is a header.  A repeated sample counts once; an empty
    file lists nobody.

    Raises:
        InputError: no such file, lines of different lengths, or a header with FID and without IID.
    """
    text = read_text_table(path, "sample list", "FID IID, or IID", min_width=1)
    heading = family_first(f"{path}, header", text.fields.iloc[0].tolist()) if len(text.fields) else None
    has_fid = text.fields.shape[1] > 1 if heading is None else heading
    rows = text.fields.iloc[0 if heading is None else 1 :]
    samples = _samples(rows, has_fid).drop_duplicates(["fid", "iid"]).reset_index(drop=True)
    return SampleTable(str(path), samples, has_fid)


def _samples(rows: pd.DataFrame, has_fid: bool) -> pd.DataFrame:
    rows = rows.reset_index(drop=True)
    fid = rows[0] if has_fid else pd.Series([""] * len(rows), dtype=str)
    return pd.DataFrame({"fid": fid, "iid": rows[1 if has_fid else 0]})


def _read_keyed(path: str | Path, what: str, stem: str, guess_header: bool, records: bool = False) -> _KeyedTable:
    layout = "FID IID value, or a header line that starts with IID and then IID value"
    text = read_text_table(path, what, layout, min_width=2)
    if not len(text.fields):
        raise InputError(f"{path}: the {what} file is empty; expected {layout}")
    words = [str(word) for word in text.fields.iloc[0]]
    named = family_first(f"{path}, header", words)
    has_fid = named is not False
    first_column = 2 if has_fid else 1
    if len(words) <= first_column:
        raise InputError(f"{text.where(0)}: expected {layout}, found {len(words)} fields")
    guessed = guess_header and named is None and not any(_is_value(word) for word in words[first_column:])
    header = named is not None or guessed
    if header and {plain(word) for word in words[first_column:]} & {"fid", "iid"}:
        raise InputError(f"{text.where(0)}: FID or IID among the value columns; put the ids first, as FID IID")
    samples = _samples(text.fields.iloc[int(header) :], has_fid)
    names = words[first_column:] if header else [f"{stem}_{k + 1}" for k in range(len(words) - first_column)]
    doubtful = header and not is_strict(words)
    table = _KeyedTable(text, int(header), samples, has_fid, names, tuple(words) if doubtful else ())
    _check_ids(table, what, records)
    return table


def _check_ids(table: _KeyedTable, what: str, records: bool) -> None:
    path = table.text.path
    if table.samples.empty:
        raise InputError(f"{path}: the {what} file has a header and no samples")
    empty = (table.samples["iid"] == "").to_numpy()
    if empty.any():
        raise InputError(f"{table.text.where(table.first_row + int(np.argmax(empty)))}: the IID is empty; fill it in")
    twice = repeated(table.samples)
    if len(twice) and not records:
        raise InputError(f"{path}: {len(twice)} sample(s) occur more than once ({first_ids(twice)}); keep one row each")


def _refuse_pedigree(table: _KeyedTable, count: int, remedy: str) -> None:
    """InputError where one of the first ``count`` value columns has the parents' ids, as in a .fam."""
    names = table.names
    if not table.first_row and table.text.path.suffix == ".fam":
        names = ["father", "mother"]
    for name in names[:count]:
        what = key_of(name, PEDIGREE_NAMES)
        if what is not None:
            raise InputError(f"{table.text.path}: column {name} is {what}, not a trait or covariate; {remedy}")


def _choose(table: _KeyedTable, name: str | None, number: int | None) -> int:
    """Position of the chosen phenotype among the value columns."""
    path, names = table.text.path, table.names
    if "" in names:
        raise InputError(f"{table.text.where(0)}: value column {names.index('') + 1} has no name; name or remove it")
    if name is not None:
        matches = [k for k, candidate in enumerate(names) if candidate == name]
        if len(matches) > 1:
            raise InputError(f"{path}: {len(matches)} columns are called {name!r}; choose one by its number")
        if not matches:
            hint = "; a position is given by number, not by name" if name.isdecimal() else ""
            raise InputError(f"{path}: no phenotype {name!r}; the file has {', '.join(names)}{hint}")
        return matches[0]
    number = 1 if number is None else number
    if not 1 <= number <= len(names):
        raise InputError(f"{path}: no phenotype number {number}; the file has 1 to {len(names)}: {', '.join(names)}")
    return number - 1


def _is_minus_nine(word: str) -> bool:
    return "9" in word and _NUMBER.fullmatch(word) is not None and float(word) == MISSING_NUMBER


def _is_missing(word: str) -> bool:
    return word.casefold() in MISSING_WORDS or _is_minus_nine(word)


def _is_infinite(word: str) -> bool:
    if _NUMBER.fullmatch(word):
        return math.isinf(float(word))
    return word.casefold().lstrip("+-") in ("inf", "infinity")


def _is_value(word: str) -> bool:
    return _is_missing(word) or _is_infinite(word) or _NUMBER.fullmatch(word) is not None


def _numbers(table: _KeyedTable, position: int) -> tuple[np.ndarray, int]:
    """Float64 values of a column, NaN where missing, and how many were missing as -9."""
    words = table.column(position)
    values = _plain_numbers(words)
    if values is None:
        raise InputError(_first_fault(table, position))
    minus_nine = values == MISSING_NUMBER
    values[minus_nine] = np.nan
    return values, int(minus_nine.sum())


def _plain_numbers(words: pd.Series) -> np.ndarray | None:
    """The column at once; None where a word is no number, or a number only to Python (1_000, nan with a sign)."""
    joined = "\n".join(words)
    if "_" in joined or not joined.isascii():
        return None
    missing = words.str.casefold().isin(MISSING_WORDS).to_numpy()
    try:
        values = words.mask(missing, "nan").to_numpy(dtype=object).astype(np.float64)
    except ValueError:
        return None
    return values if ((np.abs(values) <= LARGEST) | missing).all() else None


def _first_fault(table: _KeyedTable, position: int) -> str:
    """Message for the first word of a column that is neither missing nor a finite number."""
    words = table.column(position)
    row = next(
        row
        for row, word in enumerate(words)
        if not _is_missing(word) and (not _NUMBER.fullmatch(word) or abs(float(word)) > LARGEST)
    )
    fault = "is not a number"
    if _NUMBER.fullmatch(words[row]):
        fault = "is larger than any measurement"
    if _is_infinite(words[row]):
        fault = "is not finite"
    return f"{table.where(row)}: {words[row]!r} in column {table.names[position]} {fault}; write NA if missing"


def _levels(table: _KeyedTable, position: int) -> tuple[pd.Series, int]:
    """Levels of a column as written, None where missing, and how many were missing as -9."""
    words = table.column(position)
    counts = words.value_counts()
    level = {word: None if _is_missing(word) else word for word in counts.index}
    num_minus_nine = sum(int(count) for word, count in counts.items() if _is_minus_nine(word))
    return pd.Series([level[word] for word in words], dtype=object), num_minus_nine


def _minus_nine_note(table: _KeyedTable, what: str, count: int) -> Sequence[str]:
    return (f"{table.text.path}: {count} value(s) of -9 in {what} taken as missing",) * bool(count)


def _heading_note(table: _KeyedTable) -> Sequence[str]:
    if not table.heading:
        return ()
    return (f"{table.text.where(0)} taken as a header, as it holds no number: {' '.join(table.heading)}",)
