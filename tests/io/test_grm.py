import shutil
import subprocess

import numpy as np
import pytest

from gpu_reml.io import InputError, OutputError, align, read_bed, read_phenotype
from gpu_reml.io.grm import definite_notes, read_grm, write_grm
from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.validation import dense


@pytest.fixture
def covariance(random_counts):
    return make_covariance(CpuProducts(standardise([pack(random_counts(150, 40))], 150)))


@pytest.fixture
def samples(ids):
    return ids(*(f"s{i}" for i in range(150)))


def test_a_written_covariance_is_read_back_as_the_dense_matrix(tmp_path, covariance, samples, random_counts):
    write_grm(tmp_path / "k", covariance, samples)
    found = read_grm(tmp_path / "k")
    K = dense.kernel(dense.standardised(random_counts(150, 40)))
    np.testing.assert_allclose(found.matrix(), K, atol=2e-6)
    assert found.samples.equals(samples)
    assert found.num_variants == covariance.num_variants[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.grm.N.bin", "k.grm.bin", "k.grm.id"]


def test_the_file_is_the_lower_triangle_row_by_row(tmp_path, ids):
    K = np.array([[4.0, 1, 2], [1, 5, 3], [2, 3, 6]])
    write_grm(tmp_path / "k", K, ids("a", "b", "c"), num_variants=7)
    assert np.fromfile(tmp_path / "k.grm.bin", "<f4").tolist() == [4, 1, 5, 2, 3, 6]
    assert np.fromfile(tmp_path / "k.grm.N.bin", "<f4").tolist() == [7] * 6
    assert (tmp_path / "k.grm.id").read_text() == "Fa\ta\nFb\tb\nFc\tc\n"


def test_samples_are_taken_in_the_order_asked_for(tmp_path, ids, write):
    K = np.array([[4.0, 1, 2], [1, 5, 3], [2, 3, 6]])
    write_grm(tmp_path / "k", K, ids("a", "b", "c"))
    found = read_grm(tmp_path / "k.grm.bin")
    np.testing.assert_array_equal(found.matrix([2, 0]), K[np.ix_([2, 0], [2, 0])])
    pheno = read_phenotype(write("p.txt", "FID IID y\nFc c 1\nFb b 2\n"))
    aligned = align([ids("c", "b", "a"), found.samples], pheno)
    np.testing.assert_array_equal(found.matrix(aligned.indices[1]), [[6, 3], [3, 5]])


def test_a_matrix_that_does_not_fit_its_samples_is_refused(tmp_path, ids):
    with pytest.raises(InputError, match=r"file\(s\) not found: \S*k\.grm\.id, \S*k\.grm\.bin"):
        read_grm(tmp_path / "k")
    write_grm(tmp_path / "k", np.eye(3), ids("a", "b", "c"))
    (tmp_path / "k.grm.id").write_text("Fa a\nFb b\n")
    with pytest.raises(InputError, match=r"expected 12 bytes, the float32 lower triangle of 2 samples, found 24"):
        read_grm(tmp_path / "k")
    (tmp_path / "k.grm.id").write_text("Fa a\nFb b\nFa a\n")
    with pytest.raises(InputError, match=r"1 FID \+ IID occur more than once \(FID Fa IID a\)"):
        read_grm(tmp_path / "k")
    (tmp_path / "k.grm.id").write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_grm(tmp_path / "k")


def test_a_sparse_matrix_beside_a_dense_one_is_read_by_its_full_name_alone(tmp_path, ids, write):
    write_grm(tmp_path / "a", np.eye(2), ids("x", "y"), 5)
    write("a.grm.sp", "0 0 1\n1 1 1\n1 0 0.25\n")
    with pytest.raises(InputError, match=r"a'?: there are .*a\.grm\.bin and .*a\.grm\.sp; name the one to read"):
        read_grm(tmp_path / "a")
    assert read_grm(tmp_path / "a.grm.sp").matrix()[1, 0] == 0.25
    assert read_grm(tmp_path / "a.grm.bin").matrix()[1, 0] == 0


def test_an_entry_that_is_not_finite_names_its_samples(tmp_path, ids):
    K = np.eye(3)
    K[2, 0] = np.nan
    write_grm(tmp_path / "k", K, ids("a", "b", "c"))
    with pytest.raises(InputError, match="the entry of FID Fa IID a, FID Fc IID c is not a finite number"):
        read_grm(tmp_path / "k").matrix()
    assert np.isfinite(read_grm(tmp_path / "k").matrix([0, 1])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (((1, 1), 0.0), "the relationship of FID Fb IID b with itself is 0; a variance is positive"),
        (((1, 1), -0.1), "FID Fb IID b with itself is -0.1;"),
        (((1, 1), 200.0), "FID Fb IID b with itself is 200, where the median is 1;"),
        (((1, 1), 1e-30), "FID Fb IID b with itself is 1e-30, where the median is 1;"),
        (((2, 0), 3.0), r"of FID Fa IID a, FID Fc IID c is 3, more than their own \(1, 1\) allow"),
        (((2, 1), -1e30), r"of FID Fb IID b, FID Fc IID c is -1e\+30, more than"),
    ],
)
def test_an_entry_that_no_covariance_has_names_its_samples(tmp_path, ids, change, message):
    K = np.eye(3)
    K[change[0]] = change[1]
    write_grm(tmp_path / "k", K, ids("a", "b", "c"))
    with pytest.raises(InputError, match=message):
        read_grm(tmp_path / "k").matrix()


def test_an_indefinite_matrix_is_refused_with_its_smallest_eigenvalue_and_one_nearly_definite_is_noted():
    rng = np.random.default_rng(3)
    vectors = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    values = np.linspace(0, 2, 40)

    def matrix(least):
        K = (vectors * np.append(least, values[1:])) @ vectors.T
        return np.ascontiguousarray((K + K.T) / 2)

    for least, said in ((0.0, 0), (-1e-6, 0), (-0.03, 1)):
        K = matrix(least)
        notes = definite_notes("k", K)
        assert len(notes) == said and np.array_equal(K, matrix(least))
        if said:
            assert "k: the smallest eigenvalue is -0.03, with a mean diagonal of 0.9993" in notes[0]
    with pytest.raises(InputError, match=r"k: the smallest eigenvalue is -0\.4, with .* not a covariance matrix"):
        definite_notes("k", matrix(-0.4))


def test_a_matrix_of_pairwise_counts_as_gcta_makes_it_is_taken_with_a_note():
    rng = np.random.default_rng(0)
    counts = rng.binomial(2, rng.uniform(0.1, 0.5, 60), (80, 60)).astype(float)
    called = rng.random(counts.shape) > 0.02
    Z = np.where(called, (counts - counts.mean(0)) / counts.std(0), 0)
    K = Z @ Z.T / (called.astype(float) @ called.T)
    (note,) = definite_notes("k", K)
    assert f"eigenvalue is {np.linalg.eigvalsh(K)[0]:.4g}" in note


def test_nothing_is_written_when_a_file_cannot_be(tmp_path, ids):
    (tmp_path / "k.grm.id").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_grm(tmp_path / "k", np.eye(2), ids("a", "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["k.grm.id"]
    with pytest.raises(InputError, match="expected 2 samples"):
        write_grm(tmp_path / "k", np.eye(2), ids("a"))


def test_several_components_are_written_one_by_one(tmp_path, covariance, samples):
    two = make_covariance(covariance.products, np.eye(40)[:, :2])
    with pytest.raises(InputError, match="expected one component, found 2"):
        write_grm(tmp_path / "k", two, samples)


@pytest.mark.skipif(shutil.which("plink2") is None, reason="plink2 is not installed")
def test_a_matrix_that_plink2_wrote_is_read_with_its_samples(tmp_path, make_fileset):
    rng = np.random.default_rng(4)
    counts = rng.binomial(2, rng.uniform(0.2, 0.8, 60), (70, 60)).astype(np.int8)
    prefix = make_fileset(counts)
    bim = prefix.with_name("cohort.bim")  # on one chromosome: plink2 wants each in one piece
    bim.write_text("".join(f"1 rs{j} 0 {j + 1} A C\n" for j in range(60)))
    command = ["plink2", "--bfile", prefix, "--make-grm-bin", "--nonfounders", "--out", tmp_path / "p"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    found = read_grm(tmp_path / "p")
    p = counts.mean(axis=0) / 2
    Z = (counts - 2 * p) / np.sqrt(2 * p * (1 - p))
    np.testing.assert_allclose(found.matrix(), Z @ Z.T / 60, atol=1e-5)
    assert found.samples.equals(read_bed(prefix).samples)
    assert found.num_variants == 60


@pytest.mark.parametrize("count", [-1, np.nan, np.inf])
def test_a_number_of_variants_that_cannot_be_is_refused(tmp_path, ids, count):
    write_grm(tmp_path / "k", np.eye(2), ids("a", "b"), num_variants=7)
    np.array([7, count, 7], "<f4").tofile(tmp_path / "k.grm.N.bin")
    with pytest.raises(InputError, match=r"k\.grm\.N\.bin: .* found one below 0 or not finite"):
        read_grm(tmp_path / "k")
