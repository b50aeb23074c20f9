"""A fit between two iterations as plain values: a JSON-able skeleton and a list of arrays, and back."""

from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..cross_fit import Traces
from ..inference import Lrt
from ..lanczos import LanczosState
from ..least_squares import FixedEffects
from ..likelihood_ratio import RatioTest
from ..moments import Moments
from ..profile import Curve, Profile
from ..result import FitResult, Record, Status
from ..tables import Sum
from .krylov import LanczosRun, Settling
from .reduced_end import SavedBasis, SavedFits
from .reduced_fit import Checked
from .reduced_point import Outside, Point
from .reduced_search import Walk

OF_RESULTS = (Curve, FitResult, FixedEffects, Lrt, Profile, RatioTest, Record, Status, Sum)
OF_FITS = (Checked, LanczosState, Moments, Outside, Point, LanczosRun, SavedBasis, SavedFits, Settling, Traces, Walk)
KINDS = {kind.__name__: kind for kind in (*OF_RESULTS, *OF_FITS)}


def pack(value: Any, copies: WeakKeyDictionary | None = None) -> tuple[Any, list[np.ndarray]]:
    """(skeleton, arrays) of named tuples, dataclasses and enumerations of this package, tuples, arrays and scalars,
    however nested.

    copies: the same WeakKeyDictionary for all checkpoints of a fit, whose blocks do not change once they are in one.  A
    block on a device is then fetched for the first checkpoint that has it, and kept on the host for as long as it is
    on the device.

    >>> import numpy as np
    >>> from gpu_reml.reml import Status, pack, unpack
    >>> skeleton, arrays = pack((np.arange(3), Status.CONVERGED))
    >>> len(arrays), unpack(skeleton, arrays)[1]
    (1, <Status.CONVERGED: 'converged'>)
    """
    arrays: list[np.ndarray] = []
    return _pack(value, arrays, copies), arrays


def on_host(block: Any, copies: WeakKeyDictionary | None) -> np.ndarray:
    """An array, or a block of a backend as one."""
    if copies is None or isinstance(block, np.ndarray):
        return np.asarray(block)
    if block not in copies:
        copies[block] = np.asarray(block)
    return copies[block]


def _pack(value: Any, arrays: list[np.ndarray], copies: WeakKeyDictionary | None) -> Any:
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        arrays.append(on_host(value, copies))
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value).__name__
    if kind != "tuple" and kind not in KINDS:
        raise TypeError(f"cannot save a {kind}")
    if isinstance(value, Enum):
        return {"kind": kind, "items": [value.name]}
    items = [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else value
    return {"kind": kind, "items": [_pack(item, arrays, copies) for item in items]}


def unpack(skeleton: Any, arrays: list[np.ndarray]) -> Any:
    """What was packed; raises ValueError for a kind that this version does not know, or that has other fields.

    >>> import numpy as np
    >>> from gpu_reml.reml import pack, unpack
    >>> unpack(*pack((1.5, (np.arange(2),))))
    (1.5, (array([0, 1]),))
    """
    if not isinstance(skeleton, dict):
        return skeleton
    if "array" in skeleton:
        return arrays[skeleton["array"]]
    items = [unpack(item, arrays) for item in skeleton["items"]]
    if skeleton["kind"] == "tuple":
        return tuple(items)
    kind = KINDS.get(skeleton["kind"])
    if kind is not None and issubclass(kind, Enum) and items[0] in kind.__members__:
        return kind[items[0]]
    names = () if kind is None or issubclass(kind, Enum) else getattr(kind, "_fields", None) or fields(kind)
    if kind is None or len(items) != len(names):
        raise ValueError(f"{skeleton['kind']} with {len(items)} fields is of another version")
    return kind(*items)
