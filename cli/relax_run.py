"""The work of ``gpu-reml-relax``: inputs as of gpu-reml, the search, and its files."""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from gpu_reml import io
from gpu_reml.reml import FitSettings, ProbeSettings, Record, SolverSettings, draw_probes
from gpu_reml.reml.engines.reduced_model import largest_basis
from gpu_reml.reml.studies.memberships import COLUMNS, check_memberships, random_memberships
from gpu_reml.reml.studies.relax import (
    OuterRecord,
    RelaxHooks,
    RelaxResult,
    RelaxSettings,
    relax,
)
from gpu_reml.reml.tables import component_lines, shown
from gpu_reml.reports.page import page_text

from .align import Group, groups_of_samples
from .export import npy_bytes
from .flags.analysis import Analysis
from .flags.components import Components
from .flags.estimation import Estimation, Tests
from .flags.filters import Filters
from .flags.model import Scaling, Terms
from .flags.relax import GroupFits, Grouping, RelaxOutput
from .flags.smile import Smile
from .inputs import Inputs, load_group
from .outputs import RELAX_FILES, check_outputs, outputs_of_traits
from .parser import CommandLine
from .pictures import check_reportable
from .plan import STORED_WEIGHT
from .planned import Planned, check_all_traits, plan_group, planned_lines, rooms
from .provenance import provenance
from .read import Tables, read_tables
from .report import bound_lines, fixed_line
from .unused import RELAX, Decided, noted, plan_notes
from .wording import fit_record, in_flags

CAUTION = "the likelihood and the errors are of groups chosen to raise it on the same phenotypes: no test of the groups"

COMPARISON = (
    "a step and the best before it are measured with the same probes and basis; log-likelihoods of the outer "
    "iterations are that of the first and the gains since; that of the last fit differs by its Monte-Carlo error"
)

MEMBERSHIPS = 8  # so many (m, G) arrays are held: memberships, logarithms and gradient, of the best point and a trial
# A gradient takes, for each variant, features of four blocks with products and sums, and one block in float32.
GRADIENT_BYTES = 8 * (10 * COLUMNS + 12) + 4 * COLUMNS


class Asked(NamedTuple):
    """What gpu-reml-relax was asked, group by group; ``line``: flag by flag."""

    line: CommandLine
    analysis: Analysis
    grouping: Grouping
    fits: GroupFits
    output: RelaxOutput

    @classmethod
    def of(cls, line: CommandLine) -> Self:
        """Read every group; fits are stochastic, and take all of their probes from the start."""
        fits = GroupFits.of(line.values)
        estimation = Estimation(
            method="stochastic",
            max_probes=fits.max_probes,
            first_probes=fits.max_probes,
            max_iterations=fits.max_iterations,
            seed=fits.seed,
        )
        analysis = Analysis.of(
            line.values,
            filters=Filters(),
            components=Components(),
            smile=Smile(),
            terms=Terms(),
            scaling=Scaling(),
            estimation=estimation,
            tests=Tests(),
        )
        return cls(line, analysis, Grouping.of(line.values), fits, RelaxOutput.of(line.values))


def relax_command(line: CommandLine, threads: int) -> bool:
    """Run the search and write its files; True when the last accepted fit converged."""
    started, asked = time.perf_counter(), Asked.of(line)
    analysis, grouping, out = asked.analysis, asked.grouping, asked.output.out
    io.check_writable(out)
    check_reportable(asked.output.report)
    if grouping.theta_init == "uniform" and not grouping.theta_init_npy:
        raise io.InputError(
            "--theta-init uniform: all groups would be alike, and stay so; use random or --theta-init-npy"
        )
    given = read_memberships(grouping.theta_init_npy, grouping.n_groups) if grouping.theta_init_npy else None
    tables, group = read_one(analysis)
    check_outputs(outputs_of_traits(RELAX_FILES, out, group.phenotypes), line, tables.sources.paths)
    planned = plan_groups(plan_group(tables, group, analysis), grouping.n_groups, analysis)
    if analysis.compute.plan:
        print("\n".join([*planned_lines(planned, analysis), *plan_notes(line, RELAX, planned.backend)]), flush=True)
        return True
    check_all_traits([group], [planned])
    inputs = noted(load_group(tables, group, planned, analysis), line, RELAX, Decided(backend=planned.backend))
    start = first_memberships(given, inputs.products.num_variants, grouping, asked.fits.seed)
    report = Printer(asked.output.detail)
    report.line(f"gpu-reml-relax {version('gpu-reml')}")
    report.line(start_lines(inputs, asked, threads))
    y, X, h2 = inputs.Y[:, 0], inputs.design.X, asked.fits.h2_init
    probes = draw_probes(len(y), planned.probes(asked.fits.max_probes), 0, asked.fits.seed)
    result = relax(
        y,
        X,
        inputs.products,
        start,
        probes,
        relax_settings(grouping, asked.fits, planned),
        start=None if h2 is None else start_at(h2, grouping.n_groups, y, X, inputs),
        hooks=RelaxHooks(report.outer, report.iteration),
    )
    inputs.check_unchanged()
    details = {"settings": line.values, "seed": asked.fits.seed, "threads": threads}
    details.update(seconds=time.perf_counter() - started, run=provenance(line))
    meta = meta_record(result, inputs, details)
    files: dict[str, str | bytes] = output_files(out, result, meta)
    if asked.output.report:
        history = [record._asdict() for record in result.history]
        files[f"{out}.relax.report.html"] = page_text({**meta, "history": history})
    closing = closing_lines(result)
    files[f"{out}.relax.log"] = "\n".join([*report.lines, *closing, ""])
    io.write_all(files)
    print("\n".join(closing))
    print(f"written: {out}{{{','.join(path.removeprefix(out) for path in files)}}}", flush=True)
    return result.fit.converged


def read_memberships(path: str, num_groups: int) -> np.ndarray:
    """Memberships (m, G) from a .npy file; InputError for anything else."""
    memberships = io.load_npy(path, "--theta-init-npy file")
    if memberships.ndim != 2 or memberships.shape[1] != num_groups:
        found = memberships.shape
        raise io.InputError(f"{path}: expected an array (variants, {num_groups}) for --n-groups, found {found}")
    if memberships.dtype.kind not in "fiub":
        raise io.InputError(f"{path}: expected numbers, found {memberships.dtype}")
    return memberships


def read_one(analysis: Analysis) -> tuple[Tables, Group]:
    """Tables and the samples of the one phenotype."""
    tables = read_tables(analysis)
    groups = list(groups_of_samples(tables, analysis.samples))
    if len(tables.sources.files) != 1:
        raise io.InputError("--bfile, --pfile: groups are learned within one fileset; give one prefix")
    if len(groups) != 1 or len(groups[0].phenotypes) != 1:
        raise io.InputError("--pheno-name: groups are learned from one phenotype; name one")
    return tables, groups[0]


def plan_groups(planned: Planned, G: int, analysis: Analysis) -> Planned:
    """A plan for as many components of all variants as there are groups, instead of one."""
    m = planned.sizes.num_variants
    # The weights of the best point and of the gradient are held beside those of the fit under way.
    memberships = (8 * MEMBERSHIPS + 2 * STORED_WEIGHT) * G * m
    before = 4 * (m + planned.sizes.num_samples) * min(planned.sizes.dimension, largest_basis(G))
    held = (("memberships", memberships), ("basis before", before), ("gradient", GRADIENT_BYTES * m))
    sizes = planned.sizes._replace(num_components=G, num_weights=G * m, further=held)
    device, room = rooms(sizes, planned.backend, analysis)
    return planned._replace(sizes=sizes, device=device, room=room)


def first_memberships(given: np.ndarray | None, num_variants: int, asked: Grouping, seed: int) -> np.ndarray:
    """Those of the file, or random ones."""
    if given is None:
        limits = (asked.theta_random_low, asked.theta_random_high)
        if not 0 <= limits[0] < limits[1] < np.inf:
            raise io.InputError(
                f"--theta-random-low, --theta-random-high: expected 0 <= low < high, found {limits[0]} and {limits[1]}"
            )
        return random_memberships(num_variants, asked.n_groups, *limits, seed=seed)
    if len(given) != num_variants:
        raise io.InputError(
            f"{asked.theta_init_npy}: expected a row for each of {num_variants} variants, found {len(given)}"
        )
    try:
        return check_memberships(given, num_variants)
    except ValueError as error:
        raise io.InputError(f"{asked.theta_init_npy}: {error}") from None


def relax_settings(asked: Grouping, fits: GroupFits, planned: Planned) -> RelaxSettings:
    """Settings of the search and of its fits; a basis that is made anew leaves room for the one before."""
    usual, basis = FitSettings(), planned.basis
    if basis is not None and planned.device is not None:
        basis = max(1, basis // 2)
    limit = 1.0 if fits.pcg_tol is None else fits.pcg_tol
    solver = {name: min(limit, getattr(usual.solver, name)) for name in ("y", "probes", "final")}
    settings = FitSettings(
        max_iterations=fits.max_iterations,
        solver=SolverSettings(**solver, most_basis=basis, max_iterations=fits.max_pcg_iters),
        probes=ProbeSettings(first=fits.max_probes, columns=planned.columns),
    )
    return RelaxSettings(asked.outer_iters, asked.theta_lr, asked.theta_linesearch_trials, settings)


def start_at(h2: float, G: int, y: np.ndarray, X: np.ndarray, inputs: Inputs) -> np.ndarray:
    """theta (G + 1,) that shares h2 equally among the G groups, of the variance that the fixed effects leave."""
    left = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    total = float(left @ left) / (len(y) - X.shape[1])
    each = h2 * len(y) / (G * inputs.covariance.traces[0])
    return total * np.append(np.full(G, each), 1 - h2)


class Printer:
    """Prints outer iterations ("compact"), and those of the fits ("full"), or nothing ("off")."""

    def __init__(self, detail: str):
        self._detail = detail
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
        if self._detail != "off":
            print(text, flush=True)

    def outer(self, record: OuterRecord) -> None:
        if not record.theta:
            self.line(f"outer iteration {record.outer}: rejected, rate {record.rate:.3g}; {record.status}")
            return
        variances = " ".join(f"{value:.5g}" for value in record.theta)
        sizes = " ".join(f"{value:.0f}" for value in record.group_sizes)
        verdict = "accepted" if record.accepted else "rejected"
        gain = (
            f" ({record.gain:+.4f}, MC error {shown(record.gain_mc_se, '.2g')})" if record.gain == record.gain else ""
        )
        likelihood = f"log-likelihood {record.loglik:.4f}{gain} {verdict}, rate {record.rate:.3g}"
        self.line(
            f"outer iteration {record.outer}: {likelihood}; theta {variances}; group sizes {sizes}; "
            f"fit {record.status} in {record.iterations} iterations"
        )

    def iteration(self, record: Record) -> None:
        if self._detail == "full":
            variances = " ".join(f"{value:.6g}" for value in record.theta)
            self.line(f"  iteration {record.iteration}: theta {variances}; {record.pcg_iterations} PCG steps")


def start_lines(inputs: Inputs, asked: Asked, threads: int) -> str:
    """Who and what is analysed, on what, and what was noticed."""
    products = inputs.products
    varying = int((products.genotypes.inv_sd > 0).sum())
    line = (
        f"phenotype {inputs.phenotypes[0]}: {inputs.alignment.num_samples} samples, {varying} of "
        f"{products.num_variants} variants vary, {asked.grouping.n_groups} groups; device {inputs.covariance.backend}, "
        f"{threads} thread(s), seed {asked.fits.seed}"
    )
    return "\n".join([line, fixed_line(inputs.design.names), *(f"note: {note}" for note in inputs.notes)])


def meta_record(result: RelaxResult, inputs: Inputs, details: dict[str, Any]) -> dict[str, Any]:
    """PREFIX.meta.json: the last accepted fit, the groups, and how they were found."""
    return {
        "phenotype": inputs.phenotypes[0],
        **result.to_dict(),
        "message": in_flags(result.status.value),
        "n": inputs.alignment.num_samples,
        "num_variants_varying": int((inputs.products.genotypes.inv_sd > 0).sum()),
        "denominators": "sums of memberships over the variants that vary",
        "loglik_comparison": COMPARISON,
        "fit": fit_record(result.fit),
        "caution": CAUTION,
        "units": "phenotype units squared",
        "samples": {"analysed": inputs.alignment.num_samples, "dropped": inputs.alignment.dropped_counts},
        "covariates": inputs.design.names,
        "backend": inputs.covariance.backend,
        "notes": inputs.notes,
        "version": version("gpu-reml"),
        **details,
    }


def output_files(out: str, result: RelaxResult, meta: dict[str, Any]) -> dict[str, str | bytes]:
    """Path and content of the five files; gradient and memberships are (variants, groups)."""
    history = [record._asdict() for record in result.history]
    arrays = {"theta": result.memberships, "var_components": result.fit.theta, "theta_grad": result.gradient}
    names = {f"{name}_npy": f"{Path(out).name}.{name}.npy" for name in arrays}
    return {
        **{f"{out}.{name}.npy": npy_bytes(array) for name, array in arrays.items()},
        f"{out}.history.json": io.json_text({"status": result.status.name.lower(), "outer_iterations": history}),
        f"{out}.meta.json": io.json_text({**meta, "files": names}),
    }


def closing_lines(result: RelaxResult) -> list[str]:
    """The results as a person reads them."""
    first = result.history[0].loglik
    sizes = ", ".join(f"{name} {size:.1f}" for name, size in zip(result.fit.names, result.group_sizes, strict=True))
    lines = [
        *component_lines(result.fit),  # without a test, since the fit chose the groups
        *bound_lines(result.fit),
        f"group sizes (sums of memberships): {sizes}",
        f"{result.num_accepted} accepted updates; log-likelihood {first:.4f} at the start, {first + result.gain:.4f} "
        f"at the end, gain {result.gain:.4f} (MC error {shown(result.gain_mc_se, '.2g')})",
        f"{result.status.name.lower()}: {in_flags(result.status.value)}",
        f"caution: {CAUTION}",
    ]
    if not result.fit.converged:
        lines.append(f"not converged: {in_flags(result.fit.status.value)}")
    return lines
