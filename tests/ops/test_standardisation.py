"""Binomial standardisation and alpha weights against dense NumPy; traces hold whatever the SD."""

import numpy as np
import pytest

from gpu_reml.ops import MISSING, among_samples, make_covariance, make_products, pack, standardise, to_dense
from gpu_reml.ops.covariance import alpha_weights
from gpu_reml.ops.dosages import DOSAGE_MISSING, DOSAGE_UNIT
from gpu_reml.ops.genotypes import with_binomial_sd


@pytest.fixture(params=[2, 8, 16], ids=["calls", "8-bit dosages", "16-bit dosages"])
def cohort(request):
    """(copies (n, m) with NaN where missing, genotypes): inbred, so the binomial SD is not the sample's; the first
    variant is never called, the second monomorphic and the third all heterozygous."""
    rng = np.random.default_rng(7)
    n, m = 61, 40
    freq = rng.uniform(0.05, 0.95, m)
    first = rng.random((n, m)) < freq
    counts = first + np.where(rng.random((n, m)) < 0.4, first, rng.random((n, m)) < freq)
    counts = np.where(rng.random((n, m)) < 0.1, MISSING, counts).astype(np.int8)
    counts[:, 0], counts[:, 1], counts[:, 2] = MISSING, 2, 1
    copies = np.where(counts == MISSING, np.nan, counts)
    bits = request.param
    if bits == 2:
        return copies, standardise([pack(counts)], n)
    codes = np.where(np.isnan(copies), DOSAGE_MISSING[bits], np.nan_to_num(copies) / DOSAGE_UNIT[bits])
    return copies, standardise([codes.round().T.astype(f"u{bits // 8}")], n, bits)


def binomially_standardised(copies):
    """Dense Z of the variants that vary, and 2p(1-p) of them; the others are columns of zeros."""
    Z, spread = np.zeros_like(copies), np.zeros(copies.shape[1])
    for j in range(3, copies.shape[1]):
        x = copies[:, j]
        p = np.nanmean(x) / 2
        spread[j] = 2 * p * (1 - p)
        Z[:, j] = np.nan_to_num((x - 2 * p) / np.sqrt(spread[j]))
    return Z, spread


def test_binomial_standardisation_divides_by_the_equilibrium_sd(cohort):
    copies, genotypes = cohort
    binomial = with_binomial_sd(genotypes)
    Z, _ = binomially_standardised(copies)
    np.testing.assert_allclose(to_dense(binomial), Z, atol=1e-12)
    np.testing.assert_allclose(binomial.squared_norm, (Z**2).sum(axis=0), rtol=1e-12)
    assert np.abs(binomial.squared_norm[3:] / binomial.num_called[3:] - 1).max() > 0.2
    assert binomial.parts is genotypes.parts
    np.testing.assert_allclose(with_binomial_sd(binomial).squared_norm, binomial.squared_norm, rtol=1e-12)


def test_squared_norms_of_the_sample_standardisation_are_the_calls(cohort):
    copies, genotypes = cohort
    called = (~np.isnan(copies)).sum(axis=0)
    called[:3] = 0
    np.testing.assert_array_equal(genotypes.squared_norm, called)


@pytest.mark.parametrize("normalise", ["weights", "trace"])
def test_traces_are_those_of_the_dense_matrices_for_either_sd(cohort, normalise):
    copies, genotypes = cohort
    weights = np.random.default_rng(3).uniform(0, 2, (copies.shape[1], 2))
    for standardised in (genotypes, with_binomial_sd(genotypes)):
        covariance = make_covariance(
            make_products(standardised, "cpu", np.float64), weights, ["a", "b"], normalise=normalise
        )
        Z = to_dense(standardised)
        dense = [np.trace(Z @ np.diag(covariance.weights.toarray()[:, g]) @ Z.T) for g in range(2)]
        np.testing.assert_allclose(covariance.traces, dense, rtol=1e-12)
        np.testing.assert_allclose(covariance.diagonals().sum(axis=0), dense, rtol=1e-12)
        if normalise == "trace":
            np.testing.assert_allclose(dense, len(copies), rtol=1e-12)


@pytest.mark.parametrize("alpha", [-1.0, -0.25, 0.0, 0.5])
def test_alpha_weights_give_effects_on_counts_a_variance_in_proportion_to_a_power_of_the_spread(cohort, alpha):
    copies, genotypes = cohort
    weights = alpha_weights(genotypes, alpha)
    _, spread = binomially_standardised(copies)
    C = np.nan_to_num(copies - np.nan_to_num(np.nanmean(np.where(spread > 0, copies, 0.0), axis=0)))
    C[:, :3], effects = 0, np.where(spread > 0, spread, 1.0) ** alpha
    products = make_products(with_binomial_sd(genotypes), "cpu", np.float64)
    covariance = make_covariance(products, weights[:, None], ["alpha"])
    expected = C @ np.diag(effects) @ C.T / (spread[3:] ** (1 + alpha)).sum()
    np.testing.assert_allclose(covariance.apply(np.ones(1), np.eye(len(C))), expected, rtol=1e-10, atol=1e-12)
    assert (weights[:3] == 0).all()


def test_alpha_that_is_no_number_is_refused(cohort):
    with pytest.raises(ValueError, match=r"alpha: expected a finite number, found nan"):
        alpha_weights(cohort[1], float("nan"))


@pytest.mark.parametrize("bits", [2, 8])
def test_genotypes_among_some_samples_are_those_read_of_them_alone(bits):
    rng = np.random.default_rng(3)
    index = np.array([5, 2, 17, 9, 30, 31, 8])
    if bits == 2:
        counts = rng.integers(0, 3, (32, 20)).astype(np.int8)
        counts[rng.random(counts.shape) < 0.1] = MISSING
        whole, alone = (standardise([pack(part)], len(part)) for part in (counts, counts[index]))
    else:
        dosages = rng.integers(0, 256, (20, 32)).astype(np.uint8)
        parts = (dosages, np.ascontiguousarray(dosages[:, index]))
        whole, alone = (standardise([part], part.shape[1], bits) for part in parts)
    found = among_samples(whole, index)
    assert found.num_samples == len(index)
    for name in ("mean", "inv_sd", "num_called"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    np.testing.assert_array_equal(found.parts[0], alone.parts[0])
