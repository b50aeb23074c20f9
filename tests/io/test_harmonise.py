"""Variants of a model among others: what is the same, swapped, on the other strand, ambiguous, absent or in doubt."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_reml.io import InputError
from gpu_reml.io.harmonise import harmonise


def table(*rows):
    """Rows "id chrom bp a1 a2"."""
    fields = [row.split() for row in rows]
    frame = pd.DataFrame(fields, columns=["id", "chrom", "bp", "a1", "a2"], dtype=str)
    return frame.assign(bp=frame["bp"].astype(np.int64))


def found(model, other, **options):
    matching = harmonise(model, other, **options)
    return {int(m): (int(r), bool(s)) for m, r, s in zip(matching.model, matching.rows, matching.swapped, strict=True)}


def count(matching, start):
    (value,) = [n for what, n in matching.counts if what.startswith(start)]
    return value


MODEL = table("rs1 1 100 A G", "rs2 1 200 C T", "rs3 2 100 A T", "rs4 2 150 AT A", "rs5 X 9 G A")


def test_every_way_to_agree_and_to_differ():
    other = table(
        "rs5 23 9 T C",  # swapped on the other strand: C/T counted T is A
        "rs1 chr1 100 G A",  # swapped
        "rs2 1 200 G A",  # the other strand
        "rs3 2 100 A T",  # ambiguous, as written
        "rs4 2 150 AT C",  # another allele
    )
    matching = harmonise(MODEL, other)
    assert found(MODEL, other) == {4: (0, True), 0: (1, True), 1: (2, False), 2: (3, False)}
    assert matching.num_matched == 4 and matching.num_model == 5
    assert matching.rows.tolist() == sorted(matching.rows)
    assert count(matching, "the same") == 1 and count(matching, "alleles swapped") == 1
    assert count(matching, "alleles of the other strand, swapped") == 1
    assert count(matching, "alleles that cannot") == 1 and count(matching, "A/T or C/G, taken") == 1
    assert any("rs4" in note for note in matching.notes)
    assert any("may be too" in note and "`ambiguous` drop" in note for note in matching.notes)
    assert "4 of the model's 5 found" in matching.lines()[0]


def test_classes_add_up_to_all_variants_of_the_model():
    other = table("rs1 1 100 A G", "rs2 1 200 C A", "rs2 1 200 C A", "rs3 2 100 T A")
    for policy in ("keep", "drop"):
        matching = harmonise(MODEL, other, ambiguous=policy)
        assert sum(n for what, n in matching.counts if not what.startswith(("found", "A/T or C/G, taken"))) == 5


def test_ambiguous_alleles_are_taken_as_written_or_dropped():
    other = table("rs1 1 100 A G", "rs3 2 100 T A")
    assert found(MODEL, other) == {0: (0, False), 2: (1, True)}
    dropped = harmonise(MODEL, other, ambiguous="drop")
    assert dropped.model.tolist() == [0] and count(dropped, "A/T or C/G, left out") == 1
    with pytest.raises(InputError, match="`ambiguous`: expected one of keep, drop"):
        harmonise(MODEL, other, ambiguous="flip")


def test_position_serves_where_the_id_does_not():
    other = table("1:100 1 100 A G", ". 1 200 C T", "x X 9 A G")
    matching = harmonise(MODEL, other)
    assert found(MODEL, other) == {0: (0, False), 1: (1, False), 4: (2, True)}
    assert count(matching, "found by position") == 3 and count(matching, "not there") == 2
    # an id of another place is believed, since builds differ
    assert found(MODEL, table("rs1 1 999 A G")) == {0: (0, False)}
    # position 0 is unknown, and so is no place
    with pytest.raises(InputError, match="none of the model's 1 variants can be used"):
        harmonise(table("a 1 0 A G"), table("b 1 0 A G"))


def test_a_position_with_several_variants_is_told_apart_by_alleles():
    other = table("m1 1 100 A C", "m2 1 100 A G", "m3 1 100 A T")
    assert found(table("rs1 1 100 A G"), other) == {0: (1, False)}
    # the id has other alleles, the place has the right ones
    assert found(table("rs1 1 100 A G"), table("rs1 1 100 A C", "new 1 100 G A")) == {0: (1, True)}


def test_ties_are_left_out_and_named():
    two = harmonise(MODEL, table("rs1 1 100 A G", "rs1 1 100 A G", "rs2 1 200 C T"))
    assert two.model.tolist() == [1] and count(two, "several that match") == 1
    assert any("several" in note and "rs1" in note for note in two.notes)
    # two of the model's claim one
    claimed = harmonise(table("a 1 100 A G", "b 1 100 A G", "c 2 5 A G"), table("z 1 100 A G", "c 2 5 A G"))
    assert claimed.model.tolist() == [2] and count(claimed, "several that match") == 2
    # one of them by id, which is better
    assert found(table("a 1 100 A G", "b 1 100 A G"), table("b 1 100 A G")) == {1: (0, False)}


def test_equal_entries_are_paired_in_order():
    twice = table("rs1 1 100 A G", "rs1 1 100 A G", ". 1 300 A T", ". 1 300 A T")
    assert found(twice, twice) == {j: (j, False) for j in range(4)}


def test_an_unknown_allele_agrees_with_any():
    assert found(MODEL, table("rs1 1 100 0 G", "rs2 1 200 0 C", "rs5 X 9 0 T")) == {
        0: (0, False),
        1: (1, True),
        4: (2, False),
    }
    with pytest.raises(InputError, match="alleles that cannot be made to agree"):
        harmonise(table("rs1 1 100 A G"), table("rs1 1 100 0 0"))


def test_case_of_alleles_does_not_matter():
    assert found(MODEL, table("rs1 1 100 g a", "rs4 2 150 a at")) == {0: (0, True), 3: (1, True)}


def test_an_id_that_everything_has_tells_nothing_apart():
    m = 200
    rows = [f"same 1 {100 + j} A G" for j in range(m)]
    matching = harmonise(table(*rows), table(*rows[::-1]))
    assert dict(zip(matching.model, matching.rows, strict=True)) == {j: m - 1 - j for j in range(m)}


def test_nothing_in_common_says_what_there_is():
    with pytest.raises(InputError, match=r"it has rs1 at 1:100 \(A, G\), the genotypes have q at 3:7 \(A, C\)"):
        harmonise(MODEL, table("q 3 7 A C"))
    with pytest.raises(InputError, match="the genotypes have no variants"):
        harmonise(MODEL, MODEL[:0])
    with pytest.raises(InputError, match="the model has no variants"):
        harmonise(MODEL[:0], MODEL)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shuffled_swapped_and_flipped_variants_are_all_found(data):
    m = data.draw(st.integers(1, 25))
    letters = data.draw(st.lists(st.sampled_from(["AC", "AG", "CA", "GT", "TC"]), min_size=m, max_size=m))
    model = table(*(f"rs{j} {1 + j % 3} {10 * j + 1} {a} {b}" for j, (a, b) in enumerate(letters)))
    order = np.array(data.draw(st.permutations(range(m))))
    swap, strand = (np.array(data.draw(st.lists(st.booleans(), min_size=m, max_size=m))) for _ in range(2))
    other = model.copy()
    other.loc[swap, ["a1", "a2"]] = model.loc[swap, ["a2", "a1"]].to_numpy()
    complement = str.maketrans("ACGT", "TGCA")
    for name in ("a1", "a2"):
        other.loc[strand, name] = other.loc[strand, name].str.translate(complement)
    by_place = data.draw(st.booleans())
    other = other.iloc[order].reset_index(drop=True).assign(**({"id": "."} if by_place else {}))
    matching = harmonise(model, other, ambiguous=data.draw(st.sampled_from(["keep", "drop"])))
    assert matching.rows.tolist() == list(range(m))
    np.testing.assert_array_equal(matching.model, order)
    np.testing.assert_array_equal(matching.swapped, swap[order])


def test_a_place_is_the_same_however_its_chromosome_is_spelt():
    def table(chrom, ids):
        return pd.DataFrame({"chrom": chrom, "id": ids, "bp": [10, 20, 30], "a1": "A", "a2": "C"})

    found = harmonise(table(["1", "X", "25"], ["a", "b", "c"]), table(["chr1", "PAR1", "X"], ["x", "y", "z"]))
    assert found.model.tolist() == found.rows.tolist() == [0, 1, 2]
