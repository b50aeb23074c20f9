"""A fitted model in one file, from which genetic values and phenotypes of other samples are predicted.

The file is a NumPy .npz: the arrays, and a JSON document beside them that says what they are.  One file, so that it is
whole or absent and can be moved; no pickles, so that loading it runs nothing; readable by ``numpy.load`` alone.
Strings are UTF-8 bytes, one a line.  A SHA-256 of everything is checked when it is read.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from .archives import load_npz, parse_json
from .design import INTERCEPT, Design
from .errors import InputError
from .writers import json_text, write_all

FORMAT, VERSION = "gpu-reml model", 1
SUFFIX = ".npz"
_HEAD = "model.json"
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
ScaleKind = Literal["ancestry", "environment"]


@dataclass(frozen=True)
class FixedTerms:
    """Fixed effects and how their columns come from covariates.

    ``names`` (c,), the intercept first; ``estimate`` (c,) in the phenotype's units a unit of the covariate;
    ``covariance`` (c, c).  ``columns`` (c - 1,): of each further column its covariate, and the level that is 1 in it,
    or None where the covariate is the column.  ``references``: of each categorical covariate the level without one.
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    covariance: np.ndarray
    columns: tuple[tuple[str, str | None], ...]
    references: Mapping[str, str]

    @property
    def quantitative(self) -> tuple[str, ...]:
        return tuple(name for name, level in self.columns if level is None)

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Levels of each categorical covariate, the reference first."""
        return {
            name: (reference, *(level for other, level in self.columns if other == name and level is not None))
            for name, reference in self.references.items()
        }


@dataclass(frozen=True)
class Scale:
    """What multiplies a component's genetic values, from one number x of the sample: s = (x - centre) / sd, or the
    ``root`` of that.

    ``kind``: "ancestry", x is the sample's proportion of the ancestry ``name``, or "environment", x is its value of the
    quantitative covariate ``name``; ``centre`` and ``sd`` are those of the fit's samples, also for others.
    """

    kind: ScaleKind
    name: str
    centre: float = 0.0
    sd: float = 1.0
    root: bool = False

    def __post_init__(self):
        if self.kind not in get_args(ScaleKind):
            raise ValueError(f"scale {self.name}: expected a kind of {', '.join(get_args(ScaleKind))}, not {self.kind}")
        if type(self.name) is not str or type(self.root) is not bool:
            raise ValueError(f"scale {self.name}: expected a name and a root that is true or false, found {self}")
        if not (np.isfinite(self.centre) and np.isfinite(self.sd) and self.sd > 0):
            raise ValueError(f"scale {self.name}: expected a finite centre and a positive SD, found {self}")

    @property
    def formula(self) -> str:
        """s in words."""
        value = f"{self.kind} {self.name}"
        if (self.centre, self.sd) != (0.0, 1.0):
            value = f"({value} - {self.centre!r}) / {self.sd!r}"
        return f"sqrt({value})" if self.root else value

    def of(self, values: np.ndarray) -> np.ndarray:
        """(n,) s of samples with these ``values``."""
        scaled = (np.asarray(values, np.float64) - self.centre) / self.sd
        return np.sqrt(scaled) if self.root else scaled


@dataclass(frozen=True)
class LevelValues:
    """Values of people or animals by descent or a given matrix, phenotyped or not: ``values`` (q,) in phenotype units.

    ``labels`` (q,): FID and IID with a tab between, or the IID alone where ``by`` is "animal".
    """

    name: str
    by: Literal["person", "animal"]
    labels: tuple[str, ...]
    values: np.ndarray

    def __post_init__(self):
        if self.by not in ("person", "animal") or self.values.shape != (len(self.labels),):
            raise ValueError(f"levels {self.name}: expected a value for each of {len(self.labels)} people or animals")
        if not np.isfinite(self.values).all() or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"levels {self.name}: expected finite values of different people or animals")

    def of(self, samples: pd.DataFrame) -> tuple[np.ndarray, int]:
        """(n,) values of samples (fid, iid), 0 for those that are not there, and how many these are."""
        keys = samples["iid"] if self.by == "animal" else samples["fid"] + "\t" + samples["iid"]
        rows = pd.Index(self.labels).get_indexer(pd.Index(keys))
        return np.where(rows >= 0, self.values[rows], 0.0), int((rows < 0).sum())


@dataclass(frozen=True)
class Model:
    """What predicts: effects of alleles and fixed effects, with what they were estimated from.

    ``scales`` (G,): what multiplies each component, None where nothing does.  ``theta``, ``theta_se`` (G + J,):
    variances, those of the ``residuals`` (J,) last, in the phenotype's units squared.  ``samples``: fid, iid of the
    ``Py`` (n,).  ``variants``: chrom, id, bp, a1, a2 of those that carry an effect; ``mean`` and ``inv_sd`` (m,) of the
    count of a1 among the analysed samples.  ``effects`` (m, G) csr: phenotype units a copy of a1, so that a genetic
    value is s_g sum_j (count_ij - mean_j) effects_jg, s_g that of the component's scale for the sample, or 1.
    ``about``: settings, standardisation, hashes and origin, for the record.  ``levels``: of components that are no
    variants' (their variances are among those of the ``residuals``), values by the sample's id.
    """

    phenotype: str
    components: tuple[str, ...]
    scales: tuple[Scale | None, ...]
    residuals: tuple[str, ...]
    theta: np.ndarray
    theta_se: np.ndarray
    samples: pd.DataFrame
    Py: np.ndarray
    variants: pd.DataFrame
    mean: np.ndarray
    inv_sd: np.ndarray
    effects: sparse.csr_array
    fixed: FixedTerms
    about: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[LevelValues, ...] = ()

    def __post_init__(self):
        """Raises ValueError where shapes do not fit together or a number is not finite."""
        m, n, G, c = len(self.variants), len(self.samples), len(self.components), len(self.fixed.names)
        J = len(self.residuals)
        if len(self.scales) != G or not J:
            raise ValueError(f"scales, residuals: expected {G} scales and a residual, found {len(self.scales)} and {J}")
        shapes = {
            "theta": (self.theta, (G + J,)),
            "theta_se": (self.theta_se, (G + J,)),
            "Py": (self.Py, (n,)),
            "mean": (self.mean, (m,)),
            "inv_sd": (self.inv_sd, (m,)),
            "effects": (self.effects, (m, G)),
            "fixed.estimate": (self.fixed.estimate, (c,)),
            "fixed.covariance": (self.fixed.covariance, (c, c)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"{name}: expected {shape}, found {array.shape}")
        finite = {name: shapes[name][0] for name in ("Py", "theta", "mean", "inv_sd", "fixed.estimate")}
        for name, array in {**finite, "effects": self.effects.data}.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: has values that are not finite")
        columns = [name if level is None else f"{name}[{level}]" for name, level in self.fixed.columns]
        if list(self.fixed.names) != [INTERCEPT, *columns]:
            raise ValueError(f"fixed: its covariates make the columns {INTERCEPT}, {columns}, not {self.fixed.names}")

    @property
    def parts(self) -> tuple[str, ...]:
        """What a genetic value is the sum of: the components, then those of levels."""
        return (*self.components, *(level.name for level in self.levels))

    @property
    def ancestries(self) -> tuple[str, ...]:
        """Ancestries that components are scaled by, in the order of the columns that the fit had."""
        return self._scaled_by("ancestry")

    @property
    def environments(self) -> tuple[str, ...]:
        """Environments that components are scaled by."""
        return self._scaled_by("environment")

    def _scaled_by(self, kind: ScaleKind) -> tuple[str, ...]:
        return tuple(dict.fromkeys(scale.name for scale in self.scales if scale is not None and scale.kind == kind))

    @property
    def freq(self) -> np.ndarray:
        """(m,) frequency of a1 among the analysed samples."""
        return self.mean / 2

    @property
    def intercepts(self) -> np.ndarray:
        """(G,) - sum_j mean_j effects_jg: what sums of counts times effects lack to be genetic values, before s_g."""
        return -(self.effects.T @ self.mean)


def fixed_terms(design: Design, estimate: np.ndarray, covariance: np.ndarray) -> FixedTerms:
    """The fixed effects of a design with the coding of its columns.

    Raises:
        InputError: a quantitative covariate that is named like a level of a categorical one.
    """
    columns: list[tuple[str, str | None]] = []
    for k, column in enumerate(design.names[1:], 1):
        owners = [name for name in design.reference_levels if column.startswith(f"{name}[") and column.endswith("]")]
        if not owners:
            columns.append((column, None))
            continue
        if len(owners) > 1 or not np.isin(design.X[:, k], (0, 1)).all():
            raise InputError(
                f"covariate {column}: reads like a level of {' or of '.join(owners)}; rename it before saving the model"
            )
        columns.append((owners[0], column[len(owners[0]) + 1 : -1]))
    estimate, covariance = np.asarray(estimate), np.asarray(covariance)
    return FixedTerms(tuple(design.names), estimate, covariance, tuple(columns), dict(design.reference_levels))


def digest(*arrays: np.ndarray) -> str:
    """A short hash of arrays, for telling whether data are the same."""
    state = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()[:16]


def model_bytes(model: Model) -> bytes:
    """A model as the content of its file."""
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
        arrays[f"levels.{i}.labels"] = text_bytes(level.name, pd.Series(level.labels, dtype=str))
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    for name in _TEXTS:
        table, column = name.split(".")
        arrays[name] = text_bytes(name, getattr(model, table)[column])
    head = {
        "format": FORMAT,
        "version": VERSION,
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
        "levels": [{"name": level.name, "by": level.by} for level in model.levels],
    }
    head = json.loads(json_text(head))
    head["sha256"] = checksum_of(head, arrays)
    text = np.frombuffer(json_text(head).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **{_HEAD: text}, **arrays)
    return buffer.getvalue()


def write_model(path: str | Path, model: Model) -> None:
    """Write a model whole or not at all; the same model gives the same numbers back, to the bit.

    Raises:
        OutputError: the file cannot be written.
    """
    write_all({path: model_bytes(model)})


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
            tuple(_level(path, i, each, arrays) for i, each in enumerate(head.get("levels", []))),
        )
    except (ValueError, TypeError, KeyError) as error:  # a scale with other fields is a TypeError
        raise InputError(f"{path}: {error}; the file does not hold a whole model, save it again") from None


def _level(path: str | Path, i: int, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> LevelValues:
    values, labels = arrays[f"levels.{i}.values"], arrays[f"levels.{i}.labels"]
    if values.dtype != "f8" or labels.dtype != "u1" or values.ndim != 1 or labels.ndim != 1:
        raise ValueError(f"levels.{i}: expected numbers and names")
    return LevelValues(head["name"], head["by"], tuple(texts_of(path, f"levels.{i}", labels)), values)


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
    """The document and the arrays, checked to be those that were written, and of the types that they should be."""
    remedy = "give the file that `write_model` wrote"
    arrays = load_npz(path, "model file", "not a saved model, or a damaged one", remedy)
    if _HEAD not in arrays:
        raise InputError(f"{path}: not a saved model; {remedy}")
    head = parse_json(arrays.pop(_HEAD).tobytes().decode(errors="replace"), f"{path}: {_HEAD}")
    _check_head(path, head)
    absent = sorted({*_ARRAYS, *_TEXTS} - set(arrays))
    if absent:
        raise InputError(f"{path}: lacks {', '.join(absent)}; the file is damaged, copy it again")
    expected = head.pop("sha256", None)
    if expected != checksum_of(head, arrays):
        raise InputError(f"{path}: its contents are not those that were saved (SHA-256 differs); copy it again")
    for name, kind in {**_ARRAYS, **dict.fromkeys(_TEXTS, "u1")}.items():
        dimensions = 2 if name == "fixed.covariance" else 1
        if arrays[name].dtype != kind or arrays[name].ndim != dimensions:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise InputError(f"{path}: {name}: expected {np.dtype(kind)} of {dimensions} dimension(s), found {found}")
    return head, arrays


def _check_head(path: str | Path, head: Any) -> None:
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise InputError(f"{path}: not a saved model; give the file that `write_model` wrote")
    if head.get("version") != VERSION:
        raise InputError(
            f"{path}: a model of version {head.get('version')!r}, and this program reads version {VERSION}; save it "
            "again with this version of gpu-reml"
        )
    lacking = [key for key in _DOCUMENT if key not in head]
    if lacking:
        raise InputError(f"{path}: lacks {', '.join(lacking)}; save the model again with this version of gpu-reml")
    wrong = [key for key, is_right in _DOCUMENT.items() if not is_right(head[key])]
    if wrong:
        raise InputError(f"{path}: its {wrong[0]} cannot be {str(head[wrong[0]])[:60]!r}; save the model again")


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
    "components": lambda value: _are_words(value) and len(set(value)) == len(value) > 0,
    "scales": _are_scales,
    "residuals": _are_words,
    "num_samples": _is_count,
    "num_variants": _is_count,
    "fixed": _are_fixed_terms,
    "about": lambda value: isinstance(value, dict) and _are_proportions(value.get("mean_proportions", {})),
}


def checksum_of(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the document without its own, and of every array with its name, type and shape."""
    state = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def text_bytes(name: str, column: pd.Series) -> np.ndarray:
    values = [str(value) for value in column]
    if any("\n" in value for value in values):
        raise ValueError(f"{name}: an entry has a line break")
    return np.frombuffer("".join(f"{value}\n" for value in values).encode(), np.uint8)


def texts_of(path: str | Path, name: str, array: np.ndarray) -> list[str]:
    try:
        return array.tobytes().decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {name} is not text ({error.reason}); the file is damaged, copy it again") from None
