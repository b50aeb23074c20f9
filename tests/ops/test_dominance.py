"""Dominance coding against its definition."""

import numpy as np
import pytest

from gpu_reml import ops
from gpu_reml.ops.dominance import best_fractions, dominance, dominance_codes
from gpu_reml.validation import dense
from gpu_reml.validation.small import simulate_counts


def definition(counts):
    """Values 0, 2p, 4p - 2 as real numbers, standardised over the calls."""
    called = counts != -127
    p = np.where(called, counts, 0).sum(axis=0) / np.maximum(called.sum(axis=0), 1) / 2
    values = np.choose(np.where(called, counts, 0), [np.zeros_like(p)[None], (2 * p)[None], (4 * p - 2)[None]])
    values = np.where(called, values, np.nan)
    centred = np.nan_to_num(values - np.nanmean(values, axis=0))
    sd = np.sqrt(np.nanmean((values - np.nanmean(values, axis=0)) ** 2, axis=0))
    return np.where(sd > 1e-9, centred / np.where(sd > 1e-9, sd, 1), 0.0)


def test_decoded_values_are_the_definition():
    counts = simulate_counts(203, 97, np.random.default_rng(1), missing=0.05)
    counts[:, 0] = 0
    counts[:, 1] = np.where(np.arange(203) < 2, 1, 0)  # a rare allele without a homozygote
    packed = ops.standardise([ops.pack(counts[:, :40]), ops.pack(counts[:, 40:])], 203)
    Z = ops.to_dense(dominance(packed))
    np.testing.assert_allclose(Z, definition(counts), atol=2e-6)
    assert not Z[:, 0].any()


def test_deviations_are_uncorrelated_with_counts_in_equilibrium():
    rng = np.random.default_rng(2)
    counts = rng.binomial(2, rng.uniform(0.1, 0.9, 40), (20000, 40)).astype(np.int8)
    Z = ops.to_dense(dominance(ops.standardise([ops.pack(counts)], 20000)))
    correlation = np.einsum("nm,nm->m", Z, dense.standardised(counts)) / 20000
    assert np.abs(correlation).max() < 0.06 and np.abs(np.mean(correlation)) < 0.005


def test_codes_keep_the_ratio_of_the_values_for_rare_alleles():
    p = np.concatenate([[0.5, 1 / 3, 1e-4, 1 - 1e-4], np.random.default_rng(0).uniform(0, 1, 500)])
    codes = dominance_codes(2 * p).astype(float)
    assert codes.max() <= 32768 and codes.min() == 0
    steps = np.diff(codes, axis=1)  # 2p and 2p - 2, up to one factor and sign
    np.testing.assert_allclose(steps[:, 0] * (2 * p - 2), steps[:, 1] * 2 * p, rtol=2e-5, atol=1e-9 * 32768)


def test_fractions_are_the_best_with_small_denominators():
    x = np.array([0.0, 1.0, 0.5, 1 / 3, np.pi - 3, 0.999, 1 - 1e-5, 1e-5])
    p, q = best_fractions(x)
    assert q.max() <= 32768 and 0 < p[-1] and p[-2] < q[-2]
    assert list(zip(p[:4], q[:4], strict=True)) == [(0, 1), (1, 1), (1, 2), (1, 3)]
    np.testing.assert_allclose((p / q)[:6], x[:6], atol=1 / (113 * 32768))


def test_dosages_have_no_dominance():
    dosages = np.random.default_rng(0).integers(0, 32768, (5, 8)).astype(np.uint16)
    with pytest.raises(ValueError, match="dominance deviations are of calls"):
        dominance(ops.standardise([dosages], 8, 16))
