"""Models side by side: against dense REML, with the error of the difference of likelihoods, and from the command."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpu_reml.reml import compare, draw_probes, exact_probes
from gpu_reml.validation import dense, exact_reml
from gpu_reml.validation.__main__ import main
from gpu_reml.validation.simulate import simulate_bed

N, M = 200, 500


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(5)
    Z = rng.standard_normal((N, M))
    X = np.column_stack([np.ones(N), rng.standard_normal(N)])
    y = Z[:, :250] @ rng.standard_normal(250) / 16 + rng.standard_normal(N)
    halves = [Z[:, :250] @ Z[:, :250].T / 250, Z[:, 250:] @ Z[:, 250:].T / 250]
    return y, X, {"one": [sum(halves) / 2], "halves": halves, "first": halves[:1]}


def test_likelihoods_aic_and_ratios_are_those_of_dense_reml(cohort):
    y, X, models = cohort
    nested = [("one", "halves"), ("first", "halves")]
    found = compare(models, y, X, exact_probes(N), nested=nested)
    expected = [exact_reml(y, X, K) for K in models.values()]
    logliks = [fit.loglik for fit in expected]
    np.testing.assert_allclose(found.loglik, logliks, atol=2e-3)
    np.testing.assert_allclose(found.difference, np.array(logliks) - logliks[0], atol=4e-3)
    np.testing.assert_allclose(found.aic, -2 * np.array(logliks) + 2 * np.array([2, 3, 2]), atol=4e-3)
    assert (found.difference_mc_se == 0).all() and (found.loglik_mc_se == 0).all()
    for test, (small, df) in zip(found.nested, [(0, 1), (2, 1)], strict=True):
        statistic = max(0.0, 2 * (logliks[1] - logliks[small]))
        assert test.statistic == pytest.approx(statistic, abs=1e-2) and test.df == df
    # a shared variance is within the larger model, a component of none at its edge
    assert found.nested[0].p == pytest.approx(stats.chi2.sf(found.nested[0].statistic, 1))
    edge = found.nested[1]
    assert edge.p == pytest.approx(0.5 * (edge.statistic <= 0) + 0.5 * stats.chi2.sf(edge.statistic, 1))


def test_the_error_of_a_difference_is_honest_and_smaller_than_those_of_its_parts(cohort):
    y, X, models = cohort
    truth = [dense.dense_loglik(fit.theta, y, X, K) for fit, K in ((exact_reml(y, X, K), K) for K in models.values())]
    misses, ratios = [], []
    for seed in range(8):
        found = compare({name: models[name] for name in ("one", "halves")}, y, X, draw_probes(N, 64, 0, seed))
        misses.append((found.difference[1] - (truth[1] - truth[0])) / found.difference_mc_se[1])
        ratios.append(found.difference_mc_se[1] / np.hypot(*found.loglik_mc_se))
    assert np.abs(misses).max() < 4 and 0.3 < np.std(misses) < 2.5
    assert max(ratios) < 0.7


def test_a_model_that_holds_the_signal_predicts_held_out_samples_better(cohort):
    y, X, models = cohort
    other = {"first": models["first"], "second": models["halves"][1:]}
    found = compare(other, y, X, exact_probes(N), num_folds=5)
    assert found.r2[0] > found.r2[1] + 0.02 and found.aic[0] < found.aic[1]
    frame = found.to_frame()
    assert frame["h2"].tolist() == [fit.h2.estimate[-1] for fit in found.fits] and (frame["seconds"] > 0).all()
    assert "the model of least AIC: first" in repr(found)


def test_a_list_of_models_is_numbered_and_wrong_arguments_are_told(cohort):
    y, X, models = cohort
    assert compare([models["one"], models["first"]], y, X, 16).names == ("model_1", "model_2")
    with pytest.raises(ValueError, match="expected 2 or more, found 1"):
        compare([models["one"]], y, X)
    with pytest.raises(ValueError, match="no model 'two'; there are one, halves, first"):
        compare(models, y, X, nested=[("one", "two")])
    with pytest.raises(ValueError, match="one has no more variances than first"):
        compare(models, y, X, 16, nested=[("first", "one")])


def test_specifications_are_compared_from_the_command(tmp_path, capsys):
    simulate_bed(tmp_path / "data", 150, 300, 2)
    whole, halves = [{"name": "all", "variant_indices": list(range(300))}], []
    for half in range(2):
        halves.append({"name": f"half{half}", "variant_indices": list(range(150 * half, 150 * half + 150))})
    for name, spec in {"whole": whole, "halves": halves}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(spec))
    specs = [str(tmp_path / f"{name}.json") for name in ("whole", "halves")]
    data = ["--bfile", str(tmp_path / "data"), "--pheno", str(tmp_path / "data.pheno"), "--device", "cpu"]
    table = tmp_path / "table.tsv"
    assert main(["compare", *specs, *data, "--folds", "3", "--table", str(table)]) == 0
    assert "whole in halves: LRT" in capsys.readouterr().out
    assert pd.read_csv(table, sep="\t")["model"].tolist() == ["whole", "halves"]
    assert main(["compare", specs[0], *data]) == 2
    assert "expected 2 or more files of different names" in capsys.readouterr().err
