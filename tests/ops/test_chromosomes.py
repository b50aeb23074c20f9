import numpy as np
import pandas as pd
import pytest

from gpu_reml.ops.chromosomes import chromosome_name, chromosome_names, linkage_groups, one_spelling


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (("1", "chr1", "Chr1", "CHR1", "01", "chr01"), "1"),
        (("22", "chr22"), "22"),
        (("X", "23", "chrX", "x", "chr23"), "X"),
        (("Y", "24", "chry"), "Y"),
        (("XY", "25", "chrXY"), "XY"),
        (("MT", "M", "26", "chrM", "chrMT", "mt"), "MT"),
        (("PAR1", "par1", "chrPAR1"), "PAR1"),
        (("contig7", "chrcontig7"), "contig7"),
        (("0", "00"), "0"),
        (("chr",), "chr"),
    ],
)
def test_every_spelling_of_a_chromosome_has_its_one_name(spellings, name):
    assert {chromosome_name(spelling) for spelling in spellings} == {name}
    assert set(chromosome_names(spellings)) == {name}


def test_codes_above_22_are_human_unless_a_number_is_above_26():
    assert list(chromosome_names(["22", "23", "25"])) == ["22", "X", "XY"]
    assert list(chromosome_names(["22", "23", "25", "27"])) == ["22", "23", "25", "27"]
    assert list(linkage_groups(["23", "25", "29"])) == ["23", "25", "29"]
    assert list(linkage_groups(["23", "25"], beside=["29"])) == ["23", "25"]


def test_pseudo_autosomal_regions_are_linked_to_x():
    assert list(linkage_groups(["X", "PAR1", "chrPAR2", "XY", "25", "23", "Y"])) == ["X"] * 6 + ["Y"]
    assert list(chromosome_names(["X", "PAR1", "25"])) == ["X", "PAR1", "XY"]


def test_a_table_has_every_chromosome_in_its_first_spelling():
    found = one_spelling(pd.Series(["chr2", "2", "X", "23", "chr2", "PAR1"]))
    assert found.tolist() == ["chr2", "chr2", "X", "X", "chr2", "PAR1"]
    assert np.array_equal(one_spelling(pd.Series(["1", "chrX"])), ["1", "chrX"])


def test_a_number_of_any_length_is_a_name():
    long = "9" * 5000
    assert list(chromosome_names(["1", f"chr00{long}", "000"])) == ["1", long, "0"]
    assert chromosome_name(f"0{long}") == long


def test_a_missing_chromosome_is_refused_and_not_another():
    with pytest.raises(ValueError, match="chromosomes: the one of variant 1 is missing"):
        chromosome_names(["1", None, "2"])
