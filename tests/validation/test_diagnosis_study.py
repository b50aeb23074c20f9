"""What is odd about an h2 is named: planted problems by the study, and single rules by facts."""

import numpy as np
import pytest

from gpu_reml.ops import pack, standardise
from gpu_reml.reml import Facts, diagnose, facts_of, fit_exact
from gpu_reml.reml.studies.cohort_sample import sample_cohort
from gpu_reml.reml.studies.diagnosis import frequency_and_ld_bins
from gpu_reml.validation import diagnosis_study as study
from gpu_reml.validation import simulate_cohort
from gpu_reml.validation.haplotypes import Haplotypes

QUICK = ["duplicates", "structure", "rare variants", "made of genotypes", "few samples"]
PLAIN = Facts(num_samples=5000, h2=0.4, se=0.05, component_se={"component_000": 0.05})


def test_planted_problems_are_named_first_and_a_clean_cohort_has_none():
    found = list(study.cases(7, QUICK, num_clean=1))
    assert len(found) == len(QUICK) + 1
    assert [case.name for case in found if not case.right] == []


def kinds(**facts):
    return [each.kind for each in diagnose(PLAIN._replace(**facts))]


@pytest.mark.parametrize(
    "facts, named",
    [
        ({}, []),
        ({"missing": 0.019}, []),
        ({"missing": 0.05}, ["missing"]),
        ({"cases": 0.5}, ["ascertained"]),
        ({"cases": 0.5, "prevalence": 0.45}, []),
        ({"cases": 0.5, "prevalence": 0.1}, ["ascertained"]),
        ({"cases": 0.5, "prevalence": 0.1, "on_liability": True}, []),
        ({"bins": {"a": 0.01, "b": 0.5}}, []),
        ({"bins": {"a": 1e-8, "b": 0.5}}, ["bins"]),
        ({"se": 0.3}, ["samples"]),
        ({"component_se": {"a": 0.3, "b": 0.02}}, ["samples"]),
        ({"h2": 0.0, "at_bound": ("component_000",)}, ["bound"]),
        ({"component_se": {"a": 0.02, "b": 0.02}, "at_bound": ("a",)}, []),
        ({"h2": 0.9999, "se": np.nan, "residual_at_bound": True}, ["bound"]),
    ],
)
def test_each_rule_speaks_where_it_should_and_is_silent_else(facts, named):
    assert kinds(**facts) == named


def test_every_diagnosis_has_a_number_of_the_run_and_a_remedy():
    found = diagnose(PLAIN._replace(missing=0.0712, cases=0.5, se=0.31, bins={"low": 3.3e-9}))
    assert len(found) == 4
    for each, number in zip(found, ("7.1%", "50.0%", "3.3e-09", "0.31"), strict=True):
        assert number in each.evidence and each.remedy
    assert "31,000 such samples" in found[-1].remedy  # 5,000 with SE 0.31, which shrinks as 1 / n


def test_the_expected_standard_error_is_that_of_a_fit_where_h2_is_small():
    people = simulate_cohort(1000, 2000, 3, missing_rate=0.0, haplotypes=study.SPARSE)
    genotypes = standardise([pack(people.counts)], 1000)
    Z = study.standardised(people.counts)
    y = np.random.default_rng(0).standard_normal(1000)
    expected = sample_cohort(genotypes).expected_se()
    K = Z @ Z.T / 2000
    direct = np.sqrt(2 / (1000 * 999 * K[np.triu_indices(1000, 1)].var()))
    assert expected == pytest.approx(direct, rel=0.05)
    assert expected == pytest.approx(fit_exact(y, np.ones((1000, 1)), K).h2.se[-1], rel=0.15)


def test_the_expected_standard_error_is_that_of_a_fit_of_people_with_few_independent_variants():
    """As mice have: eigenvalues far from 1, so that a large h2 is known less well than a small one."""
    people = simulate_cohort(900, 2000, 3, missing_rate=0.0, haplotypes=Haplotypes(num_founders=8, switch_rate=0.002))
    Z = study.standardised(people.counts)
    rng = np.random.default_rng(0)
    K = Z @ Z.T / 2000
    expected = sample_cohort(standardise([pack(people.counts)], 900))
    for h2 in (0.0, 0.6):
        u = Z @ rng.standard_normal(2000) / np.sqrt(2000)
        y = np.sqrt(h2) * u + np.sqrt(1 - h2) * rng.standard_normal(900)
        found = fit_exact(y, np.ones((900, 1)), K)
        assert expected.expected_se(float(found.h2.estimate[-1])) == pytest.approx(found.h2.se[-1], rel=0.25)


def test_a_sample_counts_what_was_put_in_whoever_is_drawn():
    people = simulate_cohort(2600, 1500, 4, missing_rate=0.0, haplotypes=study.SPARSE)
    people.counts[-260:] = people.counts[:260]
    cohort = sample_cohort(standardise([pack(people.counts)], 2600))
    assert cohort.num_sampled == 2000 and cohort.told and len(cohort.held) == 0
    # a copy of each of 520 people; of the 260 pairs both are drawn in (2000/2600)^2
    assert abs(cohort.same - 260 * (2000 / 2600) ** 2) < 4 * np.sqrt(260 * 0.59 * 0.41)
    assert cohort.with_copy == pytest.approx(0.2, abs=0.05) and cohort.with_relative < 0.01


def test_long_linkage_disequilibrium_is_no_population():
    people = simulate_cohort(600, 2000, 5, missing_rate=0.0, haplotypes=study.SPARSE)
    people.counts[:, 100:500] = people.counts[:, 100:101]  # a region in complete disequilibrium
    cohort = sample_cohort(standardise([pack(people.counts)], 600))
    assert cohort.eigenvalues[0] > 50 and len(cohort.held) == 0


def test_bins_are_of_frequency_and_ld_and_hold_each_variant_once():
    rng = np.random.default_rng(0)
    frequency, scores = rng.uniform(0.001, 0.5, 1000), rng.exponential(5, 1000)
    frequency[:10], scores[10:20] = np.nan, np.nan
    names, weights = frequency_and_ld_bins(frequency, scores)
    assert len(names) == 4 and weights.shape == (1000, 4)
    assert weights.sum(axis=1).tolist() == [0] * 20 + [1] * 980
    low = weights[:, names.index(next(name for name in names if name.endswith("low LD")))] > 0
    assert scores[low].max() < scores[(weights[:, 1] > 0)].min()
    assert frequency_and_ld_bins(frequency * np.nan, scores)[0] == []


def test_a_fit_without_genotypes_has_facts_too():
    rng = np.random.default_rng(1)
    Z = rng.standard_normal((80, 200))
    K, X = Z @ Z.T / 200, np.ones((80, 1))
    y = (rng.random(80) < 0.5).astype(float)
    facts = facts_of(fit_exact(y, X, K), y, X, K)
    assert facts.cohort is None and facts.cases == pytest.approx(y.mean())
    assert [each.kind for each in diagnose(facts)][:1] == ["ascertained"]
