"""Components of any kind as one value, weights in variant space, and the builders that need no file of their own.

A builder takes the analysed variants and gives a :class:`ComponentSet`; sets are put side by side by
:func:`join_components` and made ready for a fit by :func:`complete_components`:

    variants = AnalysedVariants.of(bed.variants, mask)       # mask: the variants that filters leave, None for all
    components_from_specs(read_component_spec(path, variants.num_source), variants)
    components_from_lists(paths, variants)                   # files of ids, one component each
    components_from_table(path, variants)                    # variant_id component [weight]
    components_from_annotations(annotation_files(path), variants)      # LDSC's .annot(.gz), thin or not; @: chromosome
    components_from_intervals(paths, variants, by="name")    # BED intervals; by="file" for one a file
    components_by_chromosome(variants)
    components_by_maf(minor_allele_frequencies(genotypes), edges=[0.01, 0.05])
    components_by_ld(scores, num_bins=4, within=maf_bins)    # GREML-LDMS; scores of ops.ld_scores or read_ld_scores
    complete_components(join_components(sets), uncovered="drop" or "background", varies=genotypes.inv_sd > 0)

The weights and names of the last are what :func:`~gpu_reml.ops.make_covariance` takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, pairwise
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from ..ops.chromosomes import chromosome_name, linkage_groups
from ..ops.genotypes import PackedGenotypes
from .components import ComponentSpec, check_names, reindex
from .errors import InputError
from .ids import first_words

DEPENDENT = 1e-10  # a smaller eigenvalue of the normalised products of weights, over the largest, is rounding
BACKGROUND = "background"
NUM_EXAMPLES = 5


@dataclass(frozen=True)
class AnalysedVariants:
    """The variants that filters left, and where they are in the genotype files.

    ``table``: chrom, id, cm, bp, a1, a2, one row each.  ``rows``: (m,) int64, their rows in the unfiltered files, which
    have ``num_source`` variants one file after another.  ``spellings``: of all chromosomes of those files, which say
    whether the species is human.
    """

    table: pd.DataFrame
    rows: np.ndarray
    num_source: int
    spellings: tuple[str, ...] = ()

    @classmethod
    def of(cls, variants: pd.DataFrame, mask: np.ndarray | None = None) -> "AnalysedVariants":
        """The variants of an unfiltered table where ``mask`` (num_source,) is True; None is all."""
        rows = np.arange(len(variants)) if mask is None else np.flatnonzero(mask)
        table = variants.iloc[rows].reset_index(drop=True)
        return cls(table, rows, len(variants), tuple(variants["chrom"].unique()))

    @property
    def linkage_groups(self) -> np.ndarray:
        """(m,) object: the chromosome of each variant (:func:`~gpu_reml.ops.chromosomes.linkage_groups`)."""
        return linkage_groups(self.table["chrom"], self.spellings)

    @property
    def num_variants(self) -> int:
        return len(self.table)

    @cached_property
    def _ids(self) -> tuple[pd.Index, np.ndarray, pd.Index]:
        """Different ids, the first row of each, and the ids of several variants."""
        ids = self.table["id"]
        first = np.flatnonzero(~ids.duplicated())
        return pd.Index(ids.iloc[first]), first, pd.Index(ids[ids.duplicated()].unique())

    def locate(self, ids: Sequence[str] | pd.Series, where: Callable[[int], str]) -> np.ndarray:
        """(k,) int64: the row in ``table`` of each id, -1 for a variant that is not analysed.

        ``where(i)`` begins the message about the i-th id.  Raises InputError for an id of several variants.
        """
        ids = pd.Index(ids)
        different, first, ambiguous = self._ids
        unclear = ids.isin(ambiguous)
        if unclear.any():
            i = int(np.argmax(unclear))
            count = int((self.table["id"] == ids[i]).sum())
            raise InputError(
                f"{where(i)}: the id {ids[i]} belongs to {count} analysed variants; give each an id of its own, "
                "as with plink2 --set-all-var-ids"
            )
        found = different.get_indexer(ids)
        return np.where(found >= 0, first[found], -1) if len(first) else np.full(len(ids), -1)


@dataclass(frozen=True)
class ComponentSet:
    """G components over the m analysed variants.

    ``weights``: (m, G) csr float64, positive where stored, divided by nothing.  ``notes``: what was noticed.
    """

    names: tuple[str, ...]
    weights: sparse.csr_array
    notes: tuple[str, ...] = ()

    @property
    def num_components(self) -> int:
        return len(self.names)

    @property
    def num_covered(self) -> np.ndarray:
        """(G,) variants of every component."""
        return np.bincount(self.weights.indices, minlength=self.num_components)


def component_set(
    names: Sequence[str],
    rows: np.ndarray,
    columns: np.ndarray,
    num_variants: int,
    values: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> ComponentSet:
    """Components from entries: variant ``rows`` in component ``columns`` with weight ``values`` (None is 1)."""
    values = np.ones(len(rows)) if values is None else values
    weights = sparse.csr_array((values, (rows, columns)), shape=(num_variants, len(names)), dtype=np.float64)
    weights.eliminate_zeros()
    return ComponentSet(tuple(names), weights, tuple(notes))


def join_components(sets: Sequence[ComponentSet]) -> ComponentSet:
    """The components of several sets side by side, in order; InputError where a name is in two sets."""
    names = [name for components in sets for name in components.names]
    check_names("components", names)
    weights = sparse.csr_array(sparse.hstack([components.weights for components in sets], format="csr"))
    return ComponentSet(tuple(names), weights, tuple(note for components in sets for note in components.notes))


def complete_components(
    components: ComponentSet,
    uncovered: Literal["drop", "background"] = "drop",
    varies: np.ndarray | None = None,
    empty: Literal["error", "drop"] = "error",
) -> ComponentSet:
    """Components ready for a fit: none is empty, and the variants that are in none are dealt with and counted.

    uncovered: "drop" leaves them out of the model; "background" puts them, weight 1, in a last component of that name.
    varies (m,): only these variants count, as only they carry weight in a covariance (None: all).  empty: whether a
    component without variants is an error or left out with a note.

    Raises:
        InputError: an empty component (or nothing but), or a component that is called background already.
    """
    for name, value, choices in (("uncovered", uncovered, ("drop", BACKGROUND)), ("empty", empty, ("error", "drop"))):
        if value not in choices:
            raise InputError(f"{name}: expected {' or '.join(choices)}, found {value!r}")
    varies = np.ones(components.weights.shape[0], bool) if varies is None else np.asarray(varies, bool)
    kept = without_empty(components, varies, empty)
    bare = varies & (np.diff(kept.weights.indptr) == 0)
    count, total = int(bare.sum()), int(varies.sum())
    if not count:
        return kept
    if uncovered == "drop":
        note = (
            f"{count} of {total} variants are in no component and left out (`uncovered` background keeps them as one)"
        )
        return replace(kept, notes=(*kept.notes, note))
    rows = np.flatnonzero(bare)
    rest = component_set([BACKGROUND], rows, np.zeros(count, np.int64), len(bare))
    note = f"{count} of {total} variants are in no other component and form {BACKGROUND}"
    joined = join_components([kept, rest])
    return replace(joined, notes=(*joined.notes, note))


def without_empty(components: ComponentSet, varies: np.ndarray, empty: Literal["error", "drop"]) -> ComponentSet:
    """The components that have a variant that varies; the others are an error, or left out with a note."""
    held = components.weights[varies]
    counts = np.bincount(held.indices, minlength=components.num_components)
    absent = [name for name, count in zip(components.names, counts, strict=True) if not count]
    if not absent:
        return components
    listed = ", ".join(absent[:NUM_EXAMPLES]) + (", ..." if len(absent) > NUM_EXAMPLES else "")
    if empty == "error" or len(absent) == components.num_components:
        raise InputError(
            f"{len(absent)} component(s) have none of the {held.shape[0]} analysed variants that vary: {listed}; "
            "remove them or loosen the variant filters"
        )
    columns = np.flatnonzero(counts)
    names = tuple(components.names[g] for g in columns)
    note = f"{len(absent)} component(s) without variants left out: {listed}"
    return ComponentSet(names, sparse.csr_array(components.weights[:, columns]), (*components.notes, note))


def check_independent(components: ComponentSet, varies: np.ndarray) -> None:
    """Raises InputError where the weights of a component are a combination of those of others.  No estimator can then
    tell its variance from theirs.  Variants that are divided twice, by chromosome and by frequency, are such a case.
    varies (m,): the variants that count.  Cost: the products of the weights, (G, G).
    """
    held = components.weights[np.asarray(varies, bool)].tocsc()
    size = np.sqrt(held.power(2).sum(axis=0))
    inner = (held.T @ held).toarray() / np.outer(size, size)
    values, vectors = np.linalg.eigh(inner)
    dependent = np.flatnonzero(values <= DEPENDENT * values[-1])
    if not len(dependent):
        return
    involved = np.flatnonzero((np.abs(vectors[:, dependent]) > np.sqrt(DEPENDENT)).any(axis=1))
    named = [components.names[g] for g in involved]
    listed = ", ".join(named[:NUM_EXAMPLES]) + (f" and {len(named) - NUM_EXAMPLES} more" * (len(named) > NUM_EXAMPLES))
    raise InputError(
        f"components {listed}: the weights of one follow from those of the others (as where all variants are divided "
        f"in two ways), so no fit can tell their variances apart; leave out {len(dependent)} of them, or one way of "
        "dividing"
    )


def components_from_specs(specs: Sequence[ComponentSpec], variants: AnalysedVariants) -> ComponentSet:
    """Components of :func:`~gpu_reml.io.read_component_spec` or of filesets, by row or id of the unfiltered files.

    Variants that are not analysed leave their component; ``notes`` counts them.
    """
    rows, values, notes = [], [], []
    for spec in specs:
        where = f"component {spec.name}"
        kept = reindex(spec, variants.rows)
        found, weights = kept.indices, kept.weights
        if spec.ids is not None:
            located = variants.locate(spec.ids, lambda _, where=where: where)
            found = located[located >= 0]
            weights = None if spec.weights is None else spec.weights[located >= 0]
        rows.append(found)
        values.append(np.ones(len(found)) if weights is None else weights)
        lacking = spec.num_variants - len(found)
        if lacking:
            shown = "" if spec.ids is None else f" ({first_words(compress(spec.ids, located < 0))})"
            notes.append(f"{where}: {lacking} of {spec.num_variants} variants are not analysed{shown}")
    columns = np.repeat(np.arange(len(specs)), [len(found) for found in rows])
    names = [spec.name for spec in specs]
    return component_set(names, np.concatenate(rows), columns, variants.num_variants, np.concatenate(values), notes)


def components_by_chromosome(variants: AnalysedVariants, only: Sequence[str] | None = None) -> ComponentSet:
    """One component for each chromosome, called chr1, chrX, ... in the order of their first variants; ``only`` for
    these, and one, chr_others, for all others.

    However they are spelt; the pseudo-autosomal regions belong to X.

    Raises:
        InputError: a chromosome that no variant is on, of those in ``only``.
    """
    groups = variants.linkage_groups
    if only is not None:
        wanted = [chromosome_name(name) for name in only]
        absent = [name for name in wanted if name not in set(groups)]
        if absent:
            raise InputError(f"chromosome(s) {', '.join(absent)}: no analysed variant is on it; name others")
        groups = np.where(np.isin(groups.astype(str), wanted), groups, "_others")
    codes, chromosomes = pd.factorize(groups)
    names = [f"chr{name}" for name in chromosomes]
    check_names("chromosomes", names)
    return component_set(names, np.arange(len(codes)), codes, variants.num_variants)


def minor_allele_frequencies(genotypes: PackedGenotypes) -> np.ndarray:
    """(m,) frequency of the rarer allele among the analysed samples; NaN for a variant that does not vary."""
    frequency = genotypes.mean / 2
    return np.where(genotypes.inv_sd > 0, np.minimum(frequency, 1 - frequency), np.nan)


def components_by_maf(maf: np.ndarray, edges: Sequence[float]) -> ComponentSet:
    """Bins of minor allele frequency: with ``edges`` 0.01, 0.05 below 0.01, from 0.01 to below 0.05, and from 0.05.

    maf (m,), NaN for a variant in no bin.  Names are maf_0_0.01, maf_0.01_0.05, maf_0.05_0.5.  A bin without variants
    is left out with a note.  Raises InputError unless the edges rise within 0 and 0.5.
    """
    edges = [float(edge) for edge in edges]
    bounds = [0.0, *edges, 0.5]
    if not edges or not all(low < high for low, high in pairwise(bounds)):
        raise InputError(f"MAF bins: expected rising edges between 0 and 0.5, such as 0.01,0.05; found {edges}")
    names = [f"maf_{low:g}_{high:g}" for low, high in pairwise(bounds)]
    rows = np.flatnonzero(~np.isnan(maf))
    binned = component_set(names, rows, np.searchsorted(edges, maf[rows], side="right"), len(maf))
    return _with_excluded(without_empty(binned, np.ones(len(maf), bool), "drop"), len(maf) - len(rows), "MAF bin")


def components_by_ld(
    scores: np.ndarray, num_bins: int, within: ComponentSet | None = None, reasons: np.ndarray | None = None
) -> ComponentSet:
    """Quantile bins of an LD score, in each component of ``within`` (MAF bins: GREML-LDMS) or of all variants.

    scores (m,): of the variant itself, not a mean over a region (what Evans et al. call LDMS-I), NaN for a variant in
    no bin; ``reasons`` (m,) has why, in words that follow "they", for the notes.  Bin 1 has the lowest; equal scores
    share a bin.  Names are ld_1, .. or <component>.ld_1, ..  A bin without variants is left out with a note.
    Source: Yang et al. 2015, Nat. Genet. 47:1114; Evans et al. 2018, Nat. Genet. 50:737.
    """
    if num_bins < 2:
        raise InputError(f"LD bins: expected at least 2, found {num_bins}")
    m = len(scores)
    scored = ~np.isnan(scores)
    if within is None:
        within = component_set([""], np.arange(m), np.zeros(m, np.int64), m)
    names, rows, columns = [], [], []
    by_component = within.weights.tocsc()
    for g, name in enumerate(within.names):
        members = by_component.indices[by_component.indptr[g] : by_component.indptr[g + 1]]
        members = members[scored[members]]
        edges = np.quantile(scores[members], np.arange(1, num_bins) / num_bins) if len(members) else []
        rows.append(members)
        columns.append(g * num_bins + np.searchsorted(edges, scores[members], side="left"))
        names += [f"{name}.ld_{k + 1}" if name else f"ld_{k + 1}" for k in range(num_bins)]
    binned = component_set(names, np.concatenate(rows), np.concatenate(columns), m, notes=within.notes)
    why = None if reasons is None else reasons[~scored]
    return _with_excluded(without_empty(binned, np.ones(m, bool), "drop"), int((~scored).sum()), "LD bin", why)


def _with_excluded(components: ComponentSet, count: int, what: str, reasons: np.ndarray | None = None) -> ComponentSet:
    if not count:
        return components
    told = "they do not vary, or have no value"
    if reasons is not None:
        told = ", ".join(f"{number} {reason}" for reason, number in pd.Series(reasons).value_counts().items())
    return replace(components, notes=(*components.notes, f"{count} variants are in no {what}: {told}"))
