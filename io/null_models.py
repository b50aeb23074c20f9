"""Null models of association tests in one file: what tests of any genotypes of the same samples need, and no more.

A document with arrays, as :mod:`gpu_reml.io.documents` has them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .documents import Kind, document_pieces, read_document, text_bytes, texts_of
from .errors import InputError
from .writers import json_text

AGAIN = "run the first step again"
NULL = Kind(
    "gpu-reml null models", 2, "file of null models", "no null models",
    "give the file that the first step of a scan wrote", AGAIN,
)  # fmt: skip
_NUMBERS = ("Py", "Q", "scales", "gamma", "y", "thetas")


@dataclass(frozen=True)
class NullModel:
    """Traits of the same samples: ``samples`` fid, iid (n,), ``phenotypes`` (t,), ``chromosomes`` (C,) that are left
    out in turn, ``covariates`` (c,) names of the fixed effects; ``Py`` (n, t C), ``Q`` (n, c), ``scales`` (t,),
    ``gamma`` (C, t), ``y`` (n, t) and ``thetas`` (C, t, 2) as :class:`~gpu_reml.reml.studies.loco.LocoNull` has them;
    ``about`` (t,): metadata of each trait; ``genotypes``: a digest of those that the models are of.
    """

    samples: pd.DataFrame
    phenotypes: tuple[str, ...]
    chromosomes: tuple[str, ...]
    covariates: tuple[str, ...]
    Py: np.ndarray
    Q: np.ndarray
    scales: np.ndarray
    gamma: np.ndarray
    y: np.ndarray
    thetas: np.ndarray
    about: tuple[Mapping[str, Any], ...] = ()
    genotypes: str = ""

    def __post_init__(self):
        """Raises ValueError where shapes do not fit together or a number is not finite."""
        n, t, C, c = (len(part) for part in (self.samples, self.phenotypes, self.chromosomes, self.covariates))
        shapes = {"Py": (n, t * C), "Q": (n, c), "scales": (t,), "gamma": (C, t), "y": (n, t), "thetas": (C, t, 2)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite values {shape}, found {array.shape}")
        if len(self.about) != t:
            raise ValueError(f"about: expected an entry for each of {t} phenotypes, found {len(self.about)}")


@dataclass(frozen=True)
class NullModels:
    """Null models of traits of different samples; ``model``: which variants are left out, "loco" or "lmm"; ``dtype``:
    of the products; ``standardize``: the scale of the genotypes; ``about``: settings and version, for the record."""

    model: str
    dtype: str
    standardize: str
    groups: tuple[NullModel, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def phenotypes(self) -> list[str]:
        return [name for group in self.groups for name in group.phenotypes]


def null_bytes(models: NullModels) -> bytes:
    """The content of a file."""
    arrays: dict[str, np.ndarray] = {}
    groups = []
    for g, group in enumerate(models.groups):
        arrays.update({f"{g}.{name}": np.ascontiguousarray(getattr(group, name)) for name in _NUMBERS})
        for column in ("fid", "iid"):
            arrays[f"{g}.{column}"] = text_bytes(column, group.samples[column])
        names = {name: list(getattr(group, name)) for name in ("phenotypes", "chromosomes", "covariates", "about")}
        groups.append({"num_samples": len(group.samples), "genotypes": group.genotypes, **names})
    head = {"groups": groups, "about": dict(models.about)}
    head |= {name: getattr(models, name) for name in ("model", "dtype", "standardize")}
    return b"".join(document_pieces(NULL, json.loads(json_text(head)), arrays))


def read_null(path: str | Path) -> NullModels:
    """Read what :func:`null_bytes` made.

    Raises:
        InputError: no such file, not null models, of another version, or changed or cut short.
    """
    head, arrays = read_document(path, NULL)
    try:
        groups = tuple(_group(path, g, each, arrays) for g, each in enumerate(head["groups"]))
        found = NullModels(head["model"], head["dtype"], head["standardize"], groups, head["about"])
        np.dtype(found.dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; the file does not hold whole null models, {AGAIN}") from None
    return found


def _group(path: str | Path, g: int, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> NullModel:
    ids = {column: texts_of(path, column, arrays[f"{g}.{column}"]) for column in ("fid", "iid")}
    names = (tuple(_words(head[name])) for name in ("phenotypes", "chromosomes", "covariates"))
    numbers = (arrays[f"{g}.{name}"] for name in _NUMBERS)
    return NullModel(pd.DataFrame(ids, dtype=str), *names, *numbers, tuple(head["about"]), str(head["genotypes"]))


def _words(value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(type(word) is str for word in value):
        raise ValueError(f"expected a list of names, found {str(value)[:60]!r}")
    return value
