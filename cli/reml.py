"""The ``gpu-reml`` command: plan, fit, table, files."""

import sys
import time
from argparse import Namespace
from importlib.metadata import version

from gpu_reml import io
from gpu_reml.reml import (
    CountingCovariance,
    FitResult,
    FitSettings,
    ProbeSettings,
    default_rank,
    draw_probes,
    fit,
)

from .inputs import Inputs, read_inputs
from .progress import Progress
from .report import history_text, hsq_text, json_record, plan_lines

OUTPUTS = (".json", ".hsq", ".log", ".history.tsv")


def reml_command(options: Namespace, threads: int) -> bool:
    """Run one analysis and write its files; True when it converged."""
    started = time.perf_counter()
    for path in (options.out, options.keep_out, options.dropped_out):
        if path:
            io.check_writable(path)
    inputs = read_inputs(options)
    n = inputs.covariance.num_samples
    limit = n - inputs.design.num_columns
    rank = min(limit, default_rank(n) if options.precond_rank is None else options.precond_rank)
    log = [f"gpu-reml {version('gpu-reml')}", *plan_lines(inputs, rank, options, threads), ""]
    if not options.quiet:
        print("\n".join(log), flush=True)
    result, seconds = fit_with_progress(inputs, rank, options)
    elapsed = time.perf_counter() - started
    closing = closing_lines(result, elapsed)
    print("\n".join(closing))
    context = {
        "settings": {**vars(options), "precond_rank": rank, "threads": threads},
        "seed": options.seed,
        "version": version("gpu-reml"),
        "seconds": elapsed,
    }
    texts = {
        f"{options.out}.json": io.json_text(json_record(result, inputs, context)),
        f"{options.out}.hsq": hsq_text(result),
        f"{options.out}.log": "\n".join([*log, *closing]) + "\n",
        f"{options.out}.history.tsv": history_text(result, seconds),
    }
    io.write_all(texts)
    if options.keep_out:
        io.write_samples(options.keep_out, inputs.alignment.samples)
    if options.dropped_out:
        io.write_table(options.dropped_out, inputs.alignment.dropped)
    print(f"written: {options.out}{{{','.join(OUTPUTS)}}}")
    if not result.converged:
        print(f"gpu-reml: not converged: {result.status.value}", file=sys.stderr)
    return result.converged


def fit_with_progress(inputs: Inputs, rank: int, options: Namespace) -> tuple[FitResult, list[float]]:
    """The fit, with a progress bar where there is a terminal."""
    settings = FitSettings(
        max_iterations=options.max_iterations,
        probes=ProbeSettings(first=min(options.first_probes, options.max_probes), mc_target=options.mc_target),
    )
    progress = Progress(settings.tol, options.verbose, options.quiet)
    probes = draw_probes(inputs.covariance.num_samples, options.max_probes, rank, options.seed)
    counting = CountingCovariance(inputs.covariance, progress.passes)
    try:
        result = fit(
            inputs.alignment.y, inputs.design.X, counting, probes, settings, callback=progress.iteration, strict=False
        )
    finally:
        progress.close()
    return result, progress.seconds


def closing_lines(result: FitResult, elapsed: float) -> list[str]:
    """The results as a person reads them."""
    met = "" if result.mc_target_met else f"; more than the target {result.mc_target:g}: raise --max-probes"
    if result.mc_ratio != result.mc_ratio:
        met = "; unknown with so few probes: raise --max-probes"
    return [
        result.summary(),
        f"{result.num_probes} probes; largest Monte-Carlo error {result.mc_ratio:.3f} standard errors{met}",
        f"{result.status.name.lower()} after {len(result.history)} iterations, "
        f"{result.column_passes:.0f} column-passes, {elapsed:.1f} s",
    ]


