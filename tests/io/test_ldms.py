"""GREML-LDMS on real mice: the bins from files to fit, against dense matrices of the same bins."""

import numpy as np
import pytest

from gpu_reml import io, ops
from gpu_reml.reml import fit_exact
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml


@pytest.mark.external
def test_greml_ldms_of_mice_is_the_dense_fit_of_the_same_bins(external_data):
    bed = io.read_bed(external_data / "mouse_hs1940" / "mouse_hs1940")
    phenotype = io.read_phenotype(external_data / "mouse_hs1940" / "pheno.txt", name="CD8")
    aligned = io.align([bed.samples], phenotype)
    genotypes = io.load_genotypes([bed], aligned.indices)
    scores = ops.ld_scores(genotypes, bed.variants["chrom"].to_numpy(), bed.variants["bp"].to_numpy())
    maf_bins = io.components_by_maf(io.minor_allele_frequencies(genotypes), [0.1, 0.2, 0.35])
    bins = io.complete_components(io.components_by_ld(scores, 4, maf_bins), varies=genotypes.inv_sd > 0)
    assert bins.num_components == 16
    placed = (bed.variants["bp"] > 0).to_numpy() & (genotypes.inv_sd > 0)
    np.testing.assert_array_equal(np.diff(bins.weights.indptr), placed)
    covariance = ops.make_covariance(ops.CpuProducts(genotypes), bins.weights, bins.names)
    X = np.ones((aligned.num_samples, 1))
    found = fit_exact(aligned.y, X, covariance)
    Z = dense.standardised(ops.unpack(genotypes.parts[0], aligned.num_samples))
    W = bins.weights.toarray()
    expected = exact_reml(aligned.y, X, [dense.kernel(Z, W[:, g]) for g in range(16)])
    np.testing.assert_allclose(found.loglik, expected.loglik, atol=1e-3)
    assert (np.abs(found.theta - expected.theta) <= 5e-3 * found.se).all()
