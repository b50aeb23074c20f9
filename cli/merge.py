"""``--merge``: fit, make one component of the weak ones, fit once more; both fits are kept on disk.

Files: DIR/round00 and DIR/round01 hold each fit as fit.{json,hsq,log,history.tsv} and fit.{theta,ai,grad}.npy,
fit.ai_stats.json, theta_se.npy, theta_z.npy; DIR/round0?.component_spec.json the components; zscore_merge_trace.tsv a
row a round; zscore_merge_summary.json what was done and why.  Nothing of them is ever read: what an earlier run left
under these names is overwritten or removed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml import io, ops
from gpu_reml.reml import FitResult
from gpu_reml.reml.studies.merge import Z_CUTOFF, merge_plan, merged_weights

from .export import export_files
from .flags.analysis import Analysis
from .flags.merge import Merge
from .flags.model import BESIDE_SETS
from .inputs import Inputs
from .merge_files import (
    NOT_CONVERGED,
    NOT_MERGED,
    REFITTED,
    SUMMARY,
    TRACE,
    MergeRound,
    Partition,
    fit_prefix,
    merge_lines,
    round_files,
    spec_path,
    spec_record,
    summary_record,
    trace_table,
)
from .methods import FAILURES, Failed, Following, remove_checkpoint, run_method
from .model import plain_model


class Merging(NamedTuple):
    """A merge that was asked for: of what analysis, how its fits are followed, and what files tell of the flags."""

    asked: Merge
    analysis: Analysis
    following: Following
    settings: dict[str, Any]


def check_merge(asked: Merge, analysis: Analysis) -> None:
    """Raises InputError for flags that contradict ``--merge``."""
    if not asked.merge:
        return
    if analysis.smile.wanted:
        raise io.InputError(
            "--merge: cannot be used with SMILE, whose components are no sets of variants; leave one out"
        )
    if analysis.estimation.by_moments:
        raise io.InputError(f"--merge: --method {analysis.estimation.method} has no average information; use another")
    if analysis.tests.lrt is not None:
        raise io.InputError(
            "--merge: which components there are is known after its first fit; run it without --lrt, then --lrt with "
            "--component-spec OUT.component_spec.json, which has the components of its last fit"
        )
    if asked.merge_ai_scale_mode == "full" and asked.merge_n_eff:
        raise io.InputError("--merge-n-eff: has no meaning with --merge-ai-scale-mode full; leave one of them out")
    beside = BESIDE_SETS
    named = [f"--{flag.replace('_', '-')}" for flag in beside if getattr(analysis.terms, flag)]
    if named:
        raise io.InputError(f"--merge: pools components of variants only; leave {', '.join(named)} out")


def merge_folder(prefix: str, merging: Merging) -> Path:
    """Where a trait's rounds go; with several traits in a given folder, each in one of its own."""
    if not merging.asked.merge_out_dir:
        return Path(f"{prefix}.merge")
    trait = prefix.removeprefix(merging.following.out).removeprefix(".")
    return Path(merging.asked.merge_out_dir) / trait


def run_merge(
    method: str,
    inputs: Inputs,
    merging: Merging,
    report: Callable,
    partition: Partition,
    prefix_of: Callable[[str], str],
    failed: Failed | None = None,
) -> None:
    """:func:`~gpu_reml.cli.methods.run_method` with a merge, trait by trait.

    Both fits share genotypes, seed (so probes) and method.  ``report((trait, result, seconds), inputs)`` gets the last
    fit and the inputs it is of; ``prefix_of(trait)`` is where a trait's files go; ``failed`` as there.
    """
    if inputs.covariance.num_components < 2:
        raise io.InputError("--merge: there is one component; give several, for example by --component-spec")
    io.check_writable(Path(merging.asked.merge_out_dir or f"{merging.following.out}.merge") / "zscore_merge")
    for which, name in enumerate(inputs.phenotypes):
        one = inputs._replace(Y=inputs.Y[:, which : which + 1], phenotypes=(name,))
        folder = merge_folder(prefix_of(name), merging)
        try:
            rounds, reason = merge_rounds(method, one, merging, folder, partition)
        except FAILURES as error:
            if failed is None:
                raise
            failed(name, error)
            continue
        print("\n".join(merge_lines(rounds, reason)), flush=True)
        last = rounds[-1]
        report((name, last.result, last.seconds), last.inputs)
        write_outcome(prefix_of(name), folder, rounds, reason, merging.asked)
        for number in range(2):
            remove_checkpoint(str(fit_prefix(folder, number)), (name,))


def merge_rounds(
    method: str, inputs: Inputs, merging: Merging, folder: Path, partition: Partition
) -> tuple[list[MergeRound], str]:
    """One round, or two where weak components were merged, and why it ended; writes every round when it is done."""
    first = fitted_round(method, inputs, partition, merging, folder, 0)
    remove_stale(folder)
    if not first.result.converged:
        return [first], NOT_CONVERGED
    if not first.plan.merges:
        return [first], NOT_MERGED
    weights = merged_weights(partition.weights, first.plan)
    merged = with_components(inputs, weights, first.plan.next_names)
    second = fitted_round(method, merged, partition._replace(weights=weights), merging, folder, 1, first)
    return [first, second], REFITTED


def with_components(inputs: Inputs, weights: sparse.csr_array, names: tuple[str, ...]) -> Inputs:
    """The same genotypes where they are, with other components."""
    genetic = ops.make_covariance(inputs.products, weights, names)
    components = io.ComponentSet(names, weights, inputs.components.notes)
    return inputs._replace(genetic=genetic, model=plain_model(genetic), components=components)


def fitted_round(
    method: str,
    inputs: Inputs,
    partition: Partition,
    merging: Merging,
    folder: Path,
    number: int,
    before: MergeRound | None = None,
) -> MergeRound:
    """Fit, plan, and write the files of a round."""
    prefix = fit_prefix(folder, number)
    io.check_writable(prefix)
    for each in (folder, prefix.parent):
        io.clear_leftovers(each)
    found = []
    run_method(method, inputs, merging.analysis, merging.following._replace(out=str(prefix)), found.append)
    ((_, result, seconds),) = found
    cutoff = Z_CUTOFF if merging.asked.z_cutoff is None else merging.asked.z_cutoff
    plan = merge_plan(result.theta, scaled_covariance(result, merging.asked), result.names, cutoff)
    done = MergeRound(inputs, partition, result, seconds, plan)
    inputs.check_unchanged()
    io.write_all(round_files(folder, number, done, merging.analysis, merging.settings, before))
    return done


def scaled_covariance(result: FitResult, asked: Merge) -> np.ndarray:
    """Sampling covariance of theta, for ``--merge-n-eff`` samples instead of those analysed where that is asked for."""
    if asked.merge_ai_scale_mode == "full" or not asked.merge_n_eff:
        return result.covariance
    return result.covariance * (result.num_samples / asked.merge_n_eff)


def remove_stale(folder: Path) -> None:
    """What an earlier run left that this one may not have, or only later; checkpoints stay for ``--resume``."""
    prefix = fit_prefix(folder, 1)
    names = "json hsq log history.tsv theta.npy ai.npy grad.npy ai_stats.json".split()
    stale = [Path(f"{prefix}.{name}") for name in names]
    stale += [prefix.with_name("theta_se.npy"), prefix.with_name("theta_z.npy"), spec_path(folder, 1)]
    stale += [folder / TRACE, folder / SUMMARY]
    for path in stale:
        path.unlink(missing_ok=True)


def write_outcome(prefix: str, folder: Path, rounds: list[MergeRound], reason: str, asked: Merge) -> None:
    """The trace, the summary, and the last fit's exports and components beside OUT.*; all or none."""
    last = rounds[-1]
    before = rounds[0] if len(rounds) > 1 else None
    spec = f"{prefix}.component_spec.json"
    files = {
        folder / TRACE: io.table_text(trace_table(rounds, asked)),
        folder / SUMMARY: io.json_text(summary_record(rounds, reason, asked)),
        **export_files(prefix, last.result, Path(spec).name),
        spec: io.json_text(spec_record(last.partition, last.plan.names, before)),
    }
    io.write_all(files)
    names = ",".join(str(path).removeprefix(prefix) for path in files if str(path).startswith(f"{prefix}."))
    print(f"written: {folder}/ and {prefix}{{{names}}}", flush=True)
