"""``--method he`` by parts: each job sums the images of a few vectors over its variants, and another adds them up.

K_g z is a sum over variants, and Haseman-Elston regression asks for no more of K_g than the images of fixed effects,
phenotypes and probes.  Sums are made in a tree over shards that the variants fix, so no bit depends on the parts.
"""

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml import io, ops
from gpu_reml.io.documents import digest
from gpu_reml.io.parts import part_path, parts_of_run, read_part, write_part
from gpu_reml.ops.cluster.shards import Node, nodes_of_owners, shard_edges, summed, summed_nodes
from gpu_reml.ops.ld import take_rows
from gpu_reml.reml import draw_probes, haseman_elston
from gpu_reml.reml.covariance.known_images import KnownImages

from .align import Group, design_of
from .components import fixed_sets, with_alpha
from .flags.analysis import Analysis
from .flags.estimation import HE_PROBES
from .flags.model import Terms
from .flags.parts import ByParts
from .flags.smile import Smile
from .outputs import trait_prefix
from .read import Tables
from .report import hsq_text
from .sources import load
from .wording import counts_in_flags

COLUMNS = 64  # vectors whose images are made at once
SHARDS = 64  # that the variants are summed in, whatever the number of parts


@dataclass(frozen=True)
class Sums:
    """What variants contribute: ``images`` (G, n, q) of vectors, not divided by c_g, ``traces``, sums of ``weights``
    and ``counts`` of variants (G,)."""

    images: np.ndarray
    traces: np.ndarray
    weights: np.ndarray
    counts: np.ndarray

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) + getattr(other, name) for name in SUMMED))


SUMMED = ("images", "traces", "weights", "counts")


class PartNumber(NamedTuple):
    """Part ``number`` of ``of``."""

    number: int
    of: int


def part_of(text: str) -> PartNumber:
    """``I/N`` as numbers; raises InputError."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise io.InputError(f"--part {text}: expected I/N, as 3/16, with I from 1 to N")
    return PartNumber(*map(int, parts))


def check_parts(asked: ByParts, analysis: Analysis, beside: bool) -> None:
    """Raises InputError for what parts cannot do; ``beside``: whether more than estimates is asked for."""
    flag = "--part" if asked.part else "--merge-parts"
    if analysis.estimation.method != "he":
        raise io.InputError(f"{flag}: only the moments of --method he are sums over variants; give it")
    components = analysis.components
    given = {
        "--maf-bins, --ld-bins (--component-table takes bins that are made once)": components.maf_bins
        or components.ld_bins,
        "--mind (--remove takes a list of samples)": analysis.filters.mind is not None,
        "SMILE": analysis.smile != Smile(),
        "models of more than sets of variants": analysis.terms != Terms(),
        "--workers, --scheduler": analysis.workers.wanted,
        "--device cuda": analysis.compute.named_device == "cuda",
        "effects, scans, merging, --fit-alpha and --make-grm": beside,
    }
    refused = [what for what, is_given in given.items() if is_given]
    if refused:
        raise io.InputError(f"{flag}: cannot be used with {', '.join(refused)}; leave it out")


class PartsPlan(NamedTuple):
    """What every part has in common."""

    vectors: np.ndarray
    weights: sparse.csr_array
    names: tuple[str, ...]
    edges: np.ndarray
    num_probes: int
    identity: dict[str, Any]

    @property
    def whole(self) -> Node:
        return Node(0, len(self.edges) - 1)


def common_plan(tables: Tables, group: Group, analysis: Analysis) -> PartsPlan:
    """Vectors, components and shards of the variants that filters by metadata leave."""
    sources, estimation, n = tables.sources, analysis.estimation, group.alignment.num_samples
    design = design_of(tables, group)
    probes = draw_probes(n, min(HE_PROBES, estimation.max_probes), 0, estimation.seed).trace
    centres = np.array([float(f"{mean:.3g}") for mean in design.X.mean(axis=0)]) * (np.ptp(design.X, axis=0) > 0)
    vectors = np.concatenate([design.X - centres, group.Y, probes], axis=1)
    variants = sources.variants
    made = io.join_components(fixed_sets(sources, variants, analysis.components))
    every = np.ones(variants.num_variants, bool)
    made = io.complete_components(made, analysis.components.uncovered, every, analysis.components.empty_components)
    m = variants.num_variants
    edges = shard_edges(m, min(m, SHARDS))
    people = [np.array(list(group.alignment.samples[key])) for key in ("fid", "iid")]
    weights = sparse.csr_array(made.weights)
    identity = {
        "phenotypes": digest(group.Y),
        "covariates": digest(design.X),
        "samples": digest(*people),
        "genotypes": io.digest_of_files(sources.paths)[:16],
        "components": digest(np.array(made.names), weights.indptr, weights.indices, weights.data, variants.rows),
        "filters": repr((analysis.filters.geno, analysis.filters.hwe, analysis.filters.maf, analysis.filters.max_maf)),
        "--seed": estimation.seed,
        "--max-probes": min(HE_PROBES, estimation.max_probes),
        "--standardize": analysis.scaling.standardize,
        "--alpha": analysis.scaling.alpha,
        "--dosage": analysis.genotypes.dosage,
        "--dtype": analysis.compute.dtype,
        "version": version("gpu-reml"),
    }
    return PartsPlan(vectors, weights, made.names, edges, probes.shape[1], identity)


def write_own_part(
    share: PartNumber, plan: PartsPlan, tables: Tables, group: Group, analysis: Analysis, out: str
) -> list[str]:
    """Read a share of the variants and write what it contributes; lines to print."""
    S = len(plan.whole)
    if share.of > S:
        raise io.InputError(f"--part: {S} parts at most, as the variants are summed in {S} shards; found {share.of}")
    owners = [shard * share.of // S for shard in range(S)]
    nodes = [node for node in nodes_of_owners(owners, plan.whole) if owners[node.first] == share.number - 1]
    sources, edges = tables.sources, plan.edges
    first, last = int(edges[nodes[0].first]), int(edges[nodes[-1].last])
    starts = np.cumsum([0, *map(len, sources.rows)])
    rows = tuple(own[max(first - a, 0) : max(last - a, 0)] for own, a in zip(sources.rows, starts, strict=False))
    indices = group.alignment.indices[: len(sources.files)]
    own = replace(sources, rows=rows)
    loaded = load(own, indices, analysis.filters, analysis.genotypes, analysis.scaling.standardize)
    places = np.searchsorted(sources.variants.rows, loaded.variants.rows)  # among those that filters by metadata leave
    weights = with_alpha(plan.weights[places], loaded.genotypes, analysis.scaling.alpha)
    cuts = np.searchsorted(places, edges)
    dtype = np.dtype(analysis.compute.dtype).type

    def leaf(shard: int) -> Sums:
        inside = slice(int(cuts[shard]), int(cuts[shard + 1]))
        return sums_of(take_rows(loaded.genotypes, inside), weights[inside], plan.vectors, dtype)

    found = {node: summed(map(leaf, range(node.first, node.last)), node) for node in nodes}
    path = part_path(out, *share)
    arrays = {f"{name}_{i}": getattr(each, name) for i, each in enumerate(found.values()) for name in SUMMED}
    write_part(path, plan.identity, {"nodes": [list(node) for node in found], "filters": loaded.counts}, arrays)
    size = path.stat().st_size / 2**20
    return [
        *(f"{text}: {number} removed" for text, number in counts_in_flags(loaded.counts)),
        f"part {share.number} of {share.of}: {len(places)} of {int(edges[-1])} variants, {len(plan.vectors.T)} vectors",
        f"written: {path} ({size:,.1f} MiB)",
    ]


def sums_of(genotypes: ops.PackedGenotypes, weights: sparse.csr_array, vectors: np.ndarray, dtype: type) -> Sums:
    """What some variants contribute."""
    varies = sparse.diags_array((genotypes.inv_sd > 0).astype(np.float64))
    weights = sparse.csr_array(varies @ weights)
    weights.eliminate_zeros()
    G, (n, q) = weights.shape[1], vectors.shape
    images = np.zeros((G, n, q), dtype)
    if weights.nnz:
        products = ops.make_products(genotypes, "cpu", dtype)
        for first in range(0, q, COLUMNS):
            some = slice(first, first + COLUMNS)
            images[:, :, some] = products.grouped(products.zt(products.block(vectors[:, some])), weights)
    return Sums(
        images,
        weights.T @ genotypes.squared_norm,
        np.asarray(weights.sum(axis=0), np.float64).reshape(-1),
        np.diff(weights.tocsc().indptr).astype(np.int64),
    )


def merged(plan: PartsPlan, group: Group, X: np.ndarray, out: str) -> tuple[list[Any], np.ndarray, int]:
    """(results of every phenotype, variants of every component, parts) from the files of all parts."""
    parts, paths = {}, parts_of_run(out)
    for path in paths:
        head, arrays = read_part(path, plan.identity)
        for i, node in enumerate(head["nodes"]):
            parts[Node(*node)] = Sums(*(arrays[f"{name}_{i}"] for name in SUMMED))
    total = summed_nodes(parts, plan.whole)
    empty = [name for name, weight in zip(plan.names, total.weights, strict=True) if not weight > 0]
    if empty:
        raise io.InputError(f"component {empty[0]}: none of its variants varies among the samples; leave it out")
    scale = 1 / total.weights
    images = total.images * scale[:, None, None]
    covariance = KnownImages(plan.names, plan.vectors, images, total.traces * scale)
    probes = draw_probes(len(X), plan.num_probes, 0, plan.identity["--seed"])
    return [haseman_elston(y, X, covariance, probes) for y in group.Y.T], total.counts, len(paths)


class PartsRun(NamedTuple):
    """Where files go, all flags, and when the run started."""

    out: str
    settings: dict[str, Any]
    started: float


def parts_command(asked: ByParts, tables: Tables, groups: list[Group], analysis: Analysis, run: PartsRun) -> bool:
    """``--part`` or ``--merge-parts``."""
    if len(groups) > 1:
        raise io.InputError("--part, --merge-parts: the phenotypes have different samples; name one phenotype")
    (group,), out = groups, run.out
    plan = common_plan(tables, group, analysis)
    if asked.part:
        print("\n".join(write_own_part(part_of(asked.part), plan, tables, group, analysis, out)), flush=True)
        return True
    X = design_of(tables, group).X
    results, counts, parts = merged(plan, group, X, out)
    for name, result in zip(group.phenotypes, results, strict=True):
        prefix = trait_prefix(out, name, len(results) > 1)
        record = result.to_dict()
        for component, count in zip(record["components"], counts.tolist(), strict=True):
            component["num_variants"] = count
        record.update(
            phenotype=name,
            parts=parts,
            samples={"analysed": group.alignment.num_samples, "dropped": group.alignment.dropped_counts},
            settings=run.settings,
            seed=analysis.estimation.seed,
            version=version("gpu-reml"),
            seconds=time.perf_counter() - run.started,
        )
        lines = [f"phenotype {name}, from {parts} parts", result.summary()]
        texts = {"json": io.json_text(record), "hsq": hsq_text(result, []), "log": "\n".join(lines) + "\n"}
        io.write_all({f"{prefix}.{suffix}": text for suffix, text in texts.items()})
        print("\n".join([*lines, f"written: {prefix}{{.json,.hsq,.log}}"]), flush=True)
    return True
