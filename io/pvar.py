"""The text files beside a .pgen: .pvar (also .pvar.zst) and .psam, with and without a header."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from .content import Content, read_content
from .errors import InputError
from .headings import SAMPLE_NAMES, VARIANT_NAMES, key_of, refuse_heading
from .rows import check_samples
from .text import WHITESPACE, count_fields, parse_numbers, parse_positions

NO_FID = "0"  # PLINK writes this where there is no FID


@dataclass(frozen=True)
class _Lines:
    """``fields``: the wanted columns that the file has, one row for each line; indices count from ``first_line``."""

    path: Path
    fields: pd.DataFrame
    first_line: int

    def where(self, position: int) -> str:
        return f"{self.path}, line {self.first_line + self.fields.index[position]}"


def read_pvar(path: Path) -> pd.DataFrame:
    """chrom, id, ref, alt (strings; alt may list several, separated by commas), cm (float64), bp (int64), by line.

    Without a ``#CHROM`` header the columns are those of a .bim, as PLINK 2 takes them: CHROM ID CM POS ALT REF, or
    without CM where there are five.  Other columns are not kept.
    """
    lines = _read_lines(path, ".pvar", ("#CHROM",), ("POS", "ID", "REF", "ALT", "CM"), _bim_columns)
    fields = lines.fields
    for name in ("#CHROM", "POS", "ID", "REF", "ALT"):
        if name not in fields:
            raise InputError(f"{path}: expected a column {name} in the header, found none; is it a .pvar of PLINK 2?")
    if not len(fields):
        raise InputError(f"{path} is empty; expected one line for each variant")
    _require_all(lines, ("#CHROM", "POS", "ID", "REF", "ALT"))

    def where(position: int) -> str:
        return f"{lines.where(position)} (variant {fields['ID'].iloc[position]})"

    cm = np.zeros(len(fields))
    if "CM" in fields:
        cm = parse_numbers(fields["CM"], "genetic position (cM)", where)
    bp = parse_positions(fields["POS"], where)
    names = {"#CHROM": "chrom", "ID": "id", "REF": "ref", "ALT": "alt"}
    table = fields[list(names)].rename(columns=names).reset_index(drop=True)
    return table.assign(cm=cm, bp=bp)


def read_psam(path: Path) -> pd.DataFrame:
    """fid, iid (strings): a header begins with #FID or #IID; without one the columns are those of a .fam.

    Where there is no FID it is 0, as PLINK 2 writes it.
    """
    lines = _read_lines(path, ".psam", ("#FID", "#IID"), ("IID",), _fam_columns)
    fields = lines.fields
    if lines.first_line == 1 and len(fields):
        refuse_heading(lines.where(0), fields.iloc[0].tolist())
    iid = "#IID" if "#IID" in fields else "IID"
    if len(fields) and iid not in fields:
        raise InputError(f"{path}: expected IID after #FID in the header; is it a .psam of PLINK 2?")
    if not len(fields):
        return check_samples(path, pd.DataFrame({"fid": [], "iid": []}))
    _require_all(lines, fields.columns)
    fid = fields["#FID"] if "#FID" in fields else pd.Series(NO_FID, fields.index, dtype=fields[iid].dtype)
    return check_samples(path, pd.DataFrame({"fid": fid, "iid": fields[iid]}).reset_index(drop=True))


def _bim_columns(path: Path, width: int) -> list[str]:
    if width < 5:
        raise InputError(f"{path}: expected a #CHROM header, or the 5 or 6 columns of a .bim, found {width}")
    names = ["#CHROM", "ID", "CM", "POS", "ALT", "REF"]
    return [name for name in names if width > 5 or name != "CM"] + [f"column {k}" for k in range(7, width + 1)]


def _fam_columns(path: Path, width: int) -> list[str]:
    if width < 5:
        raise InputError(f"{path}: expected a header #FID or #IID, or the 5 or 6 columns of a .fam, found {width}")
    return ["#FID", "IID"] + [f"column {k}" for k in range(3, width + 1)]


def _read_lines(
    path: Path,
    what: str,
    headings: Sequence[str],
    wanted: Sequence[str],
    default: Callable[[Path, int], list[str]],
) -> _Lines:
    """Columns ``headings`` and ``wanted`` of a file whose header, below other lines that start with #, names them.

    ``default(path, width)``: the columns' names when there is no header.
    """
    content = read_content(path, f"{what} file")
    before, first = _find_first(content, headings)
    sep = "\t" if "\t" in first else WHITESPACE
    count_fields(f"{path}, line {before + 1}", first, sep)
    found = re.split(r"\t" if sep == "\t" else r"[ \t]+", first.strip("\r\n" if sep == "\t" else " \t\r\n"))
    is_header = found[0] in headings
    names = found if is_header or not first else default(path, len(found))
    twice = sorted({name for name in names if names.count(name) > 1 and name in (*headings, *wanted)})
    if twice:
        raise InputError(f"{path}, line {before + 1}: column {', '.join(twice)} occurs more than once; remove one")
    skipped = before + is_header
    columns = [name for name in names if name in (*headings, *wanted)]
    if not columns:
        return _Lines(path, pd.DataFrame(), skipped + 1)
    chosen = [names.index(name) for name in columns] + [len(names)]  # one column more shows lines that are too long
    try:
        with content.text() as file:
            for _ in range(skipped):
                file.readline()
            fields = pd.read_csv(
                _Headed("\t".join(map(str, range(len(names) + 1))) + "\n", file),
                sep=sep,
                header=0,
                names=range(len(names) + 1),
                usecols=chosen,
                index_col=False,
                dtype=str,
                keep_default_na=False,
                quoting=csv.QUOTE_NONE,
                skip_blank_lines=False,
            )
    except ValueError as error:
        raise InputError(f"{path}: the {what} file cannot be read ({str(error).strip()}); check it") from None
    fields = fields.rename(columns=dict(enumerate(names))).fillna("")
    is_long = (fields.pop(len(names)) != "").to_numpy()
    lines = _Lines(path, fields[columns], skipped + 1)
    if is_long.any():
        raise InputError(
            f"{lines.where(int(np.argmax(is_long)))}: more than the {len(names)} fields of "
            f"{'the header' if is_header else 'the first line'}; write no blank within a field"
        )
    return replace(lines, fields=lines.fields[(lines.fields != "").any(axis=1)])


class _Headed(io.TextIOBase):
    """A text below a line of our own: pandas counts the fields there."""

    def __init__(self, heading: str, file: TextIO) -> None:
        self.heading, self.file = heading, file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> str:
        heading, self.heading = self.heading, ""
        return heading or self.file.read(size)


def _find_first(content: Content, headings: Sequence[str]) -> tuple[int, str]:
    """(lines before it, text) of the header, or of the first line that is no comment; no text where there is none."""
    with content.text() as file:
        for before, line in enumerate(iter(file.readline, "")):
            heading = re.split(r"\s", line, maxsplit=1)[0]
            if heading in headings or (line.strip() and not line.startswith("#")):
                return before, line
            if not line.startswith("##") and key_of(heading, VARIANT_NAMES, SAMPLE_NAMES) is not None:
                raise InputError(
                    f"{content.path}, line {before + 1}: the header begins with {heading}, not with "
                    f"{' or '.join(headings)}; rename it as PLINK 2 has it, or it is a comment"
                )
    return 0, ""


def _require_all(lines: _Lines, columns: Sequence[str]) -> None:
    """Every line has the columns; a short line leaves them empty."""
    lacking = (lines.fields[list(columns)] == "").any(axis=1).to_numpy()
    if lacking.any():
        position = int(np.argmax(lacking))
        row = lines.fields.iloc[position]
        name = next(name for name in columns if row[name] == "")
        raise InputError(
            f"{lines.where(position)} ({' '.join(value for value in row if value)}): nothing in column "
            f"{name.removeprefix('#')}; complete the line"
        )
