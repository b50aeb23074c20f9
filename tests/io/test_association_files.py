"""Tables of association tests, and their plots."""

import gzip
import io as text_io
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import AnalysedVariants
from gpu_reml.io.association import association_text, gzipped, marginal_table, mixed_table, places_of
from gpu_reml.io.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, manhattan_svg, qq_svg
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
    text = association_text(marginal_table(variants, places, standardise([pack(COUNTS)], 4), tests), "nan")
    header = (
        "component_index component_name variant_index_global variant_index_local chrom variant_id cm bp a1 a2 af n_obs "
        "beta se beta_std se_std t p log10p"
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
    assert table["bp"].tolist() == VARIANTS["bp"].tolist() and table["log10p"][2] == 500
    assert text.splitlines()[2].split("\t")[12] == "nan"


def test_mixed_models_have_the_columns_of_others_and_information_for_dosages_only(tests):
    variants = AnalysedVariants(VARIANTS, np.arange(4), 4)
    genotypes = standardise([pack(COUNTS)], 4)
    calls = association_text(mixed_table(variants, genotypes, tests, dosages=False), "NA")
    lines = [line.split("\t") for line in calls.splitlines()]
    assert lines[0] == "CHROM GENPOS ID A1 A2 A1FREQ N INFO BETA SE CHISQ LOG10P METHOD".split()
    assert [line[12] for line in lines[1:]] == ["score", "NA", "refined", "score"]
    assert [line[7] for line in lines[1:]] == ["NA"] * 4 and lines[2][8] == "NA"
    assert lines[4][:5] == ["X", "9", "rs3", "T", "C"]
    information = mixed_table(variants, genotypes, tests, dosages=True)["INFO"]
    p = 5 / 8
    assert abs(information[0] - np.var([0, 1, 2, 2]) / (2 * p * (1 - p))) < 1e-12
    assert np.isnan(information[1])  # all heterozygous


def test_compressed_text_is_the_same_bytes_every_time():
    assert gzipped("a\tb\n") == gzipped("a\tb\n")
    assert gzip.decompress(gzipped("a\tb\n")) == b"a\tb\n"


def dots(svg):
    """(k, 3) x, y and length of every stroke of the points' paths."""
    paths = re.findall(r'<path d="([^"]*)"', svg)
    return [np.array(re.findall(r"M(-?\d+) (-?\d+)v(\d+)", path), dtype=int) for path in paths]


def test_manhattan_places_points_by_chromosome_and_height():
    chrom, bp = ["1"] * 3 + ["X"] * 2, np.array([100, 200, 300, 1000, 1200])
    svg = manhattan_svg(chrom, bp, np.array([0.0, 4.0, np.nan, 20.0, np.inf]), "a < b & c")
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b & c" in texts and "1" in texts and "X" in texts
    first, second = dots(svg)
    assert len(first) == 2 and len(second) == 2
    assert first[0].tolist() == [LEFT, HEIGHT - BOTTOM, 0]
    heights = HEIGHT - BOTTOM - first[1, 1], HEIGHT - BOTTOM - second[0, 1]
    assert abs(heights[1] / heights[0] - 5) < 0.05
    # 201 positions each and gaps of a hundredth of all after each: the last one is at 405.02 of 410.04
    assert abs(second[1, 0] - (LEFT + 405.02 / 410.04 * (WIDTH - LEFT - RIGHT))) <= 0.5 and second[1, 1] == TOP
    assert (np.diff(np.concatenate([first, second])[:, 0]) > 0).all()


def test_plots_of_many_variants_stay_small_and_lose_no_lone_point():
    rng = np.random.default_rng(0)
    m = 100_000
    log10p = -np.log10(rng.random(m))
    log10p[1234] = 60.0
    bp = np.tile(np.arange(m // 10) * 1000, 10)
    chrom = np.repeat([str(c) for c in range(1, 11)], m // 10)
    svg = manhattan_svg(chrom, bp, log10p, "t")
    assert len(svg) < 50_000
    assert dots(svg)[0][:, 1].min() == round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 1.05)
    assert len(qq_svg(log10p, "t")) < 20_000


def test_qq_is_on_the_line_for_uniform_p_and_above_for_inflated_ones():
    m = 5000
    log10p = -np.log10((np.arange(m) + 0.5) / m)
    ElementTree.fromstring(qq_svg(log10p, "t"))
    level, raised = dots(qq_svg(log10p, "t"))[0], dots(qq_svg(2 * log10p, "t"))[0]
    most = 1.1 * -np.log10(5e-8)

    def observed(points):
        return (HEIGHT - BOTTOM - points[:, 1]) / (HEIGHT - TOP - BOTTOM) * most

    expected = (level[:, 0] - LEFT) / (HEIGHT - LEFT - RIGHT) * log10p.max()
    assert np.abs(observed(level) - expected).max() < 0.05
    assert observed(raised).max() > 1.9 * observed(level).max()


def test_plots_without_a_test_are_drawn_empty():
    nothing = np.full(3, np.nan)
    assert dots(qq_svg(nothing, "t")) == [] and dots(manhattan_svg(["1"] * 3, np.arange(3), nothing, "t")) == []
