"""``--rg`` and ``--reml-bivar``: genetic correlations of phenotypes, each of its own people."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import figures, io
from gpu_reml.io.ids import RECORD
from gpu_reml.ops.device.plan import BudgetError
from gpu_reml.reml import (
    CountingCovariance,
    FitSettings,
    GeneticCorrelations,
    ProbeSettings,
    RgSettings,
    SolverSettings,
    draw_probes,
    exact_probes,
    fit_rg,
)
from gpu_reml.reml.engines.reduced_model import largest_basis
from gpu_reml.reports.page import page_text

from .align import Group, design_of, sample_sources
from .flags.analysis import Analysis
from .flags.output import RemlOutput, Screen
from .flags.rg import Correlations
from .inputs import Inputs, check_components, load_group, told_of_liability, trait_notes
from .machine import machine_memory
from .outputs import check_outputs, named_outputs, outputs_of, write_samples
from .parser import CommandLine
from .pictures import check_drawable
from .planned import Planned, check_traits, plan_group, planned_lines
from .progress import Progress
from .provenance import provenance
from .read import Tables, read_tables
from .report import arithmetic, genotype_record, plan_lines
from .rg_files import hsq_of_pair
from .unused import REML, Decided, noted, plan_notes
from .wording import in_names

FILES = ("json", "log", "rg.tsv", "rg.svg", "hsq", "report.html")
BESIDE = (  # flags of single traits' fits that say nothing of several
    "merge lrt profile joint_test prevalence compute_effects reliability save_model cv prediction_bfile "
    "prediction_pfile export_ai make_grm scan scan_genes scan_windows fit_alpha residual_weights residual_groups "
    "gxe_noise resume"
)


class Correlating(NamedTuple):
    """What was asked; ``line``: flag by flag."""

    line: CommandLine
    analysis: Analysis
    correlations: Correlations
    output: RemlOutput
    screen: Screen


def rg_command(asked: Correlating, threads: int) -> bool:
    """Fit the pairs and write their files; True when every fit converged."""
    started, line = time.perf_counter(), asked.line
    check_rg(asked)
    if asked.correlations.plots:
        check_drawable("--plots")
    analysis = with_traits(asked)
    tables, pairs = read_pairs(asked, analysis)
    check_outputs(
        [*outputs_of(FILES, [(asked.output.out, f"--out {asked.output.out}")]), *named_outputs(asked.output)],
        line,
        tables.sources.paths,
    )
    group, measured = union_of(tables, analysis, asked.correlations.rg_samples)
    planned = with_bases(plan_group(tables, group, analysis), group, tables, measured, analysis)
    say = (lambda *_, **__: None) if asked.screen.quiet else print
    say(f"gpu-reml {version('gpu-reml')}", flush=True)
    if analysis.compute.plan:
        print("\n".join([*planned_lines(planned, analysis), *plan_notes(line, REML, planned.backend)]), flush=True)
        return True
    check_traits(group, planned.design)
    inputs = load_group(tables, group, planned, analysis)
    check_components(inputs)
    Y = values_of(tables, measured, inputs)
    method = "exact" if analysis.estimation.method == "exact" else "stochastic"
    inputs = noted(inputs, line, REML, Decided(method, inputs.covariance.num_components, inputs.planned.backend))
    inputs = inputs._replace(phenotypes=tuple(Y.columns), notes=(*inputs.notes, *notes_of_traits(Y, inputs, analysis)))
    plan = plan_lines(inputs, method, analysis, threads, how_of(method, inputs, analysis))
    counts = ", ".join(f"{name} {count}" for name, count in Y.notna().sum().items())
    plan.append(f"measured: {counts}; {len(pairs)} pair(s)")
    say("\n".join([*plan, ""]), flush=True)
    designs = designs_of(tables, Y, inputs)
    result = correlations_of(Y, designs, pairs, inputs, Fitting(analysis, method, asked.screen))
    inputs.check_unchanged()
    context = {
        "settings": {**line.values, "threads": threads},
        "covariates": {name: list(design.names) for name, design in zip(Y.columns, designs, strict=True)},
        "seed": analysis.estimation.seed,
        "version": version("gpu-reml"),
        "seconds": time.perf_counter() - started,
        "run": provenance(line),
    }
    write_correlations(asked, result, inputs, plan, context)
    write_samples(inputs.alignment, asked.output)
    return result.converged


def how_of(method: str, inputs: Inputs, analysis: Analysis) -> str:
    """What will run."""
    estimation = analysis.estimation
    if method == "exact":
        return "AI-REML of pairs, exact (a basis of all samples, no Monte-Carlo error)"
    most = inputs.planned.probes(estimation.max_probes)
    first = min(estimation.starting_probes, most)
    return f"AI-REML of pairs in bases that their phenotypes share, {first} to {most} probes, seed {estimation.seed}"


def check_rg(asked: Correlating) -> None:
    """Raises InputError for flags that contradict correlations."""
    line, correlations, estimation = asked.line, asked.correlations, asked.analysis.estimation
    flag = "--rg" if correlations.rg else "--reml-bivar"
    if asked.analysis.samples.rint:
        raise io.InputError(f"{flag}: --rint is for single phenotypes; transform them before, and leave it out")
    beside = [line.typed[name] for name in BESIDE.split() if name in line.typed]
    if beside:
        raise io.InputError(f"{flag}: cannot be used with {', '.join(beside)}; run that apart, for one phenotype")
    if estimation.by_moments or not estimation.constrain:
        other = f"--method {estimation.method}" if estimation.by_moments else "--no-constrain"
        raise io.InputError(f"{flag}: is REML of positive semidefinite matrices; leave {other} out")
    bivar = correlations.reml_bivar
    if bivar is not None and (len(bivar) not in (0, 2) or len(set(bivar)) < len(bivar)):
        raise io.InputError(f"--reml-bivar: expected two different phenotypes, such as 1 2, found {bivar}")
    if bivar is not None and (asked.analysis.samples.pheno_name or asked.analysis.samples.mpheno):
        raise io.InputError(
            "--reml-bivar: names phenotypes by number; leave --pheno-name and --mpheno out, or use --rg"
        )
    if asked.analysis.samples.mpheno:
        raise io.InputError("--rg: takes two phenotypes or more; name them by --pheno-name, or all by leaving it out")
    if correlations.rg_with and not correlations.rg:
        raise io.InputError("--rg-with: is for --rg; give both")


def with_traits(asked: Correlating) -> Analysis:
    """The analysis with the phenotypes that are read: all where none are named."""
    samples = asked.analysis.samples
    named = samples.pheno_name or ("all" if asked.correlations.rg or samples.covar_for else None)
    return asked.analysis._replace(samples=replace(samples, pheno_name=named))


def read_pairs(asked: Correlating, analysis: Analysis) -> tuple[Tables, tuple[tuple[int, int], ...]]:
    """The files, with the phenotypes that some pair has, and the pairs by their places."""
    correlations, pheno = asked.correlations, analysis.samples.pheno
    if correlations.reml_bivar is not None:
        tables = read_tables(analysis)
        numbers = correlations.reml_bivar or [1, 2]
        return tables._replace(phenotypes=[io.read_phenotype(pheno, number=k) for k in numbers]), ((0, 1),)
    tables = read_tables(analysis)
    if not correlations.rg_with:
        if len(tables.phenotypes) < 2:
            raise io.InputError(f"--rg: expected two phenotypes or more, found {tables.phenotypes[0].name} alone")
        return tables, tuple(combinations(range(len(tables.phenotypes)), 2))
    second = names_in(correlations.rg_with)
    first = [each.name for each in tables.phenotypes]
    if not asked.analysis.samples.pheno_name:
        first = [name for name in first if name not in second]
    names = list(dict.fromkeys([*first, *second]))
    phenotypes = io.read_phenotypes(pheno, names)
    places = {frozenset((names.index(a), names.index(b))): None for a, b in product(first, second) if a != b}
    if not places:
        raise io.InputError(f"--rg-with {correlations.rg_with}: leaves no pair of two different phenotypes")
    return tables._replace(phenotypes=phenotypes), tuple(tuple(sorted(pair)) for pair in places)


def names_in(path: str) -> list[str]:
    """Names of phenotypes, a line each."""
    with io.read_content(path, "names of phenotypes").text() as lines:
        names = list(dict.fromkeys(filter(None, map(str.strip, lines))))
    if not names:
        raise io.InputError(f"--rg-with {path}: has no name; write the name of a phenotype on every line")
    return names


def union_of(tables: Tables, analysis: Analysis, samples: str) -> tuple[Group, list[io.Alignment]]:
    """The people with any of the phenotypes (or all, for "common") as a group of one stand-in phenotype, and the
    alignment of every phenotype."""
    lists = analysis.samples
    keep = io.read_sample_list(lists.keep) if lists.keep else None
    remove = io.read_sample_list(lists.remove) if lists.remove else None
    names, listed = sample_sources(tables)
    own = [tables.covariates_for.get(phenotype.name) for phenotype in tables.phenotypes]
    shared = covariates_of_all(tables, own)

    def aligned(phenotype: io.Phenotype, covariates: tuple[str, ...] | None) -> io.Alignment:
        complete = [*tables.with_covariates(covariates).covariates, *tables.parts.tables]
        return io.align(listed, phenotype, complete, keep=keep, remove=remove, source_names=names)

    values = np.column_stack([phenotype.values for phenotype in tables.phenotypes])
    has = ~np.isnan(values)
    who = has.all(axis=1) if samples == "common" else has.any(axis=1)
    if not who.any():
        raise io.InputError("--rg-samples common: nobody has all of the phenotypes; use --rg-samples all")
    first = tables.phenotypes[0]
    stand_in = replace(first, values=np.where(who, np.arange(len(who), dtype=np.float64), np.nan))
    measured = [aligned(*each) for each in zip(tables.phenotypes, own, strict=True)]
    alignment = aligned(stand_in, None if samples == "common" else shared)  # who is common has all covariates
    group = Group(alignment, alignment.y[:, None], ("any of the phenotypes",), covariates=shared)
    return group, measured


def covariates_of_all(tables: Tables, own: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The covariates that every phenotype takes, ``own`` being those of each; None for all that there are."""
    named = [names for names in own if names is not None]
    if not named:
        return None
    there = [name for table in tables.covariates for name in table.values.columns]
    return tuple(name for name in there if all(name in names for names in named))


def designs_of(tables: Tables, Y: pd.DataFrame, inputs: Inputs) -> list[io.Design]:
    """Fixed effects of every phenotype among all analysed people; rows of people without it are 0.

    Principal components are behind the covariates that all take.
    """
    if not tables.covariates_for:
        return [inputs.design] * len(Y.columns)
    samples = inputs.alignment.samples
    shared = covariates_of_all(tables, [tables.covariates_for.get(name) for name in Y.columns])
    base = design_of(tables, Group(inputs.alignment, Y.to_numpy(), tuple(Y.columns), covariates=shared)).num_columns
    further, names = inputs.design.X[:, base:], inputs.design.names[base:]
    found = []
    for name in Y.columns:
        has = Y[name].notna().to_numpy()
        among = replace(inputs.alignment, samples=samples[has].reset_index(drop=True))
        own = design_of(tables, Group(among, Y[[name]].to_numpy(), (name,), covariates=tables.covariates_for.get(name)))
        X = np.zeros((len(Y), own.num_columns + len(names)))
        X[has] = np.column_stack([own.X, further[has]])
        found.append(replace(own, X=X, names=(*own.names, *names)))
    return found


def with_bases(
    planned: Planned, group: Group, tables: Tables, measured: list[io.Alignment], analysis: Analysis
) -> Planned:
    """The plan with the bases of all sets of people, which are held together; beside them a pair of different people
    grows two of its own.

    Raises BudgetError where this machine cannot hold them.
    """
    sizes, exact = planned.sizes, analysis.estimation.method == "exact"
    analysed = places_in(group.alignment)
    own = [tables.covariates_for.get(phenotype.name) for phenotype in tables.phenotypes]
    who = [np.intersect1d(places_in(each), analysed).tobytes() for each in measured]
    sets = len(set(zip(who, own, strict=True)))
    bases = sets + 2 * (sets > 1)
    vectors = sizes.dimension if exact else min(sizes.dimension, planned.basis or largest_basis(sizes.num_components))
    among_fits = sizes.num_components > 1 and not exact  # the plan of a fit of several components has one already
    one = np.dtype(analysis.compute.dtype).itemsize * vectors * (sizes.num_samples + sizes.num_variants)
    held, machine = (bases - among_fits) * one, machine_memory()
    if planned.backend == "cpu" and held > machine:
        raise BudgetError(
            f"--rg: the bases of {sets} sets of people need up to {held / 2**20:,.0f} MiB of memory, and this machine "
            f"lets it have {machine / 2**20:,.0f}; --rg-samples common needs the {one / 2**20:,.0f} of one"
        )
    further = (*sizes.further, (f"bases of {sets} set(s) of people", held))
    return planned._replace(sizes=sizes._replace(further=further))


def places_in(alignment: io.Alignment) -> np.ndarray:
    """(n,) what tells samples of the same files from each other: their rows, or those of their records."""
    samples = alignment.samples
    return samples[RECORD].to_numpy() if RECORD in samples else alignment.indices[0]


def values_of(tables: Tables, measured: list[io.Alignment], inputs: Inputs) -> pd.DataFrame:
    """(n, T) phenotypes of the analysed people, NaN where they were not measured."""
    Y = pd.DataFrame(np.nan, range(inputs.alignment.num_samples), [each.name for each in tables.phenotypes])
    place = pd.Index(places_in(inputs.alignment))
    for name, each in zip(Y.columns, measured, strict=True):
        rows = place.get_indexer(places_in(each))
        Y.loc[rows[rows >= 0], name] = each.y[rows >= 0]
    return Y


def notes_of_traits(Y: pd.DataFrame, inputs: Inputs, analysis: Analysis) -> list[str]:
    """What to know of traits' values."""
    remedy = told_of_liability(analysis)
    notes = []
    for name in Y.columns:
        measured = Y[name].dropna().to_numpy()
        notes += trait_notes(Group(inputs.alignment, measured[:, None], (name,)), None if remedy is None else "")
    return notes


class Fitting(NamedTuple):
    """How pairs are fitted."""

    analysis: Analysis
    method: str
    screen: Screen


def correlations_of(
    Y: pd.DataFrame, designs: list[io.Design], pairs: tuple[tuple[int, int], ...], inputs: Inputs, how: Fitting
) -> GeneticCorrelations:
    """The fits."""
    estimation, method, n = how.analysis.estimation, how.method, len(Y)
    most = inputs.planned.probes(estimation.max_probes)
    probes = exact_probes(n) if method == "exact" else draw_probes(n, most, 0, estimation.seed)
    settings = FitSettings(
        max_iterations=estimation.max_iterations,
        solver=SolverSettings(most_basis=None if method == "exact" else inputs.planned.basis),
        probes=ProbeSettings(estimation.starting_probes, estimation.mc_target, inputs.planned.columns),
    )
    progress = Progress(settings.tol, how.screen)
    counting = CountingCovariance(inputs.covariance, progress.passes)
    try:
        same = all(design is designs[0] for design in designs)
        X = designs[0].X if same else [design.X for design in designs]
        return fit_rg(Y, X, counting, probes, settings, rg=RgSettings(pairs), strict=False)
    except ValueError as error:
        raise io.InputError(in_names(str(error), tuple(Y.columns), inputs.design.names)) from None
    finally:
        progress.close()


def write_correlations(
    asked: Correlating, result: GeneticCorrelations, inputs: Inputs, plan: list[str], context: dict[str, Any]
) -> None:
    """Print the table and write the files."""
    out, analysis = asked.output.out, asked.analysis
    record = {
        **result.to_dict(),
        **genotype_record(inputs, analysis.scaling.standardize),
        "samples": {"analysed": inputs.alignment.num_samples, "dropped": inputs.alignment.dropped_counts},
        "rg_samples": asked.correlations.rg_samples,
        "filters": [{"filter": text, "removed": count} for text, count in inputs.filtered],
        "backend": inputs.planned.backend,
        "arithmetic": arithmetic(inputs, analysis.compute.dtype),
        "notes": list(inputs.notes),
        **context,
    }
    closing = [
        result.summary(),
        f"{result.num_probes} probes, {result.column_passes:.0f} matrix-vector products, {context['seconds']:.1f} s",
    ]
    texts = {
        f"{out}.json": io.json_text(record),
        f"{out}.rg.tsv": io.table_text(result.to_frame()),
        f"{out}.log": "\n".join([f"gpu-reml {context['version']}", *plan, "", *closing]) + "\n",
    }
    if len(result.fits) == 1:
        texts[f"{out}.hsq"] = hsq_of_pair(result)
    if asked.output.report:
        texts[f"{out}.report.html"] = page_text(record)
    if asked.correlations.plots:
        texts[f"{out}.rg.svg"] = figures.svg_of(figures.plot_correlations(record))
    io.write_all(texts)
    print("\n".join(closing))
    print(f"written: {out}{{{','.join(path.removeprefix(out) for path in texts)}}}", flush=True)
    for fit in result.fits:
        if not (fit.converged and fit.answered):
            names = " and ".join(result.traits[k] for k in fit.traits)
            print(f"gpu-reml: not converged: {names}; see their status in {out}.rg.tsv", file=sys.stderr)
