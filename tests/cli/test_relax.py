"""``gpu-reml-relax`` end to end: its files, GPU_REML's flags, and one line for what is wrong."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli.relax import main
from gpu_reml.validation import dense
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 300, 120
FILES = "theta.npy var_components.npy theta_grad.npy history.json meta.json relax.log".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A phenotype to which a fifth of the variants contribute, with a covariate and two missing values."""
    folder = tmp_path_factory.mktemp("relax")
    people = simulate_cohort(N, M, 6)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(0)
    Z = dense.standardised(people.counts)
    genetic = Z @ np.where(rng.random(M) < 0.2, rng.standard_normal(M), 0)
    age = rng.integers(20, 70, N).astype(float)
    y = 4 * (genetic / genetic.std() + rng.standard_normal(N)) + 0.2 * age
    y[[4, 9]] = np.nan
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(height=y).to_csv(folder / "pheno.txt", **write)
    ids.assign(age=age).to_csv(folder / "age.txt", **write)
    ids[:250].to_csv(folder / "keep.txt", sep=" ", header=False, index=False)
    return folder


def run(folder, *arguments, out):
    command = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--n-groups", 2, "--device", "cpu"]
    return main([str(part) for part in [*command, "--out", out, *arguments]])


def read(prefix):
    return {name: np.load(f"{prefix}.{name}") for name in FILES[:3]} | {
        name: json.loads(prefix.with_name(f"{prefix.name}.{name}").read_text()) for name in FILES[3:5]
    }


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("out") / "deep" / "groups"
    assert run(folder, "--qcovar", folder / "age.txt", out=prefix) == 0
    return prefix, read(prefix)


def test_six_files_say_what_was_learned(found):
    prefix, files = found
    assert sorted(path.name for path in prefix.parent.iterdir()) == sorted(f"groups.{name}" for name in FILES)
    T, gradient, theta = files["theta.npy"], files["theta_grad.npy"], files["var_components.npy"]
    assert T.shape == gradient.shape == (M, 2) and theta.shape == (3,)
    np.testing.assert_allclose(T.sum(axis=1), 1)
    meta, history = files["meta.json"], files["history.json"]["outer_iterations"]
    np.testing.assert_allclose(meta["group_sizes"], T.sum(axis=0))
    variances = [c["theta"] for c in [*meta["fit"]["components"], *meta["fit"]["residuals"]]]
    np.testing.assert_array_equal(variances, theta)
    assert (meta["n"], meta["num_variants"], meta["n_groups"]) == (N - 2, M, 2)
    assert meta["covariates"] == ["intercept", "age"] and "no test" in meta["caution"]
    assert len(history) == 5 and history[0]["accepted"] and history[0]["rate"] == 0
    accepted = [record["loglik"] for record in history if record["accepted"]]
    assert accepted == sorted(accepted) and abs(accepted[-1] - accepted[0] - meta["loglik_gain"]) < 1e-9
    assert meta["loglik_gain"] > 5 and 0 < meta["loglik_gain_mc_se"] < 2
    assert abs(accepted[-1] - meta["fit"]["loglik"]) <= 0.1 and "same probes" in meta["loglik_comparison"]
    assert meta["num_accepted_updates"] == len(accepted) - 1


def test_the_variances_are_those_of_the_dense_fit_at_the_written_memberships(folder, found):
    from bed_reader import open_bed

    from gpu_reml.validation.exact import exact_reml

    _, files = found
    table = pd.read_csv(folder / "pheno.txt", sep="\t")
    age = pd.read_csv(folder / "age.txt", sep="\t")["age"]
    kept = table["height"].notna().to_numpy()
    with open_bed(folder / "data.bed") as bed:
        Z = dense.standardised(bed.read(dtype="int8")[kept])
    X = np.column_stack([np.ones(N), age])[kept]
    expected = exact_reml(table["height"].to_numpy()[kept], X, [dense.kernel(Z, w) for w in files["theta.npy"].T])
    fit = files["meta.json"]["fit"]
    for part, value in zip([*fit["components"], *fit["residuals"]], expected.theta, strict=True):
        per_unit = part["theta_se"] / part["se"]
        assert abs(part["theta"] - value) <= per_unit * (4 * part["mc_se"] + 0.02 * part["se"])


def test_the_reference_systems_flags_are_understood(folder, tmp_path, capsys):
    command = (
        f"--bed-prefix {folder}/data --pheno-txt {folder}/pheno.txt --covar-txt {folder}/age.txt "
        f"--keep-path {folder}/keep.txt --out-prefix {tmp_path}/r --device cpu --call-width 65536 --cpu-threads 0 "
        "--n-groups 3 --outer-iters 3 --theta-lr 1e-3 --theta-init random --theta-random-low 0.2 "
        "--theta-random-high 0.9 --theta-linesearch-trials 2 --reml-log-detail compact --reml-verbose --n-rand-vec 24 "
        "--max-pcg-iters 300 --minq-iter 15 --slq-samples 4 --slq-m 8 --h2-init 0.5 --pcg-tol 1e-3 --seed 3 --verbose"
    )
    assert main(command.split()) == 0
    files = read(tmp_path / "r")
    assert files["theta.npy"].shape == (M, 3) and files["meta.json"]["n"] == 248
    assert [r["rate"] for r in files["history.json"]["outer_iterations"]] == [0, 1e-3, 1e-3]
    assert files["meta.json"]["fit"]["num_probes"] == 24
    printed = capsys.readouterr().out
    assert len(re.findall("^outer iteration", printed, re.M)) == 3 and re.search("^  iteration 1: ", printed, re.M)
    assert "accepted updates" in printed and "h2 =" in printed and f"{tmp_path}/r" in printed


def test_memberships_from_a_file_are_the_start_and_zeros_stay(folder, tmp_path):
    T = np.random.default_rng(1).random((M, 2))
    T[:10, 1] = 0
    np.save(tmp_path / "start.npy", 2 * T)
    assert (
        run(folder, "--theta-init-npy", tmp_path / "start.npy", "--outer-iters", 1, "--quiet", out=tmp_path / "a") == 0
    )
    first = read(tmp_path / "a")
    np.testing.assert_allclose(first["theta.npy"], T / T.sum(axis=1, keepdims=True))
    assert run(folder, "--theta-init-npy", tmp_path / "a.theta.npy", "--outer-iters", 2, out=tmp_path / "b") == 0
    second = read(tmp_path / "b")
    assert (second["theta.npy"][:10, 1] == 0).all() and (second["theta.npy"] != first["theta.npy"]).any()
    same = second["history.json"]["outer_iterations"][0]
    np.testing.assert_allclose(same["loglik"], first["history.json"]["outer_iterations"][0]["loglik"], rtol=1e-9)


def test_the_start_of_the_first_fit_does_not_move_its_end(folder, tmp_path):
    for name, flags in {"he": (), "half": ("--h2-init", 0.5)}.items():
        assert run(folder, "--outer-iters", 1, "--quiet", *flags, out=tmp_path / name) == 0
    one, two = (read(tmp_path / name)["meta.json"]["fit"] for name in ("he", "half"))
    assert abs(one["h2"]["estimate"] - two["h2"]["estimate"]) <= 0.05 * one["h2"]["se"]


BAD = {
    "uniform": (("--theta-init", "uniform"), "--theta-init uniform"),
    "no such start": (("--theta-init-npy", "{}/absent.npy"), r"--theta-init-npy file not found: \S*absent.npy"),
    "not an array": (("--theta-init-npy", "{}/pheno.txt"), "pheno.txt: not a .npy array"),
    "wrong groups": (("--theta-init-npy", "{}/three.npy"), r"three.npy: .*\(variants, 2\).*found \(120, 3\)"),
    "wrong variants": (("--theta-init-npy", "{}/short.npy"), "short.npy: .*120 variants, found 7"),
    "negative": (("--theta-init-npy", "{}/negative.npy"), "memberships of variant 5"),
    "low and high": (("--theta-random-low", 2), "--theta-random-low"),
    "two filesets": (("--bfile", "{}/data,{}/data"), "one fileset; give one prefix"),
    "missing keep": (("--keep", "{}/absent.txt"), "absent.txt"),
    "output under a file": (("--out", "{}/pheno.txt/x"), "pheno.txt"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_two_before_any_fit(folder, tmp_path, capsys, monkeypatch, case):
    np.save(folder / "three.npy", np.random.default_rng(0).random((M, 3)))
    np.save(folder / "short.npy", np.random.default_rng(0).random((7, 2)))
    negative = np.random.default_rng(0).random((M, 2))
    negative[5, 0] = -1
    np.save(folder / "negative.npy", negative)
    monkeypatch.setattr("gpu_reml.reml.studies.relax.ended", None)  # a fit would be a TypeError
    flags, message = BAD[case]
    assert run(folder, *(str(flag).format(folder, folder) for flag in flags), out=tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-reml-relax: error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_one_group_is_refused_by_the_parser(folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(folder, "--n-groups", 1, out=tmp_path / "x")
    assert "2 groups or more" in capsys.readouterr().err


def test_a_plan_reads_no_genotype_and_writes_nothing(folder, tmp_path, capsys):
    assert run(folder, "--plan", out=tmp_path / "x") == 0
    assert "2 component(s)" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_help_names_the_flags_of_the_reference_system(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help", "all"])
    text = capsys.readouterr().out
    for flag in "--bed-prefix --n-groups --outer-iters --theta-lr --theta-linesearch-trials --slq-samples".split():
        assert flag in text
