"""The ``gpu-reml`` command: plan, fit, table, files."""

import sys
import time
from argparse import Namespace
from importlib.metadata import version

import pandas as pd

from gpu_reml import io
from gpu_reml.reml import FitResult, HEResult, layout_of
from gpu_reml.reml.tables import shown

from .component_tests import component_tests, sets_of
from .components import with_alpha
from .effects import after_fit, check_effects, check_folds
from .export import check_export, export_files
from .inputs import Group, Inputs, Planned, Tables, check_all_traits, load_group, plan_group, read_inputs
from .liability import check_prevalence, liability_lines, liability_of, liability_rows
from .merge import check_merge, run_merge
from .merge_files import Partition
from .methods import choose_method, remove_checkpoint, run_method
from .outputs import check_outputs, grm_outputs, reml_outputs, trait_prefix
from .parser import Options, name_of
from .plan import memory_lines
from .report import (
    ancestry_records,
    caution_lines,
    enrichment_of,
    grm_lines,
    history_text,
    hsq_text,
    json_record,
    plan_lines,
    profile_text,
)
from .unused import REML, Run, noted, plan_notes
from .wording import in_flags

IDS = {"fid": "FID", "iid": "IID"}


def reml_command(options: Namespace, threads: int) -> bool:
    """Run one analysis and write its files; True when every fit converged."""
    started = time.perf_counter()
    for path in (options.out, options.keep_out, options.dropped_out):
        if path:
            io.check_writable(path)
    check_merge(options)
    check_export(options)
    further = check_effects(options)
    tables, groups = read_inputs(options)
    traits = [name for group in groups for name in group.phenotypes]
    check_files(tables, groups, traits, options)
    several = len(traits) > 1
    say = print if not options.quiet else (lambda *_, **__: None)
    say("\n".join([f"gpu-reml {version('gpu-reml')}", *group_lines(groups)]), flush=True)
    converged = True
    planned_groups = [plan_group(tables, group, options) for group in groups]
    if options.plan:
        print_plans(planned_groups, options)
        return True
    check_all_traits(groups, planned_groups)
    for group, planned in zip(groups, planned_groups, strict=True):
        inputs = load_group(tables, group, planned, options)
        if options.make_grm:
            inputs = noted(inputs, options, REML, Run(backend=planned.backend))
            say("\n".join(grm_lines(inputs, options)), flush=True)
            write_grms(inputs, options)
            write_samples(inputs, options)
            continue
        sets_of(options, layout_of(inputs.covariance).names)  # an error comes before any work
        check_prevalence(inputs, options)
        check_folds(inputs, options)
        method = choose_method(inputs, options)
        inputs = noted(inputs, options, REML, Run(method, inputs.covariance.num_components, planned.backend))
        say("\n".join([*plan_lines(inputs, method, options, threads), ""]), flush=True)

        def prefix_of(name: str) -> str:
            return trait_prefix(options, name, several)

        def finish(report, inputs=inputs, method=method):
            nonlocal converged
            inputs.check_unchanged()
            plan = plan_lines(inputs, method, options, threads)
            name, result, seconds = report
            context = {
                "phenotype": name,
                "settings": {**vars(options), "threads": threads},
                "seed": options.seed,
                "version": version("gpu-reml"),
                "seconds": time.perf_counter() - started,
            }
            converged &= write_result(prefix_of(name), result, seconds, inputs, plan, context)
            if further and isinstance(result, FitResult):
                write_further(name, result, inputs, options, prefix_of(name))

        if options.merge:
            run_merge(method, inputs, options, finish, partition_of(inputs, options), prefix_of)
        else:
            run_method(method, inputs, options, finish)
        write_samples(inputs, options)
        remove_checkpoint(options.out, group.phenotypes)
    return converged


def print_plans(planned_groups: list[Planned], options: Options) -> None:
    """``--plan``."""
    for planned in planned_groups:
        notes = plan_notes(options, REML, planned.backend)
        print("\n".join([*planned_lines(planned, options), *notes]), flush=True)


def check_files(tables: Tables, groups: list[Group], traits: list[str], options: Namespace) -> None:
    """Raises InputError for files that would be written twice, or over what is read."""
    flags = [flag for flag in ("--make-grm", "--keep-out", "--dropped-out") if getattr(options, name_of(flag))]
    if len(groups) > 1 and flags:
        raise io.InputError(f"{', '.join(flags)}: the phenotypes have different samples; name one phenotype")
    check_outputs(reml_outputs(options, traits), options, tables.sources.paths)


def write_further(name: str, result: FitResult, inputs: Inputs, options: Namespace, prefix: str) -> None:
    """Effects, a saved model, predictions and cross-validation: after the fit's own files, which are safe by then."""
    outcome = after_fit(name, result, inputs, options, prefix)
    inputs.check_unchanged()
    io.write_all(outcome.files)
    own = [path.removeprefix(prefix) for path in outcome.files if path.startswith(f"{prefix}.")]
    others = [path for path in outcome.files if not path.startswith(f"{prefix}.")]
    written = ", ".join([*([f"{prefix}{{{','.join(own)}}}"] if own else []), *others])
    print("\n".join([*outcome.lines, f"written: {written}"]), flush=True)


def partition_of(inputs: Inputs, options: Namespace) -> Partition:
    """The components of an analysis before normalisation, as a merge takes them."""
    weights = with_alpha(inputs.components.weights, inputs.products.genotypes, options.alpha)
    return Partition(weights, inputs.variants.rows)


def write_grms(inputs: Inputs, options: Namespace) -> None:
    """``--make-grm``: every component's relationship matrix in GCTA's format."""
    covariance = inputs.genetic
    check_outputs(grm_outputs(options, covariance.names), options)
    for g, name in enumerate(covariance.names):
        prefix = trait_prefix(options, name, covariance.num_components > 1)
        io.write_grm(prefix, covariance.only(g), inputs.alignment.samples)
        print(f"written: {prefix}.grm{{.bin,.N.bin,.id}}", flush=True)


def group_lines(groups: list[Group]) -> list[str]:
    """Which traits are analysed together; nothing for a single one."""
    if len(groups) == 1 and len(groups[0].phenotypes) == 1:
        return []
    lines = [f"{sum(len(g.phenotypes) for g in groups)} phenotypes in {len(groups)} group(s) of the same samples:"]
    return lines + [f"  {group.alignment.num_samples} samples: {', '.join(group.phenotypes)}" for group in groups]


def planned_lines(planned: Planned, options: Namespace) -> list[str]:
    """The answer to ``--plan``."""
    sizes = planned.sizes
    method = "exact" if options.method == "exact" else "stochastic"
    return [
        f"{sizes.num_samples} samples, {sizes.num_variants} variants, {sizes.num_components} component(s), "
        f"{sizes.num_traits} trait(s); device {planned.backend}",
        *memory_lines(planned, method, options),
    ]


def write_result(prefix: str, result, seconds: list[float], inputs: Inputs, plan: list[str], context: dict) -> bool:
    """Print a trait's table and write its files; whether it converged."""
    ancestries = ancestry_lines(ancestry_records(result, inputs, context["settings"]))
    liability = liability_of(result, inputs, context["phenotype"], context["settings"]["prevalence"])
    told = [*ancestries, *liability_lines(liability, result.names), *device_lines(inputs)]
    closing = [*closing_lines(result, context["seconds"]), *told]
    if len(inputs.phenotypes) > 1:
        closing = [f"phenotype {context['phenotype']}", *closing]
    texts = {
        f"{prefix}.json": io.json_text(json_record(result, inputs, context)),
        f"{prefix}.hsq": hsq_text(result, liability_rows(liability)),
        f"{prefix}.log": "\n".join([f"gpu-reml {context['version']}", *plan, "", *closing]) + "\n",
    }
    annotated = enrichment_of(result, inputs)
    if annotated is not None:
        texts[f"{prefix}.enrichment.tsv"] = io.table_text(annotated.to_frame())
    if isinstance(result, FitResult) and len(result.names) > 1:
        tests = component_tests(result, sets_of(Namespace(**context["settings"]), result.names))
        texts[f"{prefix}.tests.tsv"] = io.table_text(pd.DataFrame(tests))
    if isinstance(result, FitResult) and result.profiles:
        texts[f"{prefix}.profile.tsv"] = profile_text(result)
    if context["settings"]["export_ai"]:
        texts.update(export_files(prefix, result, residual_mode=context["settings"]["admix_residual_mode"]))
    if isinstance(result, FitResult):
        texts[f"{prefix}.history.tsv"] = history_text(result, seconds)
    io.write_all(texts)
    print("\n".join(closing))
    print(f"written: {prefix}{{{','.join(path.removeprefix(prefix) for path in texts)}}}", flush=True)
    converged = isinstance(result, HEResult) or result.converged
    if not converged:
        print(f"gpu-reml: not converged: {in_flags(result.status.value)}", file=sys.stderr)
    return converged


def ancestry_lines(records: list[dict] | None) -> list[str]:
    """Heritability by ancestry, as a person reads it."""
    return [
        f"h2 of ancestry {r['ancestry']}: {r['h2']:.5f}  SE {shown(r['h2_se'], '.5f')}  "
        f"Monte-Carlo error {shown(r['h2_mc_se'], '.2g')}"
        for r in records or []
    ]


def device_lines(inputs: Inputs) -> list[str]:
    """Most memory that was held on every device, beside what was planned."""
    if inputs.planned.device is None:
        return []
    planned = inputs.planned.device.peak / 2**20
    return [
        f"{label}: at most {held / 2**20:,.1f} MiB held, {planned:,.1f} planned"
        for label, held in inputs.products.peak_bytes.items()
    ]


def write_samples(inputs: Inputs, options: Namespace) -> None:
    """The lists of who was analysed and who was not, where asked for."""
    if options.keep_out:
        io.write_samples(options.keep_out, inputs.alignment.samples)
    if options.dropped_out:
        io.write_table(options.dropped_out, inputs.alignment.dropped.rename(columns=IDS))


def closing_lines(result: FitResult | HEResult, elapsed: float) -> list[str]:
    """The results as a person reads them."""
    if isinstance(result, HEResult):
        scale = "" if result.scale is None else f"; variances are of {result.scale}"
        used = f"{result.kind} with {result.num_probes} probes"
        return [result.summary(), f"{used}, {result.column_passes:.0f} column-passes, {elapsed:.1f} s{scale}"]
    count = len(result.history)
    lines = [result.summary(), *caution_lines(result)]
    if result.method == "exact":
        lines.append("exact dense REML: no Monte-Carlo error")
    else:
        met = "" if result.mc_target_met else f"; more than the target {result.mc_target:g}: raise --max-probes"
        if result.mc_ratio != result.mc_ratio:
            met = "; unknown with so few probes: raise --max-probes"
        largest = f"largest Monte-Carlo error {shown(result.mc_ratio, '.3f')} standard errors{met}"
        lines.append(f"{result.num_probes} probes; {largest}")
    kind = ("Lanczos step" if result.method == "krylov" else "iteration") + "s" * (count != 1)
    lines.append(
        f"{result.status.name.lower()} after {count} {kind}, {result.column_passes:.0f} column-passes, {elapsed:.1f} s"
    )
    return lines
