"""The work of ``gpu-reml-gwas``: inputs as of gpu-reml, the scan, and its files."""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from gpu_reml import figures, io, ops
from gpu_reml.figures import GENOME_WIDE
from gpu_reml.io.association import association_table, association_text, gzipped, marginal_table, places_of
from gpu_reml.ops.genotypes import item_type, items_per_row
from gpu_reml.reml import FitResult
from gpu_reml.reml.studies.association import Scan, lambda_gc, per_allele
from gpu_reml.reports.page import page_text
from gpu_reml.reports.records import TESTS

from .align import Group, design_of, gathered, group_lines, groups_of_samples
from .gwas_asked import Asked, check_asked, check_pages
from .gwas_kept import SHARED, journal_of, remove_journals
from .gwas_models import Found, choose_solver, exactly, fits_of_all, least_squares, scored
from .inputs import Inputs, load_group
from .methods import choose_method
from .outputs import (
    GWAS_FILES,
    check_outputs,
    log_text,
    named_outputs,
    outputs_of_traits,
    trait_prefix,
    write_samples,
)
from .parser import CommandLine
from .plan import backend_for
from .planned import Planned, check_group, plan_group, planned_lines
from .progress import under_way
from .provenance import provenance
from .read import Tables, read_tables
from .report import fixed_line
from .together import of_member, on_own_genotypes, planned_among, same_effects
from .unused import GWAS, Decided, noted, plan_notes
from .workers import check_workers, reader_of

MODELS = {"ols": "marginal_ols_fwl", "loco": "mixed_leave_one_chromosome_out", "lmm": "mixed_whole_genome"}
# A trait's columns and their text, which is encoded before it is written, take so many bytes a variant.
TABLE_BYTES = 500
READ_ONCE = (
    "the phenotypes have different samples: genotypes are read and filtered once, in the {n} samples that have any of "
    "them; each phenotype is tested among its own, whose allele frequencies are given"
)
TEST_BYTES = 64  # effects, errors, statistics and p-values take so many bytes a variant and trait


def gwas_command(line: CommandLine, threads: int) -> bool:
    """Scan every group of traits and write their files; True when all solves and fits converged."""
    started, asked = time.perf_counter(), Asked.of(line)
    analysis, output = asked.analysis, asked.output
    check_asked(asked.association, analysis.scaling.alpha)
    check_workers(analysis)
    for path in output.paths:
        io.check_writable(path)
    check_pages(output)
    tables = read_tables(analysis)
    groups = list(groups_of_samples(tables, analysis.samples))
    tables = tables._replace(sources=replace(tables.sources, genome=True))
    traits = [name for group in groups for name in group.phenotypes]
    outputs = [*outputs_of_traits(GWAS_FILES, output.out, traits), *named_outputs(output)]
    check_outputs(outputs, line, tables.sources.paths)
    if len(groups) > 1 and output.lists:
        raise io.InputError("--keep-out, --dropped-out: the phenotypes have different samples; name one phenotype")
    asked.say("\n".join([f"gpu-reml-gwas {version('gpu-reml')}", *group_lines(groups)]), flush=True)
    members = groups
    if len(groups) > 1 and not analysis.workers.wanted and backend_for(analysis.compute) == "cpu":
        groups = gathered(groups)
    planned = [with_tests(plan_group(tables, group, analysis), bool(group.members)) for group in groups]
    if analysis.compute.plan:
        for each in planned:
            print("\n".join([*planned_lines(each, analysis), *plan_notes(line, GWAS, each.backend)]), flush=True)
        return True
    for group in members:
        check_group(tables, group)
        check_freedom(group.Y, design_of(tables, group))
    converged = True
    context = {"threads": threads, "started": started, "several": len(traits) > 1}
    with reader_of(analysis, threads, planned, asked.say) as reader:
        for group, each in zip(groups, planned, strict=True):
            converged &= scan_group(tables, group, each, asked, {**context, "reader": reader})
    remove_journals(output.out, traits)
    return converged


def check_freedom(Y: np.ndarray, design: io.Design) -> None:
    """Raises InputError where no variant can be tested."""
    n, c = len(Y), design.num_columns
    if n <= c + 1:
        raise io.InputError(
            f"{n} samples leave no degree of freedom for {c} fixed effects and a variant; drop covariates, or "
            "loosen the filters of samples"
        )


def with_tests(planned: Planned, copies: bool) -> Planned:
    """The plan with the tests of every variant, the table of a trait in the making, and, where traits have different
    samples, a copy of the genotypes of one trait's."""
    sizes = planned.sizes
    held = [("tests", (TABLE_BYTES + TEST_BYTES * sizes.num_traits) * sizes.num_variants)]
    if copies:
        width = items_per_row(sizes.num_samples, sizes.bits) * item_type(sizes.bits).itemsize
        held.append(("genotypes of a phenotype's samples", width * sizes.num_variants))
    return planned._replace(sizes=sizes._replace(further=tuple(held)))


def scan_group(tables: Tables, group: Group, planned: Planned, asked: Asked, context: dict[str, Any]) -> bool:
    """Read the genotypes of a group, and scan its traits, or those of each of its members; True when all converged."""
    with under_way("reading genotypes", quiet=asked.output.quiet):
        inputs = load_group(tables, group, planned, asked.analysis, context["reader"])
    if not inputs.members:
        converged = scan_inputs(tables, inputs, asked, context)
        write_samples(inputs.alignment, asked.output)
        return converged
    inputs = inputs._replace(notes=(*inputs.notes, READ_ONCE.format(n=inputs.alignment.num_samples)))
    fits = shared_fits(tables, inputs, asked)
    each = (on_own_genotypes(inputs, tables, member, asked.analysis) for member in inputs.members)
    return all([scan_inputs(tables, own, asked, context, fits) for own in each])


def shared_fits(tables: Tables, inputs: Inputs, asked: Asked) -> dict[str, FitResult]:
    """The null models of traits of different samples that one run fits: those of score tests, with the same fixed
    effects, where the cohort is too large for exact fits."""
    analysis = asked.analysis
    if asked.association.model == "ols" or choose_method(inputs, analysis.estimation.method) == "exact":
        return {}
    shared = []
    for member in inputs.members:
        own = of_member(inputs, member, planned_among(inputs, tables, member))
        if choose_solver(own, asked.association) == "score" and same_effects(own.design, inputs.design):
            shared += own.phenotypes
    if not shared:
        return {}
    return fits_of_all(inputs, shared, analysis, journal_of(inputs, asked, SHARED))


def scan_inputs(
    tables: Tables,
    inputs: Inputs,
    asked: Asked,
    context: dict[str, Any],
    fits: Mapping[str, FitResult] | None = None,
) -> bool:
    """Scan traits of the same samples and write their files.  ``fits``: null models that are known already."""
    association, output = asked.association, asked.output
    check_freedom(inputs.Y, inputs.design)  # this is checked again, since --mind may have left out samples
    solver = "ols" if association.model == "ols" else choose_solver(inputs, association)
    known = [fits[name] for name in inputs.phenotypes if name in fits] if fits else None
    null = choose_method(inputs, asked.analysis.estimation.method) if solver == "score" and not known else None
    inputs = noted(inputs, asked.line, GWAS, Decided(solver, 1, inputs.planned.backend, null))
    plan = start_lines(inputs, asked, context["threads"])
    if not output.quiet:
        print("\n".join(plan), flush=True)
    journal = journal_of(inputs, asked)
    testing = f"testing {inputs.products.num_variants:,} variants, {len(inputs.phenotypes)} phenotype(s), {solver}"
    with under_way(testing, quiet=output.quiet):
        if solver == "ols":
            found = least_squares(inputs, journal)
        elif solver == "exact":
            found = exactly(inputs, association, asked.analysis, journal)
        else:
            found = scored(inputs, association, asked.analysis, journal, known)
    told = [f"method {found.method}", *found.lines]
    if not output.quiet:
        print("\n".join(told), flush=True)
    for text in found.warnings:
        print(text, flush=True)
    inputs.check_unchanged()
    context = {**context, "log": [*plan, *told, *found.warnings]}
    for i, name in enumerate(inputs.phenotypes):
        prefix = trait_prefix(output.out, name, context["several"])
        write_trait(prefix, i, found, tables, inputs, asked, context)
    return found.converged


def start_lines(inputs: Inputs, asked: Asked, threads: int) -> list[str]:
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
        f"model {asked.association.model}; device {inputs.covariance.backend}, {threads} thread(s), "
        f"{asked.analysis.compute.dtype} products",
        *(f"note: {note}" for note in inputs.notes),
    ]


def write_trait(
    prefix: str, trait: int, found: Found, tables: Tables, inputs: Inputs, asked: Asked, context: dict[str, Any]
) -> None:
    """Print what a trait's scan found and write its files."""
    files, variants, model, output = tables.sources.files, inputs.variants, asked.association.model, asked.output
    genotypes, scan = inputs.products.genotypes, found.scan
    log10p = scan.log10p[:, trait]
    names = [spec.name for spec in io.components_from_prefixes(files)]
    table = association_table(variants, genotypes, columns_of(found, genotypes, trait), asked.analysis.genotypes.dosage)
    if model == "ols":
        places = places_of(variants, names, [file.num_variants for file in files])
        reference = marginal_table(variants, places, genotypes, ols_tests(scan, genotypes, trait))
        table = pd.concat([reference, table], axis=1)
    text = association_text(table)
    inflation, name = lambda_gc(log10p), inputs.phenotypes[trait]
    texts: dict[str, str | bytes] = {}
    texts[f"{prefix}.gwas.tsv" + (".gz" if output.gz else "")] = gzipped(text) if output.gz else text
    if output.plots:
        title = f"{name}: {model}, lambda {inflation:.3f}"
        texts[f"{prefix}.manhattan.svg"] = figures.svg_of(
            figures.manhattan(variants.linkage_groups, variants.table["bp"], log10p, title)
        )
        texts[f"{prefix}.qq.svg"] = figures.svg_of(figures.qq(log10p, title))
    components = [
        {"component_index": f, "name": names[f], "prefix": str(file.prefix), "num_variants": len(rows)}
        for f, (file, rows) in enumerate(zip(files, tables.sources.rows, strict=True))
    ]
    record = {
        "phenotype": name,
        "method": found.method,
        **metadata(inputs, asked, context),
        "components": components,
        "num_tested": int(np.isfinite(scan.beta[:, trait]).sum()),
        "not_tested": not_tested(scan, genotypes, trait),
        "lambda_gc": inflation,
        **found.details[trait],
        "cautions": list(found.warnings),
        "files": list(texts),
    }
    if output.report:
        texts[f"{prefix}.gwas.report.html"] = page_text({**record, "tests": tests_for_page(table, inputs)})
    summary = summary_line(name, scan, trait, inputs)
    texts[f"{prefix}.gwas_metadata.json"] = io.json_text(record)
    texts[f"{prefix}.gwas.log"] = log_text("gpu-reml-gwas", [*context["log"], summary])
    io.write_all(texts)
    print(summary)
    print(f"written: {prefix}{{{','.join(path.removeprefix(prefix) for path in texts)}}}", flush=True)


def tests_for_page(table: pd.DataFrame, inputs: Inputs) -> dict[str, np.ndarray]:
    """Columns of the tests that a page shows; a chromosome is called as everywhere, however files spell it."""
    return {**{name: table[name].to_numpy() for name in TESTS}, "CHROM": np.asarray(inputs.variants.linkage_groups)}


def ols_tests(scan: Scan, genotypes: ops.PackedGenotypes, trait: int) -> dict[str, np.ndarray]:
    """Further columns of a least-squares scan."""
    beta, se = per_allele(scan.beta, genotypes.inv_sd), per_allele(scan.se, genotypes.inv_sd)
    columns = {"beta": beta, "se": se, "beta_std": scan.beta, "se_std": scan.se, "t": scan.statistic}
    return {name: values[:, trait] for name, values in {**columns, "log10p": scan.log10p}.items()}


def not_tested(scan: Scan, genotypes: ops.PackedGenotypes, trait: int) -> dict[str, int]:
    """How many variants have no test, by reason."""
    missing, varies = np.isnan(scan.beta[:, trait]), genotypes.inv_sd > 0
    called = genotypes.num_called > 0
    reasons = {
        "without a call": missing & ~called,
        "that do not vary": missing & called & ~varies,
        "explained by the fixed effects": missing & varies,
    }
    return {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}


def columns_of(found: Found, genotypes: ops.PackedGenotypes, trait: int) -> dict[str, np.ndarray]:
    """Columns of any scan; ``chisq`` is (beta / se)^2, for least squares, refined and exact tests an F on 1 and dof."""
    scan = found.scan
    beta, se = per_allele(scan.beta, genotypes.inv_sd), per_allele(scan.se, genotypes.inv_sd)
    method = np.where(found.refined, "refined", found.method).astype(object)
    method[np.isnan(scan.beta)] = np.nan
    columns = {"beta": beta, "se": se, "chisq": scan.statistic**2, "log10p": scan.log10p, "method": method}
    return {name: values[:, trait] for name, values in columns.items()}


def metadata(inputs: Inputs, asked: Asked, context: dict[str, Any]) -> dict[str, Any]:
    """What is the same for all traits of a group."""
    alignment, design = inputs.alignment, inputs.design
    return {
        "trait_type": "quantitative",
        "model": MODELS[asked.association.model],
        "n": alignment.num_samples,
        "m": inputs.products.num_variants,
        "covariates": design.names,
        "rank": design.num_columns,
        "samples": {"analysed": alignment.num_samples, "dropped": alignment.dropped_counts},
        "filters": [{"filter": text, "removed": count} for text, count in inputs.filtered],
        "counted_allele": "A1",
        "missing_genotype": "mean",
        "p": "two-sided; log10p is -log10 p",
        "units": "beta and se in phenotype units per copy of A1",
        "backend": inputs.covariance.backend,
        "settings": {**asked.line.values, "threads": context["threads"]},
        "seed": asked.analysis.estimation.seed,
        "notes": inputs.notes,
        "version": version("gpu-reml"),
        "seconds": time.perf_counter() - context["started"],
        "run": provenance(asked.line),
    }


def summary_line(name: str, scan: Scan, trait: int, inputs: Inputs) -> str:
    """Tests, what was not tested and why, inflation, and the strongest association."""
    log10p = scan.log10p[:, trait]
    tests = int((~np.isnan(log10p)).sum())
    left = not_tested(scan, inputs.products.genotypes, trait)
    why = ", ".join(f"{number} {reason}" for reason, number in left.items())
    if not tests:
        return f"{name}: no variant could be tested ({why})"
    best = int(np.nanargmax(log10p))
    row = inputs.variants.table.iloc[best]
    hits, perfect = int((log10p >= GENOME_WIDE).sum()), int(np.isposinf(log10p).sum())
    return (
        f"{name}: {tests} variants tested{f' (NA: {why})' if why else ''}, lambda_GC {lambda_gc(log10p):.4f}, {hits} "
        f"with p <= 5e-8; strongest {row['id']} ({row['chrom']}:{row['bp']}), -log10 p {log10p[best]:.2f}"
        + (f"; {perfect} explain the phenotype wholly (SE 0, -log10 p inf)" if perfect else "")
    )
