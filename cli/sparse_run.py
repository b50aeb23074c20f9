"""The work of ``gpu-reml-sparse``: inputs as of gpu-reml, the alternation, and its files."""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple, Self

import numpy as np

from gpu_reml import io
from gpu_reml.reml import (
    CountingCovariance,
    FitResult,
    FitSettings,
    ProbeSettings,
    SolverSettings,
    draw_probes,
    fit,
    fit_exact,
    layout_of,
)
from gpu_reml.reml.studies.certified import AT_ONCE, KktSettings, LassoSettings
from gpu_reml.reml.studies.lasso import SMALLEST_RATIO, DescentSettings, PathSettings
from gpu_reml.reml.studies.sparse import SparseSettings, sparse_reml
from gpu_reml.reml.studies.sparse_result import RoundRecord
from gpu_reml.reports.page import page_text

from .align import Group, groups_of_samples
from .flags.analysis import Analysis
from .flags.estimation import Tests
from .flags.model import Terms
from .flags.output import Screen
from .flags.smile import Smile
from .flags.sparse import Certificate, Path, Rounds, SparseOutput
from .inputs import Inputs, check_components, load_group
from .methods import choose_method
from .outputs import SPARSE_FILES, check_outputs, log_text, named_outputs, outputs_of_traits, write_samples
from .parser import CommandLine
from .pictures import check_reportable
from .plan import integer_items
from .planned import Planned, check_all_traits, plan_group, planned_lines
from .progress import MeanTraces, Progress
from .provenance import provenance
from .read import Tables, read_tables
from .report import plan_lines
from .sparse_report import (
    closing_lines,
    history_record,
    output_files,
    path_table,
    round_line,
    selected_table,
    summary_record,
)
from .unused import SPARSE, Decided, noted, plan_notes

SOLVING = 12  # solving holds so many blocks of the columns that are solved at once, as in a fit
PATIENCE = 10  # a path ends after so many values of lambda without a lower EBIC


class Asked(NamedTuple):
    """What gpu-reml-sparse was asked, group by group; ``line``: flag by flag."""

    line: CommandLine
    analysis: Analysis
    rounds: Rounds
    path: Path
    certificate: Certificate
    output: SparseOutput
    screen: Screen

    @classmethod
    def of(cls, line: CommandLine) -> Self:
        """Read every group; components are sets of variants."""
        values = line.values
        analysis = Analysis.of(values, smile=Smile(), terms=Terms(), tests=Tests())
        groups = (kind.of(values) for kind in (Rounds, Path, Certificate, SparseOutput, Screen))
        return cls(line, analysis, *groups)


def sparse_command(line: CommandLine, threads: int) -> bool:
    """Run the alternation and write its files; True when it converged."""
    started, asked = time.perf_counter(), Asked.of(line)
    analysis, output = asked.analysis, asked.output
    for path in output.paths:
        io.check_writable(path)
    check_reportable(output.report)
    tables, group = read_one(analysis)
    outputs = [*outputs_of_traits(SPARSE_FILES, output.out, group.phenotypes), *named_outputs(output)]
    check_outputs(outputs, line, tables.sources.paths)
    settings_of(asked, None)  # an error in the settings shows before hours of work
    planned = with_candidates(plan_group(tables, group, analysis), asked.rounds, analysis.compute.dtype)
    if analysis.compute.plan:
        notes = plan_notes(line, SPARSE, planned.backend)
        print("\n".join([*planned_lines(planned, analysis), *notes]), flush=True)
        return True
    check_all_traits([group], [planned])
    inputs = load_group(tables, group, planned, analysis)
    check_components(inputs)
    method = choose_method(inputs, analysis.estimation.method)
    inputs = noted(inputs, line, SPARSE, Decided(method, inputs.covariance.num_components, planned.backend))
    say = (lambda *_, **__: None) if asked.screen.quiet else print
    plan = plan_lines(inputs, method, analysis, threads)
    say("\n".join([f"gpu-reml-sparse {version('gpu-reml')}", *plan, ""]), flush=True)
    write_samples(inputs.alignment, output)
    rounds: list[RoundRecord] = []

    def finished(record: RoundRecord) -> None:
        rounds.append(record)
        io.write_json(f"{output.out}.history.json", history_record(rounds, inputs, "running"))
        say(round_line(record, inputs), flush=True)

    result = sparse_reml(
        inputs.Y[:, 0],
        inputs.design.X,
        inputs.covariance,
        estimator(method, inputs, asked),
        sketch_of(inputs, analysis.estimation.seed),
        settings_of(asked, planned),
        callback=finished,
    )
    inputs.check_unchanged()
    table = selected_table(result, inputs)
    context = {"settings": line.values, "seed": analysis.estimation.seed, "threads": threads}
    context.update(seconds=time.perf_counter() - started, run=provenance(line))
    summary = summary_record(result, table, inputs, context)
    files = output_files(output.out, result, table, summary, inputs)
    if output.report:
        beside = {"selected": table, "path": path_table(result, inputs)._asdict()}
        files[f"{output.out}.sparse.report.html"] = page_text({**summary, **beside})
    closing = closing_lines(result, table)
    told = [*plan, "", *(round_line(record, inputs) for record in rounds), *closing]
    files[f"{output.out}.sparse.log"] = log_text("gpu-reml-sparse", told)
    io.write_all(files)
    print("\n".join(closing))
    print(f"written: {output.out}{{{','.join(path.removeprefix(output.out) for path in files)}}}", flush=True)
    return result.converged


def read_one(analysis: Analysis) -> tuple[Tables, Group]:
    """Tables and the samples of the one phenotype."""
    if analysis.estimation.by_moments:
        raise io.InputError(
            f"--method {analysis.estimation.method}: the LASSO needs REML's variances; use auto, exact or stochastic"
        )
    tables = read_tables(analysis)
    groups = list(groups_of_samples(tables, analysis.samples))
    if len(groups) != 1 or len(groups[0].phenotypes) != 1:
        raise io.InputError("--pheno-name: variants are chosen for one phenotype; name one")
    return tables, groups[0]


def settings_of(asked: Asked, planned: Planned | None) -> SparseSettings:
    """Settings of the alternation; within a device's plan no more columns are solved at once than a fit does."""
    rounds, path, kkt = asked.rounds, asked.path, asked.certificate
    if path.lasso_lam_min_ratio < SMALLEST_RATIO:
        raise io.InputError(
            f"--lasso-lam-min-ratio: expected {SMALLEST_RATIO:g} to 1, found {path.lasso_lam_min_ratio:g}"
        )
    if kkt.kkt_tol == kkt.kkt_rel_tol == 0:
        raise io.InputError("--kkt-tol, --kkt-rel-tol: both are 0, which no solution meets; give one of them")
    at_once = AT_ONCE
    if planned is not None and planned.device is not None:
        at_once = planned.columns or 1 + asked.analysis.estimation.first_probes
    lasso = LassoSettings(
        candidates=rounds.candidates,
        full_p=path.ebic_p_mode == "full",
        path=PathSettings(
            path.lasso_n_lambda,
            path.lasso_lam_min_ratio,
            path.lasso_ebic_gamma,
            PATIENCE if path.lasso_ebic_early_stop else None,
            path.lasso_ebic_es_min_delta,
            rounds.max_active,
        ),
        descent=DescentSettings(path.lasso_cd_max_iter, path.lasso_cd_tol, path.lasso_active_set_period),
        kkt=KktSettings(
            kkt.kkt_check,
            kkt.kkt_tol,
            kkt.kkt_rel_tol,
            kkt.kkt_add_topk,
            kkt.kkt_max_rounds,
            kkt.kkt_max_candidate or None,
        ),
        solve_tol=rounds.pcg_tol,
        max_pcg=rounds.max_pcg_iters,
        at_once=at_once,
    )
    return SparseSettings(rounds.outer_max, rounds.support_stable_rounds, rounds.vc_rel_tol, lasso)


def sketch_of(inputs: Inputs, seed: int) -> np.ndarray:
    """For the preconditioner of the candidates' solves: of the rank that is planned."""
    return draw_probes(len(inputs.Y), 0, inputs.planned.rank, seed).sketch


def estimator(method: str, inputs: Inputs, asked: Asked) -> Callable[[np.ndarray, np.ndarray | None], FitResult]:
    """REML of the phenotype with given fixed effects, by the method chosen."""
    y, estimation = inputs.Y[:, 0], asked.analysis.estimation
    settings = FitSettings(
        max_iterations=estimation.max_iterations,
        solver=SolverSettings(max_iterations=asked.rounds.max_pcg_iters, most_basis=inputs.planned.basis),
        probes=ProbeSettings(
            first=estimation.starting_probes,
            mc_target=estimation.mc_target,
            columns=inputs.planned.columns,
        ),
    )
    most = inputs.planned.probes(estimation.max_probes)
    probes = None if method == "exact" else draw_probes(len(y), most, 0, estimation.seed)

    def estimate(X: np.ndarray, start: np.ndarray | None) -> FitResult:
        progress = Progress(settings.tol, asked.screen, MeanTraces.of(layout_of(inputs.covariance)))
        counting = CountingCovariance(inputs.covariance, progress.passes)
        options_here = {"start": start, "callback": progress.iteration, "strict": False}
        try:
            if method == "exact":
                return fit_exact(y, X, counting, settings, **options_here)
            return fit(y, X, counting, probes, settings, **options_here)
        finally:
            progress.close()

    return estimate


def with_candidates(planned: Planned, rounds: Rounds, dtype: str) -> Planned:
    """The plan with what the LASSO holds: columns of the first candidates, and their solves."""
    sizes, width = planned.sizes, np.dtype(dtype).itemsize
    k = min(rounds.candidates, sizes.num_variants)
    n, rank = sizes.num_samples, planned.rank
    held = (
        (f"columns of {k} LASSO candidates", 2 * k * n * width),
        ("their solves", (SOLVING * min(k, AT_ONCE) + 4 * rank) * n * width),
        *((f"their {name}", size) for name, size in integer_items(sizes, dtype, min(k, AT_ONCE)).items()),
    )
    return planned._replace(sizes=sizes._replace(further=held))
