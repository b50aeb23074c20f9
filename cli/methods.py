"""``--method``: which estimator runs, and running it."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gpu_reml import io
from gpu_reml.reml import (
    BreakdownError,
    ConvergenceError,
    CountingCovariance,
    FitResult,
    FitSettings,
    HEResult,
    Hooks,
    ProbeSettings,
    SingularModelError,
    SolverSettings,
    draw_probes,
    exact_fits,
    exact_memory,
    exact_seconds,
    fit_traits,
    haseman_elston,
    layout_of,
    pack,
    pcgc,
)

from .component_tests import ratio_sets
from .flags.analysis import Analysis
from .flags.estimation import HE_PROBES, MOMENTS
from .flags.output import Checkpoints, Screen
from .inputs import Inputs
from .journal import unpacked
from .model import sums_of
from .outputs import safe_name
from .progress import MeanTraces, Progress

# An answer without Monte-Carlo error is worth this time on one core, or twice the stochastic fit's.
EXACT_SECONDS = 10.0
EXACT_BYTES = 1 << 30
FLOAT32 = 4  # products take so many bytes a number
PASS_FLOPS = 1e11  # one core does so many operations of genotype products a second
SET_SHARE = 0.2  # another set of samples takes a stochastic fit of one component about this share of the first one's
USUAL_PASSES = (150, 700)  # a stochastic fit of one component, and of several, takes about so many products


def choose_method(inputs: Inputs, asked: str) -> str:
    """The method asked for; "auto" is "exact" or "stochastic" by sizes alone (:func:`exact_is_cheap`)."""
    if asked != "auto":
        return asked
    covariance = inputs.covariance
    if inputs.products is None:
        few = without_genotypes_is_cheap(covariance.num_samples, covariance.num_components)
        return "exact" if inputs.model.matrices or few else "stochastic"
    m = inputs.products.num_variants * inputs.planned.sizes.num_scales
    sizes = (covariance.num_samples, m, covariance.num_components)
    t, sets = len(inputs.phenotypes), max(1, len(inputs.members))
    cheap = covariance.backend == "cpu" and exact_is_cheap(*sizes, covariance.overlap, t, sets)
    return "exact" if cheap else "stochastic"


def without_genotypes_is_cheap(n: int, num_components: int) -> bool:
    """Whether ``auto`` takes the exact method for n samples without genotypes and dense matrices: pedigrees, groups and
    records, whose products are fast."""
    small = exact_memory(n, num_components, FLOAT32) <= EXACT_BYTES
    return small and exact_seconds(n, 0, num_components) <= EXACT_SECONDS


def exact_is_cheap(
    n: int, m: int, num_components: int, overlap: float = 1.0, num_traits: int = 1, num_sets: int = 1
) -> bool:
    """Whether ``auto`` takes the exact method, for n samples and m variants: the same on every machine.

    num_sets: of samples, each of which has its own matrices; those of one component are formed once.

    It does where the matrices take at most EXACT_BYTES and one core at most EXACT_SECONDS (:func:`exact_seconds`) or
    twice the time of a stochastic fit's usual passes.  overlap: components that a variant is in, on average.
    """
    if exact_memory(n, num_components, FLOAT32) > EXACT_BYTES:
        return False
    passes = USUAL_PASSES[num_components > 1]
    if num_components == 1:
        seconds = exact_seconds(n, m, 1, overlap, num_traits) + (num_sets - 1) * exact_seconds(n, 0, 1)
        return costs_little(seconds, passes * (1 + SET_SHARE * (num_sets - 1)), n, m)
    seconds = exact_seconds(n, m, num_components, overlap, -(-num_traits // num_sets))
    return costs_little(num_sets * seconds, num_sets * passes, n, m)


def costs_little(seconds: float, passes: float, num_samples: int, num_variants: int) -> bool:
    """Whether an exact answer that takes so long is worth it, where an approximate one takes so many column-passes."""
    approximate = passes * 4 * num_samples * num_variants / PASS_FLOPS
    return seconds <= max(EXACT_SECONDS, 2 * approximate)


Report = tuple[str, FitResult | HEResult, list[float]]
Failed = Callable[[str, Exception], None]
FAILURES = (ConvergenceError, BreakdownError)  # these are of one trait; others are of the input or the machine


class Following(NamedTuple):
    """How a fit is followed: the prefix of its checkpoints and when they are made, and what is printed."""

    out: str
    checkpoints: Checkpoints = Checkpoints()
    screen: Screen = Screen()


def run_method(
    method: str,
    inputs: Inputs,
    analysis: Analysis,
    following: Following,
    report: Callable[[Report], None],
    failed: Failed | None = None,
) -> None:
    """Fit every trait; ``report`` gets each result (trait, result, seconds of each iteration) when it is ready.

    ``failed``: gets a trait that cannot be fitted, with the error, and the others go on; without it that error ends
    the run.
    """
    sums, estimation = sums_of(inputs.model.kinds), analysis.estimation

    def labelled(result):
        if sums and result.profiles:
            *own, total = result.profiles
            result = replace(result, profiles=(*own, total._replace(quantity=sums[-1].label)))
        return replace(result, sums=sums)

    if method in MOMENTS:
        if estimation.max_probes < 2:
            raise io.InputError(f"--max-probes 1: {MOMENTS[method]} takes 2 or more")
        n = inputs.covariance.num_samples
        probes = draw_probes(n, min(HE_PROBES, inputs.planned.probes(estimation.max_probes)), 0, estimation.seed)
        for name, y in zip(inputs.phenotypes, inputs.Y.T, strict=True):
            report((name, labelled(by_moments(y, inputs, analysis, probes)), []))
        return
    settings = FitSettings(
        max_iterations=estimation.max_iterations,
        solver=SolverSettings(most_basis=inputs.planned.basis),
        probes=ProbeSettings(
            first=estimation.starting_probes,
            mc_target=estimation.mc_target,
            columns=inputs.planned.columns,
        ),
        constrain=estimation.constrain,
        profile=analysis.tests.profile,
        lrt=ratio_sets(analysis.tests, layout_of(inputs.covariance).names),
    )
    shared = method != "exact" and inputs.covariance.num_components == 1
    left = list(range(len(inputs.phenotypes)))
    while left:
        taken = left if shared or method == "exact" else left[:1]
        progress = Progress(settings.tol, following.screen, MeanTraces.of(layout_of(inputs.covariance)))
        done = 0
        try:
            if method == "exact":
                results = fit_exactly(inputs, taken, settings, progress)
            else:
                results = fit_columns(inputs, taken, analysis, settings, following, progress)
            for result in results:
                progress.clear()
                done += 1
                report((inputs.phenotypes[taken[done - 1]], labelled(result), progress.seconds))
        except FAILURES as error:
            if failed is None:
                raise
            if shared and len(taken) > 1:
                shared = False  # each on its own then, so that one leaves the others
                continue
            failed(inputs.phenotypes[taken[done]], error)
            done += 1
        finally:
            progress.close()
        left = left[done:]


def by_moments(y: np.ndarray, inputs: Inputs, analysis: Analysis, probes) -> HEResult:
    """The estimate of a method without likelihood for one trait."""
    X, covariance = inputs.design.X, inputs.covariance
    if analysis.estimation.method == "he":
        try:
            return haseman_elston(y, X, covariance, probes)
        except SingularModelError as error:
            raise io.InputError(str(error)) from None
    try:
        return pcgc(y, X, covariance, analysis.tests.prevalence, probes)
    except ValueError as error:
        raise io.InputError(f"--method pcgc: {error}") from None


def fit_exactly(inputs: Inputs, columns: Sequence[int], settings: FitSettings, progress: Progress):
    """Results of some traits, one by one."""
    counting = CountingCovariance(inputs.covariance, progress.passes)
    Y, X = inputs.Y[:, columns], inputs.design.X
    return exact_fits(Y, X, counting, settings, callback=progress.iteration, strict=False)


def fit_columns(
    inputs: Inputs,
    columns: Sequence[int],
    analysis: Analysis,
    settings: FitSettings,
    following: Following,
    progress: Progress,
):
    """Results of some traits by one stochastic call, which share its checkpoint."""
    Y, X, estimation = inputs.Y[:, columns], inputs.design.X, analysis.estimation
    counting = CountingCovariance(inputs.covariance, progress.passes)
    most = inputs.planned.probes(estimation.max_probes)
    probes = draw_probes(len(Y), most, 0, estimation.seed)
    if np.isnan(Y).any():  # of these there are no checkpoints
        hooks = Hooks(progress.iteration)
        return fit_traits(Y, X, counting, probes, settings, hooks=hooks, strict=False)
    path = checkpoint_path(following.out, [inputs.phenotypes[which] for which in columns])
    identity = fingerprint(inputs, Y, analysis)
    resume = found_checkpoint(path, identity, following.screen.quiet) if following.checkpoints.resume else None
    last, copies = time.monotonic(), WeakKeyDictionary()

    def save(value):
        nonlocal last
        if time.monotonic() - last >= following.checkpoints.checkpoint_seconds:
            io.write_checkpoint(path, identity, *pack(value, copies))
            last = time.monotonic()

    return fit_traits(Y, X, counting, probes, settings, hooks=Hooks(progress.iteration, save, resume), strict=False)


def found_checkpoint(path: str, identity: dict, quiet: bool):
    """What a fit goes on from; None where no checkpoint is there.  Raises InputError for one of other flags or data."""
    found = io.read_checkpoint(path, identity)
    resume = None if found is None else unpacked(path, found)
    if not quiet:
        print(f"resuming from {path}" if found else f"no checkpoint {path}: starting afresh", flush=True)
    return resume


def checkpoint_path(out: str, phenotypes: Sequence[str]) -> str:
    """One file for each call: OUT.checkpoint.npz, with the first trait's name in it when there are several calls."""
    return f"{out}.{safe_name(phenotypes[0])}.checkpoint.npz"


def remove_checkpoint(out: str, phenotypes: tuple[str, ...]) -> None:
    """What is left of a finished analysis's checkpoints goes."""
    for name in phenotypes:
        Path(checkpoint_path(out, (name,))).unlink(missing_ok=True)


def fingerprint(inputs: Inputs, Y: np.ndarray, analysis: Analysis) -> dict[str, str | int | float | None]:
    """What must be the same for a checkpoint to be of use: data by hash, and the flags that steer the fit.

    Genotypes are told by the bytes of their files and by who and what is taken of them: other people with the same
    allele frequencies are other genotypes.
    """

    def digest(*arrays):
        state = hashlib.sha256()
        for array in arrays:
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()[:16]

    of_genotypes, of_components, estimation, tests = (), (), analysis.estimation, analysis.tests
    if inputs.products is not None:
        genotypes = inputs.products.genotypes
        taken = (np.array(list(inputs.alignment.samples[key])) for key in ("fid", "iid"))
        content = np.array([io.digest_of_files(inputs.files)])
        of_genotypes = (content, inputs.variants.rows, *taken, genotypes.mean, genotypes.inv_sd, genotypes.num_called)
        of_components = inputs.genetic.identity
    return {
        "phenotypes": digest(Y),
        "covariates": digest(inputs.design.X),
        "genotypes": digest(*of_genotypes),
        "components": digest(*of_components),
        "model": digest(np.array(inputs.covariance.names), *inputs.model.values),
        "--seed": estimation.seed,
        "--max-probes": estimation.max_probes,
        "first probes": estimation.first_probes,
        "--mc-target": estimation.mc_target,
        "--dtype": analysis.compute.dtype,
        "--lrt": tests.lrt is not None,
        "--no-constrain": not estimation.constrain,
        "--profile": tests.profile,
        "--device": inputs.covariance.backend,
    }
