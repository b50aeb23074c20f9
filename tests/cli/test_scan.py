"""``--scan`` and its likes end to end, against dense algebra on the same small cohort."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml import figures, ops
from gpu_reml.cli.main import main
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.validation import HostDevice, dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.scan_dense import dense_score
from gpu_reml.validation.simulate import simulate_cohort, simulate_phenotype, write_plink

N, M = 240, 200


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A trait whose fourth twentieth of the variants has half of the genetic variance."""
    folder = tmp_path_factory.mktemp("scan")
    people = simulate_cohort(N, M, 5)
    write_plink(people, folder / "data")
    own = np.isin(np.arange(M), np.arange(30, 40)).astype(float)
    trait = simulate_phenotype(people, [np.ones(M), own], np.array([0.25, 0.35, 0.4]), seed=3)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=trait.y).to_csv(folder / "pheno.txt", sep="\t", index=False)
    ids_of = people.variants["id"]
    table = [f"{ids_of[j]}\ttwentieth_{j // 10:02d}" for j in range(M)]
    (folder / "sets.txt").write_text("\n".join(table) + "\n")
    return {"folder": folder, "Z": dense.standardised(people.counts), "y": trait.y, "variants": people.variants}


def run(cohort, out, *arguments):
    folder = cohort["folder"]
    command = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--out", out, "--device", "cpu"]
    return main([str(part) for part in [*command, *arguments]])


def test_the_planted_set_is_found_and_its_refit_is_that_of_dense_reml(cohort, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(cohort, out, "--scan", cohort["folder"] / "sets.txt", "--scan-refit", "2") == 0
    table = pd.read_csv(f"{out}.scan.tsv", sep="\t").set_index("set")
    record = json.loads((tmp_path / "out.json").read_text())
    theta = [*(c["theta"] for c in record["components"]), *(c["theta"] for c in record["residuals"])]
    K, Z, X, y = dense.kernel(cohort["Z"]), cohort["Z"], np.ones((N, 1)), cohort["y"]
    assert len(table) == 20 and table["p"].idxmin() == "twentieth_03"
    for name in ("twentieth_03", "twentieth_11"):
        own = dense.kernel(Z, np.isin(np.arange(M) // 10, int(name[-2:])).astype(float))
        truth = dense_score(np.array(theta), y, X, [K], own, np.ones(2, bool))
        assert abs(table.loc[name, "z"] - truth.z) < 4 * table.loc[name, "z_mc_se"]
    own = dense.kernel(Z, np.isin(np.arange(M) // 10, 3).astype(float))
    full = exact_reml(y, X, [K, own])
    alone = exact_reml(y, X, [K])
    found = table.loc["twentieth_03"]
    np.testing.assert_allclose(found["refit_variance"], full.theta[1] * np.trace(own) / N, rtol=1e-3)
    np.testing.assert_allclose(found["refit_lrt"], 2 * (full.loglik - alone.loglik), rtol=1e-3)
    assert table["refit_p"].notna().sum() == 2
    printed = capsys.readouterr().out
    assert "scan of 20 sets by 256 replicates" in printed and "  twentieth_03  variance" in printed
    assert (tmp_path / "out.scan.svg").exists() == figures.available()
    assert ("no picture" in printed) != figures.available()


def test_windows_genes_intervals_and_annotations_are_scanned_together(cohort, tmp_path):
    variants, folder = cohort["variants"], tmp_path
    first = variants.iloc[0]
    (folder / "genes.txt").write_text(f"{first['chrom']} {first['bp']} {first['bp'] + 1} GENE1\n")
    (folder / "some.bed").write_text(f"{first['chrom']}\t0\t{variants['bp'].max() + 1}\tall\n")
    annot = variants[["chrom", "bp", "id", "cm"]].set_axis(["CHR", "BP", "SNP", "CM"], axis=1)
    annot = annot.assign(score=np.linspace(0, 1, M))
    annot.to_csv(folder / "scores.annot", sep="\t", index=False)
    asked = ["--scan-windows", "1Mb", "--scan-genes", folder / "genes.txt", "--scan-flank", "5kb"]
    assert run(cohort, folder / "out", *asked, "--scan", folder / "some.bed", folder / "scores.annot") == 0
    table = pd.read_csv(f"{folder}/out.scan.tsv", sep="\t").set_index("set")
    assert {"GENE1", "all", "score"} <= set(table.index) and table.index.str.contains(":1-1000000").any()
    assert table.loc["score", "variants"] == M - 1
    gene = table.loc["GENE1"]
    assert gene["start"] == first["bp"] and gene["end"] <= first["bp"] + 5001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scan-refit", "3"], "there is nothing to scan"),
        (["--scan-step", "1kb"], "there is nothing to scan"),
        (["--scan-windows", "1Mb", "--method", "he"], "--scan-windows: needs a REML fit"),
        (["--scan-windows", "1Mb", "--no-constrain"], "leave --no-constrain out"),
        (["--scan-windows", "1MB2"], "expected base pairs, such as 1Mb"),
        (["--scan-windows", "0"], "expected more than 0 base pairs"),
        (["--scan-windows", "1Mb", "--scan-replicates", "5"], "expected 32 replicates or more"),
    ],
)
def test_what_cannot_be_scanned_is_refused_in_flags(cohort, tmp_path, capsys, arguments, message):
    try:
        code = run(cohort, tmp_path / "out", *arguments)
    except SystemExit as stopped:  # what argparse refuses
        code = stopped.code
    assert code == 2 and message in capsys.readouterr().err


def test_the_plan_says_what_a_scan_holds(cohort, tmp_path, capsys):
    assert run(cohort, tmp_path / "out", "--scan-windows", "1Mb", "--plan") == 0
    assert ", scan " in capsys.readouterr().out


@pytest.mark.parametrize("components", [[], ["--vc-block-sizes", "100,100"]])
@pytest.mark.parametrize("number", [1, 2])
def test_a_scan_on_devices_stays_within_its_plan(cohort, tmp_path, monkeypatch, components, number):
    made = []

    def make(genotypes, device, dtype, *, residency=None, limit=None, num_devices=1, cuts=None):
        made[:] = [HostDevice(limit=limit, label=f"device {d}") for d in range(num_devices)]
        return make_device_products(genotypes, made, residency, cuts)

    flags = ["--method", "stochastic", "--scan", cohort["folder"] / "sets.txt", *components]
    assert run(cohort, tmp_path / "cpu", *flags) == 0
    monkeypatch.setattr(ops, "make_products", make)
    monkeypatch.setattr(ops, "resolve_backend", lambda device: "cuda")
    there = ["--device", "cuda", "--num-gpus", str(number), "--gpu-budget-gib", "0.1"]
    assert run(cohort, tmp_path / "gpu", *flags, *there) == 0
    here, found = (pd.read_csv(tmp_path / f"{out}.scan.tsv", sep="\t") for out in ("cpu", "gpu"))
    np.testing.assert_allclose(found["z"], here["z"], atol=0.02)
    planned = json.loads((tmp_path / "gpu.json").read_text())["device_memory"]["planned"]
    held = max(device.pool.peak_held for device in made)
    assert planned / 4 < held <= planned
