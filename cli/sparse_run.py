"""The work of ``gpu-reml-sparse``: inputs as of gpu-reml, the alternation, and its files."""

import time
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from gpu_reml import io
from gpu_reml.reml import (
    FitResult,
    FitSettings,
    ProbeSettings,
    SolverSettings,
    draw_probes,
    fit,
    fit_exact,
)
from gpu_reml.reml.studies.certified import AT_ONCE, KktSettings, LassoSettings
from gpu_reml.reml.studies.lasso import SMALLEST_RATIO, DescentSettings, PathSettings
from gpu_reml.reml.studies.sparse import Round, SparseSettings, sparse_reml

from .inputs import Group, Inputs, Planned, Tables, check_all_traits, load_group, plan_group, read_inputs
from .methods import choose_method
from .options import MOMENTS
from .outputs import SPARSE_FILES, check_outputs, outputs_of_traits
from .progress import Progress
from .reml import planned_lines, write_samples
from .report import plan_lines
from .sparse_report import closing_lines, history_record, output_files, round_line, selected_table, summary_record
from .unused import SPARSE, Run, noted, plan_notes

SOLVING = 12  # blocks of all columns that are solved at once, as in a fit
PATIENCE = 10  # values of lambda without a lower EBIC that end a path


def sparse_command(options: Namespace, threads: int) -> bool:
    """Run the alternation and write its files; True when it converged."""
    started = time.perf_counter()
    for path in (options.out, options.keep_out, options.dropped_out):
        if path:
            io.check_writable(path)
    tables, group = read_one(options)
    check_outputs(outputs_of_traits(SPARSE_FILES, options, group.phenotypes), options, tables.sources.paths)
    settings_of(options, None)  # what is wrong with them should show before hours of work
    planned = with_candidates(plan_group(tables, group, options), options)
    if options.plan:
        notes = plan_notes(options, SPARSE, planned.backend)
        print("\n".join([*planned_lines(planned, options), *notes]), flush=True)
        return True
    check_all_traits([group], [planned])
    inputs = load_group(tables, group, planned, options)
    method = choose_method(inputs, options)
    inputs = noted(inputs, options, SPARSE, Run(method, inputs.covariance.num_components, planned.backend))
    say = (lambda *_, **__: None) if options.quiet else print
    plan = plan_lines(inputs, method, options, threads)
    say("\n".join([f"gpu-reml-sparse {version('gpu-reml')}", *plan, ""]), flush=True)
    write_samples(inputs, options)
    rounds: list[Round] = []

    def finished(record: Round) -> None:
        rounds.append(record)
        io.write_json(f"{options.out}.history.json", history_record(rounds, inputs, "running"))
        say(round_line(record, inputs), flush=True)

    result = sparse_reml(
        inputs.Y[:, 0],
        inputs.design.X,
        inputs.covariance,
        estimator(method, inputs, options),
        sketch_of(inputs, options),
        settings_of(options, planned),
        callback=finished,
    )
    inputs.check_unchanged()
    table = selected_table(result, inputs)
    context = {"threads": threads, "seconds": time.perf_counter() - started}
    files = output_files(options.out, result, table, summary_record(result, table, inputs, options, context), inputs)
    io.write_all(files)
    print("\n".join(closing_lines(result, table)))
    print(f"written: {options.out}{{{','.join(path.removeprefix(options.out) for path in files)}}}", flush=True)
    return result.converged


def read_one(options: Namespace) -> tuple[Tables, Group]:
    """Tables and the samples of the one phenotype."""
    if options.method in MOMENTS:
        raise io.InputError(
            f"--method {options.method}: the LASSO needs REML's variances; use auto, exact or stochastic"
        )
    tables, groups = read_inputs(options)
    if len(groups) != 1 or len(groups[0].phenotypes) != 1:
        raise io.InputError("--pheno-name: variants are chosen for one phenotype; name one")
    return tables, groups[0]


def settings_of(options: Namespace, planned: Planned | None) -> SparseSettings:
    """Settings of the alternation; within a device's plan no more columns are solved at once than a fit does."""
    if options.lasso_lam_min_ratio < SMALLEST_RATIO:
        raise io.InputError(
            f"--lasso-lam-min-ratio: expected {SMALLEST_RATIO:g} to 1, found {options.lasso_lam_min_ratio:g}"
        )
    if options.kkt_tol == options.kkt_rel_tol == 0:
        raise io.InputError("--kkt-tol, --kkt-rel-tol: both are 0, which no solution meets; give one of them")
    refit = options.lasso_ebic_rss == "refit"
    gamma = options.lasso_ebic_gamma
    at_once = AT_ONCE
    if planned is not None and planned.device is not None:
        at_once = planned.columns or 1 + options.first_probes
    lasso = LassoSettings(
        candidates=min(options.candidate_k, options.screen_topk),
        full_p=options.ebic_p_mode == "full",
        path=PathSettings(
            options.lasso_n_lambda,
            options.lasso_lam_min_ratio,
            (1.0 if refit else 0.5) if gamma is None else gamma,
            PATIENCE if options.lasso_ebic_early_stop else None,
            options.lasso_ebic_es_min_delta,
            options.max_active,
            refit,
        ),
        descent=DescentSettings(options.lasso_cd_max_iter, options.lasso_cd_tol, options.lasso_active_set_period),
        kkt=KktSettings(
            options.kkt_check,
            options.kkt_tol,
            options.kkt_rel_tol,
            options.kkt_add_topk,
            options.kkt_max_rounds,
            options.kkt_max_candidate or None,
        ),
        solve_tol=options.pcg_tol,
        max_pcg=options.max_pcg_iters,
        at_once=at_once,
    )
    return SparseSettings(options.outer_max, options.support_stable_rounds, options.vc_rel_tol, lasso)


def sketch_of(inputs: Inputs, options: Namespace) -> np.ndarray:
    """For the preconditioner of the candidates' solves: as planned; on the CPU of the usual rank if none was given."""
    return draw_probes(len(inputs.Y), 0, inputs.planned.rank, options.seed).sketch


def estimator(method: str, inputs: Inputs, options: Namespace) -> Callable[[np.ndarray, np.ndarray | None], FitResult]:
    """REML of the phenotype with given fixed effects, by the method chosen."""
    y = inputs.Y[:, 0]
    settings = FitSettings(
        max_iterations=options.max_iterations,
        solver=SolverSettings(max_iterations=options.max_pcg_iters, most_basis=inputs.planned.basis),
        probes=ProbeSettings(
            first=min(options.first_probes, options.max_probes),
            mc_target=options.mc_target,
            columns=inputs.planned.columns,
        ),
    )
    most = inputs.planned.probes(options.max_probes)
    probes = None if method == "exact" else draw_probes(len(y), most, 0, options.seed)

    def estimate(X: np.ndarray, start: np.ndarray | None) -> FitResult:
        progress = Progress(settings.tol, options.verbose, options.quiet)
        options_here = {"start": start, "callback": progress.iteration, "strict": False}
        try:
            if method == "exact":
                return fit_exact(y, X, inputs.covariance, settings, **options_here)
            return fit(y, X, inputs.covariance, probes, settings, **options_here)
        finally:
            progress.close()

    return estimate


def with_candidates(planned: Planned, options: Namespace) -> Planned:
    """The plan with what the LASSO holds: columns of the first candidates, and their solves."""
    sizes, width = planned.sizes, 8 if options.dtype == "float64" else 4
    k = min(options.candidate_k, options.screen_topk, sizes.num_variants)
    n, rank = sizes.num_samples, planned.rank
    held = (
        (f"columns of {k} LASSO candidates", 2 * k * n * width),
        ("their solves", (SOLVING * min(k, AT_ONCE) + 4 * rank) * n * width),
    )
    return planned._replace(sizes=sizes._replace(further=held))
