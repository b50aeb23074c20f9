"""The work of ``gpu-reml-gwas``: inputs as of gpu-reml, the scan, and its files."""

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io, ops
from gpu_reml.io.association import association_text, gzipped, marginal_table, mixed_table, places_of
from gpu_reml.io.plots import GENOME_WIDE, manhattan_svg, qq_svg
from gpu_reml.ops.chromosomes import linkage_groups
from gpu_reml.ops.loco import leave_out
from gpu_reml.reml import FitResult, FitSettings, ProbeSettings, draw_probes, fit_exact, fit_traits
from gpu_reml.reml.association import Scan, exact_scan, lambda_gc, ols_scan, per_allele
from gpu_reml.reml.loco import LocoScan, LocoSettings, loco_scan

from .inputs import Group, Inputs, Tables, load_group, plan_group, read_inputs
from .methods import choose_method, safe_name
from .reml import group_lines, planned_lines, write_samples
from .report import fixed_line

MODELS = {"ols": "marginal_ols_fwl", "loco": "mixed_leave_one_chromosome_out", "lmm": "mixed_whole_genome"}
APPROXIMATION = (
    "var(z'Py) = gamma z'Mz, one gamma for each chromosome and trait; the variance components are those of the null "
    "model, and what a variant explains is not taken out of them"
)
EXACT_BYTES = 1 << 33  # of the n x n matrices of --method exact
NOTHING = np.zeros(0, np.int64)


class Chromosomes(NamedTuple):
    """Names in order, X with its pseudo-autosomal regions; the variants left out of each one's K, and those tested with
    it."""

    names: tuple[str, ...]
    left_out: tuple[np.ndarray, ...]
    tested: tuple[np.ndarray, ...]


class Found(NamedTuple):
    """A scan with what a trait's metadata say of it; ``details``: one mapping for each trait."""

    scan: Scan
    details: tuple[dict[str, Any], ...]
    lines: tuple[str, ...]
    converged: bool


def gwas_command(options: Namespace, threads: int) -> bool:
    """Scan every group of traits and write their files; True when all solves and fits converged."""
    started = time.perf_counter()
    check_options(options)
    for path in (options.out, options.keep_out, options.dropped_out):
        if path:
            io.check_writable(path)
    tables, groups = read_inputs(options)
    tables = tables._replace(sources=replace(tables.sources, genome=True))
    several = sum(len(group.phenotypes) for group in groups) > 1
    if len(groups) > 1 and (options.keep_out or options.dropped_out):
        raise io.InputError("--keep-out, --dropped-out: the phenotypes have different samples; name one phenotype")
    say = print if not options.quiet else (lambda *_, **__: None)
    say("\n".join([f"gpu-reml-gwas {version('gpu-reml')}", *group_lines(groups)]), flush=True)
    converged = True
    for group in groups:
        converged &= scan_group(tables, group, options, {"threads": threads, "started": started, "several": several})
    return converged


def check_options(options: Namespace) -> None:
    """Raises InputError for flags that contradict each other."""
    if options.solver == "exact" and options.model == "ols":
        raise io.InputError("--method exact: ols is exact as it is; give --model loco or lmm with it")
    if options.loco_refit and (options.model != "loco" or options.solver == "exact"):
        raise io.InputError("--loco-refit: for --model loco --method score; exact fits every chromosome as it is")
    if options.model == "ols" and (options.calibration_variants or options.alpha is not None):
        raise io.InputError("--calibration-variants, --alpha: these are of mixed models; give --model loco or lmm")


def scan_group(tables: Tables, group: Group, options: Namespace, context: dict[str, Any]) -> bool:
    """One group of traits of the same samples: read, scan, write."""
    planned = plan_group(tables, group, options)
    if options.plan:
        print("\n".join(planned_lines(planned, options)), flush=True)
        return True
    inputs = load_group(tables, group, planned, options)
    if not options.quiet:
        print("\n".join(start_lines(inputs, options, context["threads"])), flush=True)
    if options.model == "ols":
        found = least_squares(inputs)
    elif options.solver == "exact":
        found = exactly(inputs, options)
    else:
        found = by_score(inputs, options, context["threads"])
    if found.lines and not options.quiet:
        print("\n".join(found.lines), flush=True)
    for i, name in enumerate(inputs.phenotypes):
        prefix = f"{options.out}.{safe_name(name)}" if context["several"] else options.out
        write_trait(prefix, i, found, tables, inputs, options, context)
    write_samples(inputs, options)
    return found.converged


def start_lines(inputs: Inputs, options: Namespace, threads: int) -> list[str]:
    """Who and what is tested, on what."""
    genotypes = inputs.products.genotypes
    varying, dropped = int((genotypes.inv_sd > 0).sum()), inputs.alignment.dropped_counts
    reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
    return [
        f"phenotype {', '.join(inputs.phenotypes)}: {inputs.alignment.num_samples} samples analysed"
        + (f", {sum(dropped.values())} dropped ({reasons})" if reasons else ""),
        f"variants: {genotypes.num_variants} read, {varying} vary; A1 counted; missing genotype = mean",
        *(f"{text}: {number} removed" for text, number in inputs.filtered),
        fixed_line(inputs.design.names),
        f"model {options.model}; device {inputs.covariance.backend}, {threads} thread(s), {options.dtype} products",
        *(f"note: {note}" for note in inputs.notes),
    ]


def least_squares(inputs: Inputs) -> Found:
    """``--model ols``."""
    scan = ols_scan(inputs.Y, inputs.design.X, inputs.products)
    return Found(scan, ({"dof": scan.dof},) * len(inputs.phenotypes), (), True)


def chromosomes_of(inputs: Inputs, model: str) -> Chromosomes:
    """The groups of a mixed model: every chromosome, however it is spelt, or one that leaves nothing out."""
    labels = linkage_groups(inputs.variants.table["chrom"])
    if model == "lmm":
        return Chromosomes(("all",), (NOTHING,), (np.arange(len(labels)),))
    names = tuple(dict.fromkeys(labels))
    rows = tuple(np.flatnonzero(labels == name) for name in names)
    return Chromosomes(names, rows, rows)


def kernel_weights(inputs: Inputs, options: Namespace) -> np.ndarray:
    """(m,) weights of K."""
    genotypes = inputs.products.genotypes
    alpha = -1.0 if options.alpha is None else options.alpha
    return ops.alpha_weights(genotypes, alpha)


def exactly(inputs: Inputs, options: Namespace) -> Found:
    """``--method exact``."""
    n = len(inputs.Y)
    if 3 * 8 * n**2 > EXACT_BYTES:
        raise io.InputError(f"--method exact: {n} samples need {24 * n**2 / 2**30:.0f} GiB; use --method score")
    groups = chromosomes_of(inputs, options.model)
    weights = kernel_weights(inputs, options)
    leave_out(inputs.products, weights, groups.left_out, groups.names)  # names a chromosome that leaves no K
    pairs = list(zip(groups.left_out, groups.tested, strict=True))
    found = exact_scan(inputs.Y, inputs.design.X, inputs.products.genotypes, pairs, weights)
    details = tuple(
        {"dof": found.scan.dof, "h2_by_chromosome": dict(zip(groups.names, found.h2[:, i], strict=True))}
        for i in range(len(inputs.phenotypes))
    )
    which = "h2 without each chromosome" if options.model == "loco" else "h2"
    lines = [
        f"{name}: {which} {', '.join(f'{value:.4f}' for value in found.h2[:, i])}"
        for i, name in enumerate(inputs.phenotypes)
    ]
    return Found(found.scan, details, tuple(lines), True)


def by_score(inputs: Inputs, options: Namespace, threads: int) -> Found:
    """Variance components, P y without each chromosome, calibration, scores."""
    groups = chromosomes_of(inputs, options.model)
    left = leave_out(inputs.products, kernel_weights(inputs, options), groups.left_out, groups.names)
    clock = time.perf_counter()
    fit = fitter(inputs, options, threads)
    fits = fit(inputs.covariance)
    seconds = {"fit_seconds": time.perf_counter() - clock}
    refits: list[list[FitResult]] = []
    if options.loco_refit:
        for c in range(len(groups.names)):
            refits.append(fit(ops.make_covariance(inputs.products, left.without(c)[:, None], ("genome",))))
    thetas = np.array([[one.theta for one in each] for each in refits or [fits] * len(groups.names)])
    clock = time.perf_counter()
    settings = LocoSettings(columns=inputs.planned.columns)
    if options.calibration_variants:
        settings = replace(settings, variants=options.calibration_variants, most=options.calibration_variants)
    rng = np.random.default_rng([options.seed, 1])  # apart from the probes' stream
    found = loco_scan(inputs.Y, inputs.design.X, left, groups.tested, thetas, rng, settings)
    seconds["scan_seconds"] = time.perf_counter() - clock
    details, lines = [], []
    for i, name in enumerate(inputs.phenotypes):
        details.append({**score_details(found, groups, i), "fit": fits[i].to_dict(), **seconds})
        if refits:
            details[i]["theta_by_chromosome"] = {
                name: each[i].theta for name, each in zip(groups.names, refits, strict=True)
            }
        gamma, se = found.calibration.gamma[:, i], found.calibration.se[:, i]
        lines.append(
            f"{name}: h2 {fits[i].h2.estimate[-1]:.4f} (SE {fits[i].h2.se[-1]:.4f}); gamma {gamma.min():.4g} to "
            f"{gamma.max():.4g} by chromosome, relative SE at most {(se / gamma).max():.2g}, from "
            f"{len(found.calibration.variants)} variants"
        )
    unsettled = [one.status.value for each in [fits, *refits] for one in each if not one.converged]
    if not found.converged:
        unsettled.append("a solve did not reach its tolerance; use --dtype float64")
    lines += [f"not converged: {text}" for text in dict.fromkeys(unsettled)]
    return Found(found.scan, tuple(details), tuple(lines), not unsettled)


def fitter(inputs: Inputs, options: Namespace, threads: int) -> Callable[[ops.GenotypeCovariance], list[FitResult]]:
    """What fits all traits with a covariance, by the method that gpu-reml takes for this cohort."""
    Y, X = inputs.Y, inputs.design.X
    settings = FitSettings(
        probes=ProbeSettings(
            min(options.first_probes, options.max_probes), options.mc_target, columns=inputs.planned.columns
        )
    )
    if choose_method(inputs, options, threads) == "exact":
        return lambda covariance: [fit_exact(y, X, covariance, settings, strict=False) for y in Y.T]
    probes = draw_probes(len(Y), inputs.planned.probes(options.max_probes), 0, options.seed)
    return lambda covariance: fit_traits(Y, X, covariance, probes, settings, strict=False)


def score_details(found: LocoScan, groups: Chromosomes, trait: int) -> dict[str, Any]:
    """What a score test rests on: approximation, calibration, solves."""
    calibration = found.calibration
    gamma, se = calibration.gamma[:, trait], calibration.se[:, trait]
    return {
        "approximation": APPROXIMATION,
        "calibration": {
            "num_variants": len(calibration.variants),
            "mean_ratio": calibration.ratios[:, trait].mean(),
            "sd_of_ratios": calibration.ratios[:, trait].std(ddof=1),
            "gamma_by_chromosome": dict(zip(groups.names, gamma, strict=True)),
            "se_by_chromosome": dict(zip(groups.names, se, strict=True)),
        },
        "solves": {
            "largest_residual": found.residuals[:, trait].max(),
            "most_iterations": int(found.iterations[:, trait].max()),
            "column_passes_of_all_traits": found.column_passes,
            "converged": found.converged,
        },
    }


def write_trait(
    prefix: str, trait: int, found: Found, tables: Tables, inputs: Inputs, options: Namespace, context: dict[str, Any]
) -> None:
    """Print what a trait's scan found and write its files."""
    files, variants = tables.sources.files, inputs.variants
    genotypes, scan = inputs.products.genotypes, found.scan
    log10p = scan.log10p[:, trait]
    names = [spec.name for spec in io.components_from_prefixes(files)]
    if options.model == "ols":
        places = places_of(variants, names, [file.num_variants for file in files])
        table, missing = marginal_table(variants, places, genotypes, ols_tests(scan, genotypes, trait)), "nan"
    else:
        table, missing = mixed_table(variants, genotypes, mixed_tests(scan, genotypes, trait), options.dosage), "NA"
    text = association_text(table, missing)
    inflation, name = lambda_gc(log10p), inputs.phenotypes[trait]
    texts: dict[str, str | bytes] = {}
    texts[f"{prefix}.gwas.tsv" + (".gz" if options.gz else "")] = gzipped(text) if options.gz else text
    if options.plots:
        title = f"{name}: {options.model}, lambda {inflation:.3f}"
        table = variants.table
        texts[f"{prefix}.manhattan.svg"] = manhattan_svg(linkage_groups(table["chrom"]), table["bp"], log10p, title)
        texts[f"{prefix}.qq.svg"] = qq_svg(log10p, title)
    components = [
        {"component_index": f, "name": names[f], "prefix": str(file.prefix), "num_variants": len(rows)}
        for f, (file, rows) in enumerate(zip(files, tables.sources.rows, strict=True))
    ]
    record = {
        "trait": name,
        **metadata(inputs, options, context),
        "components": components,
        "num_tested": int(np.isfinite(scan.beta[:, trait]).sum()),
        "lambda_gc": inflation,
        **found.details[trait],
        "files": list(texts),
    }
    texts[f"{prefix}.gwas_metadata.json"] = io.json_text(record)
    io.write_all(texts)
    print(summary_line(name, log10p, inflation, inputs))
    print(f"written: {prefix}{{{','.join(path.removeprefix(prefix) for path in texts)}}}", flush=True)


def ols_tests(scan: Scan, genotypes: ops.PackedGenotypes, trait: int) -> dict[str, np.ndarray]:
    """Columns of a least-squares scan."""
    beta, se = per_allele(scan.beta, genotypes.inv_sd), per_allele(scan.se, genotypes.inv_sd)
    columns = {"beta": beta, "se": se, "beta_std": scan.beta, "se_std": scan.se, "t": scan.statistic}
    return {name: values[:, trait] for name, values in {**columns, "log10p": scan.log10p}.items()}


def mixed_tests(scan: Scan, genotypes: ops.PackedGenotypes, trait: int) -> dict[str, np.ndarray]:
    """Columns of a mixed-model scan; ``chisq`` is (beta / se)^2, for the exact method an F on 1 and dof."""
    beta, se = per_allele(scan.beta, genotypes.inv_sd), per_allele(scan.se, genotypes.inv_sd)
    columns = {"beta": beta, "se": se, "chisq": scan.statistic**2, "log10p": scan.log10p}
    return {name: values[:, trait] for name, values in columns.items()}


def metadata(inputs: Inputs, options: Namespace, context: dict[str, Any]) -> dict[str, Any]:
    """What is the same for all traits of a group."""
    alignment, design = inputs.alignment, inputs.design
    return {
        "trait_type": "quantitative",
        "model": MODELS[options.model],
        "method": "ols" if options.model == "ols" else options.solver,
        "n": alignment.num_samples,
        "m": inputs.products.num_variants,
        "covariates": design.names,
        "rank": design.num_columns,
        "samples_dropped": alignment.dropped_counts,
        "filters": dict(inputs.filtered),
        "counted_allele": "A1",
        "missing_genotype": "mean",
        "p": "two-sided; log10p is -log10 p",
        "units": "beta and se in phenotype units per copy of A1",
        "backend": inputs.covariance.backend,
        "settings": {**vars(options), "threads": context["threads"]},
        "seed": options.seed,
        "notes": inputs.notes,
        "version": version("gpu-reml"),
        "seconds": time.perf_counter() - context["started"],
    }


def summary_line(name: str, log10p: np.ndarray, inflation: float, inputs: Inputs) -> str:
    """Tests, inflation, and the strongest association."""
    tests = int((~np.isnan(log10p)).sum())
    if not tests:
        return f"{name}: no variant could be tested"
    best = int(np.nanargmax(log10p))
    row = inputs.variants.table.iloc[best]
    hits = int((log10p >= GENOME_WIDE).sum())
    return (
        f"{name}: {tests} variants tested, lambda_GC {inflation:.4f}, {hits} with p <= 5e-8; strongest "
        f"{row['id']} ({row['chrom']}:{row['bp']}), -log10 p {log10p[best]:.2f}"
    )
