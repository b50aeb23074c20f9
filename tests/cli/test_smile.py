"""SMILE's flags: what goes together, and the components that they make."""

import json
from argparse import ArgumentError, ArgumentParser

import numpy as np
import pytest

from gpu_reml import io
from gpu_reml.cli.flags import smile as smile_flags
from gpu_reml.cli.flags.smile import Smile
from gpu_reml.cli.main import make_parser
from gpu_reml.cli.merge import check_merge
from gpu_reml.cli.reml import Asked
from gpu_reml.cli.smile import check_beside_smile, check_smile, smile_covariance, smile_weights
from gpu_reml.ops import CpuProducts, ld_weights, make_covariance, pack, standardise, take_variants
from gpu_reml.ops import block_covariance as blocks
from gpu_reml.validation import SPARSE, dense
from gpu_reml.validation.simulate import simulate_cohort

N, M = 120, 200


def parse(*arguments, base=("--bfile", "data")):
    parser = make_parser("0")
    parser.exit_on_error = False
    return Asked.of(parser.read([*base, "--pheno", "pheno.txt", *map(str, arguments)]))


def check(asked):
    """What a command looks at before it reads anything."""
    analysis = asked.analysis
    check_merge(asked.merge, analysis)
    check_smile(analysis.smile)
    if analysis.smile.wanted:
        check_beside_smile(analysis.genotypes, analysis.components, analysis.scaling.alpha)


@pytest.fixture(scope="module")
def cohort():
    """(genotypes, analysed variants, Z) of two chromosomes."""
    people = simulate_cohort(N, M, 3, haplotypes=SPARSE)
    people.variants["chrom"] = np.repeat(["1", "2"], [90, 110])
    return (
        standardise([pack(people.counts)], N),
        io.AnalysedVariants.of(people.variants),
        dense.standardised(people.counts),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three blocks of 60, 60 and 80 variants; the second with a sidecar."""
    folder, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(0)
    for name, size in (("A", 60), ("B", 60), ("C", 80)):
        root = rng.standard_normal((size, 20))
        np.save(folder / f"{name}.npy", root @ root.T / 20)
    (folder / "B.json").write_text(json.dumps({"effective_rank": 17.5}))
    return [folder / f"{name}.npy" for name in "ABC"]


def components(cohort, *arguments, variants=None, genotypes=None):
    asked = parse(*arguments)
    check(asked)
    smile, genotypes = asked.analysis.smile, genotypes or cohort[0]
    weights = smile_weights(genotypes, variants or cohort[1], smile)
    return smile_covariance(CpuProducts(genotypes, np.float64), weights, smile.w_normalization), weights.notes


def test_the_light_list_of_choices_is_the_real_one():
    assert smile_flags.NORMALISATIONS == blocks.NORMALISATIONS and smile_flags.KINDS == ld_weights.KINDS


def test_nothing_is_asked_for_by_default():
    asked = parse()
    assert not asked.analysis.smile.wanted
    check(asked)
    assert parse("--smile").analysis.smile.wanted and parse("--identity-w").analysis.smile.wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smile"], r"--smile: say which weights: one of --w-files, --w-files-list, --grm-groups, --identity-w"),
        (["--w-normalization", "effective_rank"], r"--w-normalization: weights come from --w-files"),
        (["--smile-block-size", "50"], r"--smile-block-size: weights come from"),
        (["--identity-w", "--smile-shrinkage", "0"], r"go with --smile-ld, not with --identity-w"),
        (["--identity-w", "--rare-bfile", "rare"], r"--rare-bfile, --rare-pfile: cannot be used with SMILE"),
        (["--identity-w", "--pfile", "data"], r"SMILE: give exactly one fileset"),
        (["--identity-w", "--vc-block-sizes", "10,190"], r"SMILE: components come from the weight matrices"),
        (["--identity-w", "--by-chromosome"], r"SMILE: components come from the weight matrices"),
        (["--identity-w", "--alpha", "-0.5"], r"--alpha: cannot be used with SMILE"),
        (["--identity-w", "--alpha", "0"], r"--alpha: cannot be used with SMILE"),
        (["--identity-w", "--merge"], r"--merge: cannot be used with SMILE"),
    ],
)
def test_flags_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(io.InputError, match=message):
        check(parse(*arguments))


def test_two_filesets_are_refused():
    with pytest.raises(io.InputError, match="exactly one fileset"):
        check(parse("--identity-w", base=("--bfile", "one,two")))
    check(parse("--identity-w", base=("--pfile", "one")))


def test_two_sources_of_weights_are_refused_by_the_parser_and_without_it():
    with pytest.raises(ArgumentError, match="not allowed with argument"):
        parse("--identity-w", "--w-files", "A.npy")
    with pytest.raises(io.InputError, match=r"--w-files, --identity-w: give only one of them"):
        check_smile(Smile(identity_w=True, w_files="A.npy"))


@pytest.mark.parametrize("value", ["-0.1", "1.5", "x"])
def test_shrinkage_is_a_fraction(value):
    with pytest.raises(ArgumentError, match="smile-shrinkage"):
        parse("--smile-ld", "inverse", "--smile-shrinkage", value)


def test_files_a_list_and_groups_make_the_dense_components(cohort, files, tmp_path):
    Z, matrices = cohort[2], [np.float64(np.float32(np.load(path))) for path in files]
    edges = [0, 60, 120, 200]
    Ks = [Z[:, a:b] @ W @ Z[:, a:b].T for a, b, W in zip(edges, edges[1:], matrices, strict=False)]
    (tmp_path / "list.txt").write_text("# all\n" + "\n".join(map(str, files)))
    joined = ",".join(map(str, files))
    B = np.random.default_rng(0).standard_normal((N, 3))
    for arguments in (["--w-files", joined], ["--w-files-list", tmp_path / "list.txt"], ["--grm-groups", joined]):
        covariance, notes = components(cohort, *arguments)
        expected = sum(Ks) @ B * N / np.trace(sum(Ks))
        np.testing.assert_allclose(covariance.apply([1.0], B), expected, atol=1e-9)
        assert covariance.names == ("smile",) and notes == ()
    covariance, _ = components(cohort, "--grm-groups", f"{files[0]},{files[1]};{files[2]}")
    assert covariance.names == ("smile_000", "smile_001") and covariance.num_variants == (120, 79)  # one never varies
    expected = (0.3 * sum(Ks[:2]) / np.trace(sum(Ks[:2])) + 0.7 * Ks[2] / np.trace(Ks[2])) @ B * N
    np.testing.assert_allclose(covariance.apply([0.3, 0.7], B), expected, atol=1e-9)


def test_the_effective_rank_is_the_sidecars_or_counted(cohort, files):
    covariance, notes = components(
        cohort, "--w-files", ",".join(map(str, files)), "--w-normalization", "effective_rank"
    )
    assert covariance.scales == 20 + 17.5 + 20
    assert notes == ("weight matrices: 2 ranks counted, of 3; no sidecar says them",)


def test_filtered_variants_leave_the_matrices(cohort, files):
    mask = np.ones(M, bool)
    mask[[5, 61, 62, 199]] = False
    left = io.AnalysedVariants.of(cohort[1].table, mask)
    genotypes = take_variants(cohort[0], left.rows)
    covariance, notes = components(cohort, "--w-files", ",".join(map(str, files)), variants=left, genotypes=genotypes)
    assert "4 filtered variants left out of 3 blocks" in notes[0]
    whole = np.zeros((M, M))
    for start, path in zip((0, 60, 120), files, strict=True):
        W = np.float32(np.load(path))
        whole[start : start + len(W), start : start + len(W)] = W
    whole[~mask] = whole[:, ~mask] = 0
    K = cohort[2] @ whole @ cohort[2].T
    B = np.random.default_rng(0).standard_normal((N, 3))
    np.testing.assert_allclose(covariance.apply([1.0], B), K @ B * N / np.trace(K), atol=1e-9)
    with pytest.raises(io.InputError, match=r"expected 200 variants in all, .*found 120 \(A.npy 60, B.npy 60\)"):
        components(cohort, "--w-files", f"{files[0]},{files[1]}")


def test_identity_weights_are_the_grm_and_take_no_memory(cohort):
    covariance, _ = components(cohort, "--identity-w")
    ordinary = make_covariance(CpuProducts(cohort[0], np.float64), normalise="trace")
    B = np.random.default_rng(0).standard_normal((N, 3))
    np.testing.assert_allclose(covariance.apply([1.0], B), ordinary.apply([1.0], B), rtol=1e-10)
    assert covariance.weights.num_bytes == 0


def test_weights_from_ld_do_not_cross_chromosomes(cohort):
    for kind in smile_flags.KINDS:
        arguments = ["--smile-ld", kind, "--smile-block-size", "50", "--smile-shrinkage", "0.2"]
        covariance, notes = components(cohort, *arguments)
        assert covariance.weights.starts.tolist() == [0, 45, 90, 126, 163, 200]
        assert f"weights from LD ({kind}, shrinkage 0.2): 5 blocks of at most 50 variants" in notes[0]
        R = np.corrcoef(cohort[2][:, 45:90].T)
        S = 0.8 * R + 0.2 * np.eye(45)
        expected = S if kind == "correlation" else np.linalg.inv(S)
        np.testing.assert_allclose(covariance.weights.matrices[1], expected, atol=0.02 * np.abs(expected).max())
    made = smile_weights(*cohort[:2], Smile(smile_ld="inverse"))
    assert made.cuts.tolist() == [0, 90, 200] and made.num_bytes == 4 * (90**2 + 110**2)


def test_the_flags_stand_alone_in_any_parser():
    parser = ArgumentParser()
    Smile.add(parser.add_argument_group("SMILE"))
    assert parser.parse_args([]).w_normalization == "kernel_trace"
