"""Simulated genotypes against the laws they are drawn from."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from gpu_reml.validation import SPARSE, Haplotypes, Structure, simulate_cohort, standardised
from gpu_reml.validation.haplotypes import code_blocks, make_samples, make_variants

MISSING = -127


def drawn(width, structure=Structure(num_populations=2, fst=0.1, family_share=0.5), model=Haplotypes()):  # noqa: B008
    """(m, n) codes of a fixed cohort, made in blocks of ``width`` variants."""
    samples = make_samples(130, structure, np.random.default_rng(1))
    variants = make_variants(300, model, np.random.default_rng(2))
    blocks = code_blocks(samples, variants, 0.05, model, structure, np.random.SeedSequence(3), width)
    return np.vstack([codes.copy() for _, codes in blocks])


@pytest.mark.parametrize("width", [1, 7, 64])
def test_genotypes_do_not_depend_on_the_width_of_blocks(width):
    np.testing.assert_array_equal(drawn(width), drawn(300))


def test_genotypes_do_not_depend_on_the_number_of_threads():
    several = drawn(64)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(drawn(64), several)
    finally:
        numba.set_num_threads(threads)


def test_a_seed_repeats_a_cohort_and_another_seed_does_not():
    first, again, other = (simulate_cohort(40, 60, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.counts, again.counts)
    assert first.samples.equals(again.samples) and first.variants.equals(again.variants)
    assert np.mean(first.counts == other.counts) < 0.8


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.3])
def test_genotypes_are_missing_at_the_rate_asked_for_in_every_part_of_the_genome(rate):
    missing = simulate_cohort(300, 1000, 1, missing_rate=rate).counts == MISSING
    for part in (missing[:, :100], missing[:, 100:], missing[:30]):
        assert abs(part.mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / part.size)


def test_allele_frequencies_are_log_odds_uniform_between_the_limits():
    model = replace(SPARSE, num_founders=2000, persistence=0.0, switch_rate=0.9, min_maf=0.05)
    counts = simulate_cohort(1000, 1500, 1, missing_rate=0, haplotypes=model).counts
    p = np.sort(counts.mean(axis=0) / 2)
    limit = np.log(0.95 / 0.05)
    expected = (np.log(p / (1 - p)) + limit) / (2 * limit)
    # Kolmogorov's distance; 1.95 / sqrt(m) has probability 0.001, and 0.01 covers the drift of the founders.
    assert np.abs(expected - (np.arange(1500) + 0.5) / 1500).max() < 1.95 / np.sqrt(1500) + 0.01


def test_nothing_is_inherited_together_across_the_start_of_a_chromosome():
    model = replace(SPARSE, num_founders=2000, switch_rate=0.0, persistence=1.0, min_maf=0.1, num_chromosomes=150)
    R2 = np.corrcoef(standardised(simulate_cohort(400, 300, 1, missing_rate=0, haplotypes=model).counts).T) ** 2
    within, across = np.diag(R2, 1)[::2], np.diag(R2, 1)[1::2]
    assert within.mean() > 0.1
    # 1 / n from the samples and 1 / F from the founders, were the two sides independent.
    assert across.mean() < 2 * (1 / 400 + 1 / 2000)


def test_a_chromosome_begins_anew_for_haplotypes_that_never_change_founder():
    model = replace(SPARSE, num_founders=20, switch_rate=0.0, persistence=0.0, min_maf=0.3, num_chromosomes=2)
    counts = simulate_cohort(300, 200, 1, missing_rate=0, haplotypes=model).counts
    first, second = counts[:, :100], counts[:, 100:]
    # Pairs of haplotypes are equal along a whole chromosome, and differ on the other one.
    alike = np.array([[np.array_equal(a[i], a[j]) for i in range(300) for j in range(i)] for a in (first, second)])
    both = alike.all(axis=0).mean()
    assert 0 < alike.mean() < 0.02
    assert both < 4 * alike.mean() ** 2 + 4 * np.sqrt(alike.mean() ** 2 / alike.shape[1])


def test_weak_linkage_disequilibrium_decays_with_distance_and_stops_between_chromosomes():
    model = replace(SPARSE, num_chromosomes=2)
    cohort = simulate_cohort(800, 400, 1, missing_rate=0, haplotypes=model)
    R2 = np.corrcoef(standardised(cohort.counts).T) ** 2
    near, far, across = np.diag(R2, 1)[:199], np.diag(R2, 40)[:150], R2[:200, 200:]
    assert near.mean() > 0.1 > 0.02 > far.mean()
    # Unlinked haplotypes share founders by chance only: 1 / (2 n) from the people, 1 / F from the founders.
    assert across.mean() < 2 * (1 / 800 + 1 / 200)


@pytest.fixture(scope="module")
def array():
    """Two chromosomes of a genotyping array, as many variants on each as with 50,000 on 22; and their r2 (m, m)."""
    cohort = simulate_cohort(1000, 4546, 2, missing_rate=0, haplotypes=Haplotypes(num_chromosomes=2))
    Z = standardised(cohort.counts).astype(np.float32)
    R2 = (Z.T @ Z / len(Z)) ** 2
    return cohort, R2 - (1 - R2) / (len(Z) - 2)  # the second term is what r2 of independent variants averages


def test_ld_scores_of_an_array_are_a_genomes_and_uneven(array):
    m = len(array[1]) // 2
    scores = np.concatenate([array[1][:m, :m].sum(axis=1), array[1][m:, m:].sum(axis=1)])
    assert 20 < scores.mean() < 100
    assert 0.25 < scores.std() / scores.mean() < 1


def test_r2_on_an_array_is_high_between_neighbours_fades_with_the_map_and_stops_between_chromosomes(array):
    cohort, R2 = array
    m = len(R2) // 2
    by_distance = [np.diag(R2[:m, :m], d).mean() for d in (1, 10, 50, 100, 500)]
    assert 0.3 < by_distance[0] < 0.6 and by_distance[-1] < 0.003
    assert (np.diff(by_distance) < 0).all()
    assert abs(R2[:m, m:].mean()) < 1 / 1000  # founders' chance sharing
    step = np.diff(cohort.variants["cm"])[: m - 1]
    neighbours = np.diag(R2[:m, :m], 1)
    assert neighbours[step > np.quantile(step, 0.98)].mean() < 0.5 * neighbours[step <= np.median(step)].mean()


def test_minor_allele_frequencies_on_an_array_are_uniform_and_either_allele_is_a1(array):
    p = array[0].counts.mean(axis=0) / 2
    maf = np.sort(np.minimum(p, 1 - p))
    expected = (maf - 0.01) / 0.49
    # Kolmogorov's distance; founders drift, and LD leaves their number below that of the variants
    assert np.abs(expected - (np.arange(len(maf)) + 0.5) / len(maf)).max() < 0.03
    assert abs(np.mean(p > 0.5) - 0.5) < 4 * 0.5 / np.sqrt(len(p))


def test_the_map_has_a_centimorgan_to_a_megabase_and_begins_anew_on_every_chromosome():
    variants = make_variants(44_000, Haplotypes(), np.random.default_rng(1))
    assert (variants.groupby("chrom")["cm"].diff().dropna() >= 0).all()
    ends = variants.groupby("chrom")[["cm", "bp"]].max()
    assert abs(ends["cm"].sum() / ends["bp"].sum() * 1e6 - 1) < 4 / np.sqrt(44_000 * 0.03)


def test_families_on_an_array_are_half_related_and_others_are_not():
    cohort = simulate_cohort(200, 6000, 1, structure=Structure(family_share=1.0))
    Z = standardised(cohort.counts)
    K = Z @ Z.T / Z.shape[1]
    family = np.arange(200) // 4
    role = np.arange(200) % 4
    within, couple = family[:, None] == family, (role[:, None] < 2) & (role < 2)
    kin = within & ~couple & ~np.eye(200, dtype=bool)
    # in kinship coefficients: a quarter within a family, none between parents or families; K is twice that
    assert abs(K[kin].mean() / 2 - 0.25) < 0.02
    assert abs(K[within & couple & ~np.eye(200, dtype=bool)].mean()) < 0.04
    assert abs(K[~within].mean()) < 0.02  # the rows of K add up to 0


def test_children_inherit_one_allele_of_each_parent_and_are_half_related_to_them():
    cohort = simulate_cohort(200, 2000, 1, missing_rate=0, haplotypes=SPARSE, structure=Structure(family_share=0.8))
    samples = cohort.samples
    row = {iid: i for i, iid in enumerate(samples["iid"])}
    children = samples[samples["father"] != "0"]
    assert len(children) == 80 and (samples["fid"].value_counts() == 4).sum() == 40
    Z = standardised(cohort.counts)
    K = Z @ Z.T / Z.shape[1]
    related = []
    for i, father, mother in zip(children.index, children["father"], children["mother"], strict=True):
        assert samples.loc[row[father], "sex"] == 1 and samples.loc[row[mother], "sex"] == 2
        transmitted = [(cohort.counts[row[p]] // 2, (cohort.counts[row[p]] + 1) // 2) for p in (father, mother)]
        lowest, highest = (sum(bounds) for bounds in zip(*transmitted, strict=True))
        assert np.all((lowest <= cohort.counts[i]) & (cohort.counts[i] <= highest))
        related += [K[i, row[father]], K[i, row[mother]]]
    assert abs(np.mean(related) - 0.5) < 0.05
    siblings = [K[i, j] for i, j in zip(children.index[::2], children.index[1::2], strict=True)]
    # Brothers and sisters share between nothing and all: half on average, with a spread that parents do not have.
    assert abs(np.mean(siblings) - 0.5) < 0.1 and np.std(siblings) > 1.5 * np.std(related)


def test_populations_differ_by_their_fst():
    structure = Structure(num_populations=2, fst=0.08)
    model = replace(SPARSE, num_founders=1000, persistence=0.0, switch_rate=0.5, min_maf=0.1)
    cohort = simulate_cohort(1200, 2000, 1, missing_rate=0, haplotypes=model, structure=structure)
    member = cohort.samples["population"].to_numpy() == 0
    p, q = (cohort.counts[rows].mean(axis=0) / 2 for rows in (member, ~member))
    n, k = 2 * member.sum(), 2 * (~member).sum()
    # Hudson's estimator (Bhatia et al. 2013, Genome Research 23:1514), less the drift 1 / F of the founders.
    numerator = (p - q) ** 2 - p * (1 - p) / (n - 1) - q * (1 - q) / (k - 1)
    fst = numerator.sum() / (p * (1 - q) + q * (1 - p)).sum() - 1 / 1000
    assert abs(fst - 0.08) < 0.08 * 4 * np.sqrt(2 / 2000)


def test_variants_are_ordered_on_their_chromosomes_with_two_alleles():
    variants = make_variants(103, Haplotypes(num_chromosomes=4), np.random.default_rng(1))
    assert variants["chrom"].value_counts().sort_index().tolist() == [26, 26, 26, 25]
    assert (variants.groupby("chrom")["bp"].diff().dropna() > 0).all()
    assert (variants["a1"] != variants["a2"]).all() and variants["id"].is_unique


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Haplotypes(num_founders=0), "num_founders and num_chromosomes"),
        (lambda: Haplotypes(min_maf=0.5), "min_maf in"),
        (lambda: Haplotypes(spectrum="flat"), "expected uniform or log-odds, found 'flat'"),
        (lambda: Haplotypes(hotspots=-1.0), "hotspots: expected a shape of at least 0, found -1"),
        (lambda: Structure(fst=1.0), "fst in"),
        (lambda: simulate_cohort(5, 5, 1, missing_rate=1.0), "missing_rate"),
        (lambda: simulate_cohort(0, 5, 1), "at least one sample and one variant, found 0 and 5"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
