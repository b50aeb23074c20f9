"""What a prediction leaves: its table, its metadata, and what a person reads."""

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.io.model import Model
from gpu_reml.reml import Reliability

from .effects_files import scale_record
from .predict_run import Prediction

RELIABILITY = (
    "of random_effect, reliability_NAME of one component: 1 - pev / variance before the data, pev the variance of its "
    "error, at the fit's variances; genotypes that are missing or not there count in neither"
)


def prediction_table(found: Prediction) -> pd.DataFrame:
    """FID, IID, parts and sum, phenotype, and every component's part where there are several."""
    table = found.samples.rename(columns={"fid": "FID", "iid": "IID"})
    if found.fixed is not None:
        table["fixed_effect"] = found.fixed
    table["random_effect"] = found.random.sum(axis=1)
    if found.fixed is not None:
        table["y_pred"] = found.predicted
    if found.y is not None:
        table["y"] = found.y
    if len(found.parts) > 1:
        for g, name in enumerate(found.parts):
            table[f"random_{name}"] = found.random[:, g]
    for name, each in found.reliabilities.items():
        after = f"_{name}" if name else ""
        table[f"reliability{after}"] = each.reliability
        table[f"reliability_mc_se{after}"] = each.reliability_mc_se
        table[f"pev{after}"] = each.pev
    return table


def prediction_record(prefix: str, model: Model, found: Prediction, context: dict[str, Any]) -> dict[str, Any]:
    """PREFIX.prediction_metadata.json."""
    return {
        "version": version("gpu-reml"),
        "phenotype": model.phenotype,
        "n_samples": len(found.samples),
        "n_components": len(found.parts),
        "components": found.parts,
        "multiplied_by": [scale_record(scale) for scale in model.scales],
        "units": "phenotype units",
        "parts": {
            "fixed_effect": "X b, the intercept included",
            "random_effect": "sum of (count of a1 - mean of the fit's samples) times effect; missing genotype = mean; "
            "every component times what multiplies it",
            "y_pred": "fixed_effect + random_effect",
            **({"reliability": RELIABILITY} if found.reliabilities else {}),
        },
        "samples": {
            "predicted": len(found.samples),
            "dropped": {str(k): int(v) for k, v in found.dropped["reason"].value_counts().items()},
        },
        "variants": {
            "in_model": found.matching.num_model,
            "matched": found.matching.num_matched,
            **dict(found.matching.counts),
        },
        "accuracy": None if found.accuracy is None else found.accuracy._asdict(),
        "notes": [*found.matching.notes, *found.notes],
        "files": {"prediction": f"{prefix}.prediction.tsv"},
        **context,
    }


def prediction_files(prefix: str, found: Prediction, record: dict[str, Any]) -> dict[str, str]:
    """Path and content of the two files."""
    return {
        f"{prefix}.prediction.tsv": io.table_text(prediction_table(found)),
        f"{prefix}.prediction_metadata.json": io.json_text(record),
    }


def mean_line(total: Reliability) -> str:
    """The mean reliability of those whose value has a variance that is known."""
    has = total.prior > 0
    if not has.any():
        return "reliability of random_effect: none, as its variance is 0 or not known"
    error = np.sqrt(np.mean(total.reliability_mc_se[has] ** 2))
    mean = total.reliability[has].mean()
    return f"mean reliability of random_effect {mean:.4f}, Monte-Carlo error of each about {error:.2g}"


def prediction_lines(model: Model, found: Prediction) -> list[str]:
    """What was done, as a person reads it."""
    reasons = "; ".join(f"{count} {reason}" for reason, count in found.dropped["reason"].value_counts().items())
    lines = [
        f"phenotype {model.phenotype}: {len(found.samples)} samples predicted, {len(found.dropped)} dropped"
        + (f" ({reasons})" if reasons else ""),
        *(found.matching.lines() if found.matching.num_model else []),
    ]
    if found.reliabilities:
        lines.append(mean_line(found.reliabilities[""]))
    if found.accuracy is not None:
        a = found.accuracy
        lines += [
            f"accuracy in {a.n} samples: correlation {a.correlation:.4f} "
            f"({a.level:.0%} interval {a.lower:.4f} to {a.upper:.4f}), R2 {a.r2:.4f}",
            f"  covariates alone R2 {a.r2_covariates:.4f}, genetic values add {a.r2_incremental:.4f}; "
            f"slope on genetic values {a.slope:.3f}",
        ]
    return [*lines, *(f"note: {note}" for note in found.notes)]
