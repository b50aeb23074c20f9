"""LD scores against correlations formed densely from the counts."""

import numpy as np
import pytest

import gpu_reml.ops.ld as ld
from gpu_reml.ops import MISSING, pack, standardise, with_binomial_sd
from gpu_reml.ops.ld import ld_scores
from gpu_reml.validation.dense import standardised
from gpu_reml.validation.small import simulate_counts

CHROMOSOMES = np.repeat(["1", "2", "X"], [20, 30, 10])
BP = np.concatenate([1 + np.arange(20) * 900, 1 + np.arange(30) * 1100, np.full(10, 5)])


@pytest.fixture(scope="module")
def counts():
    found = simulate_counts(61, 60, np.random.default_rng(3), missing=0.05, ld=0.8)
    found[:, 7] = 1  # does not vary
    found[:, 33] = MISSING  # never called
    return found


def genotypes_of(counts):
    return standardise([pack(counts[:, :25]), pack(counts[:, 25:])], len(counts))


def dense_scores(counts, near, adjusted):
    """Sums of squared correlations of the columns, missing calls at the mean, over the pairs that are ``near``."""
    Z = standardised(counts)
    norms = np.sqrt((Z**2).sum(axis=0))
    varies = norms > 0
    C = (Z.T @ Z) / np.where(varies, norms, 1) / np.where(varies, norms, 1)[:, None]
    r2 = C**2
    if adjusted:
        r2 = r2 - (1 - r2) / (len(Z) - 2)
    np.fill_diagonal(r2, 1.0)
    return np.where(varies, (r2 * near * varies).sum(axis=1), np.nan)


SAME = CHROMOSOMES[:, None] == CHROMOSOMES


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("window_kb", [1.1, 5.0, 10_000.0])
def test_scores_are_sums_of_squared_correlations_in_the_window(counts, window_kb, adjusted):
    near = SAME & (np.abs(BP[:, None] - BP) <= 1000 * window_kb)
    found = ld_scores(genotypes_of(counts), CHROMOSOMES, BP, window_kb=window_kb, adjusted=adjusted)
    np.testing.assert_allclose(found, dense_scores(counts, near, adjusted), rtol=2e-5, atol=2e-5)
    assert np.flatnonzero(np.isnan(found)).tolist() == [7, 33]


def test_a_window_may_be_a_number_of_variants(counts):
    near = SAME & (np.abs(np.arange(60)[:, None] - np.arange(60)) <= 3)
    found = ld_scores(genotypes_of(counts), CHROMOSOMES, BP, window_variants=3)
    np.testing.assert_allclose(found, dense_scores(counts, near, True), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("block", "slab"), [(1, 1), (7, 11), (60, 5)])
def test_scores_do_not_depend_on_how_variants_are_blocked(counts, monkeypatch, block, slab):
    expected = ld_scores(genotypes_of(counts), CHROMOSOMES, BP)
    monkeypatch.setattr(ld, "BLOCK", block)
    monkeypatch.setattr(ld, "SLAB", slab)
    np.testing.assert_allclose(ld_scores(genotypes_of(counts), CHROMOSOMES, BP), expected, rtol=1e-5, atol=1e-5)


def test_independent_variants_have_a_mean_adjusted_score_of_one():
    n, m = 400, 300
    counts = np.random.default_rng(0).binomial(2, 0.4, (n, m)).astype(np.int8)
    found = ld_scores(standardise([pack(counts)], n), np.full(m, "1"), np.arange(1, m + 1))
    # the variance of r2 between independent variants is about 2 / n^2, and every pair counts in two scores
    assert abs(found.mean() - 1) <= 4 * np.sqrt(2 * 2 * (m - 1) / m) / n
    plain = ld_scores(standardise([pack(counts)], n), np.full(m, "1"), np.arange(1, m + 1), adjusted=False)
    np.testing.assert_allclose(plain.mean() - found.mean(), (m - 1) / n, rtol=0.05)


def test_scores_do_not_depend_on_the_order_of_the_variants(counts):
    order = np.random.default_rng(1).permutation(60)
    expected = ld_scores(genotypes_of(counts), CHROMOSOMES, BP, window_kb=5.0)
    found = ld_scores(genotypes_of(counts[:, order]), CHROMOSOMES[order], BP[order], window_kb=5.0)
    np.testing.assert_allclose(found, expected[order], rtol=1e-5)


def test_windows_cross_no_chromosome_and_know_its_spellings(counts):
    expected = ld_scores(genotypes_of(counts), CHROMOSOMES, BP)
    spelt = CHROMOSOMES.astype(object)
    spelt[::2] = [f"chr{name}" for name in CHROMOSOMES[::2]]
    np.testing.assert_array_equal(ld_scores(genotypes_of(counts), spelt, BP), expected)


def test_unplaced_variants_have_no_score_and_count_for_no_other(counts):
    bp, chromosomes = BP.copy(), CHROMOSOMES.copy()
    bp[3], chromosomes[55] = 0, "0"
    placed = np.setdiff1d(np.arange(60), [3, 55])
    found = ld_scores(genotypes_of(counts), chromosomes, bp)
    assert np.isnan(found[[3, 55]]).all()
    expected = ld_scores(genotypes_of(counts[:, placed]), CHROMOSOMES[placed], BP[placed])
    np.testing.assert_allclose(found[placed], expected, rtol=1e-5)


def test_correlations_do_not_depend_on_how_genotypes_are_scaled(counts):
    genotypes = genotypes_of(counts)
    found = ld_scores(with_binomial_sd(genotypes), CHROMOSOMES, BP)
    np.testing.assert_allclose(found, ld_scores(genotypes, CHROMOSOMES, BP), rtol=1e-5)


def test_positions_and_windows_that_make_no_sense_are_refused(counts):
    genotypes = genotypes_of(counts)
    with pytest.raises(ValueError, match=r"expected one for each of 60 variants, found \(59,\), \(60,\)"):
        ld_scores(genotypes, CHROMOSOMES[:59], BP)
    with pytest.raises(ValueError, match="window_kb: expected more than 0, found 0"):
        ld_scores(genotypes, CHROMOSOMES, BP, window_kb=0)
    with pytest.raises(ValueError, match="window_variants: expected at least 1, found 0"):
        ld_scores(genotypes, CHROMOSOMES, BP, window_variants=0)
