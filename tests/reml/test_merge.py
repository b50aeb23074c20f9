"""The merge plan and the merged weights, against definitions and dense fits."""

import numpy as np
import pytest
from scipy import sparse

from gpu_reml.ops import CpuProducts, make_covariance
from gpu_reml.reml import fit_exact
from gpu_reml.reml.studies.merge import MERGED, SINGLETON, Z_CUTOFF, merge_plan, merged_weights
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import simulate_phenotype
from gpu_reml.validation.small import make_cohort

NAMES = ("a", "b", "c", "d")


def plan_of(z, names=None, cutoff=Z_CUTOFF):
    z = np.asarray(z, float)
    se = 0.1 + 0.05 * np.arange(len(z) + 1)
    return merge_plan(np.append(z * se[:-1], 1.0), np.diag(se**2), names or NAMES[: len(z)], cutoff)


def test_weak_components_become_the_last_one_and_the_others_keep_their_order():
    plan = plan_of([2.0, 0.3, 1.7, 1.6])
    assert (plan.keep.tolist(), plan.weak.tolist()) == ([0, 2], [1, 3])
    np.testing.assert_allclose(plan.z, [2.0, 0.3, 1.7, 1.6])
    assert plan.next_names == ("a", "c", "zmerge_block_0000")
    assert plan.statuses == ("kept_significant", MERGED, "kept_significant", MERGED)


def test_z_at_the_cutoff_is_kept():
    assert plan_of([1.5, 1.0], cutoff=1.5).keep.tolist() == [0]


def test_a_single_weak_component_stays_as_it_is():
    plan = plan_of([2.0, 0.3, 1.7])
    assert not plan.merges and plan.next_names == ("a", "b", "c")
    assert plan.statuses[1] == SINGLETON
    weights = np.random.default_rng(0).random((9, 3))
    np.testing.assert_array_equal(merged_weights(weights, plan).toarray(), weights)


def test_when_all_are_weak_one_component_is_left():
    assert plan_of([0.1, 0.2, 0.0]).next_names == ("zmerge_block_0000",)


def test_a_kept_component_that_was_merged_before_keeps_its_name():
    plan = plan_of([2.0, 0.3, 0.1], names=("zmerge_block_0000", "b", "zmerge_block_0001"))
    assert plan.next_names == ("zmerge_block_0000", "zmerge_block_0001")


def test_the_error_is_of_the_inverse_of_the_whole_information():
    information = np.array([[4.0, 1.0, 1.5], [1.0, 3.0, 0.5], [1.5, 0.5, 2.0]])
    plan = merge_plan(np.ones(3), np.linalg.inv(information), ("a", "b"))
    for g, others in ((0, [1, 2]), (1, [0, 2])):
        across = information[g, others]
        left = information[g, g] - across @ np.linalg.solve(information[np.ix_(others, others)], across)
        np.testing.assert_allclose(plan.se[g], left**-0.5)


def test_an_estimate_at_zero_is_weak_and_makes_the_errors_of_the_others_no_smaller():
    cohort = make_cohort(200, 400, 3, seed=4, overlap=False)
    rng = np.random.default_rng(0)
    for _ in range(20):
        y = rng.standard_normal(cohort.n)
        found = fit_exact(y, cohort.X, cohort.Ks)
        if found.at_bound[:-1].sum() == 1:
            break
    (zero,) = np.flatnonzero(found.at_bound[:-1])
    plan = merge_plan(found.theta, found.covariance, found.names)
    assert plan.z[zero] == 0 and zero in plan.weak and plan.se[zero] > 0
    assert zero in merge_plan(found.theta, found.covariance, found.names, z_cutoff=0.0).keep
    others = [g for g in range(3) if g != zero]
    without = fit_exact(y, cohort.X, [cohort.Ks[g] for g in others])
    np.testing.assert_allclose(without.theta[:-1], found.theta[others], rtol=1e-5, atol=1e-8)
    assert (plan.se[others] >= without.se[:-1] * (1 - 1e-6)).all()
    assert (plan.se[others] > without.se[:-1] * (1 + 1e-6)).any()


def test_a_variant_of_several_weak_sets_counts_once():
    sets = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], float)
    plan = plan_of([2.0, 0.3, 0.1, 0.0])
    expected = np.column_stack([sets[:, 0], [1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(merged_weights(sparse.csr_array(sets), plan).toarray(), expected)
    # the same where every variant has one weight of its own, such as [2p(1-p)]^(1+alpha)
    own = np.array([0.3, 2.0, 0.7, 1.0, 5.0])[:, None]
    np.testing.assert_array_equal(merged_weights(own * sets, plan).toarray(), own * expected)


def test_continuous_weights_of_weak_components_add_up():
    weights = np.array([[1, 0.5, 1], [0, 0.2, 0.3], [1, 0, 1]])
    expected = np.column_stack([weights[:, 0], weights[:, 1] + weights[:, 2]])
    np.testing.assert_allclose(merged_weights(weights, plan_of([2.0, 0.3, 0.1])).toarray(), expected)


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(700, 900, 6, seed=11, overlap=False, scale=1.0)


def dense_of(cohort):
    from gpu_reml.ops import to_dense

    return to_dense(cohort.genotypes)


def simulated(cohort, theta, seed):
    return simulate_phenotype(dense_of(cohort), list(cohort.W.T), np.asarray(theta), seed).y


def test_components_without_effect_merge_and_the_next_fit_is_the_dense_fit_of_their_union(cohort):
    y = simulated(cohort, [0.3, 0, 0, 0.3, 0, 0, 0.4], seed=1)
    products = CpuProducts(cohort.genotypes, np.float64)
    first = fit_exact(y, cohort.X, make_covariance(products, cohort.W))
    plan = merge_plan(first.theta, first.covariance, first.names)
    assert {0, 3} <= set(plan.keep.tolist()) and len(plan.weak) >= 3
    weights = merged_weights(cohort.W, plan)
    second = fit_exact(y, cohort.X, make_covariance(products, weights, plan.next_names))
    union = cohort.W[:, plan.weak].max(axis=1)
    Z = dense_of(cohort)
    Ks = [dense.kernel(Z, cohort.W[:, g]) for g in plan.unchanged] + [dense.kernel(Z, union)]
    expected = exact_reml(y, cohort.X, Ks)
    np.testing.assert_allclose(second.theta, expected.theta, atol=2e-4 * second.se.min())
    np.testing.assert_allclose(second.loglik, expected.loglik, rtol=1e-9)


def test_components_with_effect_do_not_merge(cohort):
    y = simulated(cohort, [0.12] * 6 + [0.28], seed=2)
    found = fit_exact(y, cohort.X, make_covariance(CpuProducts(cohort.genotypes, np.float64), cohort.W))
    plan = merge_plan(found.theta, found.covariance, found.names)
    assert not plan.merges and plan.next_names == found.names


@pytest.mark.parametrize(
    ("theta", "covariance", "message"),
    [
        (np.ones(3), np.eye(2), r"theta \(3,\) and covariance_of_theta \(3, 3\)"),
        (np.ones(3), np.diag([1.0, 0.0, 1.0]), "component b: .* no positive sampling error"),
        (np.array([np.nan, 1, 1]), np.eye(3), "component a"),
    ],
)
def test_estimates_without_an_error_are_refused(theta, covariance, message):
    with pytest.raises(ValueError, match=message):
        merge_plan(theta, covariance, ("a", "b"))
