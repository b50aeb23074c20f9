"""``--model`` and ``--method`` of gpu-reml-gwas: which test runs, running it, and what is said of it."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io, ops
from gpu_reml.ops.loco import LeaveOut, leave_out
from gpu_reml.reml import FitResult, FitSettings, Hooks, ProbeSettings, draw_probes, exact_fits, fit_traits
from gpu_reml.reml.hooks import Keep
from gpu_reml.reml.studies.association import Scan, exact_scan, exact_scan_memory, exact_scan_seconds, ols_scan
from gpu_reml.reml.studies.loco import LocoFit, LocoScan, LocoSettings, loco_fit, score_tests
from gpu_reml.reml.studies.refine import Refined, RefineSettings, refine
from gpu_reml.reml.tables import shown

from .flags.analysis import Analysis
from .flags.association import REFINE_MOST, Association
from .inputs import Inputs
from .journal import Journal
from .methods import EXACT_BYTES as EXACT_BYTES_UNASKED
from .methods import USUAL_PASSES, choose_method, costs_little
from .wording import fit_record, in_flags

APPROXIMATION = (
    "var(z'Py) = gamma z'Mz, one gamma for each chromosome and trait; the variance components are those of the null "
    "model, and what a variant explains is not taken out of them"
)
REFINED = (
    "generalised least squares at the scan's theta_g / theta_e, by conjugate gradients; Student's t on n - c - 1 "
    "degrees of freedom; with --loco-refit the test of --method exact"
)
EXACT_BYTES = 1 << 33  # --method exact is refused where its n x n matrices take more
STEPS = 20  # a solve, or a calibration variant, takes about so many matrix-vector products
SCATTER = 0.05  # a warning is given where single standard errors are wrong by more than this share
NOTHING = np.zeros(0, np.int64)


class Chromosomes(NamedTuple):
    """Names in order, X with its pseudo-autosomal regions; the variants left out of each one's K, and those tested with
    it."""

    names: tuple[str, ...]
    left_out: tuple[np.ndarray, ...]
    tested: tuple[np.ndarray, ...]


class Found(NamedTuple):
    """A scan with what a trait's metadata say of it; ``method``: of all tests but the ``refined`` (m, t);
    ``details``: one mapping for each trait; ``warnings`` are printed even where ``lines`` are not."""

    method: str
    scan: Scan
    refined: np.ndarray
    details: tuple[dict[str, Any], ...]
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    converged: bool = True


def least_squares(inputs: Inputs, keep: Keep) -> Found:
    """``--model ols``."""
    scan = ols_scan(inputs.Y, inputs.design.X, inputs.products, keep)
    return Found("ols", scan, none_of(scan), ({"dof": scan.dof},) * len(inputs.phenotypes))


def none_of(scan: Scan) -> np.ndarray:
    """(m, t) no test."""
    return np.zeros(scan.beta.shape, bool)


def choose_solver(inputs: Inputs, asked: Association) -> str:
    """ "score" or "exact" for loco and lmm; "auto" is exact where that costs little, by the rule of gpu-reml."""
    if asked.solver != "auto":
        return asked.solver
    n, m, t = len(inputs.Y), inputs.products.num_variants, len(inputs.phenotypes)
    if asked.score_flags or inputs.covariance.backend != "cpu" or exact_scan_memory(n) > EXACT_BYTES_UNASKED:
        return "score"
    C = len(chromosomes_of(inputs, asked.model).names)
    passes = USUAL_PASSES[0] + STEPS * (C * t + LocoSettings().variants + REFINE_MOST * t)
    return "exact" if costs_little(exact_scan_seconds(n, m, C), passes, n, m) else "score"


def chromosomes_of(inputs: Inputs, model: str) -> Chromosomes:
    """The groups of a mixed model: every chromosome, however it is spelt, or one that leaves nothing out."""
    labels = inputs.variants.linkage_groups
    if model == "lmm":
        return Chromosomes(("all",), (NOTHING,), (np.arange(len(labels)),))
    names = tuple(dict.fromkeys(labels))
    if len(names) == 1:
        raise io.InputError(
            f"--model loco: chromosome {names[0]} is the only one there is, and K without it has no variant; give the "
            "other chromosomes too (all of --bfile without --chr), or take --model lmm"
        )
    rows = tuple(np.flatnonzero(labels == name) for name in names)
    return Chromosomes(names, rows, rows)


def kernel_weights(inputs: Inputs, alpha: float | None) -> np.ndarray:
    """(m,) weights of K."""
    return ops.alpha_weights(inputs.products.genotypes, -1.0 if alpha is None else alpha)


def exactly(inputs: Inputs, asked: Association, analysis: Analysis, keep: Keep) -> Found:
    """``--method exact``, or auto where that costs little."""
    n = len(inputs.Y)
    if exact_scan_memory(n) > EXACT_BYTES:
        need = exact_scan_memory(n) / 2**30
        raise io.InputError(f"--method exact: {n} samples need {need:.0f} GiB; use --method score")
    groups = chromosomes_of(inputs, asked.model)
    weights = kernel_weights(inputs, analysis.scaling.alpha)
    # This raises an error that names a chromosome without which no K is left.
    leave_out(inputs.products, weights, groups.left_out, groups.names)
    pairs = list(zip(groups.left_out, groups.tested, strict=True))
    found = exact_scan(inputs.Y, inputs.design.X, inputs.products.genotypes, pairs, weights, keep)
    details = tuple(
        {"dof": found.scan.dof, "h2_by_chromosome": dict(zip(groups.names, found.h2[:, i], strict=True))}
        for i in range(len(inputs.phenotypes))
    )
    which = "h2 without each chromosome" if asked.model == "loco" else "h2"
    lines = [
        f"{name}: {which} {', '.join(f'{value:.4f}' for value in found.h2[:, i])}"
        for i, name in enumerate(inputs.phenotypes)
    ]
    return Found("exact", found.scan, none_of(found.scan), details, tuple(lines))


def fits_of_all(inputs: Inputs, phenotypes: Sequence[str], analysis: Analysis, keep: Keep) -> dict[str, FitResult]:
    """Null models of phenotypes of different samples, from one run; genotypes are standardised in all samples."""
    columns = [inputs.phenotypes.index(name) for name in phenotypes]
    chosen = inputs._replace(Y=inputs.Y[:, columns])
    fits = keep("fit", lambda: tuple(stochastic_fits(chosen, analysis, inputs.covariance)))
    return dict(zip(phenotypes, fits, strict=True))


class Nulls(NamedTuple):
    """Null models of a group's traits: ``fits``, or ``refits`` without each chromosome, with their solves."""

    groups: Chromosomes
    fits: list[FitResult]
    refits: list[list[FitResult]]
    fitted: LocoFit
    seconds: dict[str, float]

    @property
    def unsettled(self) -> list[str]:
        """What did not converge, in words."""
        told = [in_flags(one.status.value) for each in [self.fits, *self.refits] for one in each if not one.converged]
        return told if self.fitted.converged else [*told, UNSOLVED]


UNSOLVED = "a solve did not reach its tolerance; use --dtype float64"


def null_models(
    inputs: Inputs,
    asked: Association,
    analysis: Analysis,
    journal: Journal,
    known: Sequence[FitResult] | None = None,
) -> Nulls:
    """Variance components, P y without each chromosome, and the calibration.  ``known``: the fits, where there are."""
    groups = chromosomes_of(inputs, asked.model)
    left = leave_out(inputs.products, kernel_weights(inputs, analysis.scaling.alpha), groups.left_out, groups.names)
    clock = time.perf_counter()
    fit = fitter(inputs, analysis, journal)
    fits = list(known) if known else fit("fit", lambda: inputs.covariance)
    refits: list[list[FitResult]] = []
    if asked.loco_refit:
        for c in range(len(groups.names)):
            made = partial(without_chromosome, inputs, left, c)
            refits.append(fit(f"fit-{c}", made))
    thetas = np.array([[one.theta for one in each] for each in refits or [fits] * len(groups.names)])
    seconds = {"fit_seconds": time.perf_counter() - clock}
    rng = np.random.default_rng([analysis.estimation.seed, 1])  # the probes have another stream
    settings = LocoSettings(columns=inputs.planned.columns)
    keep = journal.within("null")
    fitted = loco_fit(inputs.Y, inputs.design.X, left, groups.tested, thetas, rng, settings, keep)
    return Nulls(groups, fits, refits, fitted, seconds)


def without_chromosome(inputs: Inputs, left: LeaveOut, c: int) -> ops.GenotypeCovariance:
    """K without the variants of a chromosome."""
    return ops.make_covariance(inputs.products, left.without(c)[:, None], ("genome",))


def scored(
    inputs: Inputs,
    asked: Association,
    analysis: Analysis,
    journal: Journal,
    known: Sequence[FitResult] | None = None,
) -> Found:
    """Null models, scores, and the strongest of them refined; ``known`` as :func:`null_models` has it."""
    clock = time.perf_counter()
    nulls = null_models(inputs, asked, analysis, journal, known)
    groups, fits, refits, fitted, seconds = nulls
    tests = score_tests(fitted.null, inputs.products, groups.tested, journal.within("scores"))
    found = LocoScan(tests, fitted)
    seconds["scan_seconds"] = time.perf_counter() - clock - seconds["fit_seconds"]
    clock = time.perf_counter()
    again = refine(found, groups.tested, refine_settings(inputs, asked), journal.within("refined"))
    seconds["refine_seconds"] = time.perf_counter() - clock
    details, lines, warnings = [], [], []
    for i, name in enumerate(inputs.phenotypes):
        details.append({**score_details(fitted, groups, i), **refine_details(again, i, asked)})
        details[i].update({"fit": fit_record(fits[i]), **seconds})
        if refits:
            details[i]["theta_by_chromosome"] = {
                name: each[i].theta for name, each in zip(groups.names, refits, strict=True)
            }
        lines += score_lines(name, fits[i], fitted, again, i, asked)
        warnings += scatter_warning(name, fitted, i)
    unsettled = nulls.unsettled if again.converged else [*nulls.unsettled, UNSOLVED]
    warnings += [f"not converged: {text}" for text in dict.fromkeys(unsettled)]
    return Found("score", again.scan, again.which, tuple(details), tuple(lines), tuple(warnings), not unsettled)


def refine_settings(inputs: Inputs, asked: Association) -> RefineSettings:
    """Which variants are refined: by default those of small p, the most significant of them."""
    p, most = asked.refine_limits
    return RefineSettings(-np.log10(p) if p > 0 else 0.0, most if p > 0 else 0, columns=inputs.planned.columns)


def score_lines(name: str, fit: FitResult, found: LocoFit, again: Refined, trait: int, asked: Association) -> list[str]:
    """What a trait's score tests rest on, how far off single ones are, and which were refined."""
    after = f", after {found.column_passes} of the scan)"
    refined = [line + after for line in refined_line(name, again, trait, asked)]
    return [null_line(name, fit, found, trait), *refined]


def refined_line(name: str, again: Refined, trait: int, asked: Association) -> list[str]:
    """How many tests of a trait were refined, and at what cost, to be closed by a bracket; nothing where none are."""
    p, most = asked.refine_limits
    wanted, done = int(again.wanted[trait]), int(again.which[:, trait].sum())
    if not (p > 0 and most):
        return []
    some = f"; --refine-most {wanted} for all" if wanted > done else ""
    strongest = f", of which the {done} most significant" if wanted > done else ""
    heritability = "h2"
    if asked.model != "lmm":
        heritability = "h2 of the whole genome (--loco-refit takes h2 without each chromosome)"
    if asked.loco_refit:
        heritability = "h2 without each chromosome"
    return [
        f"{name}: {wanted} variants with p <= {p:g} by score{strongest} were tested again by generalised least squares "
        f"at {heritability}{some} ({again.column_passes} matrix-vector products for all traits"
    ]


def null_line(name: str, fit: FitResult, found: LocoFit, trait: int) -> str:
    """A trait's h2, and how its scores are calibrated."""
    calibration = found.calibration
    gamma, se = calibration.gamma[:, trait], calibration.se[:, trait]
    scatter, drawn = calibration.scatter[trait], len(calibration.variants)
    error = known("at most {:.2g}", (se / gamma).max())
    return (
        f"{name}: h2 {fit.h2.estimate[-1]:.4f} (SE {shown(fit.h2.se[-1], '.4f')}); scores are calibrated by gamma "
        f"{gamma.min():.4g} to {gamma.max():.4g} by chromosome, relative SE {error}; standard errors of single "
        f"variants scatter by {known('{:.2g} %', 100 * scatter)} about it (SD, {drawn} random variants)"
    )


def known(form: str, value: float) -> str:
    """A number as the form has it, or that it is unknown."""
    return form.format(value) if np.isfinite(value) else "unknown"


def scatter_warning(name: str, found: LocoFit, trait: int) -> list[str]:
    """A line where the standard errors of single variants are far from the calibrated ones, or this is not known."""
    scatter = found.calibration.scatter[trait]
    if scatter <= SCATTER:
        return []
    size = f"err by about {100 * scatter:.0f} % (SD)" if np.isfinite(scatter) else "err by an unknown amount"
    return [
        f"warning: {name}: standard errors of single variants {size} where METHOD is score, as with relatives; "
        "--refine P redoes more variants, --method exact all of them"
    ]


def refine_details(again: Refined, trait: int, asked: Association) -> dict[str, Any]:
    """What was refined, at what cost, and how exactly."""
    p, most = asked.refine_limits
    return {
        "refinement": {
            "p_at_most": p,
            "most": most,
            "met": int(again.wanted[trait]),
            "refined": int(again.which[:, trait].sum()),
            "test": REFINED,
            "largest_error_bound_of_zPz": float(again.bounds.max(initial=0)),
            "most_iterations": int(again.iterations.max(initial=0)),
            "column_passes_of_all_traits": again.column_passes,
            "converged": again.converged,
        }
    }


def fitter(
    inputs: Inputs, analysis: Analysis, journal: Journal
) -> Callable[[str, Callable[[], ops.GenotypeCovariance]], list[FitResult]]:
    """What fits all traits, as a step of that name, with a covariance that is made for it, by the method that gpu-reml
    takes for this cohort."""
    is_exact = choose_method(inputs, analysis.estimation.method) == "exact"

    def fits(name: str, covariance: ops.GenotypeCovariance) -> tuple[FitResult, ...]:
        if is_exact:
            settings = null_settings(inputs, analysis)
            return tuple(exact_fits(inputs.Y, inputs.design.X, covariance, settings, strict=False))
        return tuple(stochastic_fits(inputs, analysis, covariance, journal.hooks(name)))

    return lambda name, made: list(journal(name, lambda: fits(name, made())))


def stochastic_fits(
    inputs: Inputs, analysis: Analysis, covariance: ops.GenotypeCovariance, hooks: Hooks | None = None
) -> list[FitResult]:
    """Fits of all traits from probes."""
    Y, X, estimation = inputs.Y, inputs.design.X, analysis.estimation
    settings = null_settings(inputs, analysis)
    probes = draw_probes(len(Y), inputs.planned.probes(estimation.max_probes), 0, estimation.seed)
    return fit_traits(Y, X, covariance, probes, settings, hooks=hooks, strict=False)


def null_settings(inputs: Inputs, analysis: Analysis) -> FitSettings:
    """Settings of the fits that tests start from."""
    estimation = analysis.estimation
    return FitSettings(
        probes=ProbeSettings(estimation.starting_probes, estimation.mc_target, columns=inputs.planned.columns)
    )


def score_details(found: LocoFit, groups: Chromosomes, trait: int) -> dict[str, Any]:
    """What a score test rests on: approximation, calibration, solves."""
    calibration = found.calibration
    gamma, se = calibration.gamma[:, trait], calibration.se[:, trait]
    return {
        "approximation": APPROXIMATION,
        "calibration": {
            "num_variants": len(calibration.variants),
            "mean_ratio": calibration.ratios[:, trait].mean(),
            "sd_of_ratios": calibration.ratios[:, trait].std(ddof=1) if len(calibration.ratios) > 1 else None,
            "relative_sd_of_standard_errors": calibration.scatter[trait],
            "degrees_of_freedom": calibration.freedom[trait],
            "gamma_by_chromosome": dict(zip(groups.names, gamma, strict=True)),
            "se_by_chromosome": dict(zip(groups.names, se, strict=True)),
        },
        "solves": {
            "largest_residual": found.residuals[:, trait].max(),
            "most_iterations": int(found.iterations[:, trait].max()),
            "column_passes_of_all_traits": found.column_passes,
            "converged": found.converged,
        },
    }
