"""``python -m benchmarks.dense``: REML from n x n matrices, what a fit is timed against and checked with.

Average-information steps on the exact likelihood, with an exact inverse of V and exact traces; nothing is shared with
the matrix-free fit.  An iteration costs n^3 multiplications for the inverse, and for the components either G n^2 (their
matrices are kept: 8 G n^2 bytes) or 2 n^2 m (genotypes are streamed again: any G in a few n^2 of memory).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bed_reader import open_bed
from scipy import linalg, optimize

from gpu_reml.validation import standardised

from .cohorts import component_sets, read_trait

TILE_BYTES = 1 << 28
FLOOR = 1e-6  # least residual variance, as a share of y's
ROWS = 512


class Tiles:
    """Standardised genotypes in tiles of some variants: iterating gives (columns, Z (n, w) of ``dtype``)."""

    def __init__(self, prefix: Path, dtype: type):
        self.path, self.dtype = f"{prefix}.bed", dtype
        with open_bed(self.path) as bed:
            self.num_samples, self.num_variants = bed.iid_count, bed.sid_count
        self.width = max(1, TILE_BYTES // (8 * self.num_samples))

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        with open_bed(self.path) as bed:
            for first in range(0, self.num_variants, self.width):
                columns = slice(first, min(first + self.width, self.num_variants))
                counts = bed.read(index=np.s_[:, columns], dtype="int8")
                yield columns, standardised(counts).astype(self.dtype)


class Kernels:
    """K_g = Z diag(w_g) Z' / c_g for sets ``W`` (m, G) bool: w_g is 0 or 1, c_g the variants of the set that vary.

    ``mean_traces``: (G,) tr(K_g) / n.  This class keeps the matrices.
    """

    def __init__(self, tiles: Tiles, W: np.ndarray):
        n, G = tiles.num_samples, W.shape[1]
        self.K = np.zeros((G, n, n))
        num_varying = np.zeros(G)
        for columns, Z in tiles:
            for g in range(G):
                part = Z[:, W[columns, g]]
                self.K[g] += part @ part.T
            num_varying += np.count_nonzero(W[columns] & Z.any(axis=0)[:, None], axis=0)
        self.K /= num_varying[:, None, None]
        self.mean_traces = np.trace(self.K, axis1=1, axis2=2) / n

    def combine(self, theta: np.ndarray) -> np.ndarray:
        """(n, n) sum_g theta_g K_g."""
        V = np.zeros(self.K.shape[1:])
        for variance, K in zip(theta, self.K, strict=True):
            if variance > 0:
                V += variance * K
        return V

    def traces(self, P: np.ndarray) -> np.ndarray:
        """(G,) tr(P K_g)."""
        return np.array([np.vdot(P.T, K) for K in self.K])  # K is symmetric; P.T is in the order of rows

    def images(self, v: np.ndarray) -> np.ndarray:
        """(n, G) K_g v."""
        return np.stack([K @ v for K in self.K], axis=1)


class StreamedKernels:
    """The same from tiles: products in the dtype of the tiles, sums over tiles in float64."""

    def __init__(self, tiles: Tiles, W: np.ndarray):
        self.tiles, self.n = tiles, tiles.num_samples
        squares = np.zeros(tiles.num_variants)
        for columns, Z in tiles:
            squares[columns] = np.einsum("ij,ij->j", Z, Z, dtype=np.float64)
        self.weights = W / np.count_nonzero(W & (squares > 0)[:, None], axis=0)
        self.mean_traces = squares @ self.weights / self.n

    def combine(self, theta: np.ndarray) -> np.ndarray:
        V = np.zeros((self.n, self.n))
        roots = np.sqrt(self.weights @ theta)
        for columns, Z in self.tiles:
            half = Z * roots[columns].astype(Z.dtype)
            for rows in blocks(self.n, 8 * ROWS):
                V[rows, : rows.stop] += half[rows] @ half[: rows.stop].T
        return mirrored(V)

    def traces(self, P: np.ndarray) -> np.ndarray:
        P = P.astype(self.tiles.dtype)
        found = np.zeros(self.weights.shape[1])
        for columns, Z in self.tiles:
            found += np.einsum("ij,ij->j", Z, P @ Z, dtype=np.float64) @ self.weights[columns]
        return found

    def images(self, v: np.ndarray) -> np.ndarray:
        found = np.zeros((self.n, self.weights.shape[1]))
        for columns, Z in self.tiles:
            found += Z @ ((Z.T @ v.astype(Z.dtype))[:, None] * self.weights[columns]).astype(Z.dtype)
        return found


def blocks(n: int, rows: int) -> Iterator[slice]:
    return (slice(first, min(first + rows, n)) for first in range(0, n, rows))


def mirrored(A: np.ndarray) -> np.ndarray:
    """A with its upper triangle overwritten by its lower one, in place."""
    for rows in blocks(len(A), ROWS):
        A[: rows.start, rows] = A[rows, : rows.start].T
        square = A[rows, rows]
        square[...] = np.tril(square) + np.tril(square, -1).T
    return A


class Evaluation(NamedTuple):
    """ell_R without its constant, score (G + 1,) and average information (G + 1, G + 1) at theta, residual last."""

    theta: np.ndarray
    loglik: float
    score: np.ndarray
    ai: np.ndarray


def evaluate(theta: np.ndarray, y: np.ndarray, X: np.ndarray, kernels) -> Evaluation:
    """Everything at one theta from an explicit P; ValueError where V is not positive definite.

    Source: Gilmour, Thompson & Cullis 1995, Biometrics 51:1440.
    """
    V = kernels.combine(theta[:-1])
    V[np.diag_indices_from(V)] += theta[-1]
    # V is symmetric: its transpose is the same matrix in the order of columns that LAPACK overwrites in place.
    factor, failed = linalg.lapack.dpotrf(V.T, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(f"V is not positive definite at theta = {theta}; a component is not positive semi-definite")
    logdet = 2 * np.log(np.diag(factor)).sum()
    P, _ = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    P = mirrored(P)
    U = P @ X
    information = X.T @ U
    right = np.linalg.solve(information, U.T)
    for rows in blocks(len(P), ROWS):
        P[rows] -= U[rows] @ right
    Py = P @ y
    F = np.column_stack([kernels.images(Py), Py])
    traces = np.append(kernels.traces(P), np.trace(P))
    loglik = -0.5 * (logdet + np.linalg.slogdet(information)[1] + y @ Py)
    return Evaluation(theta, float(loglik), 0.5 * (Py @ F - traces), 0.5 * F.T @ (P @ F))


def bounded_step(at: Evaluation, lower: np.ndarray) -> tuple[np.ndarray, float]:
    """The step that maximises score'd - d'AI d / 2 within the bounds, and d'AI d (squared standard errors)."""
    scale = 1 / np.sqrt(np.diag(at.ai))
    factor = np.linalg.cholesky(at.ai * np.outer(scale, scale)).T
    target = np.linalg.solve(factor.T, at.score * scale)
    room = np.minimum((lower - at.theta) / scale, 0)
    step = optimize.lsq_linear(factor, target, bounds=(room, np.inf), method="bvls", tol=1e-14).x * scale
    return step, float(step @ at.ai @ step)


class DenseFit(NamedTuple):
    """``theta`` (G + 1,) and its ``se`` from the inverse average information of all components, bounds or not.

    ``decrement``: squared length, in standard errors, of the last step, which was taken.
    """

    theta: np.ndarray
    se: np.ndarray
    h2: float
    h2_se: float
    iterations: int
    decrement: float


def fit(y, X, kernels, start: np.ndarray | None = None, tol: float = 1e-8, most: int = 60) -> DenseFit:
    """Average-information REML until a step is shorter than tol^(1/2) standard errors, or ``most`` iterations.

    A step along which the likelihood falls is halved.  theta_g >= 0; the residual stays above a share of y's variance.
    """
    residual = y - X @ np.linalg.lstsq(X, y)[0]
    variance = residual @ residual / (len(y) - X.shape[1])
    G = len(kernels.mean_traces)
    lower = np.append(np.zeros(G), FLOOR * variance)
    theta = variance * np.append(np.full(G, 0.5 / G), 0.5) if start is None else np.maximum(start, lower)
    at = evaluate(theta, y, X, kernels)
    for iteration in range(1, most + 1):
        step, decrement = bounded_step(at, lower)
        theta = np.maximum(at.theta + step, lower)
        if decrement < tol:
            break
        trial = evaluate(theta, y, X, kernels)
        while trial.loglik < at.loglik - 1e-6 and decrement > tol:
            step, decrement = step / 2, decrement / 4
            trial = evaluate(np.maximum(at.theta + step, lower), y, X, kernels)
        at = trial
        print(f"iteration {iteration}: log-likelihood {at.loglik:.6f}, decrement {decrement:.3g}", flush=True)
    covariance = np.linalg.inv(at.ai)
    h2, h2_se = heritability(theta, kernels.mean_traces, covariance)
    return DenseFit(theta, np.sqrt(np.diag(covariance)), h2, h2_se, iteration, decrement)


def heritability(theta: np.ndarray, mean_traces: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """V_G / (V_G + theta_e), V_G = sum_g theta_g tr(K_g) / n, and its standard error by the delta method."""
    atoms = np.append(mean_traces, 1.0)
    total = theta @ atoms
    h2 = 1 - theta[-1] / total
    gradient = (np.append(mean_traces, 0.0) - h2 * atoms) / total
    return float(h2), float(np.sqrt(gradient @ covariance @ gradient))


def membership(num_variants: int, num_components: int) -> np.ndarray:
    """(m, G) bool: which variants are in which component."""
    W = np.zeros((num_variants, num_components), bool)
    for g, indices in enumerate(component_sets(num_variants, num_components)):
        W[indices, g] = True
    return W


def dense_reference(prefix: Path, num_components: int, stream: bool, start=None, tol: float = 1e-8) -> DenseFit:
    """The fit of the cohort at ``prefix`` with an intercept; streamed tiles are float32, kept matrices float64."""
    tiles = Tiles(prefix, np.float32 if stream else np.float64)
    W = membership(tiles.num_variants, num_components)
    kernels = StreamedKernels(tiles, W) if stream else Kernels(tiles, W)
    y = read_trait(prefix)
    return fit(y, np.ones((len(y), 1)), kernels, start, tol)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", type=Path, help="cohort made by the benchmarks (.bed, .fam, .pheno)")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--components", type=int, default=1)
    parser.add_argument("--stream", action="store_true", help="do not keep the matrices")
    parser.add_argument("--start", type=Path, metavar="JSON", help="start from 'theta' of this file")
    parser.add_argument("--tol", type=float, default=1e-8, help="squared step in standard errors to stop at")
    options = parser.parse_args()
    start = None if options.start is None else np.array(json.loads(options.start.read_text())["theta"])
    found = dense_reference(options.prefix, options.components, options.stream, start, options.tol)
    record = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in found._asdict().items()}
    options.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
