"""PLINK 2 as an oracle, where it is installed: it reads the effects that are written for it."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli.main import main
from gpu_reml.validation import simulate_cohort, write_plink

N, M = 150, 300


@pytest.mark.skipif(shutil.which("plink2") is None, reason="plink2 is not installed")
def test_scores_of_the_documented_command_are_the_genetic_values(tmp_path):
    people = simulate_cohort(N, M, 2)
    write_plink(people, tmp_path / "data")
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    y = np.maximum(people.counts, 0)[:, :40].sum(axis=1) + 4 * np.random.default_rng(1).standard_normal(N)
    ids.assign(y=y).to_csv(tmp_path / "pheno.txt", sep="\t", index=False)
    files = ["--bfile", tmp_path / "data", "--pheno", tmp_path / "pheno.txt", "--out", tmp_path / "out"]
    assert main([str(part) for part in [*files, "--compute-effects", "--device", "cpu", "--quiet"]]) == 0
    about = json.loads((tmp_path / "out.effect_metadata.json").read_text())
    command = about["score_with_plink2"].replace("--pfile NEW", "--bfile data --out scored").split()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = pd.read_csv(tmp_path / "scored.sscore", sep="\t")["SCORE1_SUM"] + about["intercept"]
    values = pd.read_csv(tmp_path / "out.random_effect.tsv", sep="\t")["random_effect"]
    np.testing.assert_allclose(scores, values, atol=2e-5 * values.std())
