"""What gpu-reml does with a fit besides reporting it: effects, a saved model, predictions, cross-validation."""

from argparse import Namespace
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io
from gpu_reml.io.model import Model, digest, fixed_terms, model_bytes
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

from .cross_validate import cross_validation_files
from .effects_files import VariantEffects, effect_files
from .inputs import Inputs
from .options import MOMENTS
from .outputs import model_path
from .predict_run import (
    NewData,
    NewTables,
    Scoring,
    predict,
    prediction_files,
    prediction_lines,
    read_new_tables,
)
from .report import STANDARDISATION
from .sources import prefixes_of

# components whose values for other samples do not follow from their allele counts by effects of single alleles
NOT_SAVED = ("dominance", "grm")
NEW_TABLES = ("qcovar", "covar", "admix_q", "admix_fam", "admix_component_names", "gxe")


class Outcome(NamedTuple):
    """``files``: path and content, to be written together.  ``lines``: what to print."""

    files: dict[str, str | bytes]
    lines: list[str]


def check_effects(options: Namespace) -> bool:
    """Whether anything here is asked for; raises InputError for flags that exclude each other or lack another."""
    new = bool(options.prediction_bfile or options.prediction_pfile)
    asked = {
        "--compute-effects": options.compute_effects,
        "--save-model": options.save_model,
        "--prediction-bed-prefix, --prediction-pgen-prefix": new,
        "--cv": options.cv,
    }
    flags = ", ".join(flag for flag, given in asked.items() if given)
    if options.reliability and not options.compute_effects:
        raise io.InputError("--reliability: is a column of what --compute-effects writes; give both")
    of_new = [_new_flag(name) for name in NEW_TABLES if getattr(options, f"prediction_{name}")]
    if not new and of_new:
        raise io.InputError(f"{', '.join(of_new)}: of whom? give --prediction-bed-prefix or --prediction-pgen-prefix")
    if not flags:
        return False
    if options.method in MOMENTS:
        raise io.InputError(f"{flags}: need a REML fit; use another --method than {options.method}")
    if not options.constrain:
        raise io.InputError(f"{flags}: effects of a negative variance have no meaning; leave --no-constrain out")
    if options.prediction_bfile and options.prediction_pfile:
        raise io.InputError("--prediction-bed-prefix, --prediction-pgen-prefix: give one of them")
    if options.save_model or new:
        _check_components(options)
    if new:
        _check_new(options)
    if options.save_model:
        io.check_writable(model_path(options.save_model))
    return True


def check_folds(inputs: Inputs, options: Namespace) -> None:
    """Raises InputError for more folds than samples; before any work."""
    n = inputs.alignment.num_samples
    if options.cv and options.cv > n:
        raise io.InputError(f"--cv {options.cv}: more folds than the {n} analysed samples")


def _check_components(options: Namespace) -> None:
    """Refuse before a long fit what could not be saved after it."""
    given = [f"--{name}" for name in NOT_SAVED if getattr(options, name, None)]
    if given:
        raise io.InputError(_not_saved(", ".join(given)))


def _not_saved(what: str) -> str:
    return (
        f"{what}: models with dominance or given relationship matrices cannot be saved or predict other samples; leave "
        "out --save-model and --prediction-*, --compute-effects gives their genetic values"
    )


def _new_flag(name: str) -> str:
    return "--prediction-covar-txt" if name == "qcovar" else f"--prediction-{name.replace('_', '-')}"


def _check_new(options: Namespace) -> None:
    """What the fit takes from tables must be there for the predicted samples too, and can be read; before a fit."""
    needed = (
        ("covariates", "qcovar", "--qcovar", options.qcovar),
        ("covariates", "covar", "--covar", options.covar),
        ("ancestries", "admix_q", "--admix-q", options.admix_q),
    )
    for what, name, fitted_flag, fitted in needed:
        flag, given = _new_flag(name), getattr(options, f"prediction_{name}")
        if fitted and not given:
            raise io.InputError(f"{flag}: the fit has {what} by {fitted_flag}; give those of the predicted samples")
        if given and not fitted and not (name == "qcovar" and options.gxe):
            raise io.InputError(f"{flag}: the fit has no {what} by {fitted_flag}; leave it out")
    if options.gxe and not (options.prediction_gxe or options.prediction_qcovar):
        raise io.InputError("--prediction-gxe: the fit has environments by --gxe; give those of the predicted samples")
    if options.prediction_gxe and not options.gxe:
        raise io.InputError("--prediction-gxe: the fit has no environments by --gxe; leave it out")
    new_tables(options, fitted_ancestries(options))


def fitted_ancestries(options: Namespace) -> tuple[str, ...]:
    """The ancestries that components are scaled by."""
    if not options.admix_q:
        return ()
    names = options.admix_component_names.split(",") if options.admix_component_names else None
    return tuple(io.read_admixture(options.admix_q, options.admix_fam, names).values.columns)


def new_tables(options: Namespace, ancestries: tuple[str, ...]) -> NewTables:
    """What the ``--prediction-*`` flags say of the predicted samples."""
    paths = {name: getattr(options, f"prediction_{name}") for name in NEW_TABLES}
    return read_new_tables(paths, ancestries, "--prediction-")


def after_fit(name: str, result: FitResult, inputs: Inputs, options: Namespace, prefix: str) -> Outcome:
    """Everything that was asked for of one trait's fit; ``name`` is the trait's, ``prefix`` that of its files.

    Genetic values and cross-validation are of any model, effects of variants of those components that are made of the
    genotypes' own, scaled by ancestry or environment or not.  A model is saved, and predicts, where it has no others.
    Cost: a solve of 1 + c columns (:func:`~gpu_reml.reml.studies.effects.effects`), and half a pass for every scale of
    effects of variants; --reliability a solve of N columns, --cv one of K.
    """
    files: dict[str, str | bytes] = {}
    lines: list[str] = []
    new = options.prediction_bfile or options.prediction_pfile
    if options.compute_effects or options.save_model or new:
        y, X, covariance = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X, inputs.covariance
        core = preconditioner_of(result, inputs, options)
        found = effects(result.theta, y, X, covariance, preconditioner=core)
        lines.append(f"effects: P y solved to {found.solve_residual:.2g} in {found.iterations} PCG steps")
        of_variants = effects_of_variants(found, inputs, options)
        if options.compute_effects:
            reliable = reliability_of(result, inputs, options, core) if options.reliability else None
            files.update(effect_files(prefix, name, result, found, of_variants, inputs, reliable))
            lines += reliability_lines(reliable)
        model = make_model(name, result, found, of_variants, inputs, options) if options.save_model or new else None
        if options.save_model:
            path = model_path(options.save_model, prefix.removeprefix(options.out).removeprefix("."))
            files[path] = model_bytes(model)
            lines.append(f"model: {path}")
        if new:
            predicted, more = predict_new(model, options, inputs, prefix)
            files.update(predicted)
            lines += more
    if options.cv:
        validated, more = cross_validation_files(name, result, inputs, options, prefix)
        files.update(validated)
        lines += more
    return Outcome(files, lines)


def preconditioner_of(result: FitResult, inputs: Inputs, options: Namespace) -> ProjectedCore | None:
    """A preconditioner where many columns are to be solved, or its rank was asked for."""
    rank = options.precond_rank
    if rank is None:
        rank = default_rank(inputs.covariance.num_samples) if options.reliability else 0
    X, covariance = inputs.design.X, inputs.covariance
    theta = parameters_of(result.theta, covariance)[:-1]
    rank = min(rank, len(X) - X.shape[1])
    if not rank or not theta.any():
        return None
    Q = orthonormal_basis(layout_of(covariance).whitened(X))
    sketch = draw_probes(len(X), 1, rank, options.seed).sketch
    traces = complement_traces(covariance, covariance.block(Q))
    return make_projected_core(covariance, Q, traces, theta, sketch)


def reliability_lines(reliable: Reliability | None) -> list[str]:
    """The mean, and how well each is known."""
    if reliable is None:
        return []
    error = np.sqrt(np.mean(reliable.reliability_mc_se**2))
    mean = reliable.reliability.mean()
    return [f"mean reliability of genetic values {mean:.4f}, Monte-Carlo error of each about {error:.2g}"]


def reliability_of(result: FitResult, inputs: Inputs, options: Namespace, core) -> Reliability:
    """Reliability of total genetic values by the probes asked for."""
    probes = draw_probes(inputs.covariance.num_samples, options.reliability, 0, options.seed + 1).trace
    return reliability(
        result.theta, inputs.design.X, inputs.covariance, probes, preconditioner=core, at_once=inputs.planned.columns
    )


def effects_of_variants(found: Effects, inputs: Inputs, options: Namespace) -> VariantEffects | None:
    """Effects of the variants that carry one, for each component of the genotypes; None without genotypes."""
    model = inputs.model
    if model.of_variants is None:
        return None
    genotypes = inputs.products.genotypes
    beta = allele_effects(variant_effects(model.of_variants, found.theta, found.Py), genotypes.inv_sd)
    stored = np.diff(beta.indptr) > 0
    # without genetic variance effects are zero, and the variants stay
    carry = np.flatnonzero((genotypes.inv_sd > 0) & (stored if stored.any() else True))
    return VariantEffects(
        tuple(model.of_variants.names),
        model.scales,
        inputs.variants.table.iloc[carry].reset_index(drop=True)[["chrom", "id", "bp", "a1", "a2"]],
        genotypes.mean[carry],
        genotypes.inv_sd[carry],
        beta[carry],
        f"{STANDARDISATION[options.standardize]} of the analysed samples; missing = mean",
    )


def make_model(
    name: str,
    result: FitResult,
    found: Effects,
    of_variants: VariantEffects | None,
    inputs: Inputs,
    options: Namespace,
) -> Model:
    """The model of a fit: effects of variants, fixed effects, and what they were estimated from."""
    own = () if of_variants is None else of_variants.names
    others = result.names[len(own) :]
    if others:
        raise io.InputError(_not_saved(f"component(s) {', '.join(others)}"))
    genotypes, proportions, h2 = inputs.products.genotypes, inputs.model.proportions, result.heritabilities[0][1]
    about: dict[str, Any] = {
        "version": version("gpu-reml"),
        "method": result.method,
        "converged": result.converged,
        "loglik": result.loglik,
        "h2": {"estimate": h2.estimate[0], "se": h2.se[0]},
        "num_variants_analysed": genotypes.num_variants,
        "standardisation": of_variants.standardisation,
        "mean_proportions": dict(zip(inputs.model.ancestries, proportions.tolist(), strict=True)),
        "solve_residual": found.solve_residual,
        "hashes": {
            "phenotype": digest(inputs.Y[:, inputs.phenotypes.index(name)]),
            "covariates": digest(inputs.design.X),
            "genotypes": digest(genotypes.mean, genotypes.inv_sd, genotypes.num_called),
        },
        "settings": {key: value for key, value in vars(options).items() if value not in (None, [], False)},
    }
    return Model(
        name,
        of_variants.names,
        of_variants.scales,
        tuple(result.residual_names),
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
    )


def predict_new(model: Model, options: Namespace, inputs: Inputs, prefix: str) -> tuple[dict[str, str], list[str]]:
    """The prediction of other samples in the same run: the same as gpu-reml-predict's from the saved model."""
    files = [
        *(io.read_bed(each) for each in prefixes_of(options.prediction_bfile)),
        *(io.read_pgen(each) for each in prefixes_of(options.prediction_pfile)),
    ]
    data = NewData(tuple(files), new_tables(options, model.ancestries))
    dtype = np.dtype(options.dtype).type
    scoring = Scoring(options.dosage, options.ambiguous, False, inputs.planned.backend, dtype)
    found = predict(model, data, scoring)
    return prediction_files(prefix, model, found, {"model_file": None}), prediction_lines(model, found)
