"""``--prevalence`` and ``--method pcgc``: cases chosen for a study, from files to files."""

import json

import numpy as np
import pandas as pd
import pytest

from gpu_reml.cli.liability import ascertainment
from gpu_reml.cli.main import main
from gpu_reml.ops import CpuProducts, make_covariance, pack, standardise
from gpu_reml.reml import draw_probes
from gpu_reml.reml.studies.pcgc import pcgc
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 120, 250


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Genotypes, a disease that half have (coded 1 and 2), and age."""
    folder = tmp_path_factory.mktemp("study")
    people = simulate_cohort(N, M, 7)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(8)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    age = rng.integers(30, 70, N)
    disease = 1 + (rng.standard_normal(N) + 0.03 * (age - 50) > 0)
    ids.assign(disease=disease, height=rng.standard_normal(N)).to_csv(folder / "p.txt", sep="\t", index=False)
    ids.assign(age=age).to_csv(folder / "q.txt", sep="\t", index=False)
    return folder, people.counts, disease, age


def run(folder, *arguments, name="disease"):
    files = [
        "--bfile",
        folder / "data",
        "--pheno",
        folder / "p.txt",
        "--pheno-name",
        name,
        "--qcovar",
        folder / "q.txt",
    ]
    return main([str(a) for a in [*files, "--device", "cpu", "--out", folder / "out", "--quiet", *arguments]])


def test_pcgc_from_files_is_the_functions_answer_on_the_scale_of_liability(study, capsys):
    folder, counts, disease, age = study
    assert run(folder, "--method", "pcgc", "--prevalence", "0.02", "--dtype", "float64") == 0
    covariance = make_covariance(CpuProducts(standardise([pack(counts)], N), np.float64), None, ["data"])
    found = pcgc(disease, np.column_stack([np.ones(N), age]), covariance, 0.02, draw_probes(N, 64, 0, 0))
    record = json.loads((folder / "out.json").read_text())
    assert (record["method"], record["units"]) == ("pcgc", "liability, variance 1 given the fixed effects")
    for kind, value in zip(("estimate", "se", "mc_se"), found.h2, strict=True):
        assert record["h2"][kind] == pytest.approx(value[-1], rel=1e-6)
        assert record["liability"]["h2"][kind] == record["h2"][kind]
    assert record["liability"]["cautions"] == []
    slopes = [effect["estimate"] for effect in record["fixed_effects"]]
    np.testing.assert_allclose(slopes, found.fixed_effects.estimate, rtol=1e-6)
    assert record["h2_marginal"]["estimate"] == pytest.approx(found.h2.estimate[-1] / (1 + found.fixed_variance))
    hsq = pd.read_csv(folder / "out.hsq", sep="\t", index_col=0)["Variance"]
    assert hsq["Vp"] == pytest.approx(1) and hsq["V(G)/Vp_L"] == pytest.approx(found.h2.estimate[-1], abs=1e-6)
    printed = capsys.readouterr().out
    assert "PCGC regression with 64 probes" in printed and "variances are of liability" in printed
    assert "observed scale" not in (folder / "out.log").read_text()


def test_reml_of_chosen_cases_is_cautioned_about(study, capsys):
    folder = study[0]
    assert run(folder, "--prevalence", "0.02") == 0
    printed = capsys.readouterr().out
    (caution,) = json.loads((folder / "out.json").read_text())["liability"]["cautions"]
    assert caution in printed and "--method pcgc allows for that" in caution and "2.0% of people" in caution
    assert run(folder, "--prevalence", "0.45") == 0
    assert "caution" not in capsys.readouterr().out


def test_the_caution_is_for_what_drawing_people_does_not_explain():
    assert ascertainment(0.01, 0.5, 1000) and ascertainment(0.01, 0.02, 10_000)
    assert not ascertainment(0.01, 0.02, 100)  # two cases
    assert not ascertainment(0.1, 0.11, 500_000)  # no matter


@pytest.mark.parametrize(
    ("flags", "name", "message"),
    [
        (["--method", "pcgc"], "disease", "--method pcgc: estimates h2 of a disease's liability; give its prevalence"),
        (["--method", "pcgc", "--prevalence", "0.1"], "height", "phenotype height has 120 values"),
        (["--method", "pcgc", "--prevalence", "0.1", "--export-ai"], "disease", "--export-ai: --method pcgc has no"),
        (["--method", "pcgc", "--prevalence", "0.1", "--compute-effects"], "disease", "which --method pcgc is not"),
    ],
)
def test_what_pcgc_cannot_do_is_one_line(study, capsys, flags, name, message):
    assert run(study[0], *flags, name=name) == 2
    assert message in capsys.readouterr().err
