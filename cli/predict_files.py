"""What a prediction leaves: its table, its metadata, and what a person reads."""

from importlib.metadata import version
from typing import Any

import pandas as pd

from gpu_reml import io
from gpu_reml.io.model import Model

from .effects_files import scale_record
from .predict_run import Prediction


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


def prediction_lines(model: Model, found: Prediction) -> list[str]:
    """What was done, as a person reads it."""
    reasons = "; ".join(f"{count} {reason}" for reason, count in found.dropped["reason"].value_counts().items())
    lines = [
        f"phenotype {model.phenotype}: {len(found.samples)} samples predicted, {len(found.dropped)} dropped"
        + (f" ({reasons})" if reasons else ""),
        *found.matching.lines(),
    ]
    if found.accuracy is not None:
        a = found.accuracy
        lines += [
            f"accuracy in {a.n} samples: correlation {a.correlation:.4f} "
            f"({a.level:.0%} interval {a.lower:.4f} to {a.upper:.4f}), R2 {a.r2:.4f}",
            f"  covariates alone R2 {a.r2_covariates:.4f}, genetic values add {a.r2_incremental:.4f}; "
            f"slope on genetic values {a.slope:.3f}",
        ]
    return [*lines, *(f"note: {note}" for note in found.notes)]
