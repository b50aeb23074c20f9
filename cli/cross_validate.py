"""``--cv K``: every sample predicted from the others, in K folds that share their passes over the genotypes."""

from typing import Any

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.reml import FitResult
from gpu_reml.reml.studies.accuracy import Accuracy, accuracy
from gpu_reml.reml.studies.cross_validation import HeldOut, cross_validate, draw_folds

from .inputs import Inputs
from .levels import people_of

MEASURES = ("r2", "correlation", "r2_covariates", "r2_incremental", "slope")
CAUTION = (
    "variances are those of the whole fit and genotypes are standardised by all samples; fixed effects and genetic "
    "values are estimated without the fold. Folds are random: relatives of a sample may help to predict it"
)


def cross_validation_files(
    name: str, result: FitResult, inputs: Inputs, folds: int, seed: int, prefix: str
) -> tuple[dict[str, str], list[str]]:
    """PREFIX.cv.tsv and .cv.json of one trait, and lines to print.  Cost: a solve of as many columns as folds."""
    y, X = inputs.Y[:, inputs.phenotypes.index(name)], inputs.design.X
    fold = folds_of_people(inputs.alignment.samples, folds, seed)
    try:
        found = cross_validate(result.theta, y, X, inputs.covariance, fold)
    except ValueError as error:
        columns = ", ".join(f"{i} is {column}" for i, column in enumerate(inputs.design.names))
        raise io.InputError(f"--cv: {error} (columns of X: {columns})") from None
    each, pooled = fold_accuracies(y, X, found)
    files = {
        f"{prefix}.cv.tsv": io.table_text(held_out_table(inputs.alignment.samples, y, found)),
        f"{prefix}.cv.json": io.json_text(cv_record(name, each, pooled, seed)),
    }
    return files, cv_lines(each, pooled)


def folds_of_people(samples: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """(n,) fold of every sample; all records of a person are in the same."""
    people = people_of(samples)
    if people is None:
        return draw_folds(len(samples), folds, seed)
    return draw_folds(len(people[0]), folds, seed)[people[1]]


def fold_accuracies(y: np.ndarray, X: np.ndarray, found: HeldOut) -> tuple[list[Accuracy], Accuracy]:
    """Accuracy in every fold, and of all held-out predictions together."""
    each = []
    for k in np.unique(found.fold):
        out = found.fold == k
        each.append(accuracy(y[out], found.fixed[out], found.random[out], X[out]))
    return each, accuracy(y, found.fixed, found.random, X)


def summary_over_folds(each: list[Accuracy]) -> dict[str, dict[str, float]]:
    """Mean over the folds of every measure, with SE = SD / sqrt(K); folds share training samples, so it is a little
    too small."""
    summary = {}
    for measure in MEASURES:
        values = np.array([getattr(one, measure) for one in each])
        summary[measure] = {"mean": values.mean(), "se": values.std(ddof=1) / np.sqrt(len(values))}
    return summary


def held_out_table(samples: pd.DataFrame, y: np.ndarray, found: HeldOut) -> pd.DataFrame:
    """One row a sample, predicted by the folds that it is not in."""
    table = samples[["fid", "iid"]].rename(columns={"fid": "FID", "iid": "IID"}).reset_index(drop=True)
    return table.assign(
        fold=found.fold, fixed_effect=found.fixed, random_effect=found.random, y_pred=found.predicted, y=y
    )


def cv_record(name: str, each: list[Accuracy], pooled: Accuracy, seed: int) -> dict[str, Any]:
    """The document."""
    return {
        "phenotype": name,
        "num_folds": len(each),
        "seed": seed,
        "folds": [{"fold": k, **one._asdict()} for k, one in enumerate(each)],
        "over_folds": summary_over_folds(each),
        "pooled": pooled._asdict(),
        "units": "phenotype units",
        "caution": CAUTION,
    }


def cv_lines(each: list[Accuracy], pooled: Accuracy) -> list[str]:
    """The table a person reads."""
    lines = [f"cross-validation in {len(each)} folds, at the variances of the whole fit"]
    lines.append(f"{'fold':>6s} {'n':>8s} {'R2':>9s} {'r':>9s} {'added R2':>9s}")
    for k, one in enumerate(each):
        lines.append(f"{k:6d} {one.n:8d} {one.r2:9.4f} {one.correlation:9.4f} {one.r2_incremental:9.4f}")
    over = summary_over_folds(each)
    shown = ("r2", "correlation", "r2_incremental")
    lines.append(f"{'mean':>6s} {'':8s} " + " ".join(f"{over[measure]['mean']:9.4f}" for measure in shown))
    lines.append(f"{'SE':>6s} {'':8s} " + " ".join(f"{over[measure]['se']:9.4f}" for measure in shown))
    interval = f"{pooled.level:.0%} interval {pooled.lower:.4f} to {pooled.upper:.4f}"
    lines.append(f"all together: R2 {pooled.r2:.4f}, correlation {pooled.correlation:.4f} ({interval})")
    return lines
