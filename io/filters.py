"""Which variants and samples are analysed: filters with PLINK's meaning, each counted for the log.

As in PLINK 2, whatever the order on the command line: variants by metadata, then samples by missing calls (``--mind``)
over the variants left, then variants by the genotypes of the samples left: ``--geno``, ``--hwe``, ``--maf`` and
``--max-maf``.  Three things differ from it:

* All analysed samples count, founders or not, as with ``--nonfounders``.
* Every genotype is a count of 0, 1 or 2, as it is in Z, also on X, Y and MT, where PLINK takes one copy of a male.
  ``--hwe`` does not test X, Y and MT, since it would need the sexes.
* A variant at a negative position is kept, where PLINK ignores it; only a range of positions leaves it out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..ops.chromosomes import AUTOSOMES, HUMAN, NUMBERED, are_human, chromosome_name, chromosome_names
from ..ops.dosages import dosage_moments
from ..ops.genotypes import CALL_BITS, items_per_row
from ..ops.packing import count_codes
from ..ops.quality import hardy_weinberg, missing_per_sample
from .content import read_content
from .errors import InputError
from .genotype_file import GenotypeFile
from .rows import selected, stretches

_UNTESTED = frozenset(["X", "Y", "MT"])
_ROUNDING = 2.0**-44  # a rate that differs from a limit by rounding counts as equal to it, and is kept


class Selection(NamedTuple):
    """What is left: ``mask`` (m,) or (n,) bool.  ``counts``: (filter, how many of those left before it removed), in
    the order applied.  ``notes``: what was noticed and is no error."""

    mask: np.ndarray
    counts: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariantFilters:
    """Filters by id and position; a variant must pass all of them.

    ``extract``, ``exclude``: files of ids, several are one list.  ``chrom``: as PLINK's ``--chr``, "1-4,22,X".
    ``autosome``: 1 to 22.  ``from_bp``, ``to_bp``: both ends included, on the one chromosome of ``chrom``.

    Raises:
        InputError: ``chrom`` with ``autosome``, or ends in the wrong order or without ``chrom``.
    """

    extract: Sequence[str | Path] = ()
    exclude: Sequence[str | Path] = ()
    chrom: str | None = None
    autosome: bool = False
    from_bp: float | None = None
    to_bp: float | None = None

    def __post_init__(self) -> None:
        if self.chrom is not None and self.autosome:
            raise InputError("`chrom` cannot be used with `autosome`; give one of them")
        if self.is_range and self.chrom is None:
            raise InputError("`from_bp` and `to_bp` are positions on one chromosome; name it by `chrom`")
        if self.from_bp is not None and self.to_bp is not None and self.to_bp < self.from_bp:
            raise InputError(f"`to_bp` {self.to_bp:.12g} is before `from_bp` {self.from_bp:.12g}; exchange them")

    @property
    def is_range(self) -> bool:
        return self.from_bp is not None or self.to_bp is not None


@dataclass(frozen=True)
class GenotypeFilters:
    """Filters by the calls of the analysed samples; None does not filter.

    ``geno``: largest rate of missing calls.  ``hwe``: smallest p-value of :func:`hardy_weinberg`.  ``maf``,
    ``max_maf``: range of the frequency of the rarer allele; both ends are kept.

    Raises:
        InputError: a limit out of range.
    """

    geno: float | None = None
    hwe: float | None = None
    maf: float | None = None
    max_maf: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_rate(field.name, getattr(self, field.name))
        if self.maf is not None and self.max_maf is not None and self.max_maf < self.maf:
            raise InputError(f"`max_maf` {self.max_maf:g} is below `maf` {self.maf:g}; no variant can pass both")


def select_variants(variants: pd.DataFrame, filters: VariantFilters) -> Selection:
    """Variants that pass the filters by metadata, in the order ``--chr`` or ``--autosome``, range, ids.

    ``variants``: chrom, id, bp.  An id that several variants share selects all of them; ``notes`` says so, and how
    many ids of a list are no variant's.  PLINK 2 refuses a range together with ``--extract`` unless told
    ``--force-intersect``; here their intersection is taken.

    Raises:
        InputError: a list that cannot be read, a chromosome that cannot be one, a range on several, no variant left.
    """
    steps, notes = _Steps(len(variants)), []
    if filters.chrom is not None:
        wanted = parse_chromosomes(filters.chrom, variants["chrom"].unique())
        if filters.is_range and len(wanted) != 1:
            raise InputError(f"`from_bp` and `to_bp` need exactly one chromosome; `chrom` {filters.chrom} is several")
        steps.keep(f"`chrom` {filters.chrom}", _is_on(variants["chrom"], wanted))
        notes += _chromosome_notes(filters.chrom, variants["chrom"].unique())
    if filters.autosome:
        steps.keep("`autosome`", _is_on(variants["chrom"], AUTOSOMES))
    bp = variants["bp"].to_numpy()
    if filters.from_bp is not None:
        steps.keep(f"`from_bp` {filters.from_bp:.12g}", bp >= max(filters.from_bp, 0))
    if filters.to_bp is not None:
        steps.keep(f"`to_bp` {filters.to_bp:.12g}", (bp >= 0) & (bp <= filters.to_bp))
    for name, paths in (("`extract`", filters.extract), ("`exclude`", filters.exclude)):
        if paths:
            text = " ".join([name, *map(str, paths)])
            listed = read_variant_ids(paths, name)
            is_listed = variants["id"].isin(listed).to_numpy()
            notes += _list_notes(text, listed, variants["id"], is_listed)
            steps.keep(text, is_listed if name == "`extract`" else ~is_listed)
    sex_linked = int(_is_on(variants["chrom"], _UNTESTED)[steps.mask].sum())
    if sex_linked:
        notes.append(f"{sex_linked} variants of X, Y or MT analysed like autosomal ones; `autosome` leaves them out")
    return steps.selection("variants", tuple(notes))


def select_by_genotype(
    counts: np.ndarray,
    filters: GenotypeFilters,
    chrom: Sequence[str] | pd.Series | None = None,
    freq: np.ndarray | None = None,
) -> Selection:
    """Variants whose calls pass the filters, in PLINK's order: ``--geno``, ``--hwe``, ``--maf``, ``--max-maf``.

    ``counts``: (m, 4) of the analysed samples, by :func:`count_calls`.  ``chrom``: (m,), to leave X, Y and MT out of
    ``--hwe``; None tests every variant.  ``freq``: (m,) of the counted allele where dosages are analysed, by
    :func:`dosage_freq`; by default that of the calls, and 1/2 without any, as in PLINK (such a variant does not vary).

    Raises:
        InputError: no variant left.
    """
    counts = np.asarray(counts, np.int64)
    steps, notes = _Steps(len(counts)), []
    called = counts.sum(axis=1) - counts[:, 1]
    if filters.geno is not None:
        limit = filters.geno * (1 + _ROUNDING) * counts.sum(axis=1)
        steps.keep(f"`geno` {filters.geno:g}", counts[:, 1] <= limit)
    if filters.hwe is not None:
        tested = steps.mask.copy()
        if chrom is not None:
            untested = _is_on(chrom, _UNTESTED)
            notes += [f"`hwe`: {untested.sum()} variants of X, Y or MT were not tested"] * bool(untested.any())
            tested &= ~untested
        passed = np.ones(len(counts), bool)
        passed[tested] = hardy_weinberg(counts[tested]) >= filters.hwe * (1 - _ROUNDING)
        steps.keep(f"`hwe` {filters.hwe:g}", passed)
    if freq is None:
        freq = np.where(called > 0, (2 * counts[:, 0] + counts[:, 2]) / np.maximum(2 * called, 1), 0.5)
    maf = np.minimum(freq, 1 - freq)
    if filters.maf is not None:
        steps.keep(f"`maf` {filters.maf:g}", maf >= filters.maf * (1 - _ROUNDING))
    if filters.max_maf is not None:
        steps.keep(f"`max_maf` {filters.max_maf:g}", maf <= filters.max_maf * (1 + _ROUNDING))
    return steps.selection("variants", tuple(notes))


def select_samples(num_missing: np.ndarray, num_variants: int, mind: float) -> Selection:
    """Samples that have no call for at most a share ``mind`` of the ``num_variants`` variants.

    ``num_missing``: (n,) by :func:`count_missing` over the variants that :func:`select_variants` left; of several
    filesets, the sum.

    Raises:
        InputError: ``mind`` out of range, or no sample left.
    """
    _check_rate("mind", mind)
    steps = _Steps(len(num_missing))
    steps.keep(f"`mind` {mind:g}", num_missing <= mind * (1 + _ROUNDING) * num_variants)
    return steps.selection("samples", ())


def count_calls(file: GenotypeFile, samples: np.ndarray | None, variants: np.ndarray) -> np.ndarray:
    """(m, 4) int64: calls of ``samples`` by two-bit code, for each of ``variants``; one read, a block at a time."""
    n = file.num_samples if samples is None else len(samples)
    counts = np.empty((len(variants), 4), np.int64)
    for rows in stretches(len(variants), items_per_row(n, CALL_BITS)):
        counts[rows] = count_codes(file.read_packed(samples, variants[rows]), n)
    return counts


def count_missing(file: GenotypeFile, samples: np.ndarray | None, variants: np.ndarray) -> np.ndarray:
    """(n,) int64: how many of ``variants`` each of ``samples`` has no call for; one read, a block at a time."""
    n = file.num_samples
    missing = np.zeros(n, np.int64)
    for rows in stretches(len(variants), items_per_row(n, CALL_BITS)):
        missing += missing_per_sample(file.read_packed(None, variants[rows]), n)
    return missing[selected(n, samples)]


def dosage_freq(file: GenotypeFile, samples: np.ndarray | None, variants: np.ndarray) -> np.ndarray:
    """(m,) half the mean dosage of ``samples``, 1/2 where all are missing; one read, a block at a time."""
    n = file.num_samples if samples is None else len(samples)
    freq = np.empty(len(variants))
    for rows in stretches(len(variants), 2 * n):
        mean, _, called = dosage_moments(file.read_dosages(samples, variants[rows], 16), 16)
        freq[rows] = np.where(called > 0, mean / 2, 0.5)
    return freq


def parse_chromosomes(text: str, present: Iterable[str]) -> frozenset[str]:
    """The chromosomes that PLINK's ``--chr`` means: "1-4, 22, X", codes or names, "chr" before them or not.

    Human codes: 0 (unplaced), 1 to 22, X or 23, Y or 24, XY or 25, MT or M or 26, PAR1, PAR2; a range runs over
    numbers.  Any other name must be ``present`` among the variants, spelt as there; so must numbers from 23 where there
    is one above 26 (:mod:`gpu_reml.ops.chromosomes`).

    Raises:
        InputError: nothing named, a name that is neither, or a range whose ends are not numbers in order.
    """
    present = list(present)
    human, names = are_human(present), list(dict.fromkeys(chromosome_names(present)))
    words = text.replace(",", " ").split()
    if not words:
        raise InputError(f"`chrom` {text!r}: name at least one chromosome")
    wanted: set[str] = set()
    for word in words:
        name = chromosome_name(word, human)
        if name in HUMAN or name in names:
            wanted.add(name)
        elif "-" in word:
            wanted.update(_chromosome_range(word, human))
        else:
            raise InputError(
                f"`chrom`: {word!r} is neither a human chromosome nor one of the variants'; they are on "
                f"{', '.join(names[:30])}"
            )
    return frozenset(wanted)


def read_variant_ids(paths: Sequence[str | Path], what: str) -> pd.Index:
    """Variant ids of one or more files, each once: every word separated by blanks or line ends is one, as in PLINK.

    Raises:
        InputError: a file that is absent, unreadable, not text, or without a word.
    """
    words: list[str] = []
    for path in map(Path, paths):
        with read_content(path, f"{what} file").text() as file:
            found = file.read().split()
        if not found:
            raise InputError(f"{path}: the {what} file is empty; expected one variant id a line")
        words += found
    return pd.Index(words, dtype=str).unique()


class _Steps:
    """Filters applied one after another; each is charged with what it removes of those left."""

    def __init__(self, num: int) -> None:
        self.mask = np.ones(num, bool)
        self.counts: list[tuple[str, int]] = []

    def keep(self, text: str, passed: np.ndarray) -> None:
        self.counts.append((text, int((self.mask & ~passed).sum())))
        self.mask &= passed

    def selection(self, what: str, notes: tuple[str, ...]) -> Selection:
        if not self.mask.any():
            removed = "; ".join([*(f"{text} removed {count}" for text, count in self.counts), *notes])
            raise InputError(f"no {what} are left: {removed or f'there were no {what}'}; loosen the filters")
        return Selection(self.mask, tuple(self.counts), notes)


def _check_rate(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise InputError(f"`{name}` {value:g}: expected a number from 0 to 1")


def _list_notes(text: str, listed: pd.Index, ids: pd.Series, is_listed: np.ndarray) -> list[str]:
    """Which listed ids are of no variant or of several; ``is_listed``: which variants are listed."""
    notes = []
    found = ids[is_listed]
    absent = listed[~listed.isin(found)]
    if len(absent):
        whose = "" if len(found) else f", the variants have {_examples(ids)}"
        commas = "; separate ids by blanks, not commas" * bool(absent.str.contains(",").any())
        note = f"{text}: {len(absent)} of {len(listed)} ids are of no variant ({_examples(absent)}{whose}){commas}"
        notes.append(note)
    shared = found[found.duplicated(keep=False)]
    if len(shared):
        ids = shared.unique()
        notes.append(f"{text}: {len(ids)} ids are of several variants, {len(shared)} in all ({_examples(ids)})")
    return notes


def _examples(ids: Sequence[str] | pd.Series) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")


def _chromosome_notes(text: str, present: Sequence[str]) -> list[str]:
    """Chromosomes asked for by themselves, not in a range, that no variant is on."""
    human, names = are_human(present), set(chromosome_names(present))
    single = [word for word in text.replace(",", " ").split() if chromosome_name(word, human) in HUMAN]
    absent = [word for word in single if chromosome_name(word, human) not in names]
    return [f"`chrom` {text}: no variant is on {', '.join(absent)}"] * bool(absent)


def _is_on(chrom: Sequence[str] | pd.Series, wanted: Iterable[str]) -> np.ndarray:
    """(m,) bool: variants on one of the chromosomes ``wanted``."""
    return pd.Series(chromosome_names(chrom), dtype=object).isin(list(wanted)).to_numpy()


def _chromosome_range(word: str, human: bool) -> tuple[str, ...]:
    first, _, last = word.partition("-")
    ends = [end[3:] if end[:3].casefold() == "chr" else end for end in (first, last)]
    most = len(NUMBERED) - 1 if human else 999
    if not all(end.isdecimal() and int(end) <= most for end in ends) or int(ends[0]) >= int(ends[1]):
        raise InputError(f"`chrom`: {word!r} is not a range; give two numbers from 0 to {most} in order, as 1-4")
    return tuple(chromosome_name(str(k), human) for k in range(int(ends[0]), int(ends[1]) + 1))
