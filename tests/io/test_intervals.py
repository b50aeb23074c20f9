import numpy as np
import pytest

from gpu_reml.io.errors import InputError
from gpu_reml.io.intervals import components_from_intervals


@pytest.fixture
def variants(make_variants):
    return make_variants("abcdef", chrom=["1", "1", "1", "2", "23", "26"], bp=[100, 101, 200, 101, 50, 7])


def members(found):
    columns = found.weights.toarray().T
    return {name: np.flatnonzero(column).tolist() for name, column in zip(found.names, columns, strict=True)}


def test_starts_are_zero_based_and_ends_are_not_included(write, variants):
    path = write("p.bed", "1\t100\t200\n")  # bases 101 to 200
    assert members(components_from_intervals([path], variants)) == {"p": [1, 2]}
    assert members(components_from_intervals([write("p.bed", "1\t99\t100\n")], variants)) == {"p": [0]}


@pytest.mark.parametrize("one", ["1", "chr1", "Chr1"])
def test_a_chr_prefix_and_plinks_numbers_make_no_difference(write, one, variants):
    path = write("p.bed", f"# a comment\ntrack name=x\nbrowser position\n{one} 0 100\nchrX 0 99\nchrM 0 99\n")
    assert members(components_from_intervals([path], variants)) == {"p": [0, 4, 5]}


def test_names_are_components_over_all_files_and_overlapping_intervals_count_once(write, variants):
    first = write("p.bed", "1\t0\t150\tenh\t5\t+\n2\t0\t500\tprom\t5\t+\n1\t50\t101\tenh\t5\t+\n")
    second = write("q.bed", "1\t100\t1000\tprom\t1\t.\n")
    found = components_from_intervals([first, second], variants)
    assert members(found) == {"enh": [0, 1], "prom": [1, 2, 3]}
    assert set(found.weights.data) == {1.0}
    by_file = components_from_intervals([first, second], variants, by="file")
    assert members(by_file) == {"p": [0, 1, 3], "q": [1, 2]}


def test_many_random_intervals_hold_what_a_scan_finds(write, make_variants):
    rng = np.random.default_rng(0)
    bp = np.sort(rng.integers(1, 2000, 300))
    variants = make_variants([f"v{j}" for j in range(300)], bp=bp)
    starts = rng.integers(0, 2000, 40)
    ends = starts + rng.integers(1, 30, 40)
    path = write("p.bed", "".join(f"1\t{s}\t{e}\n" for s, e in zip(starts, ends, strict=True)))
    expected = [j for j in range(300) if ((starts < bp[j]) & (bp[j] <= ends)).any()]
    assert members(components_from_intervals([path], variants)) == {"p": expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 5\n", r"p\.bed, line 1: expected chrom start end"),
        ("1 1 9\n\n1 a 9\n", r"p\.bed, line 3: expected chrom start end .*found '1 a 9'"),
        ("1 -1 9\n", "line 1: expected chrom start end"),
        ("1 9 9\n", r"0 <= start < end .*found 9 9"),
        ("1 0 9 a\n1 0 9\n", "line 2: expected a name in field 4 in every line or in none"),
        ("#\n", "has no interval"),
        ("3 0 9\n", r"no analysed variant is in any interval \(the first is 3:0-9 and the first variant 1:100\)"),
        ("".join(f"1 {k} {k + 1} peak{k}\n" for k in range(1001)), "1001 different names in field 4"),
    ],
)
def test_a_bad_interval_file_is_named_with_its_line(write, text, message, variants):
    with pytest.raises(InputError, match=message):
        components_from_intervals([write("p.bed", text)], variants)


def test_an_absent_file_and_files_of_one_name_are_refused(write, tmp_path, variants):
    with pytest.raises(InputError, match="interval file not found"):
        components_from_intervals([tmp_path / "none.bed"], variants)
    with pytest.raises(InputError, match="p occur more than once"):
        components_from_intervals([write("p.bed", "1 0 200\n")] * 2, variants)
    with pytest.raises(InputError, match="by: expected name or file, found 'line'"):
        components_from_intervals([write("p.bed", "1 0 200\n")], variants, by="line")


def test_an_interval_on_x_holds_pseudo_autosomal_variants_of_any_spelling(write, make_variants):
    variants = make_variants("abcd", chrom=["XY", "25", "PAR1", "Y"], bp=[50, 50, 50, 50])
    assert members(components_from_intervals([write("p.bed", "chrX 0 99\n")], variants)) == {"p": [0, 1, 2]}


def test_intervals_of_chromosomes_without_variants_are_counted(write, variants):
    path = write("p.bed", "1 0 999\nchr4 0 9\nchr4 10 99\nUn_7 0 9\nchrX 0 99\n")
    found = components_from_intervals([path], variants)
    assert members(found) == {"p": [0, 1, 2, 4]}
    assert found.notes == (f"{path}: 3 of 5 intervals are where no analysed variant is, on chr4, Un_7",)
