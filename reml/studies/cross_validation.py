"""Prediction of held-out samples, all folds in one block of solves at the variances of the whole fit."""

from typing import NamedTuple

import numpy as np

from gpu_reml.ops.arguments import as_count, as_labels, as_matrix, as_tolerance, as_vector

from ..covariance import as_covariance
from ..linalg import column_lengths, coordinates, orthonormal_basis
from ..pcg import pcg
from ..residuals import layout_of
from ..result import ConvergenceError
from ..traits import check_unit, varying
from .effects import MAX_ITERATIONS, parameters_of


class HeldOut(NamedTuple):
    """Predictions (n,) of every sample from the folds that it is not in, in y's units, and the ``fold`` it is in."""

    fixed: np.ndarray
    random: np.ndarray
    fold: np.ndarray
    iterations: int

    @property
    def predicted(self) -> np.ndarray:
        return self.fixed + self.random


def draw_folds(num_samples: int, num_folds: int, seed: int = 0) -> np.ndarray:
    """(n,) fold of every sample, 0 .. k - 1, of sizes that differ by at most one; relatives may be in several.

    >>> import numpy as np
    >>> from gpu_reml.reml import draw_folds
    >>> np.bincount(draw_folds(10, 3)).tolist()
    [4, 3, 3]
    """
    as_count(num_samples, "num_samples")
    if not 2 <= as_count(num_folds, "num_folds", 0) <= num_samples:
        raise ValueError(f"num_folds: expected 2 to {num_samples}, the number of samples, found {num_folds}")
    return np.random.default_rng(seed).permutation(np.arange(num_samples) % num_folds)


def cross_validate(
    theta: np.ndarray,
    y: np.ndarray,
    X: np.ndarray,
    covariance,
    fold: np.ndarray,
    *,
    tol: float = 1e-6,
    max_iterations: int = MAX_ITERATIONS,
) -> HeldOut:
    """Predict y (n,) of every fold's samples from all others: X_H b_T + sum_g theta_g K_g[H, T] P_T y_T.

    A fold's training covariance V_TT is V with the held-out rows and columns masked, as if their residual variance were
    infinite; its own fixed effects b_T are projected out.  So the folds are the columns of one block, k columns share
    every pass over the genotypes, and the answers are those of k separate fits' BLUPs.  theta (G + J,) is that of all
    samples, and so is the standardisation of the genotypes: only two or a few numbers and the allele frequencies have
    seen the held-out phenotypes and genotypes.
    Cost: k columns a PCG step and two more passes.
    Raises ValueError for a fold without which X is not of full rank, ConvergenceError when a solve does not reach
    ``tol``.

    >>> import numpy as np
    >>> from gpu_reml.reml import cross_validate, draw_folds
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 400))
    >>> y = Z @ rng.standard_normal(400) / 20 + rng.standard_normal(200)
    >>> X, K = np.ones((200, 1)), Z @ Z.T / 400
    >>> found = cross_validate([1.0, 1.0], y, X, K, draw_folds(200, 5))
    >>> bool(np.corrcoef(found.predicted, y)[0, 1] > 0.1)
    True
    """
    y = as_vector(y, "y")
    covariance = as_covariance(covariance, len(y))
    y, X = as_vector(y, "y", covariance.num_samples), as_matrix(X, "X", covariance.num_samples)
    tol = float(as_tolerance(tol, "tol"))
    parameters, root = parameters_of(theta, covariance), layout_of(covariance).root
    root = np.ones(len(X)) if root is None else root
    y, Xw = y / root, X / root[:, None]
    fold = as_labels(fold, "fold")
    if fold.shape != y.shape:
        raise ValueError(f"fold: expected one for each of {len(y)} samples, found {fold.shape}")
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ValueError("fold: expected 2 folds or more, found 1")
    training = fold[:, None] != folds
    bases = [_basis(Xw, training[:, k], folds[k]) for k in range(len(folds))]

    def contrasts(B: np.ndarray) -> np.ndarray:
        """B (n, k) float64 with every column on its fold's training samples, off their fixed effects."""
        out = np.where(training, B, 0.0)
        for k, Q in enumerate(bases):
            out[:, k] -= Q @ (Q.T @ out[:, k])
        return out

    Y = contrasts(contrasts(np.repeat(y[:, None], len(folds), axis=1)))
    lengths = column_lengths(Y)
    if not varying(lengths / np.sqrt(len(y)), y[:, None]).all():
        raise ValueError(f"fold {folds[np.argmin(lengths)]}: y does not vary among its training samples")
    scale = float(lengths.max()) / np.sqrt(len(y))
    check_unit(scale, "y")
    scaled = parameters / scale**2
    X_hat, iterations = _solved(covariance, scaled, Y / scale, contrasts, tol, max_iterations)
    image = np.asarray(covariance.apply(scaled[:-1], covariance.block(X_hat)), np.float64)
    fixed, random = np.empty(len(y)), np.empty(len(y))
    for k in range(len(folds)):
        here, out = training[:, k], ~training[:, k]
        fitted = y[here] - scale * (image[here, k] + scaled[-1] * X_hat[here, k])
        random[out] = scale * image[out, k] * root[out]  # diagonal components have no covariance across samples
        fixed[out] = X[out] @ coordinates(Xw[here], fitted)
    return HeldOut(fixed, random, fold, iterations)


def _basis(X: np.ndarray, training: np.ndarray, fold) -> np.ndarray:
    """(n, c) orthonormal basis of X on the training samples, zero elsewhere."""
    Q = np.zeros_like(X)
    try:
        Q[training] = orthonormal_basis(X[training])
    except ValueError as error:
        raise ValueError(
            f"fold {fold}: without its samples the fixed effects cannot be told apart ({error}); take fewer folds, "
            "another seed, or merge rare levels"
        ) from None
    return Q


def _solved(covariance, theta: np.ndarray, Y: np.ndarray, contrasts, tol: float, max_iterations: int):
    """(n, k) P_T y_T of every fold in its column, zero where held out, and the PCG steps taken.

    All folds are solved as one block-diagonal system, in one long vector, so that the masks stay with their columns.
    The folds are alike, so that the steps are those of one.
    """
    dtype = np.dtype(covariance.dtype)

    def apply_a(x: np.ndarray) -> np.ndarray:
        B = np.ascontiguousarray(x.reshape(Y.shape))
        VB = np.asarray(covariance.apply(theta[:-1], covariance.block(B)), np.float64) + theta[-1] * B
        return contrasts(VB).astype(dtype).reshape(-1, 1)

    solved = pcg(apply_a, Y.astype(dtype).reshape(-1, 1), tol=tol, max_iterations=max_iterations)
    if not solved.converged[0] and solved.iterations[0] >= max_iterations:
        raise ConvergenceError(
            f"the solve for the folds stopped at {solved.residuals[0]:.2g} of its start, not {tol:g}, after "
            f"{max_iterations} PCG steps; use products in float64 or a looser tolerance"
        )
    return solved.X.reshape(Y.shape).astype(np.float64), int(solved.iterations[0])
