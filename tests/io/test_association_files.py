"""Tables of association tests."""

import gzip
import io as text_io

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import AnalysedVariants
from gpu_reml.io.association import association_table, association_text, gzipped, marginal_table, places_of
from gpu_reml.ops import pack, standardise

COUNTS = np.array([[0, 1, 2, 1], [1, 1, -127, 0], [2, 1, 2, 0], [2, 1, 0, -127]], np.int8)
VARIANTS = pd.DataFrame(
    {
        "chrom": ["1", "1", "2", "X"],
        "id": [f"rs{j}" for j in range(4)],
        "cm": [0.0, 0.5, 0, 0],
        "bp": [5, 123_456_789, 2, 9],
        "a1": list("ACGT"),
        "a2": list("GTAC"),
    }
)


@pytest.fixture
def tests():
    values = {name: np.arange(4) + 0.25 for name in ("beta", "se", "beta_std", "se_std", "t", "chisq")}
    values["beta"][1] = np.nan
    method = np.array(["score", np.nan, "refined", "score"], dtype=object)
    return {**values, "log10p": np.array([2.0, np.nan, 500.0, 0.0]), "method": method}


def test_least_squares_has_the_reference_columns_and_its_places(tests):
    rows = np.array([0, 2, 3, 6])  # of files with 3 and 4 variants
    variants = AnalysedVariants(VARIANTS, rows, 7)
    places = places_of(variants, ["first", "second"], [3, 4])
    text = association_text(marginal_table(variants, places, standardise([pack(COUNTS)], 4), tests))
    header = (
        "component_index component_name variant_index_global variant_index_local chrom variant_id cm bp a1 a2 af n_obs "
        "beta se beta_std se_std t p"
    )
    assert text.splitlines()[0] == "\t".join(header.split())
    table = pd.read_csv(text_io.StringIO(text), sep="\t")
    assert table["component_index"].tolist() == [0, 0, 1, 1]
    assert table["component_name"].tolist() == ["first", "first", "second", "second"]
    assert table["variant_index_global"].tolist() == rows.tolist()
    assert table["variant_index_local"].tolist() == [0, 2, 0, 3]
    assert table["n_obs"].tolist() == [4, 4, 3, 3]
    np.testing.assert_allclose(table["af"], [5 / 8, 4 / 8, 4 / 6, 1 / 6], rtol=1e-8)
    np.testing.assert_allclose(table["p"], [0.01, np.nan, 0, 1])
    assert table["bp"].tolist() == VARIANTS["bp"].tolist()
    assert text.splitlines()[2].split("\t")[12] == "NA"


def test_mixed_models_have_the_columns_of_others_and_information_for_dosages_only(tests):
    variants = AnalysedVariants(VARIANTS, np.arange(4), 4)
    genotypes = standardise([pack(COUNTS)], 4)
    calls = association_text(association_table(variants, genotypes, tests, dosages=False))
    lines = [line.split("\t") for line in calls.splitlines()]
    assert lines[0] == "CHROM GENPOS ID A1 A2 A1FREQ N INFO BETA SE CHISQ LOG10P P METHOD".split()
    assert [line[13] for line in lines[1:]] == ["score", "NA", "refined", "score"]
    assert [line[7] for line in lines[1:]] == ["NA"] * 4 and lines[2][8] == "NA"
    assert [line[11:13] for line in lines[1:]] == [["2", "0.01"], ["NA", "NA"], ["500", "0"], ["0", "1"]]
    assert lines[4][:5] == ["X", "9", "rs3", "T", "C"]
    information = association_table(variants, genotypes, tests, dosages=True)["INFO"]
    p = 5 / 8
    assert abs(information[0] - np.var([0, 1, 2, 2]) / (2 * p * (1 - p))) < 1e-12
    assert np.isnan(information[1])  # all heterozygous


def test_compressed_text_is_the_same_bytes_every_time():
    assert gzipped("a\tb\n") == gzipped("a\tb\n")
    assert gzip.decompress(gzipped("a\tb\n")) == b"a\tb\n"
