"""Component files of indices or ids: which variants form each genetic variance component."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .archives import load_json, load_npz, parse_json
from .bed import BedFile
from .errors import InputError
from .plausible import MOST_WEIGHT, check_words

# These arrays of an .npz describe components and are none themselves.
NPZ_NAMES = "component_names"
NPZ_ANNOTATIONS = "component_annotations_json"
NPZ_PROVENANCE = "component_provenance_json"
JSON_KEYS = ("name", "variant_indices", "variant_ids", "weights", "annotation", "provenance")
EXAMPLE = '[{"name": "a", "variant_indices": [0, 1]}]'


@dataclass(frozen=True)
class ComponentSpec:
    """``indices``: int64, zero-based rows of the unfiltered genotype files in the user's order, or None where ``ids``
    has the variants' ids instead.  ``weights``: float64, one for each, None for 1.  ``annotation``, ``provenance``:
    kept, not used."""

    name: str
    indices: np.ndarray | None
    annotation: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    ids: tuple[str, ...] | None = None
    weights: np.ndarray | None = None

    @property
    def num_variants(self) -> int:
        return len(self.indices if self.ids is None else self.ids)


def read_component_spec(path: str | Path, num_variants: int) -> list[ComponentSpec]:
    """Read components from JSON or NPZ; variants may be in several components, or in none.

    JSON: a list of objects, or an object with the list ``components``.  Each has ``variant_indices`` (zero-based rows
    of the genotype file) or ``variant_ids`` (strings) and may have ``name`` (default component_000, ...), ``weights``
    (numbers that are not negative, one for each variant; default 1), ``annotation`` and ``provenance`` (objects).
    Other keys are not read.
    NPZ: each array is a component, named by its key (component_000, ... for unnamed arrays arr_0, arr_1, ..., taken in
    numeric order); ``component_names``, ``component_annotations_json`` and ``component_provenance_json`` have one
    string for each.

    Raises:
        InputError: no such file, not JSON or NPZ, or a component that is empty, out of 0..num_variants-1, repeats a
            variant, holds something other than integers (ids: strings) or a misspelt key, or shares its name.
    """
    path = Path(path)
    readers = {".json": _read_json, ".npz": _read_npz}
    if path.suffix not in readers:
        raise InputError(f"{path}: expected a component file named .json or .npz, found {path.suffix or 'no suffix'!r}")
    specs = readers[path.suffix](path)
    if not specs:
        raise InputError(f"{path}: holds no component")
    for spec in specs:
        _check_variants(path, spec, num_variants)
    check_names(str(path), [spec.name for spec in specs])
    return specs


def reindex(spec: ComponentSpec, kept: np.ndarray) -> ComponentSpec:
    """A spec of rows of the unfiltered file as one of the ``kept`` rows (m,) int64, in the spec's order.

    A row that is not kept leaves the component, which may become empty; a spec of ids stays as it is.
    """
    if spec.indices is None:
        return spec
    position = np.full(max(kept.max(initial=-1), spec.indices.max(initial=-1)) + 1, -1, np.int64)
    position[kept] = np.arange(len(kept))
    found = position[spec.indices]
    weights = None if spec.weights is None else spec.weights[found >= 0]
    return replace(spec, indices=found[found >= 0], weights=weights)


def components_from_prefixes(bed_files: Sequence[BedFile]) -> list[ComponentSpec]:
    """One component for each fileset, its variants numbered as ``load_genotypes`` stacks them.

    Named by the last part of the prefix, or by the whole prefix where two end alike.

    Raises:
        InputError: a prefix given twice.
    """
    basenames = [Path(bed.prefix).name for bed in bed_files]
    specs, offset = [], 0
    for bed, basename in zip(bed_files, basenames, strict=True):
        name = basename if basenames.count(basename) == 1 else bed.prefix
        specs.append(ComponentSpec(name, np.arange(offset, offset + bed.num_variants)))
        offset += bed.num_variants
    check_names("genotypes", [spec.name for spec in specs])
    return specs


def component_weights(specs: Sequence[ComponentSpec], num_variants: int) -> tuple[csr_array, tuple[str, ...]]:
    """(m, G) float64 weights, variants by components, and the components' names.

    Raises ValueError for a spec of ids, which only :func:`~gpu_reml.io.components_from_specs` can look up.
    """
    by_id = [spec.name for spec in specs if spec.indices is None]
    if by_id:
        raise ValueError(f"specs: component {by_id[0]} has variant ids and no indices; use components_from_specs")
    rows = np.concatenate([spec.indices for spec in specs])
    columns = np.repeat(np.arange(len(specs)), [spec.num_variants for spec in specs])
    values = np.concatenate([np.ones(spec.num_variants) if spec.weights is None else spec.weights for spec in specs])
    weights = csr_array((values, (rows, columns)), shape=(num_variants, len(specs)))
    return weights, tuple(spec.name for spec in specs)


def _default_name(position: int) -> str:
    return f"component_{position:03d}"


def _read_json(path: Path) -> list[ComponentSpec]:
    content = load_json(path, "component file")
    entries = content.get("components") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise InputError(
            f"{path}: expected a list of components, such as {EXAMPLE}, or an object with it as 'components'"
        )
    return [_json_component(path, position, entry) for position, entry in enumerate(entries)]


def _json_component(path: Path, position: int, entry: Any) -> ComponentSpec:
    where = f"{path}: component {position}"
    if not isinstance(entry, dict) or not {"variant_indices", "variant_ids"} & set(entry):
        raise InputError(f"{where}: expected an object with 'variant_indices' or 'variant_ids'")
    if {"variant_indices", "variant_ids"} <= set(entry):
        raise InputError(f"{where}: has both 'variant_indices' and 'variant_ids'; keep one of them")
    for key in sorted(set(entry) - set(JSON_KEYS)):
        near = get_close_matches(key, JSON_KEYS, n=1, cutoff=0.75)
        if near:
            raise InputError(f"{where}: {key!r} would not be read; {near[0]!r} is meant")
    name = entry.get("name", _default_name(position))
    described = [_json_object(where, key, entry.get(key)) for key in ("annotation", "provenance")]
    if "variant_ids" in entry:
        ids = tuple(_json_list(where, "variant_ids", entry, str, "strings"))
        return ComponentSpec(name, None, *described, ids=ids, weights=_json_weights(where, entry, len(ids)))
    indices = _json_list(where, "variant_indices", entry, int, "integers")
    weights = _json_weights(where, entry, len(indices))
    return ComponentSpec(name, _as_int64(where, indices), *described, weights=weights)


def _json_weights(where: str, entry: dict[str, Any], count: int) -> np.ndarray | None:
    if entry.get("weights") is None:
        return None
    values = entry["weights"]
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numbers or len(values) != count:
        raise InputError(f"{where}: expected {count} numbers in 'weights', one for each variant")
    weights = np.array(values, np.float64)
    bad = ~((weights >= 0) & (weights <= MOST_WEIGHT))
    if bad.any():
        raise InputError(
            f"{where}: weights[{int(np.argmax(bad))}] is {weights[bad][0]:g}; expected 0 to {MOST_WEIGHT:g}"
        )
    return weights


def _json_list(where: str, key: str, entry: dict[str, Any], kind: type, wanted: str) -> list:
    values = entry[key]
    if not isinstance(values, list):
        raise InputError(f"{where}: expected a list of {wanted} in {key!r}, found {type(values).__name__}")
    # type() tells True from 1, which isinstance does not.
    strange = [value for value in values if type(value) is not kind]
    if strange:
        raise InputError(f"{where}: {key} holds {strange[0]!r}; expected {wanted}{', zero-based' * (kind is int)}")
    return values


def _json_object(where: str, key: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{where}: expected an object in {key!r}, found {type(value).__name__}")
    return value


def _as_int64(where: str, indices: Sequence[int]) -> np.ndarray:
    try:
        return np.array(indices, dtype=np.int64)
    except OverflowError:
        raise InputError(f"{where}: variant index {max(indices, key=abs)} is out of any range") from None


def _read_npz(path: Path) -> list[ComponentSpec]:
    arrays = load_npz(path, "component file")
    described = {key: arrays.pop(key, None) for key in (NPZ_NAMES, NPZ_ANNOTATIONS, NPZ_PROVENANCE)}
    keys = list(arrays)
    unnamed = all(re.fullmatch(r"arr_\d+", key) for key in keys)
    if unnamed:
        keys.sort(key=lambda key: int(key.removeprefix("arr_")))
    names = [_default_name(k) for k in range(len(keys))] if unnamed else keys
    names = _npz_strings(path, NPZ_NAMES, described[NPZ_NAMES], len(keys)) or names
    annotations = _npz_objects(path, NPZ_ANNOTATIONS, described[NPZ_ANNOTATIONS], len(keys))
    provenance = _npz_objects(path, NPZ_PROVENANCE, described[NPZ_PROVENANCE], len(keys))
    for key in keys:
        if arrays[key].ndim != 1 or arrays[key].dtype.kind not in "iu":
            found = f"{arrays[key].dtype} of shape {arrays[key].shape}"
            raise InputError(f"{path}: array {key}: expected a vector of integers, found {found}")
    vectors = [arrays[key].astype(np.int64) for key in keys]
    return [ComponentSpec(*fields) for fields in zip(names, vectors, annotations, provenance, strict=True)]


def _npz_strings(path: Path, key: str, array: np.ndarray | None, count: int) -> list[str] | None:
    if array is None:
        return None
    if array.dtype.kind != "U" or array.shape != (count,):
        raise InputError(
            f"{path}: expected {count} strings in {key}, one for each component, found {array.dtype} {array.shape}"
        )
    return [str(value) for value in array]


def _npz_objects(path: Path, key: str, array: np.ndarray | None, count: int) -> list[dict[str, Any] | None]:
    """One JSON object, null or empty string for each component."""
    values: list[dict[str, Any] | None] = []
    for position, text in enumerate(_npz_strings(path, key, array, count) or [""] * count):
        value = parse_json(text, f"{path}: {key}[{position}]") if text else None
        values.append(_json_object(f"{path}: component {position}", key, value))
    return values


def _check_variants(path: Path, spec: ComponentSpec, num_variants: int) -> None:
    if not spec.num_variants:
        raise InputError(f"{path}: component {spec.name} is empty; remove it or list its variants")
    variants, what = (spec.indices, "variant index") if spec.ids is None else (np.array(spec.ids), "variant")
    if spec.ids is None:
        _check_range(path, spec, num_variants)
    values, counts = np.unique(variants, return_counts=True)
    if len(values) < len(variants):
        raise InputError(
            f"{path}: component {spec.name}: {what} {values[counts > 1][0]} occurs more than once; list it once"
        )


def _check_range(path: Path, spec: ComponentSpec, num_variants: int) -> None:
    indices = spec.indices
    outside = indices[(indices < 0) | (indices >= num_variants)]
    if len(outside):
        raise InputError(
            f"{path}: component {spec.name}: variant index {outside[0]} is out of 0..{num_variants - 1} "
            f"({len(outside)} of {len(indices)} are); indices are zero-based rows of the genotype file"
        )


def check_names(where: str, names: Sequence[Any]) -> None:
    """Raise InputError, which starts with ``where``, unless the components' names are different words."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where}: component name {name!r}: expected a string that is not empty")
    check_words(where, names)
    twice = sorted({name for name, count in Counter(names).items() if count > 1})
    if twice:
        raise InputError(f"{where}: component name(s) {', '.join(twice)} occur more than once; make them unique")
