"""Weight matrices from files: every format gives the same numbers, and every flaw is named."""

import builtins
import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io.component_sets import AnalysedVariants
from gpu_reml.io.errors import InputError
from gpu_reml.io.smile import (
    SmileBlock,
    parse_grm_groups,
    parse_w_files,
    read_w,
    read_w_list,
    take_analysed,
    total_rank,
)

ROOT = np.random.default_rng(0).standard_normal((6, 4))
W = ROOT @ ROOT.T  # rank 4


def write(folder, name, matrix=W):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, matrix)
    elif name.endswith(".npz"):
        np.savez(path, matrix)
    else:
        np.savetxt(path, matrix, delimiter="," if ".csv" in name else " ", fmt="%.17g")
    return path


@pytest.mark.parametrize("name", ["A.npy", "A.npz", "A.csv", "A.txt", "A.csv.gz", "A.txt.gz", "A"])
def test_every_format_gives_the_matrix(tmp_path, name):
    block = read_w(write(tmp_path, name), check_psd=True)
    np.testing.assert_array_equal(block.matrix, W)
    assert block.size == 6 and block.rank is None and block.ids is None and block.path == str(tmp_path / name)
    assert isinstance(block.matrix, np.memmap) == name.endswith(".npy")


def r_text_of_a_named_matrix(matrix, names):
    """What R's saveRDS(W, file, ascii = TRUE) writes for a matrix with dimnames, type by type (serialisation 2)."""

    def characters(text):
        return ["262153", str(len(text)), text]

    def strings(values):
        return ["16", str(len(values)), *(line for value in values for line in characters(value))]

    size = str(len(matrix))
    lines = ["A", "2", "197636", "131840"]
    lines += ["526", str(matrix.size), *(f"{value:.17g}" for value in matrix.T.ravel())]  # reals with attributes
    lines += ["1026", "1", *characters("dim"), "13", "2", size, size]
    lines += ["1026", "1", *characters("dimnames"), "19", "2", *strings(names), *strings(names), "254"]
    return "\n".join(lines) + "\n"


def test_an_r_matrix_is_read_with_and_without_names(tmp_path):
    rdata = pytest.importorskip("rdata")
    rdata.write_rds(tmp_path / "A.rds", W)
    np.testing.assert_array_equal(read_w(tmp_path / "A.rds").matrix, W)
    (tmp_path / "B.rds").write_text(r_text_of_a_named_matrix(W, [f"rs{j}" for j in range(6)]))
    np.testing.assert_array_equal(read_w(tmp_path / "B.rds").matrix, W)
    rdata.write_rds(tmp_path / "C.rds", {"W": W})
    with pytest.raises(InputError, match=r"C.rds: expected an R matrix, found dict"):
        read_w(tmp_path / "C.rds")
    (tmp_path / "D.rds").write_bytes(b"nothing of R")
    with pytest.raises(InputError, match=r"D.rds: not an .rds file that can be read"):
        read_w(tmp_path / "D.rds")


def test_an_r_matrix_without_the_package_names_the_remedy(tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *rest):
        if name == "rdata":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"A.rds: reading .rds needs the package rdata; pip install 'gpu-reml\[rds\]'"):
        read_w(tmp_path / "A.rds")


def changed(i, j, value, both=True):
    other = W.copy()
    other[i, j] = value
    if both:
        other[j, i] = value
    return other


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (W[:4], r"A.npy: expected a square matrix of weights, found \(4, 6\)"),
        (W[0], r"A.npy: expected a square matrix of weights, found \(6,\)"),
        (np.zeros((0, 0)), r"A.npy: expected a square matrix of weights, found \(0, 0\)"),
        (W.astype(complex), r"A.npy: expected real numbers, found complex128"),
        (W.astype("U8"), r"A.npy: expected real numbers, found <U8"),
        (changed(1, 4, np.nan), r"A.npy: row 2, column 5: expected a finite number, found nan"),
        (changed(1, 4, np.inf, both=False), r"A.npy: row 2, column 5: expected a finite number, found inf"),
        (changed(1, 4, 9.0, both=False), r"A.npy: not symmetric: row 2, column 5 has 9, row 5, column 2 has -?\d"),
        (W - 0.5 * np.eye(6), r"A.npy: not positive semi-definite: its smallest eigenvalue is -0.5;"),
        (np.diag([3.0, 0, -1e-3]), r"not positive semi-definite: its smallest eigenvalue is -0.001"),
    ],
)
@pytest.mark.parametrize("check_psd", [False, True])
def test_a_matrix_that_is_no_covariance_is_refused(tmp_path, matrix, message, check_psd):
    with pytest.raises(InputError, match=message):
        read_w(write(tmp_path, "A.npy", matrix), check_psd)


def test_a_flaw_beyond_the_first_slab_of_rows_is_found(tmp_path):
    large = np.eye(1300, dtype=np.float32)
    large[1290, 3] = 0.25
    with pytest.raises(InputError, match=r"not symmetric: row (4, column 1291 has 0|1291, column 4 has 0.25)"):
        read_w(write(tmp_path, "A.npy", large))


@pytest.mark.parametrize("check_psd", [False, True])
def test_rounding_to_float32_or_six_digits_is_no_flaw(tmp_path, check_psd):
    root = np.random.default_rng(1).standard_normal((150, 60))
    singular = root @ root.T / 60
    read_w(write(tmp_path, "A.npy", singular.astype(np.float32)), check_psd)
    np.savetxt(tmp_path / "A.txt", singular, fmt="%.6g")
    assert read_w(tmp_path / "A.txt", check_psd).size == 150
    np.save(tmp_path / "B.npy", np.eye(3, dtype=np.int8))
    assert read_w(tmp_path / "B.npy", check_psd).matrix.dtype == np.float64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "A.csv",
            "rs1,rs2\n1,0\n0,1\n",
            r"A.csv: could not convert string 'rs1'.*expected numbers only, without header",
        ),
        ("A.txt", "1,0\n0,1\n", r"A.txt: could not convert string '1,0'.*commas only in a file named .csv"),
        ("A.txt", "1 0\n0\n", r"A.txt: the number of columns changed from 2 to 1 at row 2"),
        ("A.npy", "text", r"A.npy: not a .npy array .*write it with numpy.save"),
        ("A.npz", "text", r"A.npz: not an .npz of plain arrays .*write it with numpy.savez"),
    ],
)
def test_a_file_that_is_not_of_its_kind_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_w(tmp_path / name)


def test_files_that_are_absent_or_hold_several_arrays_are_named(tmp_path):
    for name in ("A.npy", "A.npz", "A.csv", "A.txt"):
        with pytest.raises(InputError, match=rf"weight file not found: .*{name}; check the path"):
            read_w(tmp_path / name)
    np.savez(tmp_path / "two.npz", first=W, second=W)
    with pytest.raises(InputError, match=r"two.npz: expected exactly one array, found first, second"):
        read_w(tmp_path / "two.npz")


@pytest.mark.parametrize("ending", [".json", ".meta.json"])
@pytest.mark.parametrize("key", ["effective_rank", "retained_rank", "weight_rank", "rank"])
def test_the_rank_of_a_sidecar_is_taken(tmp_path, ending, key):
    path = write(tmp_path, "A.npy")
    (tmp_path / f"A{ending}").write_text(json.dumps({"shape": [6, 6], "p": 6, key: 3.5, "other": "x"}))
    assert read_w(path).rank == 3.5
    assert total_rank([read_w(path)]) == 3.5


def test_the_first_rank_of_several_counts_and_without_one_eigenvalues_do(tmp_path):
    path = write(tmp_path, "A.npy")
    assert total_rank([read_w(path), SmileBlock("B", np.eye(3)), SmileBlock("C", np.eye(5), 2.0)]) == 9
    (tmp_path / "A.json").write_text(json.dumps({"rank": 1, "effective_rank": 2}))
    assert read_w(path).rank == 2
    assert total_rank([read_w(path)]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"A.json, line 1: not JSON"),
        ("[1]", r"A.json: expected a JSON object, found list"),
        ('{"width": 7}', r"A.json: width is 7, but .*A.npy is \(6, 6\)"),
        ('{"matrix_shape": [6, 5]}', r"A.json: matrix_shape is \[6, 5\], but .*A.npy is \(6, 6\)"),
        ('{"shape": "a\\nb"}', r"A.json: shape is 'a\\nb', but"),
        ('{"rank": 0}', r"A.json: expected a number above 0 and at most 6 for rank, found 0"),
        ('{"retained_rank": 6.5}', r"at most 6 for retained_rank, found 6.5"),
        ('{"rank": "4"}', r"for rank, found '4'"),
        ('{"rank": true}', r"for rank, found True"),
        ('{"variant_ids": ["a"]}', r"A.json: expected variant_ids to list 6 ids, found 1"),
        ('{"variant_ids": "abcdef"}', r"expected variant_ids to list 6 ids, found 'abcdef'"),
    ],
)
def test_a_sidecar_that_contradicts_its_block_is_refused(tmp_path, content, message):
    path = write(tmp_path, "A.npy")
    (tmp_path / "A.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_w(path)


def test_lists_and_groups_of_files(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# blocks\n a.npy , b.npy\n\nc with blank.npy # the last\n")
    assert read_w_list(path) == ["a.npy", "b.npy", "c with blank.npy"]
    assert parse_w_files("a.npy, b.npy") == ["a.npy", "b.npy"]
    assert parse_grm_groups("a.npy,b.npy;c.npy") == [["a.npy", "b.npy"], ["c.npy"]]
    path.write_text("# none\n\n")
    with pytest.raises(InputError, match=r"list.txt: lists no weight file"):
        read_w_list(path)
    with pytest.raises(InputError, match=r"list of weight files not found: .*absent"):
        read_w_list(tmp_path / "absent")
    for text in ("a.npy,,b.npy", "a.npy;;b.npy"):
        with pytest.raises(InputError, match=r"`grm_groups`: expected files separated by commas"):
            parse_grm_groups(text)


def variants(num_source, removed=()):
    table = pd.DataFrame({"chrom": "1", "id": [f"rs{j}" for j in range(num_source)]})
    mask = np.ones(num_source, bool)
    mask[list(removed)] = False
    return AnalysedVariants.of(table, mask)


def named_blocks():
    ids = tuple(f"rs{j}" for j in range(6))
    return [[SmileBlock("A", W, 4, ids)], [SmileBlock("B", np.diag([1.0, 2, 3]), 3), SmileBlock("C", 2 * np.eye(2))]]


def test_without_filters_blocks_stay_as_they_are():
    blocks = named_blocks()
    found, notes = take_analysed(blocks, ("a", "b"), variants(11))
    assert notes == () and found[0][0] is blocks[0][0] and found[1] == blocks[1]


def test_rows_and_columns_of_filtered_variants_are_left_out_and_counted():
    found, notes = take_analysed(named_blocks(), ("a", "b"), variants(11, [1, 4, 7, 9, 10]))
    keep = [0, 2, 3, 5]
    np.testing.assert_array_equal(found[0][0].matrix, W[np.ix_(keep, keep)])
    np.testing.assert_array_equal(found[1][0].matrix, np.diag([1.0, 3]))
    assert len(found[1]) == 1 and found[0][0].rank is None
    assert notes == (
        "weight matrices: 5 filtered variants left out of 3 blocks; the rank of 2 is not the sidecar's any more",
    )


def test_sizes_ids_and_groups_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"expected 12 variants in all, .*before filters, found 11 \(A 6, B 3, C 2\)"):
        take_analysed(named_blocks(), ("a", "b"), variants(12))
    other = variants(11, [0])
    other.table.loc[2, "id"] = "rs99"  # the fourth variant of the file
    with pytest.raises(InputError, match=r"A: row 4 is of rs3, .* the genotypes have rs99 there \(1 of 5 ids differ\)"):
        take_analysed(named_blocks(), ("a", "b"), other)
    with pytest.raises(InputError, match=r"component b: filters removed all variants"):
        take_analysed(named_blocks(), ("a", "b"), variants(11, range(6, 11)))
