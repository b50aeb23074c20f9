"""Components from genomic intervals in BED files: zero-based starts, ends not included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from ..ops.chromosomes import linkage_groups
from .annotations import name_of
from .component_sets import AnalysedVariants, ComponentSet, component_set
from .components import check_names
from .content import read_content
from .errors import InputError
from .ids import first_words
from .plausible import MOST_BP

MOST_NAMES = 1000  # a file with more names in column 4 most likely names single intervals, not components


class _Interval(NamedTuple):
    chrom: str
    start: int
    end: int
    name: str | None


def components_from_intervals(
    paths: Sequence[str | Path], variants: AnalysedVariants, by: Literal["name", "file"] = "name"
) -> ComponentSet:
    """Components of the variants in the intervals of BED files: fields chrom start end [name ...].

    A variant at bp is in an interval when start < bp <= end (zero-based, half open).  Chromosomes may be spelt in any
    way, and X has its pseudo-autosomal regions; ``notes`` counts the intervals of chromosomes without variants.
    by "name": one component for each name in field 4, over all files; a file without names is one component, called as
    the file.  by "file": one for each file.  Lines that begin with #, track or browser are left out.

    Raises:
        InputError: no such file, a line (named) that is no interval or lacks the name that others have, more than 1,000
            names, two files of one name, or no variant in any interval.
    """
    if by not in ("name", "file"):
        raise InputError(f"by: expected name or file, found {by!r}")
    groups: dict[str, list[_Interval]] = {}
    paths = [Path(path) for path in paths]
    check_names("interval files", [name_of(path) for path in paths])
    for path in paths:
        intervals = _read_intervals(path)
        named = by == "name" and intervals[0].name is not None
        for interval in intervals:
            groups.setdefault(interval.name if named else name_of(path), []).append(interval)
    if len(groups) > MOST_NAMES:
        raise InputError(
            f"{paths[0]}: {len(groups)} different names in field 4 would be as many components; if they name single "
            "intervals, take one component for each file"
        )
    spellings = {interval.chrom for intervals in groups.values() for interval in intervals}
    spellings |= {*variants.table["chrom"].unique(), *variants.spellings}
    bp = variants.table["bp"].to_numpy()
    places = (linkage_groups(variants.table["chrom"], spellings), bp)
    rows = [_inside(intervals, places, spellings) for intervals in groups.values()]
    if not any(len(found) for found in rows):
        first = next(iter(groups.values()))[0]
        raise InputError(
            f"{paths[0]}: no analysed variant is in any interval (the first is {first.chrom}:{first.start}-{first.end} "
            f"and the first variant {variants.table['chrom'].iloc[0]}:{bp[0]}); check the genome build and chromosomes"
        )
    columns = np.repeat(np.arange(len(rows)), [len(found) for found in rows])
    notes = _elsewhere(paths, [interval.chrom for each in groups.values() for interval in each], places[0], spellings)
    return component_set(list(groups), np.concatenate(rows), columns, variants.num_variants, notes=notes)


def _elsewhere(
    paths: Sequence[Path], chromosomes: Sequence[str], analysed: np.ndarray, spellings: set[str]
) -> tuple[str, ...]:
    """A note on the intervals of chromosomes that no analysed variant is on."""
    chromosomes = pd.Series(chromosomes, dtype=object)
    elsewhere = chromosomes[~pd.Series(linkage_groups(chromosomes, spellings), dtype=object).isin(pd.unique(analysed))]
    if elsewhere.empty:
        return ()
    where = ", ".join(str(path) for path in paths)
    names = first_words(elsewhere.unique())
    return (f"{where}: {len(elsewhere)} of {len(chromosomes)} intervals are where no analysed variant is, on {names}",)


def _inside(intervals: Sequence[_Interval], places: tuple[np.ndarray, np.ndarray], spellings: set[str]) -> np.ndarray:
    """Rows of the variants, at ``places`` (chromosomes, bp), in any of the intervals, each once, ascending."""
    chromosomes, bp = places
    keys = linkage_groups([interval.chrom for interval in intervals], spellings)
    starts = np.array([interval.start for interval in intervals])
    ends = np.array([interval.end for interval in intervals])
    found = []
    for key in pd.unique(keys):
        here = np.flatnonzero(chromosomes == key)
        # The intervals that hold a position number the starts before it less the ends before it.
        passed = np.searchsorted(np.sort(starts[keys == key]), bp[here], side="left")
        left = np.searchsorted(np.sort(ends[keys == key]), bp[here], side="left")
        found.append(here[passed > left])
    return np.sort(np.concatenate(found))


def _read_intervals(path: Path) -> list[_Interval]:
    intervals: list[_Interval] = []
    with read_content(path, "interval file").text() as file:
        for number, line in enumerate(file, 1):
            fields = line.split("\t") if "\t" in line else line.split()
            fields = [field.strip() for field in fields]
            words = line.split(maxsplit=1)
            if not words or words[0].startswith("#") or words[0] in ("track", "browser"):
                continue
            intervals.append(_interval(f"{path}, line {number}", fields))
            if (intervals[-1].name is None) != (intervals[0].name is None):
                raise InputError(
                    f"{path}, line {number}: expected a name in field 4 in every line or in none; complete the line"
                )
    if not intervals:
        raise InputError(f"{path} has no interval; expected chrom start end [name] a line")
    return intervals


def _interval(where: str, fields: Sequence[str]) -> _Interval:
    layout = "expected chrom start end [name] with 0 <= start < end (zero-based, end not included)"
    if len(fields) < 3 or not fields[0] or not all(field.isdecimal() and len(field) < 19 for field in fields[1:3]):
        raise InputError(f"{where}: {layout}, found {' '.join(fields[:4])!r}")
    start, end = int(fields[1]), int(fields[2])
    if start >= end or end > MOST_BP:
        raise InputError(f"{where}: {layout}, found {start} {end}")
    return _Interval(fields[0], start, end, fields[3] if len(fields) > 3 and fields[3] else None)
