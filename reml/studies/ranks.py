"""Normal quantiles of ranks, in place of a phenotype that is far from normal."""

from typing import Any

import numpy as np
from scipy import special

from gpu_reml.ops.arguments import as_matrix, as_vector

from ..linalg import orthonormal_basis, project

OFFSET = 3 / 8  # Blom 1958, Statistical Estimates and Transformed Beta-Variables


def rank_normal(y: Any, X: Any = None) -> np.ndarray:
    """(n,) Phi^-1((r - 3/8) / (n + 1/4)) of the ranks r of y, ties having their mean rank; of what X leaves of y by
    least squares where X (n, c) is given, whose columns belong into the model all the same.

    >>> from gpu_reml.reml import rank_normal
    >>> rank_normal([7.0, 1000.0, 3.0]).round(3).tolist()
    [0.0, 0.869, -0.869]
    """
    y = as_vector(y, "y")
    if X is not None:
        Q = orthonormal_basis(as_matrix(X, "X", len(y)))
        y = project(Q, project(Q, y[:, None]))[:, 0]
    from scipy.stats import rankdata  # half a second to import, which other phenotypes do without

    ranks = rankdata(y)
    return special.ndtri((ranks - OFFSET) / (len(y) + 1 - 2 * OFFSET))
