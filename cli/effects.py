"""What gpu-reml does with a fit besides reporting it: effects, a saved model, predictions, cross-validation."""

from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.io.documents import digest
from gpu_reml.io.model import Model, fixed_terms
from gpu_reml.io.model_file import model_pieces
from gpu_reml.reml import FitResult, default_rank, draw_probes, layout_of, make_projected_core
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.reml.precondition import ProjectedCore, complement_traces
from gpu_reml.reml.studies.effects import (
    Effects,
    Reliability,
    allele_effects,
    effects,
    parameters_of,
    reliability,
    variant_effects,
)
from gpu_reml.reml.studies.scan_replicates import Replicates

from .cross_validate import cross_validation_files
from .effects_files import NO_VARIANTS, VariantEffects, effect_files
from .flags.analysis import Analysis
from .flags.effects import Effects as EffectFlags
from .flags.effects import NewSamples
from .flags.predict import NewTables
from .inputs import Inputs
from .level_files import Wanted, level_files, saved_levels
from .outputs import model_path
from .predict_files import prediction_files, prediction_lines, prediction_record
from .predict_run import NewData, NewFiles, Scoring, predict, read_new_files
from .replicates import check_replicates, replicates_of, variant_spreads
from .report import STANDARDISATION
from .sources import prefixes_of

NEW_TABLES = ("qcovar", "covar")
NOT_SAVED = (
    "--dominance: a model with dominance cannot be saved or predict other samples, as its values do not follow from "
    "effects of single alleles; leave out --save-model and --prediction-*, --compute-effects gives its genetic values"
)


class Further(NamedTuple):
    """What is asked for beside the fit, and where it goes: ``out`` is the prefix of the whole run."""

    effects: EffectFlags
    new: NewSamples
    out: str

    @property
    def solves(self) -> bool:
        """Whether effects are solved for."""
        return bool(self.effects.compute_effects or self.effects.save_model or self.new.given)

    @property
    def saves(self) -> bool:
        """Whether a model is made, to be saved or to predict."""
        return bool(self.effects.save_model or self.new.given)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.solves or self.effects.cv)


class FileSettings(NamedTuple):
    """Where a trait's files begin, and the settings that they tell."""

    prefix: str
    settings: dict[str, Any]


class Outcome(NamedTuple):
    """``files``: path and content, to be written together.  ``lines``: what to print."""

    files: dict[str, Any]
    lines: list[str]


def check_effects(further: Further, analysis: Analysis) -> None:
    """Raises InputError for flags that exclude each other or lack another."""
    asked, new = further.effects, further.new
    flags = {
        "--compute-effects": asked.compute_effects,
        "--save-model": asked.save_model,
        "--prediction-bed-prefix, --prediction-pgen-prefix": new.given,
        "--cv": asked.cv,
    }
    named = ", ".join(flag for flag, given in flags.items() if given)
    if asked.reliability and not (asked.compute_effects or asked.save_model or new.given):
        raise io.InputError(
            "--reliability: is of the files of --compute-effects and of predictions; give --compute-effects or "
            "--save-model"
        )
    of_new = [_new_flag(name) for name in NEW_TABLES if getattr(new, f"prediction_{name}")]
    if not new.given and of_new:
        raise io.InputError(
            f"{', '.join(of_new)}: there are no samples to predict; give --prediction-bed-prefix or "
            "--prediction-pgen-prefix"
        )
    if not further.wanted:
        return
    estimation = analysis.estimation
    if estimation.by_moments:
        raise io.InputError(
            f"{named}: needs a REML fit, which --method {estimation.method} is not; use auto, exact or stochastic"
        )
    if not estimation.constrain:
        raise io.InputError(f"{named}: effects of a negative variance have no meaning; leave --no-constrain out")
    if new.prediction_bfile and new.prediction_pfile:
        raise io.InputError("--prediction-bed-prefix, --prediction-pgen-prefix: give only one of them")
    if further.saves and analysis.terms.dominance:
        raise io.InputError(NOT_SAVED)
    if new.given:
        _check_new(new, analysis)
    if asked.save_model:
        io.check_writable(model_path(asked.save_model))


def check_sizes(inputs: Inputs, further: Further) -> None:
    """Raises InputError for more folds than samples, or more replicates than a model may have; before any work."""
    n, folds = inputs.alignment.num_samples, further.effects.cv
    check_replicates(inputs, further.effects.reliability, saved=further.saves)
    if folds and folds > n:
        raise io.InputError(f"--cv {folds}: more folds than the {n} analysed samples")


def _new_flag(name: str) -> str:
    return "--prediction-covar-txt" if name == "qcovar" else f"--prediction-{name.replace('_', '-')}"


def _check_new(new: NewSamples, analysis: Analysis) -> None:
    """What the fit takes from tables must be there for the predicted samples too, and can be read; before a fit."""
    scaled = [flag for flag, given in (("--admix-q", analysis.terms.admix_q), ("--gxe", analysis.terms.gxe)) if given]
    if scaled:
        raise io.InputError(
            f"--prediction-bed-prefix, --prediction-pgen-prefix: the fit has {' and '.join(scaled)}; give --save-model "
            f"instead and predict by gpu-reml-predict, which takes {' and '.join(scaled)} of the predicted samples"
        )
    samples = analysis.samples
    for name, flag, fitted in (("qcovar", "--qcovar", samples.qcovar), ("covar", "--covar", samples.covar)):
        own, given = _new_flag(name), getattr(new, f"prediction_{name}")
        if fitted and not given:
            raise io.InputError(f"{own}: the fit has covariates by {flag}; give those of the predicted samples")
        if given and not fitted:
            raise io.InputError(f"{own}: the fit has no covariates by {flag}; leave it out")
    new_files(new)


def new_files(new: NewSamples) -> NewFiles:
    """The tables of the predicted samples."""
    return read_new_files(NewTables(qcovar=new.prediction_qcovar, covar=new.prediction_covar))


def after_fit(
    name: str, result: FitResult, inputs: Inputs, analysis: Analysis, further: Further, record: FileSettings
) -> Outcome:
    """Everything that was asked for of one trait's fit; ``name`` is the trait's.

    Genetic values and cross-validation are of any model, effects of variants of those components that are made of the
    genotypes' own, scaled by ancestry or environment or not.  A model is saved, and predicts, where it has no others.
    Cost: a solve of 1 + c columns (:func:`~gpu_reml.reml.studies.effects.effects`), and half a pass for every scale of
    effects of variants; --reliability a solve of N columns, --cv one of K.
    """
    files: dict[str, Any] = {}
    lines: list[str] = []
    asked, seed, prefix = further.effects, analysis.estimation.seed, record.prefix
    if further.solves:
        y, X, covariance = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X, inputs.covariance
        core = preconditioner_of(result, inputs, seed) if asked.reliability else None
        found = effects(result.theta, y, X, covariance, preconditioner=core)
        lines.append(f"effects: P y solved to {found.solve_residual:.2g} in {found.iterations} PCG steps")
        of_variants = effects_of_variants(found, inputs, analysis.scaling.standardize)
        if asked.compute_effects:
            reliable = reliability_of(result, inputs, asked.reliability, seed, core) if asked.reliability else None
            files.update(effect_files(prefix, name, result, found, of_variants, inputs, reliable))
            files.update(level_files(prefix, found, inputs, analysis.terms, Wanted(asked.reliability, seed, core)))
            lines += reliability_lines(reliable)
        model, replicates = None, None
        if further.saves:
            if asked.reliability:
                replicates = replicates_of(result.theta, inputs, asked.reliability, seed, core)
                lines += replicate_lines(replicates)
            model = make_model(name, result, found, of_variants, inputs, record.settings, replicates)
        if asked.save_model:
            path = model_path(asked.save_model, prefix.removeprefix(further.out).removeprefix("."))
            files[path] = model_pieces(model)
            lines.append(f"model: {path}")
        if further.new.given:
            predicted, more = predict_new(model, further.new, inputs, analysis, prefix)
            files.update(predicted)
            lines += more
    if asked.cv:
        validated, more = cross_validation_files(name, result, inputs, asked.cv, seed, prefix)
        files.update(validated)
        lines += more
    return Outcome(files, lines)


def preconditioner_of(result: FitResult, inputs: Inputs, seed: int) -> ProjectedCore | None:
    """A preconditioner for many columns; None where no component has a variance."""
    X, covariance = inputs.design.X, inputs.covariance
    theta = parameters_of(result.theta, covariance)[:-1]
    rank = min(default_rank(len(X)), len(X) - X.shape[1])
    if not rank or not theta.any():
        return None
    Q = orthonormal_basis(layout_of(covariance).whitened(X))
    sketch = draw_probes(len(X), 1, rank, seed).sketch
    traces = complement_traces(covariance, covariance.block(Q))
    return make_projected_core(covariance, Q, traces, theta, sketch)


def reliability_lines(reliable: Reliability | None) -> list[str]:
    """The mean, and how well each is known."""
    if reliable is None:
        return []
    error = np.sqrt(np.mean(reliable.reliability_mc_se**2))
    mean = reliable.reliability.mean()
    return [f"mean reliability of genetic values {mean:.4f}, Monte-Carlo error of each about {error:.2g}"]


def replicate_lines(replicates: Replicates | None) -> list[str]:
    """What the reliabilities of predictions rest on."""
    if replicates is None:
        return ["reliabilities of predictions: none, as components have blocks of weights"]
    how = "exact" if replicates.complete else f"by {replicates.count} replicates, {replicates.steps} Lanczos steps"
    return [f"reliabilities of predictions: {how}"]


def reliability_of(result: FitResult, inputs: Inputs, num_probes: int, seed: int, core) -> Reliability:
    """Reliability of total genetic values by the probes asked for."""
    probes = draw_probes(inputs.covariance.num_samples, num_probes, 0, seed + 1).trace
    return reliability(
        result.theta, inputs.design.X, inputs.covariance, probes, preconditioner=core, at_once=inputs.planned.columns
    )


def effects_of_variants(found: Effects, inputs: Inputs, standardize: str) -> VariantEffects | None:
    """Effects of the variants that carry one, for each component of the genotypes; None without genotypes."""
    model = inputs.model
    if model.of_variants is None:
        return None
    genotypes = inputs.products.genotypes
    beta = allele_effects(variant_effects(model.of_variants, found.theta, found.Py), genotypes.inv_sd)
    stored = np.diff(beta.indptr) > 0
    # where no component has a variance, the effects are zero and all variants stay
    carry = np.flatnonzero((genotypes.inv_sd > 0) & (stored if stored.any() else True))
    return VariantEffects(
        tuple(model.of_variants.names),
        model.scales,
        inputs.variants.table.iloc[carry].reset_index(drop=True)[["chrom", "id", "bp", "a1", "a2"]],
        genotypes.mean[carry],
        genotypes.inv_sd[carry],
        beta[carry],
        f"{STANDARDISATION[standardize]} of the analysed samples; missing = mean",
        carry,
    )


def make_model(
    name: str,
    result: FitResult,
    found: Effects,
    of_variants: VariantEffects | None,
    inputs: Inputs,
    settings: dict[str, Any],
    replicates: Replicates | None,
) -> Model:
    """The model of a fit: effects of variants, fixed effects, and what they were estimated from; with ``replicates``
    also what reliabilities of predictions are made of."""
    genotypes = () if inputs.products is None else (inputs.products.genotypes,)
    of_variants = of_variants or NO_VARIANTS
    proportions, h2 = inputs.model.proportions, result.heritabilities[0][1]
    about: dict[str, Any] = {
        "version": version("gpu-reml"),
        "method": result.method,
        "converged": result.converged,
        "loglik": result.loglik,
        "h2": {"estimate": h2.estimate[0], "se": h2.se[0]},
        "num_variants_analysed": sum(each.num_variants for each in genotypes),
        "standardisation": of_variants.standardisation,
        "mean_proportions": dict(zip(inputs.model.ancestries, proportions.tolist(), strict=True)),
        "solve_residual": found.solve_residual,
        "hashes": {
            "phenotype": digest(inputs.Y[:, inputs.phenotypes.index(name)]),
            "covariates": digest(inputs.design.X),
            "genotypes": digest(*(array for g in genotypes for array in (g.mean, g.inv_sd, g.num_called))),
        },
        "settings": {key: value for key, value in settings.items() if value not in (None, [], False)},
    }
    return Model(
        name,
        of_variants.names,
        of_variants.scales,
        (*result.names[len(of_variants.names) :], *result.residual_names),
        result.theta,
        result.se,
        inputs.alignment.samples[["fid", "iid"]].reset_index(drop=True),
        found.Py,
        of_variants.table,
        of_variants.mean,
        of_variants.inv_sd,
        of_variants.effects,
        fixed_terms(inputs.design, found.fixed.estimate, found.fixed.covariance),
        about,
        saved_levels(found, inputs, replicates),
        () if replicates is None else variant_spreads(found, inputs, of_variants, replicates),
    )


def predict_new(
    model: Model, new: NewSamples, inputs: Inputs, analysis: Analysis, prefix: str
) -> tuple[dict[str, str], list[str]]:
    """The prediction of other samples in the same run: the same as gpu-reml-predict's from the saved model."""
    files = [
        *(io.read_bed(each) for each in prefixes_of(new.prediction_bfile)),
        *(io.read_pgen(each) for each in prefixes_of(new.prediction_pfile)),
    ]
    data = NewData(tuple(files), new_files(new))
    dtype = np.dtype(analysis.compute.dtype).type
    scoring = Scoring(analysis.genotypes.dosage, backend=inputs.planned.backend, dtype=dtype)
    found = predict(model, data, scoring)
    record = prediction_record(prefix, model, found, {"model_file": None})
    return prediction_files(prefix, found, record), prediction_lines(model, found)
