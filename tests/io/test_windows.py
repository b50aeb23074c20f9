import numpy as np
import pytest

from gpu_reml.io import gene_sets, interval_sets, windows
from gpu_reml.io.errors import InputError


@pytest.fixture
def variants(make_variants):
    return make_variants("abcdef", chrom=["1", "1", "1", "2", "23", "0"], bp=[100, 101, 200, 101, 50, 7])


def members(found):
    columns = found.weights.toarray().T
    return {name: np.flatnonzero(column).tolist() for name, column in zip(found.names, columns, strict=True)}


def test_windows_begin_at_multiples_of_their_size_and_have_both_ends(variants):
    found = members(windows(variants, 100, 100))
    assert found == {"1:1-100": [0], "1:101-200": [1, 2], "2:101-200": [3], "X:1-100": [4]}


def test_sliding_windows_hold_what_a_look_at_each_finds(make_variants):
    rng = np.random.default_rng(2)
    bp = np.sort(rng.integers(1, 3000, 60))
    found = members(windows(make_variants([f"v{j}" for j in range(60)], chrom=["1"] * 60, bp=bp), 250, 100))
    expected = {}
    for start in range(0, 3000, 100):
        inside = np.flatnonzero((bp > start) & (bp <= start + 250)).tolist()
        if inside:
            expected[f"1:{start + 1}-{start + 250}"] = inside
    assert found == expected


def test_genes_have_both_ends_a_flank_and_the_union_of_their_lines(write, variants):
    text = "CHR START END GENE\n1 101 101 A\n2 50 60 B\n1 100 100 A\nchr1 150 199 C\n9 1 5 D\n"
    found = members(gene_sets([write("genes.txt", text)], variants))
    assert found == {"A": [0, 1], "B": [], "C": [], "D": []}
    wide = members(gene_sets([write("genes.txt", text)], variants, flank=41))
    assert wide == {"A": [0, 1], "B": [3], "C": [2], "D": []}
    wider = members(gene_sets([write("genes.txt", text)], variants, flank=50))
    assert wider["C"] == [0, 1, 2]


def test_intervals_without_names_are_a_set_each(write, variants):
    path = write("p.bed", "1\t99\t100\n1\t100\t200\n")
    assert members(interval_sets([path], variants)) == {"1:100-100": [0], "1:101-200": [1, 2]}
    assert members(interval_sets([path], variants, flank=1))["1:100-100"] == [0, 1]
    named = write("q.bed", "1\t99\t101\ta\n1\t99\t200\ta\n2\t0\t200\ta\n")
    found = interval_sets([named], variants)
    assert members(found) == {"a": [0, 1, 2, 3]} and set(found.weights.data) == {1.0}


@pytest.mark.parametrize("line", ["1 x 5 A", "1 9 5 A", "1 0 5 A"])
def test_a_line_that_is_no_gene_is_named(write, variants, line):
    path = write("genes.txt", f"1 1 9 B\n{line}\n")
    with pytest.raises(InputError, match=r"genes\.txt, line 2: expected chrom start end gene"):
        gene_sets([path], variants)


def test_a_list_of_which_no_gene_has_a_variant_is_an_error(write, variants):
    with pytest.raises(InputError, match=r"no analysed variant is in any interval .*1:500-600.*check the genome build"):
        gene_sets([write("genes.txt", "1 500 600 A\n")], variants)


@pytest.mark.parametrize(("size", "step"), [(0, 1), (10, 0), (10, 20)])
def test_a_window_that_would_leave_variants_out_is_refused(variants, size, step):
    with pytest.raises(InputError, match="windows: expected a size, and a step of at most that"):
        windows(variants, size, step)
