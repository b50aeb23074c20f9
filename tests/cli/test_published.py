"""The command on a real cohort against numbers that other programs published."""

import json
import os
from pathlib import Path

import pytest

from gpu_reml.cli.main import main

DATA = Path(os.environ.get("GPU_REML_EXTERNAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
MOUSE = DATA / "mouse_hs1940"


@pytest.mark.external
@pytest.mark.parametrize(("method", "seed"), [("stochastic", 0), ("stochastic", 1), ("exact", 0)])
def test_mouse_cd8_gives_the_published_heritability_and_likelihood(tmp_path, method, seed):
    if not MOUSE.is_dir():
        pytest.skip(f"no external data at {MOUSE}; set GPU_REML_EXTERNAL_DATA")
    files = ("--bfile", MOUSE / "mouse_hs1940", "--pheno", MOUSE / "pheno.txt", "--pheno-name", "CD8")
    command = [*files, "--out", tmp_path / "cd8", "--method", method, "--seed", seed, "--device", "cpu", "--quiet"]
    assert main([str(part) for part in command]) == 0
    record = json.loads((tmp_path / "cd8.json").read_text())
    assert (record["n"], record["num_variants"]) == (1410, 10992)
    h2 = record["h2"]
    assert abs(h2["estimate"] - 0.596629) <= 4 * h2["mc_se"] + 5e-6
    assert h2["mc_se"] <= 0.1 * h2["se"]
    assert abs(h2["se"] / 0.032468 - 1) <= 0.03
    published = {"mouse_hs1940": (0.502497, 0.051648), "residual": (0.339729, 0.018491)}
    for part in [*record["components"], *record["residuals"]]:
        variance, se = published[part["name"]]
        assert abs(part["variance"] - variance) <= 4 * part["mc_se"] + 5e-6
        assert abs(part["se"] / se - 1) <= 0.03
    assert abs(record["loglik"] - -1586.3993) <= 3 * record["loglik_mc_se"] + 5e-4
