"""The work of ``gpu-reml-relax``: inputs as of gpu-reml, the search, and its files."""

import time
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

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

from .export import npy_bytes
from .inputs import Group, Inputs, Planned, Tables, check_all_traits, load_group, plan_group, read_inputs, rooms
from .outputs import RELAX_FILES, check_outputs, outputs_of_traits
from .plan import STORED_WEIGHT
from .reml import planned_lines
from .report import bound_lines, fixed_line
from .unused import RELAX, Run, noted, plan_notes
from .wording import fit_record, in_flags

CAUTION = "the likelihood and the errors are of groups chosen to raise it on the same phenotypes: no test of the groups"

COMPARISON = (
    "a step and the best before it are measured with the same probes and basis; log-likelihoods of the outer "
    "iterations are that of the first and the gains since; that of the last fit differs by its Monte-Carlo error"
)

MEMBERSHIPS = 8  # arrays (m, G) in float64: memberships, logarithms, gradient, of the best point and a trial
# a variant: features of four blocks, their products and sums in float64, and one block of them in float32
GRADIENT_BYTES = 8 * (10 * COLUMNS + 12) + 4 * COLUMNS


def relax_command(options: Namespace, threads: int) -> bool:
    """Run the search and write its files; True when the last accepted fit converged."""
    started = time.perf_counter()
    io.check_writable(options.out)
    if options.theta_init == "uniform" and not options.theta_init_npy:
        raise io.InputError(
            "--theta-init uniform: the groups would be one and the same, and stay so; use random or --theta-init-npy"
        )
    given = read_memberships(options.theta_init_npy, options.n_groups) if options.theta_init_npy else None
    tables, group = read_one(options)
    check_outputs(outputs_of_traits(RELAX_FILES, options, group.phenotypes), options, tables.sources.paths)
    planned = plan_groups(plan_group(tables, group, options), options)
    if options.plan:
        print("\n".join([*planned_lines(planned, options), *plan_notes(options, RELAX, planned.backend)]), flush=True)
        return True
    check_all_traits([group], [planned])
    inputs = noted(load_group(tables, group, planned, options), options, RELAX, Run(backend=planned.backend))
    start = first_memberships(given, inputs.products.num_variants, options)
    report = Printer(options.reml_log_detail)
    report.line(start_lines(inputs, options, threads))
    y, X = inputs.Y[:, 0], inputs.design.X
    probes = draw_probes(len(y), planned.probes(options.max_probes), 0, options.seed)
    result = relax(
        y,
        X,
        inputs.products,
        start,
        probes,
        relax_settings(options, planned),
        start=None if options.h2_init is None else start_at(options, y, X, inputs),
        hooks=RelaxHooks(report.outer, report.iteration),
    )
    inputs.check_unchanged()
    record = meta_record(result, inputs, options, {"threads": threads, "seconds": time.perf_counter() - started})
    files = output_files(options.out, result, record)
    io.write_all(files)
    print("\n".join(closing_lines(result)))
    print(f"written: {options.out}{{{','.join(path.removeprefix(options.out) for path in files)}}}", flush=True)
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


def read_one(options: Namespace) -> tuple[Tables, Group]:
    """Tables and the samples of the one phenotype."""
    tables, groups = read_inputs(options)
    if len(tables.sources.files) != 1:
        raise io.InputError("--bfile, --pfile: groups are learned within one fileset; give one prefix")
    if len(groups) != 1 or len(groups[0].phenotypes) != 1:
        raise io.InputError("--pheno-name: groups are learned from one phenotype; name one")
    return tables, groups[0]


def plan_groups(planned: Planned, options: Namespace) -> Planned:
    """A plan for as many components of all variants as there are groups, instead of one."""
    G = options.n_groups
    m = planned.sizes.num_variants
    # beside the weights of the fit under way those of the best point and of the gradient
    memberships = (8 * MEMBERSHIPS + 2 * STORED_WEIGHT) * G * m
    before = 4 * (m + planned.sizes.num_samples) * min(planned.sizes.dimension, largest_basis(G))
    held = (("memberships", memberships), ("basis before", before), ("gradient", GRADIENT_BYTES * m))
    sizes = planned.sizes._replace(num_components=G, num_weights=G * m, further=held)
    device, room = rooms(sizes, planned.backend, options)
    return planned._replace(sizes=sizes, device=device, room=room)


def first_memberships(given: np.ndarray | None, num_variants: int, options: Namespace) -> np.ndarray:
    """Those of the file, or random ones."""
    if given is None:
        limits = (options.theta_random_low, options.theta_random_high)
        if not 0 <= limits[0] < limits[1] < np.inf:
            raise io.InputError(
                f"--theta-random-low, --theta-random-high: expected 0 <= low < high, found {limits[0]} and {limits[1]}"
            )
        return random_memberships(num_variants, options.n_groups, *limits, seed=options.seed)
    if len(given) != num_variants:
        raise io.InputError(
            f"{options.theta_init_npy}: expected a row for each of {num_variants} variants, found {len(given)}"
        )
    try:
        return check_memberships(given, num_variants)
    except ValueError as error:
        raise io.InputError(f"{options.theta_init_npy}: {error}") from None


def relax_settings(options: Namespace, planned: Planned) -> RelaxSettings:
    """Settings of the search and of its fits; a basis that is made anew leaves room for the one before."""
    usual, basis = FitSettings(), planned.basis
    if basis is not None and planned.device is not None:
        basis = max(1, basis // 2)
    limit = 1.0 if options.pcg_tol is None else options.pcg_tol
    solver = {name: min(limit, getattr(usual.solver, name)) for name in ("y", "probes", "final")}
    fits = FitSettings(
        max_iterations=options.max_iterations,
        solver=SolverSettings(**solver, most_basis=basis, max_iterations=options.max_pcg_iters),
        probes=ProbeSettings(first=options.first_probes, columns=planned.columns),
    )
    return RelaxSettings(options.outer_iters, options.theta_lr, options.theta_linesearch_trials, fits)


def start_at(options: Namespace, y: np.ndarray, X: np.ndarray, inputs: Inputs) -> np.ndarray:
    """theta (G + 1,) that shares --h2-init equally among the groups, of the variance that the fixed effects leave."""
    left = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    total = float(left @ left) / (len(y) - X.shape[1])
    each = options.h2_init * len(y) / (options.n_groups * inputs.covariance.traces[0])
    return total * np.append(np.full(options.n_groups, each), 1 - options.h2_init)


class Printer:
    """Prints outer iterations ("compact"), and those of the fits ("full"), or nothing ("off")."""

    def __init__(self, detail: str):
        self._detail = detail

    def line(self, text: str) -> None:
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


def start_lines(inputs: Inputs, options: Namespace, threads: int) -> str:
    """Who and what is analysed, on what, and what was noticed."""
    products = inputs.products
    varying = int((products.genotypes.inv_sd > 0).sum())
    line = (
        f"phenotype {inputs.phenotypes[0]}: {inputs.alignment.num_samples} samples, {varying} of "
        f"{products.num_variants} variants vary, {options.n_groups} groups; device {inputs.covariance.backend}, "
        f"{threads} thread(s), seed {options.seed}"
    )
    return "\n".join([line, fixed_line(inputs.design.names), *(f"note: {note}" for note in inputs.notes)])


def meta_record(result: RelaxResult, inputs: Inputs, options: Namespace, details: dict[str, Any]) -> dict[str, Any]:
    """PREFIX.meta.json: the last accepted fit, the groups, and how they were found."""
    largest = result.memberships.max(axis=1)
    return {
        "phenotype": inputs.phenotypes[0],
        "status": result.status.name.lower(),
        "message": in_flags(result.status.value),
        "num_accepted_updates": result.num_accepted,
        "n": inputs.alignment.num_samples,
        "num_variants": len(largest),
        "num_variants_varying": int((inputs.products.genotypes.inv_sd > 0).sum()),
        "n_groups": options.n_groups,
        "group_sizes": result.group_sizes,
        "denominators": "sums of memberships over the variants that vary",
        "mean_largest_membership": largest.mean(),
        "loglik_gain": result.gain,
        "loglik_gain_mc_se": result.gain_mc_se,
        "loglik_comparison": COMPARISON,
        "fit": fit_record(result.fit),
        "caution": CAUTION,
        "units": "phenotype units squared",
        "samples_dropped": inputs.alignment.dropped_counts,
        "fixed_effects": inputs.design.names,
        "settings": vars(options),
        "seed": options.seed,
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
        *component_lines(result.fit),  # and no test: the groups were chosen by the fit
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
