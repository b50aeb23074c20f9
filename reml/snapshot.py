"""A fit between two iterations as plain values: a JSON-able skeleton and a list of arrays, and back."""

from typing import Any

import numpy as np

from .cross_fit import Traces
from .krylov import Run, Settling
from .lanczos import LanczosState
from .moments import Moments
from .reduced_end import SavedBasis
from .reduced_fit import Outside, Point, Walk
from .result import Record

SAVED = (LanczosState, Moments, Outside, Point, Record, Run, SavedBasis, Settling, Traces, Walk)
KINDS = {kind.__name__: kind for kind in SAVED}


def pack(value: Any) -> tuple[Any, list[np.ndarray]]:
    """(skeleton, arrays) of named tuples of this package, tuples, arrays and scalars, however nested."""
    arrays: list[np.ndarray] = []
    return _pack(value, arrays), arrays


def _pack(value: Any, arrays: list[np.ndarray]) -> Any:
    if hasattr(value, "__array__") and not isinstance(value, np.generic):  # blocks of a backend come back as arrays
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, tuple):
        kind = type(value).__name__ if type(value) is not tuple else "tuple"
        if kind != "tuple" and kind not in KINDS:
            raise TypeError(f"cannot save a {kind}")
        return {"kind": kind, "items": [_pack(item, arrays) for item in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__}")


def unpack(skeleton: Any, arrays: list[np.ndarray]) -> Any:
    """What was packed; raises ValueError for a kind that this version does not know, or that has other fields."""
    if not isinstance(skeleton, dict):
        return skeleton
    if "array" in skeleton:
        return arrays[skeleton["array"]]
    items = [unpack(item, arrays) for item in skeleton["items"]]
    if skeleton["kind"] == "tuple":
        return tuple(items)
    kind = KINDS.get(skeleton["kind"])
    if kind is None or len(items) != len(kind._fields):
        raise ValueError(f"{skeleton['kind']} with {len(items)} fields is of another version")
    return kind(*items)
