"""Variance components from the command line: builders that may be combined, in the order they are listed here."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from gpu_reml import io, ops
from gpu_reml.ops.chromosomes import chromosome_names

from .flags.components import Components
from .sources import Sources


def fixed_sets(sources: Sources, variants: io.AnalysedVariants, asked: Components) -> list[io.ComponentSet]:
    """Components that do not depend on genotypes."""
    sets = []
    for path in asked.component_spec:
        specs = io.read_component_spec(path, variants.num_source)
        sets.append(io.components_from_specs(specs, variants))
    if asked.vc_block_sizes:
        sets.append(io.components_from_specs(block_specs(asked.vc_block_sizes, variants.num_source), variants))
    if asked.snp_lists:
        sets.append(io.components_from_lists(asked.snp_lists, variants))
    sets += [io.components_from_table(path, variants) for path in asked.component_table]
    if asked.annot:
        paths = [path for pattern in asked.annot for path in io.annotation_files(pattern)]
        sets.append(io.components_from_annotations(paths, variants))
    if asked.intervals:
        sets.append(io.components_from_intervals(asked.intervals, variants))
    if asked.by_chromosome:
        sets.append(io.components_by_chromosome(variants, chromosomes_of(asked.by_chromosome)))
    if not asked.given:
        sets.append(default_set(sources, variants))
    return sets


def chromosomes_of(named: str) -> tuple[str, ...] | None:
    """Those that ``--by-chromosome`` names; None for all."""
    return None if named == "all" else tuple(name.strip() for name in named.split(","))


def default_set(sources: Sources, variants: io.AnalysedVariants) -> io.ComponentSet:
    """A component for every file, or one for the whole genome in pieces."""
    specs = io.components_from_prefixes(sources.files)
    if sources.genome:
        specs = [io.ComponentSpec("genome", np.arange(variants.num_source))]
    return io.components_from_specs(specs, variants)


def block_specs(sizes: Sequence[int], num_variants: int) -> list[io.ComponentSpec]:
    """Contiguous blocks of the unfiltered variants, whose sizes add up to all of them."""
    if min(sizes) < 1 or sum(sizes) != num_variants:
        raise io.InputError(
            f"--vc-block-sizes: expected positive sizes that add up to the {num_variants} variants, found "
            f"{','.join(map(str, sizes))} ({sum(sizes)})"
        )
    edges = np.cumsum([0, *sizes])
    return [io.ComponentSpec(f"block_{g:03d}", np.arange(edges[g], edges[g + 1])) for g in range(len(sizes))]


def genotype_sets(genotypes: ops.PackedGenotypes, variants: io.AnalysedVariants, asked: Components):
    """Components by allele frequency and LD of the analysed samples."""
    bins = None
    if asked.maf_bins:
        bins = io.components_by_maf(io.minor_allele_frequencies(genotypes), asked.maf_bins)
    if asked.ld_bins:
        notes, table = (), variants.table
        if asked.ld_scores:
            scores, notes = io.read_ld_scores(asked.ld_scores, variants)
        else:
            scores = ops.ld_scores(genotypes, table["chrom"].to_numpy(), table["bp"].to_numpy())
        bins = io.components_by_ld(scores, asked.ld_bins, bins, unscored(genotypes, table, asked.ld_scores))
        bins = io.ComponentSet(bins.names, bins.weights, (*bins.notes, *notes))
    return [] if bins is None else [bins]


def unscored(genotypes: ops.PackedGenotypes, table: pd.DataFrame, path: str | None) -> np.ndarray:
    """(m,) why a variant would have no LD score, computed or of the file."""
    unplaced = (table["bp"].to_numpy() <= 0) | (chromosome_names(table["chrom"]) == "0")
    lacking = f"have no score in {path}" if path else "have none"
    known = [genotypes.inv_sd <= 0, unplaced & (path is None)]
    return np.select(known, ["do not vary", "have no position (chromosome 0, or bp of 0 or below)"], lacking)


def expected_components(sources: Sources, asked: Components) -> tuple[int, int]:
    """(components, weights stored) as far as they are known before genotypes are read: what a plan is made for."""
    variants = sources.variants
    sets = fixed_sets(sources, variants, asked)
    count, stored = sum(s.num_components for s in sets), sum(s.weights.nnz for s in sets)
    if asked.maf_bins or asked.ld_bins:
        bins = len(asked.maf_bins) + 1 if asked.maf_bins else 1
        count, stored = count + bins * max(1, asked.ld_bins or 1), stored + variants.num_variants
    return count + (asked.uncovered == io.BACKGROUND), stored


def components(
    sources: Sources, genotypes: ops.PackedGenotypes, variants: io.AnalysedVariants, asked: Components
) -> io.ComponentSet:
    """All components of an analysis."""
    sets = [*fixed_sets(sources, variants, asked), *genotype_sets(genotypes, variants, asked)]
    joined = io.join_components(sets)
    return io.complete_components(joined, asked.uncovered, genotypes.inv_sd > 0, asked.empty_components)


def with_alpha(weights: sparse.csr_array, genotypes: ops.PackedGenotypes, alpha: float | None) -> sparse.csr_array:
    """Weights of the alpha model: those of the components times [2p(1-p)]^(1 + alpha); None leaves them."""
    if alpha is None:
        return weights
    return sparse.csr_array(sparse.diags_array(ops.alpha_weights(genotypes, alpha)) @ weights)
