import gzip

import numpy as np
import pytest

from gpu_reml.io.annotations import (
    annotation_files,
    components_from_annotations,
    components_from_lists,
    components_from_table,
)
from gpu_reml.io.errors import InputError
from gpu_reml.io.ld_scores import read_ld_scores

ANNOT = "CHR BP SNP CM base coding maf_adj\n1 1 r0 0 1 0 0.5\n1 2 r1 0 1 1 0\n1 9 rx 0 1 1 7\n1 3 r2 0 1 0 2e-1\n"


@pytest.fixture
def variants(make_variants):
    """r0, r1, r3 and r4 of five."""
    return make_variants(["r0", "r1", "r2", "r3", "r4"], [True, True, False, True, True])


def test_a_list_of_ids_is_a_component_named_by_its_file(write, variants):
    paths = [write("coding.snplist", "r3\nr0\nr2\n"), write("utr.txt", "#ID other\nr4 x\n")]
    found = components_from_lists(paths, variants)
    assert found.names == ("coding", "utr")
    np.testing.assert_array_equal(found.weights.toarray(), [[1, 0], [0, 0], [1, 0], [0, 1]])
    assert found.notes == (f"{paths[0]}: 1 of 3 variants are not analysed (r2)",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r0\nr1\n\nr0\n", r"a\.txt, line 4: variant r0 was in line 1 before; list it once"),
        ("ID\n", "has no variant"),
        ("", "has no variant"),
        ("x1\nx2\n", "none of its 2 variants is analysed: it has x1, the genotypes have r0"),
    ],
)
def test_a_bad_list_is_named_with_its_line(write, variants, text, message):
    with pytest.raises(InputError, match=message):
        components_from_lists([write("a.txt", text)], variants)


def test_two_lists_of_one_name_are_refused(write, tmp_path, variants):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("r0\n")
    with pytest.raises(InputError, match="a occur more than once"):
        components_from_lists([write("a.txt", "r0\n"), tmp_path / "other" / "a.txt"], variants)


@pytest.mark.parametrize("header", ["", "variant_id component weight\n", "#ID set w\n"])
def test_a_table_gives_overlapping_weighted_components_in_order_of_appearance(write, variants, header):
    path = write("sets.txt", header + "r3 utr 0.5\nr0 coding 2\nr2 utr 1\nr3 coding 1e-1\nr1 coding 0\n")
    found = components_from_table(path, variants)
    assert found.names == ("utr", "coding")
    np.testing.assert_array_equal(found.weights.toarray(), [[0, 2], [0, 0], [0.5, 0.1], [0, 0]])
    assert found.weights.nnz == 3
    assert found.notes == (f"{path}: 1 of 5 variants are not analysed (r2)",)


def test_a_table_without_weights_has_weight_one(write, variants):
    found = components_from_table(write("sets.txt", "r3\tutr\nr4\tutr\n"), variants)
    np.testing.assert_array_equal(found.weights.toarray()[:, 0], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r0 a 1\nr1 a -0.5\n", r"line 2: variant r1: expected a weight of 0 or more for component a, found '-0.5'"),
        ("r0 a x\n", r"line 1: variant r0: expected a weight of 0 or more for component a, found 'x'"),
        ("r0 a inf\n", "found 'inf'"),
        ("r0 a 1\nr0 b 1\nr0 a 2\n", r"line 3: variant r0 was in line 1 before; give the variant one weight"),
        ("r0\n", "expected variant_id component"),
        ("r0 a 1\nr1 a\n", r"line 2 \(r1 a\): expected 3 fields as in line 1, found 2"),
    ],
)
def test_a_bad_table_is_named_with_variant_and_line(write, variants, text, message):
    with pytest.raises(InputError, match=message):
        components_from_table(write("sets.txt", text), variants)


@pytest.mark.parametrize("suffix", ["annot", "annot.gz"])
def test_annotations_are_matched_by_id_with_base_a_column_like_any_other(write, variants, suffix):
    text = ANNOT.encode()
    path = write(f"a.{suffix}", gzip.compress(text) if suffix.endswith("gz") else text)
    found = components_from_annotations([path], variants)
    assert found.names == ("base", "coding", "maf_adj")
    np.testing.assert_array_equal(found.weights.toarray(), [[1, 0, 0.5], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert found.notes == (f"{path}: 2 of 4 variants are not analysed (rx, r2)",)


COORDINATES = "CHROM\tPOS\tcoding\tCM\trsid\n1\t1\t2\t0.1\tr0\n1\t2\t0\t0.2\tr1\n1\t4\t5\t0.3\tr3\n"


def test_key_columns_by_any_name_and_in_any_place_are_no_components(write, variants):
    found = components_from_annotations([write("a.annot", COORDINATES)], variants)
    assert found.names == ("coding",)
    np.testing.assert_array_equal(found.weights.toarray()[:, 0], [2, 0, 5, 0])


def test_a_thin_file_with_coordinates_has_them_left_out(write, variants):
    text = "CHR BP base\n" + "".join(f"1 {k} {k % 2}\n" for k in range(5))
    found = components_from_annotations([write("a.annot", text)], variants)
    assert found.names == ("base",)
    np.testing.assert_array_equal(found.weights.toarray()[:, 0], [0, 1, 1, 0])


def test_columns_that_are_no_annotation_are_refused(write, make_variants, variants):
    with pytest.raises(InputError, match=r"column MAF would be a component with allele frequencies as variances"):
        components_from_annotations([write("a.annot", ANNOT.replace("maf_adj", "MAF"))], variants)
    many = make_variants([f"r{j}" for j in range(12)], bp=np.arange(12) * 1000 + 5)
    text = "SNP locus x\n" + "".join(f"r{j} {1000 * j + 5} {j % 3}\n" for j in range(12))
    with pytest.raises(InputError, match=r"a\.annot: column locus holds the variants' positions, which would be var"):
        components_from_annotations([write("a.annot", text)], many)


@pytest.mark.parametrize(
    "text",
    [
        "weight SNP set\n0.5 r3 utr\n2 r0 coding\n",
        "CHR POS SNP set weight\n1 4 r3 utr 0.5\n1 1 r0 coding 2\n",
        "SNP pathway w\nr3 utr 0.5\nr0 coding 2\n",
        "SNP weight pathway\nr3 0.5 utr\nr0 2 coding\n",
    ],
)
def test_columns_of_a_table_are_taken_by_name(write, variants, text):
    found = components_from_table(write("sets.txt", text), variants)
    assert found.names == ("utr", "coding")
    np.testing.assert_array_equal(found.weights.toarray(), [[0, 2], [0, 0], [0.5, 0], [0, 0]])


@pytest.mark.parametrize(
    "text",
    ["SNP CHR BP\nr0 1 5\n", "SNP CHR set beta\nr0 1 a 2\n", "r0 a 1 2\n", "CHR SNP BP x y\n1 r0 5 a b\n"],
)
def test_a_table_whose_columns_are_unclear_is_refused(write, variants, text):
    with pytest.raises(InputError, match=r"sets\.txt, line 1: of the columns .* it is not clear which are variant"):
        components_from_table(write("sets.txt", text), variants)


def test_the_ids_of_a_list_are_below_their_name(write, variants):
    found = components_from_lists([write("hits.txt", "CHR POS SNP P\n1 1 r0 0.1\n1 4 r3 0.2\n")], variants)
    np.testing.assert_array_equal(found.weights.toarray()[:, 0], [1, 0, 1, 0])


def test_two_annotation_files_of_one_chromosome_are_an_error(write, tmp_path):
    for name in ("a.2.annot", "a.chr.annot", "a.23.annot"):
        write(name, "")
    assert [path.name for path in annotation_files(tmp_path / "a.@.annot")] == ["a.2.annot", "a.23.annot"]
    write("a.X.annot", "")
    with pytest.raises(InputError, match=r"a\.23\.annot and \S*a\.X\.annot are of one chromosome"):
        annotation_files(tmp_path / "a.@.annot")


def test_pieces_of_one_annotation_are_read_together(write, variants, tmp_path):
    write("a.1.annot", "CHR\tBP\tSNP\tCM\tx\n1\t4\tr4\t0\t2\n")
    write("a.X.annot", "CHR\tBP\tSNP\tCM\tx\n1\t1\tr0\t0\t3\n")
    paths = annotation_files(tmp_path / "a.@.annot")
    assert [path.name for path in paths] == ["a.1.annot", "a.X.annot"]
    np.testing.assert_array_equal(components_from_annotations(paths, variants).weights.toarray()[:, 0], [3, 0, 0, 2])
    with pytest.raises(InputError, match="no file of that name for any chromosome"):
        annotation_files(tmp_path / "b.@.annot")
    other = write("a.2.annot", "CHR\tBP\tSNP\tCM\ty\n1\t1\tr1\t0\t3\n")
    with pytest.raises(InputError, match=r"a\.2\.annot: its columns are not those of \S*a\.1\.annot"):
        components_from_annotations([paths[0], other], variants)
    again = write("a.3.annot", "CHR\tBP\tSNP\tCM\tx\n1\t1\tr1\t0\t3\n1\t1\tr4\t0\t3\n")
    with pytest.raises(InputError, match=r"a\.3\.annot, line 3: variant r4 was in \S*a\.1\.annot, line 2 before"):
        components_from_annotations([paths[0], again], variants)


def test_rows_are_matched_one_by_one_where_the_file_lists_the_genotype_files_variants(write, make_variants):
    variants = make_variants([".", ".", "r2"], [False, True, True])
    path = write("a.annot", "CHR BP SNP CM x\n1 1 . 0 1\n1 2 . 0 2\n1 3 r2 0 3\n")
    np.testing.assert_array_equal(components_from_annotations([path], variants).weights.toarray()[:, 0], [2, 3])


def test_thin_annotations_are_matched_by_row_of_the_unfiltered_files(write, variants):
    path = write("thin.annot", "x y\n1 0\n2 0\n3 0\n4 1\n5 0\n")
    np.testing.assert_array_equal(
        components_from_annotations([path], variants).weights.toarray(), [[1, 0], [2, 0], [4, 1], [5, 0]]
    )
    with pytest.raises(InputError, match=r"4 rows without SNP ids for the 5 variants"):
        components_from_annotations([write("thin.annot", "x y\n1 0\n2 0\n3 0\n4 1\n")], variants)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 9 r3 0 1 -1 0", r"line 6: variant r3: expected a weight of 0 or more for annotation coding, found -1"),
        ("1 9 r3 0 1 inf 0", "found inf"),
        ("1 9 r3 0 1 NA 0", r"line 6: variant r3: expected a number for annotation coding, found 'NA'"),
        ("1 9 r3 0 1 x 0", r"line 6: variant r3: expected a number for annotation coding, found 'x'"),
        ("1 9 r3 0 1 0", r"line 6 \(1 9\): expected 7 fields as in line 1, found 6"),
        ("1 9 r3 0 1 0 0 0", r"line 6 \(1 9\): expected 7 fields as in line 1, found 8"),
        ("1 1 r0 0 1 0 1", r"line 6: variant r0 was in \S*a\.annot, line 2 before; annotate it once"),
    ],
)
def test_a_bad_annotation_is_named_with_variant_column_and_line(write, variants, line, message):
    with pytest.raises(InputError, match=message):
        components_from_annotations([write("a.annot", f"{ANNOT}{line}\n")], variants)


def test_an_annotation_file_without_columns_rows_or_itself_is_refused(write, variants, tmp_path):
    with pytest.raises(InputError, match="annotation file not found"):
        components_from_annotations([tmp_path / "none.annot"], variants)
    with pytest.raises(InputError, match="is empty"):
        components_from_annotations([write("a.annot", "\n")], variants)
    with pytest.raises(InputError, match="has a header and no variant"):
        components_from_annotations([write("a.annot", "CHR BP SNP CM x\n\n")], variants)
    with pytest.raises(InputError, match="found no annotation"):
        components_from_annotations([write("a.annot", "CHR BP SNP CM\n1 1 r0 0\n")], variants)
    with pytest.raises(InputError, match="x occur more than once"):
        components_from_annotations([write("a.annot", "CHR BP SNP CM x x\n1 1 r0 0 1 1\n")], variants)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("CHR SNP BP L2", "1 {} 1 {}"),
        ("SNP chr bp freq mean_rsq snp_num max_rsq ldscore_SNP ldscore_region", "{} 1 1 0.1 0 9 0.2 {} 99"),
        ("SNP chr bp MAF mean_rsq snp_num max_rsq ldscore", "{} 1 1 0.1 0 9 0.2 {}"),
    ],
)
def test_ld_scores_of_ldsc_and_gcta_are_read_by_id(write, variants, header, line):
    rows = [line.format(name, score) for name, score in [("r4", 4.5), ("r0", 1.25), ("rx", 9), ("r3", 2)]]
    path = write("a.score.ld", "\n".join([header, *rows]) + "\n")
    scores, notes = read_ld_scores(path, variants)
    np.testing.assert_array_equal(scores, [1.25, np.nan, 2, 4.5])
    assert notes == (
        f"{path}: 1 of 4 variants are not analysed (rx)",
        f"{path}: 1 of 4 analysed variants have no LD score",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SNP R2\nr0 1\n", "expected a header with SNP and L2, ldscore_SNP or ldscore, found snp r2"),
        ("SNP L2\nr0 1\nr1 NA\n", "line 3: variant r1: expected a number for its LD score, found 'NA'"),
        ("SNP L2\nr0 1\nr0 2\n", "line 3: variant r0 has an LD score already"),
        ("SNP L2\n", "has a header and no variant"),
        ("SNP L2\nx 1\n", "none of its 1 variants is analysed"),
    ],
)
def test_bad_ld_scores_are_named_with_variant_and_line(write, variants, text, message):
    with pytest.raises(InputError, match=message):
        read_ld_scores(write("l2.txt", text), variants)
