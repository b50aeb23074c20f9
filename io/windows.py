"""Many sets of neighbouring variants at once: windows, genes with flanks, and single BED intervals.

Unlike :mod:`.intervals`, whose names are components of one fit, there may be tens of thousands of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from ..ops.chromosomes import linkage_groups
from .component_sets import AnalysedVariants, ComponentSet, component_set
from .errors import InputError
from .intervals import _Interval, _read_intervals
from .plausible import MOST_BP
from .text import read_text_table

MOST_WINDOWS = 1_000_000
GENE_LAYOUT = "chrom start end gene, positions from 1 with both ends included"


def windows(variants: AnalysedVariants, size: int, step: int) -> ComponentSet:
    """Windows of ``size`` bp that start at every multiple of ``step`` bp, called chrom:first-last, with both ends
    included; those without variants are left out.  Variants without a position (chromosome 0, bp 0) are in none.

    Raises:
        InputError: a size or step that is not positive, a step above the size, or more than a million windows.
    """
    if not 0 < step <= size:
        raise InputError(f"windows: expected a size, and a step of at most that, found {size} and {step} bp")
    groups, bp = variants.linkage_groups, variants.table["bp"].to_numpy()
    rows, columns, names = [], [], []
    for group in pd.unique(groups):
        here = np.flatnonzero((groups == group) & (bp > 0))
        if str(group) == "0" or not len(here):
            continue
        last = bp[here] - 1
        per_variant = -(-size // step)
        first = np.maximum(last // step - per_variant + 1, 0)
        starts = first[:, None] + np.arange(per_variant)
        inside = (starts <= (last // step)[:, None]) & (starts * step + size > last[:, None])
        which, codes = np.unique(starts[inside], return_inverse=True)
        rows.append(np.broadcast_to(here[:, None], starts.shape)[inside])
        columns.append(codes.reshape(-1) + len(names))
        names += [f"{group}:{k * step + 1}-{k * step + size}" for k in which]
        if len(names) > MOST_WINDOWS:
            raise InputError(f"windows: {size} bp in steps of {step} make more than {MOST_WINDOWS}; take larger ones")
    if not names:
        raise InputError("windows: no analysed variant has a position")
    return component_set(names, np.concatenate(rows), np.concatenate(columns), variants.num_variants)


def gene_sets(paths: Sequence[str | Path], variants: AnalysedVariants, flank: int = 0) -> ComponentSet:
    """One set for each gene of lists as PLINK's and GCTA's: ``chrom start end gene``, positions from 1 with both ends
    included, with ``flank`` bp before and after; a gene in several lines is the union of them.

    Raises:
        InputError: no such file, or a line (named) that is none of these.
    """
    intervals = []
    for path in map(Path, paths):
        table = read_text_table(path, "gene list", GENE_LAYOUT, 4)
        fields = [table.fields[k].to_numpy() for k in range(4)]
        header = not _are_places(fields[1][:1], fields[2][:1])
        for row in range(int(header), len(fields[0])):
            chrom, start, end, name = (str(column[row]) for column in fields)
            if not _are_places([start], [end]) or not 0 < int(start) <= int(end) <= MOST_BP:
                raise InputError(
                    f"{table.where(row)}: expected {GENE_LAYOUT}, found {' '.join((chrom, start, end, name))!r}"
                )
            intervals.append(_Interval(chrom, max(0, int(start) - 1 - flank), int(end) + flank, name))
    return _sets_of(intervals, variants, ", ".join(map(str, paths)))


def interval_sets(paths: Sequence[str | Path], variants: AnalysedVariants, flank: int = 0) -> ComponentSet:
    """One set for each name in field 4 of BED files, or for each interval of files without names, with ``flank`` bp
    before and after.

    Raises:
        InputError: as :func:`~gpu_reml.io.components_from_intervals`.
    """
    intervals = []
    for path in map(Path, paths):
        for chrom, start, end, name in _read_intervals(path):
            wide = (max(0, start - flank), end + flank)
            intervals.append(_Interval(chrom, *wide, name or f"{chrom}:{start + 1}-{end}"))
    return _sets_of(intervals, variants, ", ".join(map(str, paths)))


def _are_places(starts: Sequence[str], ends: Sequence[str]) -> bool:
    return all(str(text).isdecimal() and len(str(text)) < 19 for text in (*starts, *ends))


def _sets_of(intervals: Sequence[_Interval], variants: AnalysedVariants, where: str) -> ComponentSet:
    """Sets of the variants in intervals of one name; intervals of chromosomes without variants are counted."""
    chromosomes = [interval.chrom for interval in intervals]
    spellings = {*chromosomes, *variants.table["chrom"].unique(), *variants.spellings}
    groups = linkage_groups(variants.table["chrom"], spellings)
    of_intervals = np.asarray(linkage_groups(chromosomes, spellings), dtype=object)
    bp = variants.table["bp"].to_numpy()
    starts, ends = (np.array([interval[k] for interval in intervals]) for k in (1, 2))
    codes, names = pd.factorize(np.array([interval.name for interval in intervals], dtype=object))
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for group in pd.unique(of_intervals):
        here, asked = np.flatnonzero(groups == group), np.flatnonzero(of_intervals == group)
        here = here[np.argsort(bp[here], kind="stable")]
        low, high = (np.searchsorted(bp[here], ends_of[asked], side="right") for ends_of in (starts, ends))
        counts = high - low
        offsets = np.repeat(low - np.cumsum(counts) + counts, counts)
        rows.append(here[np.arange(counts.sum()) + offsets])
        columns.append(np.repeat(codes[asked], counts))
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    if not len(rows):
        first = intervals[0]
        raise InputError(
            f"{where}: no analysed variant is in any interval (the first is {first.chrom}:{first.start + 1}-"
            f"{first.end}); check the genome build and chromosomes"
        )
    shape = (variants.num_variants, len(names))
    weights = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    weights.sum_duplicates()
    weights.data[:] = 1.0  # a variant in two intervals of one name counts once
    return ComponentSet(tuple(map(str, names)), weights)
