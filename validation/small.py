"""Small cohorts with missing genotypes, LD and overlapping components, beside their dense covariances."""

from types import SimpleNamespace

import numpy as np

from gpu_reml.ops import MISSING, CpuProducts, make_covariance, pack, standardise

from . import dense


def simulate_counts(n, m, rng, missing=0.02, ld=0.6):
    """Counts with neighbouring variants correlated through latent Gaussians, and missing calls."""
    latent = rng.standard_normal((2, n, m))
    for j in range(1, m):
        latent[:, :, j] = ld * latent[:, :, j - 1] + np.sqrt(1 - ld**2) * latent[:, :, j]
    threshold = rng.uniform(-1.4, 0.2, m)
    counts = (latent < threshold).sum(axis=0).astype(np.int8)
    counts[rng.random((n, m)) < missing] = MISSING
    return counts


def make_cohort(n, m, num_components, seed, h2=0.5, overlap=True, scale=7.0):
    """y in units of ``scale``, X with an intercept and two covariates, G components (the last two overlapping)."""
    rng = np.random.default_rng(seed)
    counts = simulate_counts(n, m, rng)
    W = np.zeros((m, num_components))
    W[np.arange(m), rng.integers(0, num_components, m)] = 1
    if overlap and num_components > 1:
        W[:, -1] += 0.5 * rng.random(m)
    genotypes = standardise([pack(counts[:, : m // 3]), pack(counts[:, m // 3 :])], n)
    Z = dense.standardised(counts)
    Ks = [dense.kernel(Z, W[:, g]) for g in range(num_components)]
    X = np.column_stack([np.ones(n), rng.standard_normal(n), rng.integers(0, 2, n)])
    theta = np.append(h2 * rng.dirichlet(np.full(num_components, 4.0)), 1 - h2) * scale**2
    y = X @ np.array([150.0, 2.0, -5.0]) + np.sqrt(theta[-1]) * rng.standard_normal(n)
    for g in range(num_components):
        effects = rng.standard_normal(m) * np.sqrt(theta[g] * W[:, g] / W[:, g].sum())
        y += Z @ effects
    return SimpleNamespace(y=y, X=X, Ks=Ks, theta=theta, counts=counts, genotypes=genotypes, W=W, n=n)


def covariance_of(cohort, dtype=np.float64):
    return make_covariance(CpuProducts(cohort.genotypes, dtype), cohort.W)


def two_traits(cohort, overlap, seed, rg=0.6, re=0.3):
    """(Y, S): two traits of a cohort with NaN outside of their people, of whom a share ``overlap`` has both; S
    (G + 1, 2, 2) is what they were simulated with, the residual last."""
    rng = np.random.default_rng(seed)
    G, n = len(cohort.Ks), cohort.n
    sizes = np.array([3.0, 0.2])
    S = [np.outer(sizes, sizes) * (0.6 / G) * np.array([[1, rg], [rg, 1]]) for _ in range(G)]
    S.append(np.outer(sizes, sizes) * 0.4 * np.array([[1, re], [re, 1]]))
    Y = cohort.X @ rng.standard_normal((cohort.X.shape[1], 2))
    for K, covariance in zip([*cohort.Ks, np.eye(n)], S, strict=True):
        values, vectors = np.linalg.eigh(K)
        root = vectors * np.sqrt(np.maximum(values, 0))
        Y += root @ rng.standard_normal((n, 2)) @ np.linalg.cholesky(covariance).T
    order, both = rng.permutation(n), round(overlap * n)
    rest = order[both:]
    Y[rest[: len(rest) // 2], 0] = np.nan
    Y[rest[len(rest) // 2 :], 1] = np.nan
    return Y, np.array(S)
