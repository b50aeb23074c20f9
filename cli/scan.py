"""``--scan``, ``--scan-windows``, ``--scan-genes``: tests of many sets of variants after a fit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from gpu_reml import figures, io, ops
from gpu_reml.io.component_sets import without_empty
from gpu_reml.reml import FitResult, ScanResult, ScanSettings, draw_probes, exact_fits, fit_traits, scan
from gpu_reml.reml.studies.scan import usual_rank
from gpu_reml.reml.studies.scan_refit import refit
from gpu_reml.reml.studies.scan_statistics import BATCH_NUMBERS

from .components import with_alpha
from .flags.analysis import Analysis
from .flags.scan import Scan
from .inputs import Inputs
from .pictures import drawn
from .planned import Planned, rooms

ANNOTATIONS = (".annot", ".annot.gz")
SHOWN = 5  # so many of the strongest sets are printed
LEVEL = 0.05
FORMS, LANCZOS = 8, 8  # matrices of replicates' forms held at once, and blocks of a solve


class Sets(NamedTuple):
    """Sets of variants as components, where each is (chrom, first and last bp; NA on several), and what was noted."""

    covariance: ops.GenotypeCovariance
    places: pd.DataFrame
    notes: tuple[str, ...]


class Scanned(NamedTuple):
    """``files``: suffix and content.  ``lines``: what to print."""

    files: dict[str, str]
    lines: list[str]


def check_scan(asked: Scan, analysis: Analysis) -> None:
    """Raises InputError for flags that contradict a scan, or lack one."""
    if not asked.wanted:
        if asked.scan_refit or asked.scan_step or asked.scan_flank:
            raise io.InputError(
                "--scan-refit, --scan-step, --scan-flank: there is nothing to scan; give --scan, --scan-genes or "
                "--scan-windows"
            )
        return
    named, terms = ", ".join(asked.given), analysis.terms
    if not analysis.genotypes.given:
        raise io.InputError(f"{named}: sets of variants need genotypes; give --bfile, --pfile or --bgen too")
    if analysis.estimation.by_moments:
        raise io.InputError(
            f"{named}: needs a REML fit, which --method {analysis.estimation.method} is not; use auto, exact or "
            "stochastic"
        )
    if not analysis.estimation.constrain:
        raise io.InputError(f"{named}: a scan starts from variances that are not negative; leave --no-constrain out")
    if asked.scan_step and not asked.scan_windows:
        raise io.InputError("--scan-step: is for --scan-windows; give both")
    if asked.scan_windows == 0 or asked.scan_step == 0:
        raise io.InputError("--scan-windows, --scan-step: expected more than 0 base pairs")
    residuals = terms.residual_weights or terms.residual_groups or terms.gxe_noise or terms.residual_by_ancestry
    if asked.scan_refit and residuals:
        raise io.InputError("--scan-refit: cannot be used with several residual variances; leave one out")


def read_sets(asked: Scan, variants: io.AnalysedVariants) -> io.ComponentSet:
    """All sets that are asked for, side by side."""
    sets = []
    if asked.scan_windows:
        sets.append(io.windows(variants, asked.scan_windows, asked.scan_step or asked.scan_windows))
    if asked.scan_genes:
        sets.append(io.gene_sets(asked.scan_genes, variants, asked.scan_flank))
    beds = [path for path in asked.scan if path.endswith(".bed")]
    if beds:
        sets.append(io.interval_sets(beds, variants, asked.scan_flank))
    for path in asked.scan:
        if path.endswith(ANNOTATIONS):
            sets.append(io.components_from_annotations(io.annotation_files(path), variants))
        elif Path(path).suffix in (".json", ".npz"):
            sets.append(io.components_from_specs(io.read_component_spec(path, variants.num_source), variants))
        elif path not in beds:
            sets.append(io.components_from_table(path, variants))
    return io.join_components(sets)


def scan_sets(asked: Scan, inputs: Inputs, analysis: Analysis) -> Sets | None:
    """The sets as components of the analysed variants, weighted by ``--alpha`` as those of the fit; None without."""
    if not asked.wanted:
        return None
    genotypes = inputs.products.genotypes
    made = without_empty(read_sets(asked, inputs.variants), genotypes.inv_sd > 0, "drop")
    weights = with_alpha(made.weights, genotypes, analysis.scaling.alpha)
    covariance = ops.make_covariance(inputs.products, weights, made.names)
    return Sets(covariance, places_of(covariance.weights, inputs.variants), made.notes)


def places_of(weights: sparse.csr_array, variants: io.AnalysedVariants) -> pd.DataFrame:
    """chrom, start and end of every set: its first and last variant, NA where they are on several chromosomes."""
    codes, groups = pd.factorize(variants.linkage_groups)
    bp, columns = variants.table["bp"].to_numpy(), weights.tocsc()
    starts = columns.indptr[:-1]

    def least(values: np.ndarray) -> np.ndarray:
        return np.minimum.reduceat(values[columns.indices], starts)

    first, last = least(codes), -least(-codes)
    one = first == last
    spans = {"start": least(bp), "end": -least(-bp)}
    places = pd.DataFrame({"chrom": np.where(one, np.asarray(groups, dtype=object)[first], None)})
    for name, values in spans.items():
        places[name] = pd.array(values, "Int64")
        places.loc[~one, name] = pd.NA
    return places


def scan_files(name: str, result: FitResult, inputs: Inputs, analysis: Analysis, asked: Scan, sets: Sets) -> Scanned:
    """.scan.tsv, .scan.svg where sets have a place, and the strongest sets; files by their suffix."""
    y, X, seed = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X, analysis.estimation.seed
    rank = usual_rank(len(y) - X.shape[1], asked.scan_replicates)
    probes = draw_probes(len(y), asked.scan_replicates, rank, seed + 1)
    settings = ScanSettings(columns=inputs.planned.columns)
    found = scan(result, y, X, inputs.covariance, sets.covariance, probes, settings)
    frame = found.to_frame()
    for position, column in enumerate(sets.places):
        frame.insert(1 + position, column, sets.places[column])
    if asked.scan_refit:
        strongest = np.argsort(-np.nan_to_num(found.log10p, nan=-1.0), kind="stable")[: asked.scan_refit]
        fit = refit_by(result, analysis, len(y))
        frame = refit(y, X, inputs.covariance, sets.covariance, strongest, fit=fit).beside(frame)
    files = {"scan.tsv": io.table_text(frame)}
    placed = frame["chrom"].notna().to_numpy()
    tests = int(np.count_nonzero(~np.isnan(found.z)))
    if placed.any() and tests:
        middle = (frame["start"] + frame["end"]).to_numpy(np.float64, na_value=np.nan)[placed] / 2
        threshold = -np.log10(LEVEL / tests)
        chrom = frame["chrom"].to_numpy(dtype=object)[placed]
        files |= drawn(
            "scan.svg", lambda: figures.manhattan(chrom, middle, found.log10p[placed], f"sets, {name}", threshold)
        )
    return Scanned(files, [*(f"note: {note}" for note in sets.notes), *scan_lines(found, frame)])


def refit_by(result: FitResult, analysis: Analysis, n: int) -> Callable:
    """The fit that made the result, for one more component."""
    if result.method == "exact":
        return exact_fits
    estimation = analysis.estimation
    return partial(fit_traits, probes=draw_probes(n, estimation.max_probes, 0, estimation.seed))


def scan_lines(found: ScanResult, frame: pd.DataFrame) -> list[str]:
    """How many sets were tested, and the strongest."""
    tested = frame[frame["p"].notna()].sort_values("log10p", ascending=False, kind="stable")
    level = LEVEL / max(len(tested), 1)
    low = int((frame["p_bonferroni"] <= LEVEL).sum())
    lines = [
        f"scan of {len(frame)} sets by {found.num_replicates} replicates of {found.steps} Lanczos steps: {low} with "
        f"p <= {level:.2g} (0.05 over {len(tested)} tests), {int((frame['p_fdr'] <= LEVEL).sum())} at a false "
        "discovery rate of 0.05"
    ]
    if len(tested) < len(frame):
        lines.append(f"{len(frame) - len(tested)} set(s) are not told from the fitted components and have no test")
    width = max([len(str(name)) for name in tested["set"].head(SHOWN)], default=0)
    for row in tested.head(SHOWN).itertuples():
        lines.append(
            f"  {row.set:<{width}}  variance {row.variance:.4g}  SE {row.variance_se:.2g}  z {row.z:.2f}  "
            f"p {10**-row.log10p:.3g}  Monte-Carlo error of log10 p {row.log10p_mc_se:.2f}"
            + along_step(row.reml_variance, row.reml_lrt)
        )
    return lines


def along_step(variance: float, lrt: float) -> str:
    """What the likelihood along the step says, nothing where it was not followed."""
    return "" if np.isnan(lrt) else f"  REML {variance:.3g}  likelihood ratio {lrt:.3g}"


def with_scan(planned: Planned, asked: Scan, analysis: Analysis) -> Planned:
    """The plan with what a scan holds beside the fit: replicates, their features, and forms of a few sets."""
    if not asked.wanted:
        return planned
    sizes, R = planned.sizes, asked.scan_replicates
    blocks = 4 * R * (LANCZOS * sizes.num_samples + sizes.num_variants)
    forms = 8 * R**2 * (sizes.num_components + 1) + FORMS * 8 * BATCH_NUMBERS
    if planned.device is not None:  # blocks are there
        blocks = 0
    sizes = sizes._replace(further=(*sizes.further, ("scan", blocks + forms)), scanned=R)
    device, room = rooms(sizes, planned.backend, analysis)
    return planned._replace(sizes=sizes, device=device, room=room)
