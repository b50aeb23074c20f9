"""``--step`` and ``--model-extract`` of gpu-reml-gwas: null models apart from the tests that take them."""

import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from gpu_reml import io, ops
from gpu_reml.io.documents import digest
from gpu_reml.io.ids import first_ids, rows_among
from gpu_reml.ops.loco import LeaveOut, leave_out
from gpu_reml.reml.studies.loco import LocoNull, score_tests
from gpu_reml.reml.studies.refine import chosen_tests, refine_tests

from .align import groups_of_samples
from .flags.data import Genotypes
from .flags.filters import Filters
from .gwas_asked import Asked, check_asked, check_pages, check_steps
from .gwas_kept import NULLS_OF, journal_of, remove_journals
from .gwas_models import (
    NOTHING,
    UNSOLVED,
    Chromosomes,
    Found,
    chromosomes_of,
    kernel_weights,
    none_of,
    null_line,
    null_models,
    refine_details,
    refine_settings,
    refined_line,
    scatter_warning,
    score_details,
)
from .gwas_run import check_freedom, gwas_command, start_lines, with_tests, write_trait
from .inputs import Inputs, call_notes, load_group
from .journal import Journal
from .model import plain_model
from .outputs import GWAS_FILES, check_outputs, log_text, outputs_of, outputs_of_traits, trait_prefix
from .parser import CommandLine
from .parts import Parts
from .plan import Sizes, backend_for
from .planned import Planned, check_group, plan_group, planned_lines
from .read import Tables, read_tables
from .sources import Sources, load, read_sources
from .wording import counts_in_flags, fit_record, notes_in_flags

NULL_FILES = ("null.npz", "null.log")
REFINES = "--refine reads the genotypes of --step 1 again; give them back, or --refine 0 for scores alone"


def scan_command(line: CommandLine, threads: int) -> bool:
    """Run gpu-reml-gwas, in steps where these are asked for; True when all solves and fits converged."""
    started, asked = time.perf_counter(), Asked.of(line)
    check_steps(asked)
    if not (asked.steps.step or asked.steps.model_extract):
        return gwas_command(line, threads)
    check_asked(asked.association, asked.analysis.scaling.alpha)
    for path in asked.output.paths:
        io.check_writable(path)
    check_pages(asked.output)
    return in_steps(asked, {"threads": threads, "started": started})


def in_steps(asked: Asked, context: dict[str, Any]) -> bool:
    """Null models, tests, or one after the other; True when all solves and fits converged."""
    step, output = asked.steps.step, asked.output
    if step == 2:
        if asked.analysis.compute.plan:
            raise io.InputError("--plan: is of the fits of --step 1; tests take the genotypes and little more")
        return test_all(io.read_null(asked.steps.null), asked, context)
    if step == 1:
        check_outputs(outputs_of(NULL_FILES, [(output.out, f"--out {output.out}")]), asked.line)
    models, lines, converged = fitted_models(asked, context)
    if models is None:
        return True
    if step is None:
        return test_all(models, asked, context) and converged
    log = log_text("gpu-reml-gwas", lines)
    io.write_all({f"{output.out}.null.npz": io.null_bytes(models), f"{output.out}.null.log": log})
    print(f"written: {output.out}{{.null.npz,.null.log}}", flush=True)
    remove_journals(output.out, models.phenotypes)
    return converged


def fitted_models(asked: Asked, context: dict[str, Any]) -> tuple[io.NullModels | None, list[str], bool]:
    """Null models of all phenotypes, what is said of them, and whether all converged; none for a plan."""
    filters = replace(asked.analysis.filters, extract=asked.steps.model_extract or asked.analysis.filters.extract)
    analysis = asked.analysis._replace(filters=filters)
    asked = asked._replace(analysis=analysis)
    tables = read_tables(analysis)
    tables = tables._replace(sources=replace(tables.sources, genome=True))
    groups = list(groups_of_samples(tables, analysis.samples))
    planned = [with_tests(plan_group(tables, group, analysis), copies=False) for group in groups]
    if analysis.compute.plan:
        for each in planned:
            print("\n".join(planned_lines(each, analysis)), flush=True)
        return None, [], True
    for group, each in zip(groups, planned, strict=True):
        check_group(tables, group)
        check_freedom(group.Y, each.design)
    made, lines, converged = [], [], True
    for group, each in zip(groups, planned, strict=True):
        inputs = load_group(tables, group, each, analysis)
        start = ["null models:", *start_lines(inputs, asked, context["threads"])]
        asked.say("\n".join(start), flush=True)
        model, told, settled = null_of(inputs, asked, journal_of(inputs, asked, NULLS_OF))
        asked.say("\n".join(told), flush=True)
        inputs.check_unchanged()
        made.append(model)
        lines += [*start, *told]
        converged &= settled
    about = {"version": version("gpu-reml"), "settings": {**asked.line.values, "threads": context["threads"]}}
    scale = analysis.scaling.standardize
    return io.NullModels(asked.association.model, analysis.compute.dtype, scale, tuple(made), about), lines, converged


def null_of(inputs: Inputs, asked: Asked, journal: Journal) -> tuple[io.NullModel, list[str], bool]:
    """The null models of traits of the same samples, what is said of them, and whether they converged."""
    nulls = null_models(inputs, asked.association, asked.analysis, journal)
    null, groups = nulls.fitted.null, nulls.groups
    about, lines = [], []
    for i, (name, fit) in enumerate(zip(inputs.phenotypes, nulls.fits, strict=True)):
        about.append({**score_details(nulls.fitted, groups, i), "fit": fit_record(fit), **nulls.seconds})
        lines += [null_line(name, fit, nulls.fitted, i), *scatter_warning(name, nulls.fitted, i)]
    unsettled = nulls.unsettled
    lines += [f"not converged: {text}" for text in dict.fromkeys(unsettled)]
    samples = inputs.alignment.samples[["fid", "iid"]].reset_index(drop=True)
    names = (inputs.phenotypes, groups.names, tuple(inputs.design.names))
    numbers = (null.Py, null.Q, null.scales, null.gamma, null.y, null.thetas)
    return io.NullModel(samples, *names, *numbers, tuple(about), digest_of(inputs)), lines, not unsettled


def test_all(models: io.NullModels, asked: Asked, context: dict[str, Any]) -> bool:
    """Test every variant of the genotypes with each group of null models; True when all solves converged."""
    output, analysis = asked.output, asked.analysis
    analysis = analysis._replace(
        compute=replace(analysis.compute, dtype=models.dtype),
        scaling=replace(analysis.scaling, standardize=models.standardize),
    )
    asked = asked._replace(association=replace(asked.association, model=models.model), analysis=analysis)
    sources = replace(read_sources(analysis.genotypes, analysis.filters), genome=True)
    check_outputs(outputs_of_traits(GWAS_FILES, output.out, models.phenotypes), asked.line, sources.paths)
    asked.say(f"gpu-reml-gwas {version('gpu-reml')}", flush=True)
    context = {**context, "several": len(models.phenotypes) > 1}
    tables = Tables(sources, Parts(), [], None, None)
    converged = True
    for group in models.groups:
        inputs = inputs_of(group, sources, asked)
        lines = start_lines(inputs, asked, context["threads"])
        asked.say("\n".join(lines), flush=True)
        found = tests_of(group, inputs, models, asked)
        told = [*found.lines, *found.warnings]
        if told:
            asked.say("\n".join(told), flush=True)
        inputs.check_unchanged()
        for i, name in enumerate(inputs.phenotypes):
            prefix = trait_prefix(output.out, name, context["several"])
            write_trait(prefix, i, found, tables, inputs, asked, {**context, "log": [*lines, *told]})
        converged &= found.converged
    remove_journals(output.out, models.phenotypes)
    return converged


def tests_of(group: io.NullModel, inputs: Inputs, models: io.NullModels, asked: Asked) -> Found:
    """Scores of all variants, and the strongest again by generalised least squares, for which the genotypes of the null
    models are read where there are such variants."""
    journal = journal_of(inputs, asked, rests_on=(group.Py, group.gamma))
    chromosomes = chromosomes_among(group, inputs, models.model)
    null = LocoNull(group.Q, group.scales, group.Py, group.gamma, group.y, group.thetas)
    scan = score_tests(null, inputs.products, chromosomes.tested, journal.within("scores"))
    settings = refine_settings(inputs, asked.association)
    if not chosen_tests(scan.log10p, settings)[0].any():
        return Found("score", scan, none_of(scan), tuple(dict(about) for about in group.about))
    left, genotypes = model_left_out(group, models, asked), inputs.products.genotypes
    again = refine_tests(scan, left, null, genotypes, chromosomes.tested, settings, journal.within("refined"))
    details, lines = [], []
    for i, (name, about) in enumerate(zip(inputs.phenotypes, group.about, strict=True)):
        details.append({**about, **refine_details(again, i, asked.association)})
        lines += [f"{line})" for line in refined_line(name, again, i, asked.association)]
    warnings = () if again.converged else (f"not converged: {UNSOLVED}",)
    return Found("score", again.scan, again.which, tuple(details), tuple(lines), warnings, again.converged)


def model_left_out(group: io.NullModel, models: io.NullModels, asked: Asked) -> LeaveOut:
    """K without each chromosome of null models, from their genotypes where --step 1 had them."""
    settings = models.about["settings"]
    filters = replace(Filters.of(settings), mind=None)  # whose samples are chosen
    if settings.get("model_extract"):
        filters = replace(filters, extract=tuple(settings["model_extract"]))
    analysis = asked.analysis._replace(genotypes=Genotypes.of(settings), filters=filters)
    try:
        sources = replace(read_sources(analysis.genotypes, filters), genome=True)
        inputs = inputs_of(group, sources, asked._replace(analysis=analysis))
    except io.InputError as error:
        raise io.InputError(f"{error} ({REFINES})") from None
    if digest_of(inputs) != group.genotypes:
        raise io.InputError(f"{sources.files[0].prefix}: has changed since --step 1 ({REFINES})")
    groups = chromosomes_of(inputs, models.model)
    return leave_out(inputs.products, kernel_weights(inputs, settings["alpha"]), groups.left_out, groups.names)


def digest_of(inputs: Inputs) -> str:
    """What tells the genotypes of null models from others."""
    genotypes = inputs.products.genotypes
    return digest(genotypes.mean, genotypes.inv_sd, genotypes.num_called)


def chromosomes_among(group: io.NullModel, inputs: Inputs, model: str) -> Chromosomes:
    """The variants of each chromosome of the null models; InputError for one that they do not have."""
    labels = inputs.variants.linkage_groups
    if model == "lmm":
        return Chromosomes(group.chromosomes, (NOTHING,), (np.arange(len(labels)),))
    unknown = [name for name in dict.fromkeys(labels) if name not in group.chromosomes]
    if unknown:
        raise io.InputError(
            f"chromosome {', '.join(unknown)}: the null models leave out only {', '.join(group.chromosomes)}; give "
            "--step 1 genotypes of it too, or take null models of --model lmm"
        )
    rows = tuple(np.flatnonzero(labels == name) for name in group.chromosomes)
    return Chromosomes(group.chromosomes, rows, rows)


def inputs_of(group: io.NullModel, sources: Sources, asked: Asked) -> Inputs:
    """Genotypes of a group's samples, in the order of the null models."""
    analysis = asked.analysis
    indices = tuple(rows_in(file, group) for file in sources.files)
    loaded = load(sources, indices, analysis.filters, analysis.genotypes, analysis.scaling.standardize)
    n, t, c = len(group.samples), len(group.phenotypes), len(group.covariates)
    backend = backend_for(analysis.compute)
    products = ops.make_products(loaded.genotypes, backend, np.dtype(analysis.compute.dtype).type)
    sizes = Sizes(n, sources.num_variants, 1, t, c, loaded.genotypes.num_variants)
    planned = Planned(io.Design(group.Q, group.covariates, {}), backend, sizes, 0, None, None)
    genetic = ops.make_covariance(products)
    notes = [*(note for file in sources.files for note in file.notes), *sources.notes, *loaded.notes]
    dropped = group.samples.iloc[:0].assign(reason="")
    return Inputs(
        io.Alignment(group.samples, indices, np.zeros(n), dropped),
        np.zeros((n, t)),
        group.phenotypes,
        planned,
        genetic,
        plain_model(genetic),
        notes_in_flags([*notes, *call_notes(loaded.genotypes)]),
        counts_in_flags((*sources.counts, *loaded.counts)),
        loaded.variants,
        None,
        tuple(sources.paths),
        tuple(loaded.genotypes.stamps),
    )


def rows_in(file: Any, group: io.NullModel) -> np.ndarray:
    """(n,) where the null models' samples are in a file; InputError that names those it lacks."""
    rows = rows_among(file.samples, group.samples)
    if (rows < 0).any():
        lacking = group.samples[rows < 0]
        raise io.InputError(
            f"{file.prefix}: lacks {len(lacking)} of the {len(rows)} samples of --null ({first_ids(lacking)}); give "
            "genotypes of all of them, or fit null models with --keep"
        )
    return rows
