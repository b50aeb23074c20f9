"""The ``gpu-reml`` command: plan, fit, table, files."""

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple, Self

import pandas as pd

from gpu_reml import io
from gpu_reml.ops.cluster.products import ClusterProducts
from gpu_reml.reml import ConvergenceError, FitResult, HEResult, layout_of
from gpu_reml.reml.tables import shown
from gpu_reml.reports.page import page_text

from .align import Group, group_lines, groups_of_samples
from .alpha import alpha_files, check_alpha, planned_alpha
from .component_tests import component_tests, sets_of
from .components import with_alpha
from .diagnoses import diagnosed, diagnosis_lines, expected_lines, spectrum_record
from .effects import FileSettings, Further, after_fit, check_effects, check_sizes
from .export import check_export, export_files
from .flags.alpha import Learned
from .flags.analysis import Analysis
from .flags.effects import Effects, NewSamples
from .flags.merge import Merge
from .flags.model import BESIDE_SETS, Terms
from .flags.output import Checkpoints, RemlOutput, Screen
from .flags.parts import ByParts
from .flags.rg import Correlations
from .flags.scan import Scan
from .he_parts import PartsRun, check_parts, parts_command
from .inputs import Inputs, check_components, load_group
from .liability import check_prevalence, liability_lines, liability_of, liability_rows
from .merge import Merging, check_merge, run_merge
from .merge_files import Partition
from .methods import FAILURES, Following, choose_method, remove_checkpoint, run_method
from .outputs import check_outputs, grm_outputs, reml_outputs, trait_prefix, traits_path, write_samples
from .parser import CommandLine
from .pictures import check_reportable
from .planned import Planned, check_group, plan_group, planned_lines
from .progress import under_way
from .provenance import provenance
from .read import Tables, read_tables
from .relatives import pc_files, pc_lines, pcs_of
from .replicates import with_replicates
from .report import (
    ancestry_records,
    beside_record,
    caution_lines,
    enrichment_of,
    grm_lines,
    history_text,
    hsq_text,
    json_record,
    plan_lines,
    profile_text,
    reference_lines,
)
from .rg import Correlating, rg_command
from .scan import Sets, check_scan, scan_files, scan_sets, with_scan
from .together import parts_of, read_once, together_note
from .traits_table import TraitsTable, failed_row, row_of
from .unused import REML, Decided, noted, plan_notes
from .wording import in_flags
from .workers import check_workers, reader_of


class Asked(NamedTuple):
    """What gpu-reml was asked, group by group; ``line``: flag by flag."""

    line: CommandLine
    analysis: Analysis
    merge: Merge
    further: Further
    scan: Scan
    learned: Learned
    output: RemlOutput
    following: Following

    @classmethod
    def of(cls, line: CommandLine) -> Self:
        """Read every group."""
        values = line.values
        output = RemlOutput.of(values)
        return cls(
            line,
            Analysis.of(values),
            Merge.of(values),
            Further(Effects.of(values), NewSamples.of(values), output.out),
            Scan.of(values),
            Learned.of(values),
            output,
            Following(output.out, Checkpoints.of(values), Screen.of(values)),
        )

    @property
    def say(self) -> Callable:
        """Prints, unless only the results are wanted."""
        return (lambda *_, **__: None) if self.following.screen.quiet else print


def reml_command(line: CommandLine, threads: int) -> bool:
    """Run one analysis and write its files; True when every fit converged."""
    started, asked = time.perf_counter(), Asked.of(line)
    analysis, output = asked.analysis, asked.output
    check_outputs_possible(output)
    correlations = Correlations.of(line.values)
    check_records_alone(asked)
    check_workers(analysis, ["--rg, --rg-with"] if correlations.wanted else [])
    if correlations.wanted:
        return rg_command(Correlating(line, analysis, correlations, output, asked.following.screen), threads)
    check_merge(asked.merge, analysis)
    check_export(output.export_ai, analysis.estimation)
    check_effects(asked.further, analysis)
    check_scan(asked.scan, analysis)
    check_alpha(asked.learned.fit_alpha, analysis)
    tables = read_tables(analysis)
    if output.no_fit:
        check_matrices(tables, analysis.terms, output.no_fit)
    groups = list(groups_of_samples(tables, analysis.samples))
    traits = [name for group in groups for name in group.phenotypes]
    check_files(tables, groups, traits, asked)
    asked.say("\n".join([f"gpu-reml {version('gpu-reml')}", *group_lines(groups)]), flush=True)
    beside = (asked.further.wanted, asked.merge.merge, asked.scan.wanted, asked.learned.fit_alpha, output.no_fit)
    only_fits = not any(beside)
    by_parts = ByParts.of(line.values)
    if by_parts.wanted:
        check_parts(by_parts, analysis, beside=not only_fits)
        return parts_command(by_parts, tables, groups, analysis, PartsRun(output.out, line.values, started))
    members, groups = groups, read_once(tables, groups, analysis, only_fits=only_fits)
    planned_groups = [planned_group(tables, group, asked) for group in groups]
    if analysis.compute.plan:
        for group, planned in zip(groups, planned_groups, strict=True):
            first, *memory = planned_lines(planned, analysis)
            said = [first, *expected_lines(tables.sources, group.alignment, analysis), *memory]
            print("\n".join([*said, *plan_notes(line, REML, planned.backend)]), flush=True)
        return True
    for group in members:
        check_group(tables, group)
    several = len(traits) > 1
    order = [phenotype.name for phenotype in tables.phenotypes]
    table = TraitsTable(traits_path(output.out) if several and not output.no_fit else None, order, started)
    converged, run = True, {"threads": threads, "started": started, "several": several}
    with reader_of(analysis, threads, planned_groups, asked.say) as reader, table:
        for group, planned in zip(groups, planned_groups, strict=True):
            with under_way("reading genotypes", quiet=asked.following.screen.quiet):
                inputs = load_group(tables, group, planned, analysis, reader)
            if output.no_fit:
                write_of_genotypes(inputs, asked)
            else:
                converged &= fit_inputs(inputs, tables, asked, run, table)
            write_samples(inputs.alignment, output)
    if table.path is not None:
        print(f"written: {table.path}", flush=True)
    return converged


def check_outputs_possible(output: RemlOutput) -> None:
    """Raises InputError or OutputError for files that cannot be written."""
    for path in output.paths:
        io.check_writable(path)
    check_reportable(output.report)


def check_records_alone(asked: Asked) -> None:
    """Raises InputError for what repeated records and single-step relationships cannot be used with."""
    others = {
        "--merge": asked.merge.merge,
        "--scan, --scan-genes, --scan-windows": asked.scan.wanted,
        "--fit-alpha": asked.learned.fit_alpha,
    }
    given = [flag for flag, wanted in others.items() if wanted]
    if asked.analysis.terms.has_records and given:
        raise io.InputError(f"--random iid: repeated records cannot be used with {', '.join(given)}; leave one out")
    if asked.analysis.terms.single_step and given:
        raise io.InputError(f"--single-step: leaves no sets of variants for {', '.join(given)}; leave one out")


def planned_group(tables: Tables, group: Group, asked: Asked) -> Planned:
    """The plan of a group, with what follows its fits."""
    planned = with_scan(plan_group(tables, group, asked.analysis), asked.scan, asked.analysis)
    planned, further = planned_alpha(planned, asked.learned.fit_alpha, asked.analysis), asked.further
    return with_replicates(planned, further.effects.reliability, tables.parts.num_scales, saved=further.saves)


def check_matrices(tables: Tables, terms: Terms, flag: str) -> None:
    """Raises InputError for what ``--make-grm`` or ``--pca`` cannot write."""
    if not tables.sources.files:
        raise io.InputError(f"{flag}: is of genotypes; give --bfile, --pfile or --bgen")
    beside = [f"--{name}".replace("_", "-") for name in BESIDE_SETS if getattr(terms, name) and "residual" not in name]
    if beside:
        raise io.InputError(f"{flag}: writes what there is of sets of variants; leave out {', '.join(beside)}")


def check_files(tables: Tables, groups: list[Group], traits: list[str], asked: Asked) -> None:
    """Raises InputError for files that would be written twice, or over what is read."""
    flags = [*filter(None, [asked.output.no_fit]), *asked.output.lists]
    if len(groups) > 1 and flags:
        raise io.InputError(f"{', '.join(flags)}: the phenotypes have different samples; name one phenotype")
    outputs = reml_outputs(asked.line, asked.output, asked.further.effects.save_model, traits)
    check_outputs(outputs, asked.line, tables.sources.paths)


def fit_inputs(inputs: Inputs, tables: Tables, asked: Asked, run: dict[str, Any], table: TraitsTable) -> bool:
    """:func:`fit_group` of the traits of one group, or of the parts in which those of its members are fitted."""
    method = choose_method(inputs, asked.analysis.estimation.method)
    if not inputs.members:
        return fit_group(inputs, method, dict.fromkeys(inputs.phenotypes, inputs), asked, run, table)
    inputs = inputs._replace(notes=(*inputs.notes, together_note(inputs)))
    parts = parts_of(inputs, tables, method)
    return all([fit_group(part, method, own, asked, run, table) for part, own in parts])


def fit_group(
    inputs: Inputs, method: str, own: dict[str, Inputs], asked: Asked, run: dict[str, Any], table: TraitsTable
) -> bool:
    """Fit traits together, write their files and add them to the table; True when every fit converged.

    ``own``: the inputs that each trait's files tell of.  A trait of several that cannot be fitted has a row that says
    why, and the others go on.
    """
    analysis, output = asked.analysis, asked.output
    check_components(inputs)
    sets_of(analysis.tests, layout_of(inputs.covariance).names)  # an error comes before any work
    for each in own.values():
        check_prevalence(each, analysis)
    check_sizes(inputs, asked.further)
    sets = scan_sets(asked.scan, inputs, analysis)
    known = Decided(method, inputs.covariance.num_components, inputs.planned.backend)
    inputs = noted(inputs, asked.line, REML, known)
    plan = plan_lines(inputs, method, analysis, run["threads"])
    asked.say("\n".join([*plan, ""]), flush=True)
    converged = True

    def prefix_of(name: str) -> str:
        return trait_prefix(output.out, name, run["several"])

    def finish(report, merged=None):
        nonlocal converged
        name, result, seconds = report
        inputs = merged or noted(own[name], asked.line, REML, known)
        inputs.check_unchanged()
        context = {
            "phenotype": name,
            "settings": {**asked.line.values, "threads": run["threads"]},
            "seed": analysis.estimation.seed,
            "version": version("gpu-reml"),
            "seconds": time.perf_counter() - run["started"],
            "run": provenance(asked.line),
        }
        plan = plan_lines(inputs, method, analysis, run["threads"])
        converged &= write_result(prefix_of(name), result, seconds, inputs, asked, plan, context)
        row = row_of(result)
        if isinstance(result, FitResult):
            try:
                write_after(name, result, inputs, asked, prefix_of(name), sets)
            except FAILURES as error:
                if not run["several"]:
                    raise
                converged = False
                row.update(failed_row(result.num_samples, error))
                print(f"gpu-reml: not converged: {name}: {row['message']}", file=sys.stderr)
        table.add(name, row)

    def failed(name: str, error: Exception) -> None:
        nonlocal converged
        converged = False
        row = failed_row(own[name].alignment.num_samples, error)
        table.add(name, row)
        print(f"gpu-reml: not converged: {name}: {row['message']}", file=sys.stderr)

    failing = failed if run["several"] else None
    if asked.merge.merge:
        merging = Merging(asked.merge, analysis, asked.following, asked.line.values)
        run_merge(method, inputs, merging, finish, partition_of(inputs, analysis), prefix_of, failing)
    else:
        run_method(method, inputs, analysis, asked.following, finish, failing)
    remove_checkpoint(output.out, inputs.phenotypes)
    return converged


def write_after(name: str, result: FitResult, inputs: Inputs, asked: Asked, prefix: str, sets: Sets | None) -> None:
    """What is asked for beside a fit, which is on disk by then."""
    if asked.further.wanted:
        write_further(name, result, inputs, asked, prefix)
    if sets is not None:
        write_scan(name, result, inputs, asked, prefix, sets)
    if asked.learned.fit_alpha:
        found = alpha_files(name, inputs, asked.analysis, asked.learned.fit_alpha)
        write_beside(prefix, found.files, found.lines, inputs)
        if not found.converged:
            raise ConvergenceError("the fit at the alpha that was found has not converged; raise --max-iterations")


def write_further(name: str, result: FitResult, inputs: Inputs, asked: Asked, prefix: str) -> None:
    """Effects, a saved model, predictions and cross-validation: after the fit's own files, which are safe by then."""
    record = FileSettings(prefix, asked.line.values)
    outcome = after_fit(name, result, inputs, asked.analysis, asked.further, record)
    inputs.check_unchanged()
    io.write_all(outcome.files)
    own = [path.removeprefix(prefix) for path in outcome.files if path.startswith(f"{prefix}.")]
    others = [path for path in outcome.files if not path.startswith(f"{prefix}.")]
    written = ", ".join([*([f"{prefix}{{{','.join(own)}}}"] if own else []), *others])
    print("\n".join([*outcome.lines, f"written: {written}"]), flush=True)


def write_scan(name: str, result: FitResult, inputs: Inputs, asked: Asked, prefix: str, sets: Sets) -> None:
    """Tests of many sets beside the fitted components; none beside a fit that has not converged."""
    if not result.converged:
        print("gpu-reml: no scan, since the fit has not converged", file=sys.stderr)
        return
    with under_way("testing sets of variants", quiet=asked.following.screen.quiet):
        found = scan_files(name, result, inputs, asked.analysis, asked.scan, sets)
    write_beside(prefix, found.files, found.lines, inputs)


def write_beside(prefix: str, files: dict[str, str], lines: list[str], inputs: Inputs) -> None:
    """Write files by their suffix, and print what they say."""
    inputs.check_unchanged()
    io.write_all({f"{prefix}.{suffix}": text for suffix, text in files.items()})
    written = ",".join(f".{suffix}" for suffix in files)
    print("\n".join([*lines, f"written: {prefix}{{{written}}}"]), flush=True)


def partition_of(inputs: Inputs, analysis: Analysis) -> Partition:
    """The components of an analysis before normalisation, as a merge takes them."""
    weights = with_alpha(inputs.components.weights, inputs.products.genotypes, analysis.scaling.alpha)
    return Partition(weights, inputs.variants.rows)


def write_of_genotypes(inputs: Inputs, asked: Asked) -> None:
    """``--make-grm`` or ``--pca``."""
    (write_pcs if asked.output.pca else write_grms)(inputs, asked)


def write_grms(inputs: Inputs, asked: Asked) -> None:
    """``--make-grm``: every component's relationship matrix in GCTA's format."""
    inputs = noted(inputs, asked.line, REML, Decided(backend=inputs.planned.backend))
    asked.say("\n".join(grm_lines(inputs, asked.analysis.scaling.standardize)), flush=True)
    covariance = inputs.genetic
    check_outputs(grm_outputs(asked.output, covariance.names), asked.line)
    for g, name in enumerate(covariance.names):
        prefix = trait_prefix(asked.output.out, name, covariance.num_components > 1)
        io.write_grm(prefix, covariance.only(g), inputs.alignment.samples)
        print(f"written: {prefix}.grm{{.bin,.N.bin,.id}}", flush=True)


def write_pcs(inputs: Inputs, asked: Asked) -> None:
    """``--pca``: principal components of the analysed samples and variants."""
    inputs = noted(inputs, asked.line, REML, Decided(backend=inputs.planned.backend))
    asked.say("\n".join(grm_lines(inputs, asked.analysis.scaling.standardize)), flush=True)
    found = pcs_of(inputs.products, asked.output.pca, asked.analysis.estimation.seed)
    inputs.check_unchanged()
    files = pc_files(asked.output.out, found, inputs.alignment.samples)
    io.write_all(files)
    print("\n".join([*pc_lines(found), f"written: {', '.join(files)}"]), flush=True)


def write_result(
    prefix: str, result, seconds: list[float], inputs: Inputs, asked: Asked, plan: list[str], context: dict[str, Any]
) -> bool:
    """Print a trait's table and write its files; whether it converged."""
    analysis = asked.analysis
    ancestries = ancestry_lines(ancestry_records(result, inputs, analysis.terms.residual_by_ancestry))
    name = context["phenotype"]
    liability = liability_of(result, inputs, name, analysis.tests.prevalence)
    told = [*ancestries, *liability_lines(liability, result.names), *device_lines(inputs)]
    closing = [*closing_lines(result, context["seconds"]), *told, *reference_lines(result, inputs, name)]
    if len(inputs.phenotypes) > 1:
        closing = [f"phenotype {name}", *closing]
    record, further = json_record(result, inputs, analysis, context), {}
    if asked.output.report:
        facts, found = diagnosed(name, result, inputs, analysis)
        record["diagnoses"] = [each._asdict() for each in found]
        closing += diagnosis_lines(found)
        further = {**beside_record(name, result, inputs), "spectrum": spectrum_record(facts)}
    texts = {
        f"{prefix}.json": io.json_text(record),
        f"{prefix}.hsq": hsq_text(result, liability_rows(liability)),
        f"{prefix}.log": "\n".join([f"gpu-reml {context['version']}", *plan, "", *closing]) + "\n",
    }
    annotated = enrichment_of(result, inputs)
    if annotated is not None:
        texts[f"{prefix}.enrichment.tsv"] = io.table_text(annotated.to_frame())
    if isinstance(result, FitResult) and len(result.names) > 1:
        tests = component_tests(result, sets_of(analysis.tests, result.names))
        texts[f"{prefix}.tests.tsv"] = io.table_text(pd.DataFrame(tests))
    if isinstance(result, FitResult) and result.profiles:
        texts[f"{prefix}.profile.tsv"] = profile_text(result)
    if asked.output.export_ai:
        texts.update(export_files(prefix, result, residual_mode=analysis.terms.admix_residual_mode))
    if isinstance(result, FitResult):
        texts[f"{prefix}.history.tsv"] = history_text(result, seconds)
    if asked.output.report:
        texts[f"{prefix}.report.html"] = page_text({**record, **further})
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
    """Most memory that was held on every device, beside what was planned; workers that came and went."""
    if isinstance(inputs.products, ClusterProducts):
        return [f"workers: {text}" for text in inputs.products.cluster.told]
    if inputs.planned.device is None:
        return []
    planned = inputs.planned.device.peak / 2**20
    return [
        f"{label}: at most {held / 2**20:,.1f} MiB held, {planned:,.1f} planned"
        for label, held in inputs.products.peak_bytes.items()
    ]


def closing_lines(result: FitResult | HEResult, elapsed: float) -> list[str]:
    """The results as a person reads them."""
    if isinstance(result, HEResult):
        scale = "" if result.scale is None else f"; variances are of {result.scale}"
        used = f"{result.kind} with {result.num_probes} probes"
        return [result.summary(), f"{used}, {result.column_passes:.0f} matrix-vector products, {elapsed:.1f} s{scale}"]
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
        f"{result.status.name.lower()} after {count} {kind}, {result.column_passes:.0f} matrix-vector products, "
        f"{elapsed:.1f} s"
    )
    return lines
