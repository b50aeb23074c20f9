"""Genotype components joined with dense ones, against the same components all dense."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpu_reml.reml import (
    CountingCovariance,
    Covariance,
    FitSettings,
    ScaledCovariance,
    as_covariance,
    draw_probes,
    exact_probes,
    fit,
    fit_exact,
    haseman_elston,
    variant_effects,
    with_residuals,
)
from gpu_reml.reml.covariance import FunctionCovariance, MixedCovariance, dense_covariance
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.small import covariance_of, make_cohort


@pytest.fixture(scope="module")
def cohort():
    return make_cohort(150, 400, 3, seed=5, h2=0.6)


@pytest.fixture(scope="module")
def mixed(cohort):
    """The first two components from genotypes, the third dense."""
    genetic = covariance_of(cohort)
    genetic = type(genetic)(genetic.products, genetic.weights[:, :2], genetic.names[:2], genetic.num_variants[:2])
    return MixedCovariance([genetic, dense_covariance(cohort.Ks[2:], ["pedigree"])])


def test_every_product_is_that_of_the_components_in_order(cohort, mixed):
    B = np.random.default_rng(0).standard_normal((150, 4))
    theta = np.array([0.3, 0.0, 0.9])
    images = np.stack([K @ B for K in cohort.Ks])
    assert mixed.names == ("component_000", "component_001", "pedigree")
    np.testing.assert_allclose(mixed.traces, [np.trace(K) for K in cohort.Ks], rtol=1e-10)
    np.testing.assert_allclose(mixed.apply(theta, B), np.tensordot(theta, images, 1), atol=1e-9)
    F = mixed.features(B)
    np.testing.assert_allclose(np.stack(mixed.apply_each(F)), images, atol=1e-9)
    grams = np.einsum("na,gnb->gab", B, images)
    np.testing.assert_allclose(mixed.gram(F), grams, atol=1e-9)
    np.testing.assert_allclose(mixed.core(B), grams, atol=1e-9)
    np.testing.assert_allclose(
        mixed.inner(F[..., :2], F[..., 2:]), np.stack([np.diag(g[:2, 2:]) for g in grams]), atol=1e-9
    )


def test_what_a_product_reads_is_counted_through_every_covariance_that_stands_for_another(mixed):
    scale = np.linspace(0.5, 1.5, 150)
    groups = np.repeat(np.eye(2), 75, axis=0)  # diagonals read nothing
    for covariance in (mixed, ScaledCovariance(mixed, scale), with_residuals(mixed, groups)):
        counting = CountingCovariance(covariance)
        counting.apply(np.ones(counting.num_components), counting.block(np.ones((150, 3))))
        assert counting.column_passes == 2 * 3  # genotypes and a matrix


def test_the_images_of_a_scaled_covariance_are_unknown_before_they_are_scaled_back(cohort):
    scaled = ScaledCovariance(dense_covariance(cohort.Ks[:1]), np.linspace(0.1, 2, 150))
    F = scaled.features(np.ones((150, 2)))
    assert scaled.image_squares(F).shape == (1, 2) and np.isnan(scaled.image_squares(F)).all()
    assert np.isfinite(scaled.base.image_squares(F)).all()


def test_features_are_joined_by_columns(mixed):
    B = np.random.default_rng(1).standard_normal((150, 5))
    F = mixed.features(B)
    joined = type(F).side_by_side([F[..., :2], F[..., 2:]])
    assert joined.shape[-1] == 5
    np.testing.assert_array_equal(mixed.gram(joined), mixed.gram(F))


class Own:
    """One dense component with the members of Covariance, in their own words and no more."""

    def __init__(self, K, name="own"):
        self.K, self.names, self.num_samples, self.num_components = K, (name,), len(K), 1
        self.dtype, self.overlap, self.traces = np.float64, 1.0, np.array([np.trace(K)])

    def block(self, array):
        return np.asarray(array, np.float64)

    def apply(self, theta, B):
        return theta[0] * (self.K @ B)

    def features(self, B):
        return B

    def inner(self, FA, FB):
        return (FA * (self.K @ FB)).sum(axis=0)[None]

    def gram(self, FA, FB=None):
        return (FA.T @ self.K @ (FA if FB is None else FB))[None]

    def core(self, B):
        return self.gram(B)

    def apply_each(self, F):
        return (self.K @ F)[None]

    def apply_features(self, theta, F):
        return theta[0] * (self.K @ F)


def test_a_class_of_the_members_of_covariance_stands_alone_in_a_list_and_beside_residuals(cohort):
    one, two = cohort.Ks[:2]
    y, X, probes = cohort.y, cohort.X, exact_probes(150)
    groups = np.repeat(np.eye(2), 75, axis=0)
    for own, dense in [
        (Own(one), [one]),
        ([Own(one), two], [one, two]),
        ([two, Own(one)], [two, one]),
        (with_residuals(Own(one), groups), with_residuals([one], groups)),
    ]:
        expected, found = fit(y, X, dense, probes), fit(y, X, own, probes)
        np.testing.assert_allclose(found.theta, expected.theta, rtol=1e-5)


class Derived(Covariance):
    """The same by derivation, which needs no more than what has no default."""

    block, apply, features, inner = Own.block, Own.apply, Own.features, Own.inner
    gram, apply_each, apply_features = Own.gram, Own.apply_each, Own.apply_features

    def __init__(self, K):
        self.K, self.names, self.num_samples, self.num_components = K, ("derived",), len(K), 1
        self.dtype, self.traces = np.float64, np.array([np.trace(K)])


def test_a_class_that_derives_from_covariance_needs_only_what_has_no_default(cohort):
    y, X, probes = cohort.y, cohort.X, exact_probes(150)
    own, dense = Derived(cohort.Ks[0]), cohort.Ks[0]
    assert as_covariance(own) is own and own.home != Derived(dense).home
    np.testing.assert_allclose(fit(y, X, own, probes).theta, fit(y, X, dense, probes).theta, rtol=1e-6)
    np.testing.assert_allclose(fit_exact(y, X, own).theta, fit_exact(y, X, dense).theta, rtol=1e-6)
    two = [fit(y, X, [one, cohort.Ks[1]], probes).theta for one in (own, dense)]
    np.testing.assert_allclose(*two, rtol=1e-5)
    with pytest.raises(TypeError, match="abstract class Partial"):
        type("Partial", (Covariance,), {})()


def test_what_a_class_has_beyond_those_members_is_used_and_what_is_missing_is_named(cohort):
    class WithMore(Own):
        backend = "abacus"

        def diagonals(self):
            return np.diag(self.K)[:, None]

        def variant_effects(self, theta, F):
            return theta * F

    K, scale = cohort.Ks[0], np.linspace(0.5, 1.5, 150)
    own = as_covariance(WithMore(K))
    assert own.backend == own.home == ScaledCovariance(WithMore(K), scale).backend == "abacus"
    np.testing.assert_allclose(ScaledCovariance(WithMore(K), scale).traces, [scale**2 @ np.diag(K)], rtol=1e-12)
    np.testing.assert_allclose(variant_effects(WithMore(K), [2.0], cohort.y).toarray()[:, 0], 2 * cohort.y, rtol=1e-12)
    with pytest.raises(ValueError, match=r"diagonals of own are needed here; give its class a method diagonals\(\)"):
        ScaledCovariance(Own(K), scale).traces  # noqa: B018 - it is the attribute that fails
    with pytest.raises(ValueError, match="own has no variants"):
        variant_effects(Own(K), [2.0], cohort.y)
    with pytest.raises(ValueError, match=r"covariance\[1\]: .* found SimpleNamespace without num_samples, .*, gram"):
        as_covariance([K, SimpleNamespace(num_components=1, names=("a",))])


@pytest.mark.parametrize("estimator", ["exact", "stochastic"])
def test_a_fit_of_mixed_components_is_the_dense_fit(cohort, mixed, estimator):
    expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
    if estimator == "exact":
        found = fit_exact(cohort.y, cohort.X, mixed)
    else:
        found = fit(cohort.y, cohort.X, mixed, exact_probes(150), FitSettings(tol=1e-6))
    assert (np.abs(found.theta - expected.theta) <= 2e-3 * found.se).all()
    np.testing.assert_allclose(found.loglik, expected.loglik, rtol=1e-6)


def test_probes_give_the_dense_fit_within_their_error(cohort, mixed):
    expected = exact_reml(cohort.y, cohort.X, cohort.Ks)
    found = fit(cohort.y, cohort.X, mixed, draw_probes(150, 60, rank=20, seed=1))
    assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.02 * found.se).all()


def test_moments_of_mixed_components_are_those_of_dense_ones(cohort, mixed):
    found = haseman_elston(cohort.y, cohort.X, mixed, exact_probes(150))
    expected = haseman_elston(cohort.y, cohort.X, cohort.Ks, exact_probes(150))
    np.testing.assert_allclose(found.theta, expected.theta, rtol=1e-8)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-8)


def test_float32_blocks_pass_through_dense_parts_in_their_own_type(cohort):
    genetic = covariance_of(cohort, np.float32)
    mixed = MixedCovariance([genetic, dense_covariance([np.eye(150)], ["identity"])])
    B = np.random.default_rng(0).standard_normal((150, 2)).astype(np.float32)
    image = mixed.apply(np.array([0.0, 0, 0, 2.0]), mixed.block(B))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, 2 * B, rtol=1e-6)


def test_parts_of_other_samples_or_of_one_name_are_refused(mixed):
    with pytest.raises(ValueError, match="expected 150 samples in each, found 3"):
        MixedCovariance([*mixed.parts, FunctionCovariance([lambda B: B], [3.0], 3, ["other"])])
    with pytest.raises(ValueError, match="pedigree occur more than once"):
        MixedCovariance([*mixed.parts, mixed.parts[1]])
