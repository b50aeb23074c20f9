"""``--fit-alpha`` end to end, against dense likelihoods over alpha."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from gpu_reml import ops
from gpu_reml.cli.main import main
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.validation import HostDevice, dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 200, 300


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A trait of the alpha model with alpha = 0: common variants have most of the variance."""
    folder = tmp_path_factory.mktemp("alpha")
    people = simulate_cohort(N, M, 5, missing_rate=0.0)
    write_plink(people, folder / "data")
    p = people.counts.mean(axis=0) / 2
    Z, weights, rng = dense.standardised(people.counts), 2 * p * (1 - p), np.random.default_rng(2)
    y = Z @ (np.sqrt(0.7 * weights / weights.sum()) * rng.standard_normal(M)) + np.sqrt(0.3) * rng.standard_normal(N)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=y).to_csv(folder / "pheno.txt", sep="\t", index=False)
    return {"folder": folder, "Z": Z, "y": y, "weights": weights}


def run(cohort, out, *arguments):
    folder = cohort["folder"]
    command = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--out", out, "--device", "cpu"]
    return main([str(part) for part in [*command, *arguments]])


@pytest.mark.parametrize("start", [None, "0.5"])
def test_alpha_and_its_ratio_are_those_of_dense_likelihoods_wherever_it_starts(cohort, tmp_path, capsys, start):
    out, given = tmp_path / "out", [] if start is None else ["--alpha", start]
    assert run(cohort, out, "--fit-alpha", *given) == 0
    row, record = (
        pd.read_csv(f"{out}.alpha.tsv", sep="\t").iloc[0],
        json.loads((tmp_path / "out.alpha.json").read_text()),
    )

    def fall(alpha):
        return -exact_reml(cohort["y"], np.ones((N, 1)), [dense.kernel(cohort["Z"], weights_at(alpha))]).loglik

    def weights_at(alpha):
        return np.where(cohort["weights"] > 0, np.maximum(cohort["weights"], 1e-9) ** (1 + alpha), 0)

    best = optimize.minimize_scalar(fall, bounds=(-1.5, 2), method="bounded", options={"xatol": 1e-4})
    assert abs(row["estimate"] - best.x) < 0.01 * row["se"]
    np.testing.assert_allclose(record["lrt"], 2 * (fall(float(start or -1)) - best.fun), atol=2e-3)
    assert record["parameters"] == ["data", "residual", "alpha"] and record["converged"]
    printed = capsys.readouterr().out
    assert f"alpha: {row['estimate']:.4f}" in printed and "out{.alpha.tsv,.alpha.json}" in printed


def test_every_component_may_have_an_alpha_of_its_own(cohort, tmp_path):
    assert run(cohort, tmp_path / "out", "--fit-alpha", "each", "--vc-block-sizes", "150,150") == 0
    assert pd.read_csv(f"{tmp_path}/out.alpha.tsv", sep="\t")["name"].tolist() == ["alpha_block_000", "alpha_block_001"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dominance"], "leave --dominance out"),
        (["--method", "he"], "--method he is not"),
        (["--no-constrain"], "--no-constrain is not"),
    ],
)
def test_what_has_no_alpha_is_refused_in_flags(cohort, tmp_path, capsys, arguments, message):
    assert run(cohort, tmp_path / "out", "--fit-alpha", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("components", [[], ["--vc-block-sizes", "150,150"]])
def test_alpha_on_a_device_stays_within_its_plan(cohort, tmp_path, monkeypatch, components):
    made = []

    def make(genotypes, device, dtype, *, residency=None, limit=None, num_devices=1, cuts=None):
        made[:] = [HostDevice(limit=limit)]
        return make_device_products(genotypes, made, residency, cuts)

    monkeypatch.setattr(ops, "make_products", make)
    monkeypatch.setattr(ops, "resolve_backend", lambda device: "cuda")
    flags = ["--method", "stochastic", "--fit-alpha", *components, "--device", "cuda", "--gpu-budget-gib", "0.1"]
    assert run(cohort, tmp_path / "out", *flags) == 0
    planned = json.loads((tmp_path / "out.json").read_text())["device_memory"]["planned"]
    assert planned / 8 < made[0].pool.peak_held <= planned
    assert abs(pd.read_csv(tmp_path / "out.alpha.tsv", sep="\t")["estimate"][0]) < 1.5


def test_the_plan_says_what_learning_alpha_holds(cohort, tmp_path, capsys):
    assert run(cohort, tmp_path / "out", "--method", "exact", "--fit-alpha", "--plan") == 0
    assert ", alpha " in capsys.readouterr().out
    assert run(cohort, tmp_path / "out", "--method", "stochastic", "--fit-alpha", "--plan") == 0
    assert "basis" in capsys.readouterr().out
