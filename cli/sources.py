"""Genotype files named on the command line, in any format, and the filters on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from gpu_reml import io, ops
from gpu_reml.ops.chromosomes import one_spelling

from .flags.data import Genotypes
from .flags.filters import Filters


@dataclass(frozen=True)
class Sources:
    """Genotype files, one after another, and the variants of each that filters by metadata leave.

    ``rows``: for every file, int64.  ``counts``: (filter, variants removed).  ``genome``: whether the files are pieces
    of one genome, so one component, and not a component each.
    """

    files: tuple
    rows: tuple[np.ndarray, ...]
    counts: tuple[tuple[str, int], ...]
    genome: bool
    notes: tuple[str, ...] = ()

    @property
    def variants(self) -> io.AnalysedVariants:
        """The variants that are left, and their rows in all files one after another."""
        table = joined_variants(self.files)
        mask = np.zeros(len(table), bool)
        starts = np.cumsum([0, *(file.num_variants for file in self.files)])
        for start, rows in zip(starts[:-1], self.rows, strict=True):
            mask[start + rows] = True
        return io.AnalysedVariants.of(table, mask)

    @property
    def paths(self) -> list[Path]:
        """Files of genotypes, variants and samples."""
        return [path for file in self.files for path in dict.fromkeys(file.paths)]

    @property
    def num_variants(self) -> tuple[int, ...]:
        return tuple(len(rows) for rows in self.rows)


def read_sources(genotypes: Genotypes, filters: Filters) -> Sources:
    """Open every genotype file and apply the filters by metadata; no genotype is read."""
    files, genome = open_files(genotypes)
    if not files:
        return Sources((), (), (), False)
    table = joined_variants(files)
    by_metadata = io.VariantFilters(
        filters.extract, filters.exclude, filters.chr, filters.autosome, filters.from_bp, filters.to_bp
    )
    selection = io.select_variants(table, by_metadata)
    if filters.xchr_model == 0:
        out = selection.mask & io.haploid_in_males(table)
        counts = (*selection.counts, ("--xchr-model 0 (X outside its pseudo-autosomal regions)", int(out.sum())))
        selection = selection._replace(mask=selection.mask & ~out, counts=counts)
    starts = np.cumsum([0, *(file.num_variants for file in files)])
    rows = tuple(np.flatnonzero(selection.mask[a:b]) for a, b in pairwise(starts))
    empty = [file.prefix for file, kept in zip(files, rows, strict=True) if not len(kept)]
    if empty and not genome:
        raise io.InputError(f"{empty[0]}: the filters leave none of its variants; loosen them or leave the file out")
    return Sources(tuple(files), rows, selection.counts, genome, selection.notes)


def open_files(genotypes: Genotypes) -> tuple[list, bool]:
    """(files in the order of components, whether they are one genome)."""
    listed = [*listed_prefixes(genotypes.mbfile, io.read_bed), *listed_prefixes(genotypes.pfile_list, io.read_pgen)]
    named = [
        *(io.read_bed(prefix) for prefix in prefixes_of(genotypes.bfile)),
        *(io.read_pgen(prefix) for prefix in prefixes_of(genotypes.pfile)),
        *([io.read_bgen(genotypes.bgen, genotypes.sample)] if genotypes.bgen else []),
        *(io.read_bed(prefix) for prefix in prefixes_of(genotypes.rare_bfile)),
        *(io.read_pgen(prefix) for prefix in prefixes_of(genotypes.rare_pfile)),
    ]
    if listed and named:
        raise io.InputError("--mbfile, --pfile-list: these list one genome in pieces; leave other genotypes out")
    return (listed, True) if listed else (named, False)


def prefixes_of(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part]


def listed_prefixes(path: str | None, read) -> list:
    """The files whose prefixes are listed in ``path``, one per line."""
    return [read(prefix) for prefix in listed_lines(path)]


def listed_lines(path: str | None) -> list[str]:
    """The prefixes that are listed in ``path``, one per line."""
    if not path:
        return []
    with io.read_content(path, "list of prefixes").text() as file:
        lines = file.read().splitlines()
    prefixes = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prefixes:
        raise io.InputError(f"{path}: lists no prefix; write one per line")
    return prefixes


def joined_variants(files: Sequence) -> pd.DataFrame:
    """Variants of all files, one after another, every chromosome in the spelling that comes first."""
    table = pd.concat([file.variants for file in files], ignore_index=True)
    return table.assign(chrom=one_spelling(table["chrom"]))


class Loaded(NamedTuple):
    """Genotypes of the analysed samples and variants, what was filtered out, and the samples that are left."""

    genotypes: ops.PackedGenotypes
    variants: io.AnalysedVariants
    kept_samples: np.ndarray | None
    counts: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


Part = tuple[Any, np.ndarray, np.ndarray]  # a file, and the rows of the analysed samples and variants in it


class Reader(Protocol):
    """Where genotypes are read, and stay."""

    def counts(self, function: Callable, parts: Sequence[Part]) -> list[Any]:
        """What ``function`` counts in every part, or in pieces of it, in order."""
        ...

    def genotypes(self, parts: Sequence[Part], named: Genotypes, standardize: str) -> ops.PackedGenotypes:
        """The genotypes, standardised."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was noticed while genotypes were read."""
        ...


class ReadHere:
    """Genotypes in the memory, or the mapped files, of this process."""

    def __init__(self):
        self.notes: list[str] = []

    def counts(self, function: Callable, parts: Sequence[Part]) -> list[Any]:
        return [function(*part) for part in parts]

    def genotypes(self, parts: Sequence[Part], named: Genotypes, standardize: str) -> ops.PackedGenotypes:
        cache = io.PackedCache(named.cache) if named.cache else None
        files, indices, rows = zip(*parts, strict=True)
        genotypes = io.load_genotypes(files, indices, rows, named.dosage, cache=cache)
        self.notes += cache.notes if cache else []
        return ops.with_binomial_sd(genotypes) if standardize == "binomial" else genotypes


def load(
    sources: Sources,
    indices: Sequence[np.ndarray],
    filters: Filters,
    named: Genotypes,
    standardize: str,
    reader: Reader | None = None,
) -> Loaded:
    """Apply the filters by genotype, in PLINK's order (samples, then variants), and read what is left.

    ``indices``: for every file the rows of the analysed samples.  ``named``: says whether dosages are read, and where
    packed copies are kept.  ``standardize``: "sample" or "binomial", which SD counts are divided by.  ``kept_samples``:
    bool, None when all are kept.  A filter reads the genotypes once, by blocks.  ``reader``: by default this process.
    """
    reader = reader or ReadHere()
    counts, notes, kept, rows = [], [], None, sources.rows
    if filters.mind is not None:
        missing = sum(reader.counts(io.count_missing, list(zip(sources.files, indices, rows, strict=True))))
        selection = io.select_samples(missing, sum(map(len, rows)), filters.mind)
        counts += selection.counts
        if not selection.mask.all():
            kept = selection.mask
            indices = [index[kept] for index in indices]
    by_calls = io.GenotypeFilters(filters.geno, filters.hwe, filters.maf, filters.max_maf)
    variants = sources.variants
    if by_calls != io.GenotypeFilters():
        selection = by_genotype(sources, indices, by_calls, named.dosage, reader)
        counts += selection.counts
        notes += selection.notes
        edges = np.cumsum([0, *map(len, rows)])
        rows = tuple(r[selection.mask[a:b]] for r, (a, b) in zip(rows, pairwise(edges), strict=True))
        table = variants.table[selection.mask].reset_index(drop=True)
        variants = replace(variants, table=table, rows=variants.rows[selection.mask])
    genotypes = reader.genotypes(list(zip(sources.files, indices, rows, strict=True)), named, standardize)
    notes += reader.notes
    if filters.xchr_model == 1:
        genotypes, told = haploid(genotypes, variants, sources.files, indices, standardize)
        notes += told
    return Loaded(genotypes, variants, kept, tuple(counts), tuple(notes))


def haploid(
    genotypes: ops.PackedGenotypes,
    variants: io.AnalysedVariants,
    files: Sequence,
    indices: Sequence[np.ndarray],
    standardize: str,
) -> tuple[ops.PackedGenotypes, list[str]]:
    """Genotypes with males counted 0 or 1 on X outside its pseudo-autosomal regions, and what is said of them."""
    rows = np.flatnonzero(io.haploid_in_males(variants.table))
    if not len(rows):
        return genotypes, ["--xchr-model 1: no analysed variant is on X outside its pseudo-autosomal regions"]
    if not isinstance(genotypes, ops.PackedGenotypes) or genotypes.bits != ops.CALL_BITS:
        raise io.InputError("--xchr-model 1: is for calls in one process; leave --dosage and workers out")
    males = io.read_males(files[0].paths[2])[indices[0]]
    found = ops.with_haploid_males(genotypes, rows, males)
    lost = int((genotypes.num_called - found.num_called)[rows].sum())
    told = f"{len(rows)} variants of X: {int(males.sum())} males of {len(males)} samples are counted 0 or 1"
    if lost:
        told += f", and {lost} heterozygous calls of males are missing"
    scaled = ops.with_binomial_sd(found) if standardize == "binomial" else found
    return scaled, [f"{told} (the frequencies that are reported there are half the mean count)"]


def by_genotype(
    sources: Sources, indices: Sequence[np.ndarray], filters: io.GenotypeFilters, dosage: bool, reader: Reader
) -> io.Selection:
    """Variants of all files that pass the filters; allele frequencies are those of dosages where they are analysed."""
    each = list(zip(sources.files, indices, sources.rows, strict=True))
    codes = np.concatenate(reader.counts(io.count_calls, each))
    frequency = np.concatenate(reader.counts(io.dosage_freq, each)) if dosage else None
    return io.select_by_genotype(codes, filters, sources.variants.table["chrom"], frequency)
