"""What gpu-reml does with a fit besides reporting it: effects, a saved model, predictions, cross-validation."""

from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.io.model import Model, digest, fixed_terms, model_bytes
from gpu_reml.reml import FitResult, default_rank, draw_probes, layout_of, make_projected_core
from gpu_reml.reml.effects import (
    Effects,
    Reliability,
    allele_effects,
    effects,
    fixed_tests,
    parameters_of,
    reliability,
    variant_effects,
)
from gpu_reml.reml.linalg import orthonormal_basis
from gpu_reml.reml.precondition import ProjectedCore, complement_traces

from .cross_validate import cross_validation_files
from .inputs import Inputs
from .predict_run import NewData, Scoring, predict, prediction_files, prediction_lines, read_covariate_tables
from .report import STANDARDISATION
from .sources import prefixes_of

SCORE = "plink2 --pfile NEW --score {name} 3 4 7 header cols=+scoresums"
UNITS = {
    "beta of a fixed effect": "phenotype units a unit of the covariate, as in its file",
    "random effects": "phenotype units",
    "effects of variants": "phenotype units a copy of A1; beta_std: a standard deviation of its count",
}
OTHER_COMPONENTS = ("admix_q", "gxe", "dominance", "grm")
OTHER_RESIDUALS = ("residual_weights", "residual_groups", "gxe_noise")
PLAIN_ONLY = (
    "--save-model, --prediction-bed-prefix and --prediction-pgen-prefix predict from genotypes alone, not with "
    "components of ancestry, environment, dominance or given matrices"
)
MATCH_COLUMNS = {"chrom": "CHR", "bp": "BP", "id": "ID", "a1": "A1", "a2": "A2"}


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
    if not new and (options.prediction_qcovar or options.prediction_covar):
        raise io.InputError("--prediction-covar-txt, --prediction-covar: of whom? give --prediction-bed-prefix")
    if not flags:
        return False
    if options.method == "he":
        raise io.InputError(f"{flags}: need a REML fit; use another --method than he")
    if options.prediction_bfile and options.prediction_pfile:
        raise io.InputError("--prediction-bed-prefix, --prediction-pgen-prefix: give one of them")
    if new:
        _check_covariates(options)
    _check_model(options, new)
    if options.save_model:
        io.check_writable(model_path(options.save_model))
    return True


def _check_model(options: Namespace, new: bool) -> None:
    """Refuse before a long fit what could not be written after it."""
    given = {flag for flag in (*OTHER_COMPONENTS, *OTHER_RESIDUALS) if getattr(options, flag, None)}
    components = [f"--{flag.replace('_', '-')}" for flag in OTHER_COMPONENTS if flag in given]
    if (options.save_model or new) and components:
        raise io.InputError(f"{', '.join(components)}: {PLAIN_ONLY}")
    residuals = [f"--{flag.replace('_', '-')}" for flag in OTHER_RESIDUALS if flag in given]
    if getattr(options, "admix_residual_mode", None) == "per-ancestry":
        residuals.append("--admix-residual-mode per-ancestry")
    if options.reliability and residuals:
        raise io.InputError(f"--reliability: is for one residual variance; leave out {', '.join(residuals)}")


def _check_covariates(options: Namespace) -> None:
    pairs = (
        ("--prediction-covar-txt", options.prediction_qcovar, "--qcovar", options.qcovar),
        ("--prediction-covar", options.prediction_covar, "--covar", options.covar),
    )
    for flag, given, fitted_flag, fitted in pairs:
        if fitted and not given:
            raise io.InputError(f"{flag}: the fit has covariates by {fitted_flag}; give those of the predicted samples")
        if given and not fitted:
            raise io.InputError(f"{flag}: the fit has no covariates by {fitted_flag}; leave it out")


def model_path(text: str, trait: str | None = None) -> str:
    """FILE.npz, or FILE.TRAIT.npz."""
    stem = text.removesuffix(".npz")
    return f"{stem}.{trait}.npz" if trait else f"{stem}.npz"


def after_fit(name: str, result: FitResult, inputs: Inputs, options: Namespace, prefix: str) -> Outcome:
    """Everything that was asked for of one trait's fit; ``name`` is the trait's, ``prefix`` that of its files.

    Genetic values and cross-validation are of any model.  Effects of variants, saved models and predictions need one
    whose components are the genotypes' own: they are left out of --compute-effects, and refused otherwise, where
    components are scaled by ancestry or environment or given as matrices.
    Cost: a solve of 1 + c columns (:func:`~gpu_reml.reml.effects.effects`) and half a pass; --reliability a solve of N
    columns, --cv one of K.
    """
    files: dict[str, str | bytes] = {}
    lines: list[str] = []
    new = options.prediction_bfile or options.prediction_pfile
    plain = inputs.genetic is not None and tuple(inputs.genetic.names) == tuple(result.names)
    if not plain and (options.save_model or new):
        raise io.InputError(PLAIN_ONLY)
    if options.compute_effects or options.save_model or new:
        y, X, covariance = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X, inputs.covariance
        core = preconditioner_of(result, inputs, options)
        found = effects(result.theta, y, X, covariance, core=core)
        lines.append(f"effects: P y solved to {found.solve_residual:.2g} in {found.iterations} PCG steps")
        model = make_model(name, result, found, inputs, options) if plain else None
        if options.compute_effects:
            reliable = reliability_of(result, inputs, options, core) if options.reliability else None
            files.update(effect_files(prefix, name, found, model, inputs, reliable))
            lines += reliability_lines(reliable)
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
        result.theta, inputs.design.X, inputs.covariance, probes, core=core, at_once=inputs.planned.columns
    )


def make_model(name: str, result: FitResult, found: Effects, inputs: Inputs, options: Namespace) -> Model:
    """The model of a fit: effects of the variants that carry one, and what they were estimated from."""
    genotypes, genetic = inputs.genetic.products.genotypes, inputs.genetic
    beta = allele_effects(variant_effects(genetic, found.theta, found.Py), genotypes.inv_sd)
    stored = np.diff(beta.indptr) > 0
    # without genetic variance effects are zero, and the variants stay
    carry = np.flatnonzero((genotypes.inv_sd > 0) & (stored if stored.any() else True))
    table = inputs.variants.table.iloc[carry].reset_index(drop=True)
    about: dict[str, Any] = {
        "version": version("gpu-reml"),
        "method": result.method,
        "converged": result.converged,
        "loglik": result.loglik,
        "h2": {"estimate": result.h2.estimate[-1], "se": result.h2.se[-1]},
        "num_variants_analysed": genotypes.num_variants,
        "standardisation": f"{STANDARDISATION[options.standardize]} of the analysed samples; missing = mean",
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
        tuple(genetic.names),
        result.theta,
        result.se,
        inputs.alignment.samples[["fid", "iid"]].reset_index(drop=True),
        found.Py,
        table[["chrom", "id", "bp", "a1", "a2"]],
        genotypes.mean[carry],
        genotypes.inv_sd[carry],
        beta[carry],
        fixed_terms(inputs.design, found.fixed.estimate, found.fixed.covariance),
        about,
    )


def predict_new(model: Model, options: Namespace, inputs: Inputs, prefix: str) -> tuple[dict[str, str], list[str]]:
    """The prediction of other samples in the same run: the same as gpu-reml-predict's from the saved model."""
    files = [
        *(io.read_bed(each) for each in prefixes_of(options.prediction_bfile)),
        *(io.read_pgen(each) for each in prefixes_of(options.prediction_pfile)),
    ]
    data = NewData(tuple(files), read_covariate_tables(options.prediction_qcovar, options.prediction_covar))
    dtype = np.dtype(options.dtype).type
    scoring = Scoring(options.dosage, options.ambiguous, False, inputs.planned.backend, dtype)
    found = predict(model, data, scoring)
    return prediction_files(prefix, model, found, {"model_file": None}), prediction_lines(model, found)


def effect_files(
    prefix: str, name: str, found: Effects, model: Model | None, inputs: Inputs, reliable: Reliability | None
) -> dict[str, str]:
    """Path and content of the effects, all in the phenotype's units; of variants where there is a ``model``."""
    samples = inputs.alignment.samples
    tables = {
        "fixed_effects.tsv": fixed_table(inputs.design.names, found, len(samples)),
        "random_effect.tsv": random_table(samples, found.total[:, None], ["random_effect"], reliable),
        "random_effect_components.tsv": random_table(samples, found.random, found.names, None),
    }
    of_variants: dict[str, Any] = {}
    if model is not None:
        tables["snp_effects.tsv"] = variant_table(model)
        for g, component in enumerate(model.components):
            tables[f"snp_effects.component_{g:03d}.tsv"] = component_table(model, g, component)
        of_variants = {
            "n_variants": len(model.variants),
            "genetic_value": "intercept + sum of count of A1 times effect, a missing count being 2 FREQ",
            "intercept": model.intercepts.sum(),
            "intercept_components": model.intercepts,
            "score_with_plink2": SCORE.format(name=Path(f"{prefix}.snp_effects.tsv").name),
            "standardisation": model.about["standardisation"],
        }
    files = {f"{prefix}.{suffix}": io.table_text(table) for suffix, table in tables.items()}
    components = [{"index": g, "name": each, "variance": found.theta[g]} for g, each in enumerate(found.names)]
    if model is not None:
        for g, component in enumerate(components):
            component["n_snps"] = int((model.effects.indices == g).sum())
    record = {
        "version": version("gpu-reml"),
        "phenotype": name,
        "units": UNITS,
        "y_mean": 0.0,
        "y_scale": 1.0,
        "pcg_rel_res": found.solve_residual,
        "pcg_iters": found.iterations,
        "n_samples": len(samples),
        "components": components,
        "residual_variances": found.theta[len(found.names) :],
        **of_variants,
        "files": sorted(Path(path).name for path in files),
    }
    return {**files, f"{prefix}.effect_metadata.json": io.json_text(record)}


def fixed_table(names, found: Effects, num_samples: int) -> pd.DataFrame:
    """One row a column of X."""
    tested = fixed_tests(found.fixed, num_samples)
    labels = {"covariate_index": np.arange(len(names)), "label": list(names)}
    return pd.DataFrame({**labels, "beta": tested.estimate, "se": tested.se, "t": tested.t, "p": tested.p})


def random_table(samples: pd.DataFrame, values: np.ndarray, names, reliable: Reliability | None) -> pd.DataFrame:
    """One row a sample: genetic values, and how reliable they are."""
    table = samples[["fid", "iid"]].rename(columns={"fid": "FID", "iid": "IID"}).reset_index(drop=True)
    for name, column in zip(names, values.T, strict=True):
        table[name] = column
    if reliable is not None:
        table["reliability"] = reliable.reliability
        table["reliability_mc_se"] = reliable.reliability_mc_se
        table["pev"] = reliable.pev
    return table


def variant_table(model: Model) -> pd.DataFrame:
    """One row a variant: its effect in all components together (column 7, for plink2 --score), then in each."""
    table = model.variants[list(MATCH_COLUMNS)].rename(columns=MATCH_COLUMNS)
    table["FREQ"] = model.freq
    table["TOTAL"] = model.effects.sum(axis=1)
    if len(model.components) > 1:
        effects_of = model.effects.tocsc()
        for g, name in enumerate(model.components):
            table[name] = effects_of[:, [g]].toarray()[:, 0]
    return table


def component_table(model: Model, g: int, name: str) -> pd.DataFrame:
    """The variants of one component."""
    column = model.effects.tocsc()[:, [g]].tocoo()
    rows, values = column.row, column.data
    table = model.variants[list(MATCH_COLUMNS)].rename(columns=MATCH_COLUMNS).iloc[rows]
    table.insert(0, "component_index", g)
    table.insert(1, "component_name", name)
    return table.assign(FREQ=model.freq[rows], beta=values, beta_std=values / model.inv_sd[rows])
