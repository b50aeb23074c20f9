"""Whatever a caller has as one covariance: components of any kinds, alone or in a list."""

from itertools import count
from typing import Any

import numpy as np
from scipy import sparse

from gpu_reml.ops.arguments import as_block, as_symmetric, as_vector
from gpu_reml.ops.base import Covariance

from ..linalg import Block
from .functions import FunctionCovariance, Operator, dense_covariance, of_symmetric
from .mixed import MixedCovariance
from .wrapped import adopted


def as_covariance(covariance: Any, num_samples: int | None = None) -> Covariance:
    """A covariance as it is; or a component, or a list of components of any kinds, as one covariance.

    A component is a covariance (genotypes, say), a matrix (n, n), dense or sparse, an :class:`Operator`, (function,
    trace), or a function, with its trace as the attribute ``trace`` or without; so are SciPy's LinearOperators.
    Fits and moments need traces; ``loglik``, ``score`` and ``average_information`` do without.
    An array (G, n, n) is a list of matrices.  Unnamed ones are component_000, ... by their place.
    num_samples: needed where the list has nothing but functions.  ValueError for what is none of these.

    >>> import numpy as np
    >>> from gpu_reml.reml import as_covariance
    >>> both = as_covariance([np.eye(4), (lambda B: 2 * B, 8.0)])
    >>> both.names, both.traces.tolist(), both.apply([1.0, 3.0], np.ones((4, 1))).ravel().tolist()
    (('component_000', 'component_001'), [4.0, 8.0], [7.0, 7.0, 7.0, 7.0])
    """
    if _is_matrix(covariance) and np.ndim(covariance) == 3:
        covariance = list(covariance)
    if _is_matrix(covariance) or isinstance(covariance, Operator) or _is_pair(covariance) or _is_function(covariance):
        covariance = [covariance]
    if not isinstance(covariance, list | tuple):
        return adopted(covariance)
    if not covariance:
        raise ValueError("covariance: expected at least one component, found none")
    if all(_is_matrix(item) for item in covariance):
        return dense_covariance(covariance)
    items = [item if _is_component(item) else adopted(item, f"covariance[{g}]") for g, item in enumerate(covariance)]
    whole = [item for item in items if isinstance(item, Covariance)]
    sizes = [np.shape(item)[0] for item in items if _is_matrix(item) and np.ndim(item)]
    sizes += [item.num_samples for item in whole]
    sizes += [item.shape[0] for item in items if _is_function(item) and hasattr(item, "shape")]
    n = next(iter(sizes), num_samples)
    if n is None:
        raise ValueError("covariance: functions alone do not tell the number of samples; give as_covariance(ops, n)")
    taken = {name for item in whole for name in item.names}
    free = (name for name in (f"component_{g:03d}" for g in count()) if name not in taken)
    parts = [
        item if isinstance(item, Covariance) else _as_part(item, n, next(free), f"covariance[{g}]")
        for g, item in enumerate(items)
    ]
    return parts[0] if len(parts) == 1 else MixedCovariance(parts)


def _is_component(item: Any) -> bool:
    """Whether it is one component that has no names of its own."""
    return _is_matrix(item) or isinstance(item, Operator) or _is_pair(item) or _is_function(item)


def _is_matrix(item: Any) -> bool:
    """Whether it is an array, a data frame or a sparse matrix, of any shape."""
    return isinstance(item, np.ndarray) or sparse.issparse(item) or hasattr(item, "to_numpy")


def _is_function(item: Any) -> bool:
    """Whether it is a bare function, or an operator of SciPy's."""
    return callable(item) and not hasattr(item, "num_components")


def _is_pair(item: Any) -> bool:
    """Whether it is (function, trace, ...)."""
    return isinstance(item, tuple) and 2 <= len(item) <= 4 and callable(item[0]) and not callable(item[1])


def _as_part(item: Any, n: int, name: str, argument: str) -> Covariance:
    if _is_matrix(item):
        return of_symmetric([as_symmetric(item, argument, n)], [name])
    if _is_function(item):
        return FunctionCovariance([item], [getattr(item, "trace", None)], n, [name])
    op = Operator(*item)
    name = op.name or name
    diagonal = None if op.diagonal is None else as_vector(op.diagonal, f"diagonal of {name}", n)[:, None]
    return FunctionCovariance([op.apply], [op.trace], n, [name], diagonal)


def placed(covariance: Covariance, B: Any, name: str) -> Block:
    """A block (n, k) where the covariance computes: one that is there as it is, numbers by ``block``."""
    block = as_block(B, name, covariance.num_samples)
    return covariance.block(block) if isinstance(block, np.ndarray) else block
