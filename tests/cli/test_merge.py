"""``--merge`` and ``--export-ai`` end to end, on a cohort where merging must happen and one where it must not."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io as io_module
from gpu_reml.cli.main import main
from gpu_reml.validation import dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import simulate_cohort, simulate_phenotype, write_plink

N, M, G = 320, 250, 5
SETS = {f"set{g}": np.arange(M)[np.arange(M) % G == g] for g in range(G)}
CUTOFF = 1.6448536269514722
FIT = "json hsq log history.tsv theta.npy ai.npy grad.npy ai_stats.json".split()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Phenotype ``two``: only set0 and set3 have an effect; ``five``: all have."""
    folder = tmp_path_factory.mktemp("merge")
    people = simulate_cohort(N, M, 5)
    write_plink(people, folder / "data")
    weights = [np.isin(np.arange(M), indices).astype(float) for indices in SETS.values()]
    two = simulate_phenotype(people, weights, np.array([0.35, 0, 0, 0.35, 0, 0.3]) * 25, seed=3).y + 170
    five = simulate_phenotype(people, weights, np.array([0.17] * 5 + [0.15]), seed=4).y
    two[7] = np.nan
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(two=two, five=five).to_csv(folder / "pheno.txt", sep="\t", index=False, na_rep="NA")
    spec = [{"name": name, "variant_indices": indices.tolist()} for name, indices in SETS.items()]
    (folder / "spec.json").write_text(json.dumps(spec))
    kept = ~np.isnan(two)
    return {"folder": folder, "Z": dense.standardised(people.counts[kept]), "two": two[kept]}


def run(cohort, *arguments, out, merge=True, name="two"):
    folder = cohort["folder"]
    files = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt"]
    if "--component-spec" not in arguments:
        files += ["--component-spec", folder / "spec.json"]
    command = [*files, "--pheno-name", name, "--out", out, "--device", "cpu", "--quiet", *arguments]
    return main([str(part) for part in [*command, *(["--merge"] if merge else [])]])


def read(path):
    return json.loads(path.read_text())


def test_weak_components_are_merged_and_the_last_fit_is_the_dense_fit_of_the_merged_ones(cohort, tmp_path, capsys):
    assert run(cohort, "--method", "exact", out=tmp_path / "out") == 0
    printed = capsys.readouterr().out
    summary = read(tmp_path / "out.merge/zscore_merge_summary.json")
    assert summary["stop_reason"] == "one_shot_merge_refit_complete" and summary["converged"] is True
    first = summary["rounds"][0]["components"]
    weak = [c["name"] for c in first if c["z"] < CUTOFF]
    assert {"set1", "set2", "set4"} >= set(weak) and len(weak) >= 2
    assert summary["merged"] == weak == [c["name"] for c in first if c["status"] == "merged"]
    record = read(tmp_path / "out.json")
    names = [name for name in SETS if name not in weak]
    assert [c["name"] for c in record["components"]] == [*names, "zmerge_block_0000"]
    log = (tmp_path / "out.log").read_text()
    assert all(f"component {name}:" in log for name in [*names, "zmerge_block_0000"])
    assert not any(f"component {name}:" in log for name in weak)
    union = np.sort(np.concatenate([SETS[name] for name in weak]))
    kernels = [dense.kernel(cohort["Z"], np.isin(np.arange(M), s).astype(float)) for s in SETS.values()]
    merged = dense.kernel(cohort["Z"], np.isin(np.arange(M), union).astype(float))
    X = np.ones((N - 1, 1))
    one = exact_reml(cohort["two"], X, kernels)
    two = exact_reml(cohort["two"], X, [*(kernels[list(SETS).index(name)] for name in names), merged])
    for fit, expected in ((summary["rounds"][0], one), (summary["rounds"][1], two)):
        se = np.sqrt(np.diag(np.linalg.inv(expected.ai)))[:-1]
        found = pd.DataFrame(fit["components"])
        np.testing.assert_allclose(found["theta"], expected.theta[:-1], atol=1e-3 * se.min())
        np.testing.assert_allclose(found["se"] / found["variance"], se / found["theta"], rtol=1e-3)
        np.testing.assert_allclose(found["z"], expected.theta[:-1] / se, atol=2e-3)
        np.testing.assert_allclose(fit["loglik"], expected.loglik, atol=1e-3)
    np.testing.assert_allclose([c["variance"] for c in record["components"]], found["variance"])
    for component in first:
        assert f"{component['z']:8.3f}" in printed
    assert printed.count("  merged\n") == len(weak) and "zmerge_block_0000" in printed


def test_every_file_of_both_rounds_is_there_and_says_what_it_is_of(cohort, tmp_path):
    assert run(cohort, "--merge-out-dir", tmp_path / "deep/rounds", out=tmp_path / "out") == 0
    folder = tmp_path / "deep/rounds"
    summary = read(folder / "zscore_merge_summary.json")
    trace = pd.read_csv(folder / "zscore_merge_trace.tsv", sep="\t")
    columns = (
        "round stage merge_mode n_components h2 sum_theta_g theta_e n_weak_z n_reject_z n_merged_groups "
        "next_n_components z_cutoff z_min z_median z_max se_median component_spec theta_npy ai_npy"
    )
    assert list(trace.columns) == columns.split()
    assert trace["next_n_components"][0] == trace["n_components"][1] < trace["n_components"][0] == G
    for number, spec_name in enumerate(trace["component_spec"]):
        fit = folder / f"round{number:02d}/fit"
        record, stats = read(fit.with_name("fit.json")), read(fit.with_name("fit.ai_stats.json"))
        theta, ai = np.load(folder / trace["theta_npy"][number]), np.load(folder / trace["ai_npy"][number])
        variances = [c["theta"] for c in [*record["components"], *record["residuals"]]]
        np.testing.assert_array_equal(theta, variances)
        np.testing.assert_allclose(np.linalg.inv(ai * stats["n_samples"]), record["theta_covariance"], rtol=1e-6)
        errors = [c["theta_se"] for c in record["components"]]
        np.testing.assert_allclose(np.load(fit.with_name("theta_se.npy")), errors)
        z = np.load(fit.with_name("theta_z.npy"))
        np.testing.assert_allclose(z, [c["variance"] / c["se"] for c in record["components"]])
        np.testing.assert_allclose([c["z"] for c in summary["rounds"][number]["components"]], z)
        spec = read(folder / spec_name)["components"]
        assert [c["name"] for c in spec] == [c["name"] for c in record["components"]]
        assert sorted(i for c in spec for i in c["variant_indices"]) == list(range(M))
        for suffix in FIT:
            assert (folder / f"round{number:02d}/fit.{suffix}").stat().st_size
    assert spec[-1]["provenance"]["source_components"] == summary["merged"]
    assert spec[0]["annotation"]["status"] == "kept_significant"
    for suffix in ("theta.npy", "ai.npy", "grad.npy"):
        assert (tmp_path / f"out.{suffix}").read_bytes() == (folder / f"round01/fit.{suffix}").read_bytes()
    assert read(tmp_path / "out.component_spec.json")["components"] == spec
    # the component file of the last round gives the last fit again, without a merge
    again = ("--component-spec", folder / "round01.component_spec.json")
    assert run(cohort, *again, out=tmp_path / "again", merge=False) == 0
    assert read(tmp_path / "again.json")["components"] == read(tmp_path / "out.json")["components"]
    assert not list(tmp_path.rglob("*checkpoint*")) and not list(tmp_path.rglob("*.tmp"))


def test_components_that_all_have_an_effect_are_left_alone(cohort, tmp_path, capsys):
    assert run(cohort, "--merge", out=tmp_path / "out", name="five", merge=False) == 0
    summary = read(tmp_path / "out.merge/zscore_merge_summary.json")
    assert (summary["stop_reason"], summary["n_rounds"], summary["merged"]) == ("no_more_weak_merges", 1, [])
    assert [c["name"] for c in read(tmp_path / "out.json")["components"]] == list(SETS)
    assert not (tmp_path / "out.merge/round01").exists()
    assert "nothing to merge" in capsys.readouterr().out
    assert run(cohort, out=tmp_path / "plain", name="five", merge=False) == 0
    assert read(tmp_path / "plain.json")["components"] == read(tmp_path / "out.json")["components"]


def test_nothing_of_an_earlier_run_is_used_or_left(cohort, tmp_path):
    assert run(cohort, out=tmp_path / "fresh", name="five") == 0
    assert run(cohort, out=tmp_path / "out") == 0
    assert (tmp_path / "out.merge/round01/fit.theta.npy").exists()
    assert run(cohort, out=tmp_path / "out", name="five") == 0
    assert not list((tmp_path / "out.merge/round01").iterdir())
    assert not (tmp_path / "out.merge/round01.component_spec.json").exists()
    for path in ("merge/round00/fit.theta.npy", "merge/round00/theta_z.npy", "theta.npy", "component_spec.json"):
        assert (tmp_path / f"out.{path}").read_bytes() == (tmp_path / f"fresh.{path}").read_bytes()


def test_the_cutoff_and_the_number_of_samples_decide_what_is_weak(cohort, tmp_path):
    z = {}
    cases = {"plain": (), "quarter": ("--merge-n-eff", (N - 1) / 4), "full": ("--merge-ai-scale-mode", "full")}
    for case, flags in cases.items():
        assert run(cohort, "--method", "exact", *flags, out=tmp_path / case) == 0
        z[case] = np.load(tmp_path / f"{case}.merge/round00/theta_z.npy")
    np.testing.assert_allclose(z["quarter"], z["plain"] / 2)
    np.testing.assert_array_equal(z["full"], z["plain"])
    assert run(cohort, "--method", "exact", "--z-cutoff", 1e6, out=tmp_path / "all") == 0
    assert [c["name"] for c in read(tmp_path / "all.json")["components"]] == ["zmerge_block_0000"]
    assert run(cohort, "--method", "exact", "--z-cutoff", -1, out=tmp_path / "none") == 0
    assert read(tmp_path / "none.merge/zscore_merge_summary.json")["n_rounds"] == 1


def test_a_first_fit_that_did_not_converge_merges_nothing_and_ends_with_code_three(cohort, tmp_path, capsys):
    flags = ("--method", "stochastic", "--max-iterations", 1)
    assert run(cohort, *flags, out=tmp_path / "out") == 3
    summary = read(tmp_path / "out.merge/zscore_merge_summary.json")
    assert (summary["stop_reason"], summary["converged"]) == ("round00_not_converged", False)
    assert len(read(tmp_path / "out.json")["components"]) == G
    assert "has not converged, so nothing is merged" in capsys.readouterr().out


def test_several_traits_are_merged_each_on_its_own(cohort, tmp_path):
    assert run(cohort, "--merge-out-dir", tmp_path / "rounds", out=tmp_path / "out", name="two,five") == 0
    assert read(tmp_path / "rounds/two/zscore_merge_summary.json")["n_rounds"] == 2
    assert read(tmp_path / "rounds/five/zscore_merge_summary.json")["n_rounds"] == 1
    assert (tmp_path / "out.two.ai.npy").exists() and (tmp_path / "out.five.ai.npy").exists()


def test_a_run_killed_in_the_second_fit_resumes_to_the_same_results(cohort, tmp_path, monkeypatch):
    flags = ("--method", "stochastic", "--checkpoint-seconds", 0)
    assert run(cohort, *flags, out=tmp_path / "whole") == 0
    real = io_module.write_checkpoint

    def dies_in_the_second_fit(path, *arguments):
        real(path, *arguments)
        if "round01" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(io_module, "write_checkpoint", dies_in_the_second_fit)
    assert run(cohort, *flags, out=tmp_path / "cut") == 130
    assert (tmp_path / "cut.merge/round00/fit.json").exists() and not (tmp_path / "cut.json").exists()
    monkeypatch.setattr(io_module, "write_checkpoint", real)
    assert run(cohort, *flags, "--resume", out=tmp_path / "cut") == 0
    whole, cut = (read(tmp_path / f"{name}.json")["components"] for name in ("whole", "cut"))
    assert whole == cut
    assert not list(tmp_path.rglob("*checkpoint*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "he"), "--merge: .*average information"),
        (("--merge-ai-scale-mode", "full", "--merge-n-eff", 100), "--merge-n-eff"),
        (("--merge-out-dir", "{}/pheno.txt"), "pheno.txt"),
        (("--component-spec", "{}/one.json"), "--merge: there is one component"),
    ],
)
def test_flags_that_contradict_a_merge_are_one_line_and_code_two(cohort, tmp_path, capsys, flags, message):
    folder = cohort["folder"]
    (folder / "one.json").write_text(json.dumps([{"variant_indices": [0, 1, 2, 3]}]))
    flags = [str(flag).format(folder) for flag in flags]
    assert run(cohort, *flags, out=tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-reml: error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.glob("out.*json"))


@pytest.mark.parametrize("method", ["exact", "stochastic"])
def test_exported_arrays_are_the_fits_estimates_information_and_score(cohort, tmp_path, method):
    assert run(cohort, "--export-ai", "--method", method, out=tmp_path / "out", merge=False) == 0
    theta, ai, grad = (np.load(tmp_path / f"out.{name}.npy") for name in ("theta", "ai", "grad"))
    record, stats = read(tmp_path / "out.json"), read(tmp_path / "out.ai_stats.json")
    np.testing.assert_array_equal(theta[:-1], [c["theta"] for c in record["components"]])
    np.testing.assert_allclose(np.linalg.inv(ai * (N - 1)), record["theta_covariance"], rtol=1e-6)
    kernels = [dense.kernel(cohort["Z"], np.isin(np.arange(M), s).astype(float)) for s in SETS.values()]
    score = dense.dense_score(theta, cohort["two"], np.ones((N - 1, 1)), kernels)
    per_se = np.sqrt(np.diag(ai * (N - 1)))  # the score in units of its own spread
    allowed = 1e-3 if method == "exact" else 0.5
    assert (np.abs(grad * (N - 1) - score) <= allowed * per_se).all()
    bound = np.array([c["at_bound"] for c in record["components"]])
    assert bound.any() and (grad[:-1][bound] < 0).all()
    assert (stats["n_samples"], stats["n_components"], stats["n_covar"]) == (N - 1, G, 1)
    np.testing.assert_allclose(stats["loglik"], record["loglik_gcta"] / (N - 1))
    np.testing.assert_allclose(stats["heritability"], record["h2"]["estimate"])
    assert (tmp_path / stats["ai_npy"]).exists()


def test_haseman_elston_has_nothing_to_export(cohort, tmp_path, capsys):
    assert run(cohort, "--export-ai", "--method", "he", out=tmp_path / "out", merge=False) == 2
    assert "--export-ai" in capsys.readouterr().err
