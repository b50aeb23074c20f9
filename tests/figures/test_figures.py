"""Figures: what is drawn where, and text that is well formed and small."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from gpu_reml import figures
from gpu_reml.figures import canvas
from gpu_reml.io.sparse import PathTable

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure):
    return {element.text for element in ElementTree.fromstring(figures.svg_of(figure)).iter(f"{SVG}text")}


def points(figure, marker="."):
    """(k, 2) what is drawn with a marker."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == marker]
    return np.concatenate([np.column_stack(line.get_data()) for line in lines] or [np.zeros((0, 2))])


def test_manhattan_places_points_by_chromosome_and_height():
    chrom, bp = ["1"] * 3 + ["X"] * 2, np.array([100, 200, 300, 1000, 1200])
    figure = figures.manhattan(chrom, bp, np.array([0.0, 4.0, np.nan, 20.0, np.inf]), "a < b & c")
    assert {"a < b & c", "1", "X"} <= texts(figure)
    # 201 positions each, and gaps of a hundredth of all after each
    np.testing.assert_allclose(points(figure), [[0, 0], [100, 4], [205.02, 20]])
    (top,) = points(figure, "^")
    assert top[0] == pytest.approx(405.02) and 20 < top[1] < figure.axes[0].get_ylim()[1]


def test_pictures_of_many_variants_stay_small_and_are_the_same_every_time():
    log10p = -np.log10(np.random.default_rng(0).random(100_000))
    bp, chrom = np.tile(np.arange(10_000) * 1000, 10), np.repeat([str(c) for c in range(1, 11)], 10_000)
    first, second = (figures.svg_of(figures.manhattan(chrom, bp, log10p)) for _ in range(2))
    assert first == second and len(first) < 200_000
    assert len(figures.svg_of(figures.qq(log10p))) < 100_000


@pytest.mark.parametrize("strongest", [3.0, 40.0, np.inf])
def test_no_point_of_a_qq_plot_is_on_its_frame(strongest):
    m = 5000
    log10p = -np.log10((np.arange(m) + 0.5) / m)
    log10p[0] = strongest
    figure = figures.qq(log10p)
    seen = np.concatenate([points(figure), points(figure, "^")])
    (left, right), (low, high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert len(seen) == m
    assert left < seen[:, 0].min() and seen[:, 0].max() < right and low < seen[:, 1].min() and seen[:, 1].max() < high


def test_a_qq_plot_of_uniform_p_is_on_the_line_and_within_the_band():
    m = 5000
    log10p = -np.log10((np.arange(m) + 0.5) / m)
    figure = figures.qq(np.append(log10p, np.nan))
    np.testing.assert_allclose(*points(figure).T)
    band = figure.axes[0].collections[0].get_paths()[0]
    assert all(band.contains_point(point, radius=1e-6) for point in points(figure)[1:m:500])


def test_plots_without_a_test_are_drawn_empty():
    nothing = np.full(3, np.nan)
    assert len(points(figures.qq(nothing))) == 0 == len(points(figures.manhattan(["1"] * 3, np.arange(3), nothing)))


def record(count=3, **more):
    rows = [
        {"name": f"set{g}", "h2": 0.1 * (g + 1), "h2_se": 0.02, "h2_mc_se": 0.004, "at_bound": g == 0}
        for g in range(count)
    ]
    return {"components": rows, "h2": {"estimate": 0.6, "se": 0.05, "mc_se": None}, **more}


def test_a_forest_plot_has_every_component_its_interval_and_their_sum():
    figure = figures.plot_components(record())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["set0", "set1", "set2", "h2"]
    spans = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2 and len(line.get_xdata()) == 2]
    np.testing.assert_allclose(spans[1], [0.2 - 1.96 * 0.02, 0.2 + 1.96 * 0.02], atol=1e-5)
    np.testing.assert_allclose(spans[3], [0.6 - 1.96 * 0.05, 0.6 + 1.96 * 0.05], atol=1e-5)
    hollow = [line.get_ydata()[0] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [0]


def test_a_forest_plot_takes_the_interval_of_the_profile_and_the_largest_of_very_many_components():
    figure = figures.plot_components(record(1, h2_profile={"lower": 0.4, "upper": 0.9, "h2": [], "loglik": []}))
    assert any(np.array_equal(line.get_xdata(), [0.4, 0.9]) for line in figure.axes[0].lines)
    many = figures.plot_components(record(100)).axes[0]
    names = [label.get_text() for label in many.get_yticklabels()]
    assert len(names) == 61 and names[0] == "set40" and names[-1] == "h2"


def test_a_profile_is_drawn_below_its_top_and_an_unknown_one_is_an_error():
    curve = {
        "quantity": "set1",
        "value": [0.1, 0.2, 0.3],
        "difference": [-1.0, 0.0, -1.5],
        "lower": 0.05,
        "upper": None,
    }
    figure = figures.plot_profile(record(profiles=[curve]), "set1")
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [-1, 0, -1.5])
    assert figure.axes[0].lines[0].get_ydata().max() == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="no profile of h2; fit with FitSettings"):
        figures.plot_profile(record())


def test_correlations_are_genetic_above_the_diagonal_and_residual_below():
    rows = [("total", 0.5), ("residual", -0.2), ("component_000", 0.9)]
    pairs = [{"trait_1": "b", "trait_2": "a", "component": name, "rg": rg} for name, rg in rows]
    figure = figures.plot_correlations({"traits": ["a", "b"], "pairs": pairs})
    shown = figure.axes[0].images[0].get_array()
    assert shown[0, 1] == 0.5 and shown[1, 0] == -0.2 and shown.mask.diagonal().all()


def path_of(chosen_step, k=60, steps=40):
    lambdas = np.geomspace(2, 0.05, steps)
    enter = np.linspace(0.1, 1.9, k)
    coefficients = np.maximum(0, enter - lambdas[:, None]) * np.where(np.arange(k) % 2, 1, -1)
    nothing = np.zeros(steps)
    return PathTable(lambdas, nothing, nothing, nothing, coefficients, [f"rs{j}" for j in range(k)], enter, chosen_step)


def test_a_path_colours_the_chosen_variants_and_leaves_the_others_grey():
    path = path_of(10)
    figure = figures.plot_path(path, "nothing < chosen & drawn")
    kinds = {line.get_gid() for line in figure.axes[0].lines}
    chosen = set(np.flatnonzero(path.coefficients[10]))
    assert {int(gid.split("-")[1]) for gid in kinds if gid and gid.startswith("chosen")} == chosen
    assert 0 < len(chosen) < 40 and sum(gid.startswith("other") for gid in kinds if gid) == 60 - len(chosen)
    strongest = {f"rs{j}" for j in np.argsort(-abs(path.coefficients[10]))[:20]}
    assert strongest <= texts(figure)


def test_ids_of_a_path_are_apart_and_in_the_picture():
    notes = figures.plot_path(path_of(39)).axes[0].texts
    heights = np.sort([note.xyann[1] for note in notes])
    low, high = notes[0].axes.get_ylim()
    assert len(notes) == 25 and np.diff(heights).min() > 0.99 * (high - low) / 26
    assert low <= heights[0] and heights[-1] <= high


def test_a_path_of_no_variant_says_so():
    empty = SimpleNamespace(lambdas=np.zeros(1), coefficients=np.zeros((1, 2)), ids=["a", "b"], chosen=0)
    assert "no variant enters" in texts(figures.plot_path(empty))


def test_a_figure_on_a_page_has_names_of_its_own_and_a_label():
    svg = canvas.inline_svg(figures.qq(np.array([1.0, 2.0])), 'p of "a" & b')
    assert svg.startswith('<svg role="img" aria-label="p of &quot;a&quot; &amp; b"')
    ids = set(re.findall(r'\bid="([^"]*)"', svg))
    assert ids and all(each.startswith("p-of-a-b-") for each in ids)
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'href="#([^"]*)"', svg)) <= ids


def test_without_matplotlib_a_figure_says_what_to_install(monkeypatch):
    monkeypatch.setattr(canvas, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"not installed: pip install 'gpu-reml\[report\]'"):
        figures.qq(np.ones(3))


def test_commands_refuse_pictures_that_cannot_be_drawn_before_any_work(monkeypatch, capsys, tmp_path):
    from gpu_reml.cli import pictures
    from gpu_reml.cli.gwas import main

    monkeypatch.setattr(canvas, "find_spec", lambda name: None)
    out = str(tmp_path / "o")
    assert main(["--bfile", "none", "--pheno", "none", "--plots", "--out", out]) == 2
    assert "--plots: needs matplotlib, which is not installed" in capsys.readouterr().err
    assert pictures.drawn("o.svg", None) == {} and "no picture o.svg" in capsys.readouterr().out


def test_results_draw_themselves():
    import gpu_reml

    rng = np.random.default_rng(0)
    counts = rng.binomial(2, 0.4, (60, 200))
    Z = (counts - counts.mean(0)) / counts.std(0)
    result = gpu_reml.fit_exact(rng.standard_normal(60), np.ones((60, 1)), Z @ Z.T / 200)
    (mark,) = [line for line in result.plot().axes[0].lines if line.get_marker() == "D"]
    assert mark.get_xdata()[0] == pytest.approx(result.h2.estimate[-1])
    assert gpu_reml.plot_profile(result).axes[0].lines[0].get_ydata().max() == pytest.approx(0, abs=1e-3)


def test_predictions_stand_beside_phenotypes_that_are_known_or_else_alone():
    predicted, y = np.array([1.0, 2.0, 3.0]), np.array([1.5, np.nan, 2.5])
    figure = figures.plot_prediction(predicted, y)
    np.testing.assert_array_equal(points(figure), [[1, 1.5], [3, 2.5]])
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
    np.testing.assert_array_equal(np.column_stack(line.get_data()), [[1, 1], [3, 3]])
    for nobody in (None, np.full(3, np.nan)):
        alone = figures.plot_prediction(predicted, nobody, "genetic value").axes[0]
        assert not alone.lines and sum(patch.get_height() for patch in alone.patches) == 3
        assert (alone.get_xlabel(), alone.get_ylabel()) == ("genetic value", "people")


def test_a_search_is_drawn_above_its_start_and_refused_steps_are_hollow():
    rows = [(1, -10.0, None, True), (2, -7.0, 0.5, True), (3, -8.0, 0.25, False), (4, None, None, False)]
    keys = ("outer", "loglik", "gain_mc_se", "accepted")
    axes = figures.plot_search([dict(zip(keys, row, strict=True)) for row in rows]).axes[0]
    filled, hollow = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(np.column_stack(filled.get_data()), [[1, 0], [2, 3]])
    np.testing.assert_array_equal(np.column_stack(hollow.get_data()), [[3, 2]])
    assert hollow.get_markerfacecolor() == "white" != filled.get_markerfacecolor()
    bars = axes.collections[0].get_segments()
    np.testing.assert_allclose([np.ptp(bar[:, 1]) for bar in bars], [0, 2, 1])
