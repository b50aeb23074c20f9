"""The file of a fitted model: written whole or not at all, and checked when it is read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from .documents import Kind, document_pieces, read_document, text_bytes, texts_of
from .errors import InputError
from .model import FixedTerms, LevelValues, Model, ReplicatedEffects, Scale
from .writers import json_text, write_all

MODEL = Kind(
    "gpu-reml model", 2, "model file", "not a saved model", "give the file that `write_model` wrote",
    "copy it again, or save it again with this version of gpu-reml",
)  # fmt: skip
_TEXTS = ("samples.fid", "samples.iid", "variants.chrom", "variants.id", "variants.a1", "variants.a2")
_ARRAYS = {  # the arrays of a file and their types
    "Py": "f8",
    "theta": "f8",
    "theta_se": "f8",
    "variants.bp": "i8",
    "variants.mean": "f8",
    "variants.inv_sd": "f8",
    "effects.data": "f8",
    "effects.indices": "i4",
    "effects.indptr": "i8",
    "fixed.estimate": "f8",
    "fixed.covariance": "f8",
}
_TABLE = ("chrom", "id", "bp", "a1", "a2")


def model_pieces(model: Model) -> Iterator[bytes]:
    """A model as the content of its file, array by array."""
    effects = sparse.csr_array(model.effects).sorted_indices()
    arrays = {
        "Py": model.Py,
        "theta": model.theta,
        "theta_se": model.theta_se,
        "variants.bp": model.variants["bp"].to_numpy(np.int64),
        "variants.mean": model.mean,
        "variants.inv_sd": model.inv_sd,
        "effects.data": effects.data,
        "effects.indices": effects.indices.astype(np.int32),
        "effects.indptr": effects.indptr.astype(np.int64),
        "fixed.estimate": model.fixed.estimate,
        "fixed.covariance": model.fixed.covariance,
    }
    for i, level in enumerate(model.levels):
        arrays[f"levels.{i}.values"] = level.values
        arrays[f"levels.{i}.labels"] = text_bytes(level.name, level.labels)
        arrays.update(_spread_arrays(f"levels.{i}", level.spread))
    for i, spread in enumerate(model.spreads):
        arrays.update(_spread_arrays(f"spreads.{i}", spread))
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    for name in _TEXTS:
        table, column = name.split(".")
        arrays[name] = text_bytes(name, getattr(model, table)[column])
    head = {
        "phenotype": model.phenotype,
        "components": model.components,
        "scales": [None if scale is None else asdict(scale) for scale in model.scales],
        "residuals": model.residuals,
        "num_samples": len(model.samples),
        "num_variants": len(model.variants),
        "fixed": {
            "names": model.fixed.names,
            "columns": model.fixed.columns,
            "references": model.fixed.references,
        },
        "units": "effects: phenotype units a copy of a1, before the component's scale; theta: phenotype units squared, "
        "of components and then of residuals",
        "about": model.about,
        "levels": [
            {"name": level.name, "by": level.by, "genetic": level.genetic, "unknown": level.unknown}
            for level in model.levels
        ],
        "num_spreads": len(model.spreads),
        "complete": model.has_reliabilities and model.replicates_are_complete,
    }
    return document_pieces(MODEL, json.loads(json_text(head)), arrays)


def write_model(path: str | Path, model: Model) -> None:
    """Write a model whole or not at all; the same model gives the same numbers back, to the bit.

    Raises:
        OutputError: the file cannot be written.
    """
    write_all({Path(path): model_pieces(model)})


def read_model(path: str | Path) -> Model:
    """Read what :func:`write_model` wrote.

    Raises:
        InputError: no such file, not a model, one of another version, or one that was changed or cut short.
    """
    head, arrays = _read(path)
    m, G = head["num_variants"], len(head["components"])
    texts = {}
    for name in _TEXTS:
        texts[name] = texts_of(path, name, arrays[name])
        if len(texts[name]) != head["num_samples" if name.startswith("s") else "num_variants"]:
            raise InputError(f"{path}: {name} has {len(texts[name])} entries; the file is damaged, copy it again")
    fixed = head["fixed"]
    try:
        effects = _effects(arrays["effects.data"], arrays["effects.indices"], arrays["effects.indptr"], (m, G))
        return Model(
            head["phenotype"],
            tuple(head["components"]),
            tuple(None if scale is None else Scale(**scale) for scale in head["scales"]),
            tuple(head["residuals"]),
            arrays["theta"],
            arrays["theta_se"],
            pd.DataFrame({"fid": texts["samples.fid"], "iid": texts["samples.iid"]}, dtype=str),
            arrays["Py"],
            pd.DataFrame(
                {name: arrays["variants.bp"] if name == "bp" else texts[f"variants.{name}"] for name in _TABLE}
            ),
            arrays["variants.mean"],
            arrays["variants.inv_sd"],
            effects,
            FixedTerms(
                tuple(fixed["names"]),
                arrays["fixed.estimate"],
                arrays["fixed.covariance"],
                tuple((name, level) for name, level in fixed["columns"]),
                fixed["references"],
            ),
            head["about"],
            tuple(_level(path, i, head, arrays) for i in range(len(head["levels"]))),
            tuple(_spread(f"spreads.{i}", head["complete"], arrays) for i in range(head["num_spreads"])),
        )
    except (ValueError, TypeError, KeyError) as error:  # a scale with other fields is a TypeError
        raise InputError(f"{path}: {error}; the file does not hold a whole model, save it again") from None


def _level(path: str | Path, i: int, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> LevelValues:
    values, labels = arrays[f"levels.{i}.values"], arrays[f"levels.{i}.labels"]
    if values.dtype != "f8" or labels.dtype != "u1" or values.ndim != 1 or labels.ndim != 1:
        raise ValueError(f"levels.{i}: expected numbers and names")
    spread = _spread(f"levels.{i}", head["complete"], arrays) if f"levels.{i}.replicates" in arrays else None
    own = head["levels"][i]
    unknown = np.nan if own["unknown"] is None else float(own["unknown"])
    names = tuple(texts_of(path, f"levels.{i}", labels))
    return LevelValues(own["name"], own["by"], names, values, own["genetic"], spread, unknown)


def _spread_arrays(name: str, spread: ReplicatedEffects | None) -> dict[str, np.ndarray]:
    if spread is None:
        return {}
    return {f"{name}.variances": spread.variances, f"{name}.replicates": spread.replicates.astype(np.float32)}


def _spread(name: str, complete: bool, arrays: Mapping[str, np.ndarray]) -> ReplicatedEffects:
    variances, replicates = arrays[f"{name}.variances"], arrays[f"{name}.replicates"]
    if variances.dtype != "f8" or replicates.dtype != "f4":
        raise ValueError(f"{name}: expected variances and replicates that are numbers")
    return ReplicatedEffects(variances, replicates, complete)


def _effects(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """The matrix; ValueError unless its indices are within it, as compiled code follows them wherever they lead.

    scipy's own full check passes over a matrix whose last index pointer is 0.
    """
    m, G = shape
    is_sound = len(indptr) == m + 1 and indptr[0] == 0 and indptr[-1] == len(indices) == len(data)
    if not is_sound or (np.diff(indptr) < 0).any():
        raise ValueError(f"effects.indptr: expected {m + 1} numbers that rise from 0 to {len(data)}")
    if len(indices) and (indices.min() < 0 or indices.max() >= G):
        raise ValueError(f"effects.indices: expected 0 to {G - 1}, found {indices.min()} to {indices.max()}")
    return sparse.csr_array((data, indices, indptr), shape=shape)


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The document and the arrays, of the types that they should be."""
    head, arrays = read_document(path, MODEL)
    absent = [key for key in _DOCUMENT if key not in head] + sorted({*_ARRAYS, *_TEXTS} - set(arrays))
    if absent:
        raise InputError(f"{path}: lacks {', '.join(absent)}; save the model again with this version of gpu-reml")
    wrong = [key for key, is_right in _DOCUMENT.items() if not is_right(head[key])]
    if wrong:
        raise InputError(f"{path}: its {wrong[0]} cannot be {str(head[wrong[0]])[:60]!r}; save the model again")
    for name, kind in {**_ARRAYS, **dict.fromkeys(_TEXTS, "u1")}.items():
        dimensions = 2 if name == "fixed.covariance" else 1
        if arrays[name].dtype != kind or arrays[name].ndim != dimensions:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise InputError(f"{path}: {name}: expected {np.dtype(kind)} of {dimensions} dimension(s), found {found}")
    return head, arrays


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(type(word) is str for word in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_scales(value: Any) -> bool:
    return isinstance(value, list) and all(scale is None or isinstance(scale, dict) for scale in value)


def _are_proportions(value: Any) -> bool:
    return isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())


def _are_fixed_terms(value: Any) -> bool:
    if not isinstance(value, dict) or not {"names", "columns", "references"} <= set(value):
        return False
    columns, references = value["columns"], value["references"]
    pairs = isinstance(columns, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in columns)
    return (
        _are_words(value["names"])
        and pairs
        and all(type(name) is str and (level is None or type(level) is str) for name, level in columns)
        and isinstance(references, dict)
        and _are_words(list(references.values()))
    )


_DOCUMENT = {  # the keys of the document, each with a check of its value
    "phenotype": lambda value: type(value) is str,
    "components": lambda value: _are_words(value) and len(set(value)) == len(value),
    "scales": _are_scales,
    "residuals": _are_words,
    "num_samples": _is_count,
    "num_variants": _is_count,
    "fixed": _are_fixed_terms,
    "levels": lambda value: isinstance(value, list) and all(isinstance(level, dict) for level in value),
    "num_spreads": _is_count,
    "complete": lambda value: type(value) is bool,
    "about": lambda value: isinstance(value, dict) and _are_proportions(value.get("mean_proportions", {})),
}
