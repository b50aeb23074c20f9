"""``gpu-reml-sparse`` end to end: planted variants by name and allele, the reference's flags, limits, and bad input."""

import json
import os
import re
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pandas as pd
import pgenlib
import pytest

from gpu_reml import figures
from gpu_reml.cli.sparse import main
from gpu_reml.io.sparse import PathTable, path_frame
from gpu_reml.validation import SPARSE, dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import simulate_cohort, write_plink

DATA = Path(os.environ.get("GPU_REML_EXTERNAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
REGENIE = DATA / "regenie_example"
N, M = 400, 600
PLANTED, EFFECTS = np.array([50, 301, 577]), np.array([2.4, -2.2, 2.6])
FILES = {"summary.json", "history.json", "selected_snps.tsv", "path.tsv", "sparse.log"}
FILES |= {"path.svg"} if figures.available() else set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three variants of large effect over a polygenic background, one covariate, one fileset whole and in two."""
    folder = tmp_path_factory.mktemp("sparse")
    people = simulate_cohort(N, M, 6, missing_rate=0.0, haplotypes=SPARSE)
    people.variants["id"] = [f"rs{j}" for j in range(M)]
    write_plink(people, folder / "data")
    for name, part in {"first": slice(0, 250), "second": slice(250, M)}.items():
        piece = type(people)(np.ascontiguousarray(people.counts[:, part]), people.samples, people.variants.iloc[part])
        write_plink(piece, folder / name)
    rng = np.random.default_rng(0)
    Z = dense.standardised(people.counts)
    age = rng.integers(20, 70, N).astype(float)
    polygenic = Z @ rng.standard_normal(M) * np.sqrt(4.0 / M)
    y = 170 + 0.1 * age + Z[:, PLANTED] @ EFFECTS + polygenic + 3 * rng.standard_normal(N)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(height=y).to_csv(folder / "pheno.txt", **write)
    ids.assign(height=1e-2 * y - 3).to_csv(folder / "metres.txt", **write)
    ids.assign(height=y, weight=y).to_csv(folder / "two.txt", **write)
    ids.assign(age=age).to_csv(folder / "age.txt", **write)
    ids[:350].to_csv(folder / "keep.txt", sep=" ", header=False, index=False)
    folder.joinpath("truth").mkdir()
    np.savez(folder / "truth" / "data.npz", Z=Z, y=y, age=age)
    return folder


def run(folder, *arguments, out, genotypes=("--bfile", "{}/data")):
    command = [*genotypes, "--pheno", "{}/pheno.txt", "--device", "cpu", "--quiet", "--out", out, *arguments]
    return main([str(part).replace("{}", str(folder)) for part in command])


def read(prefix):
    text = {name: prefix.with_name(f"{prefix.name}.{name}").read_text() for name in FILES}
    tables = {
        name: pd.read_csv(prefix.with_name(f"{prefix.name}.{name}"), sep="\t") for name in FILES if name[-3:] == "tsv"
    }
    return (
        tables | {name: json.loads(text[name]) for name in FILES if name[-4:] == "json"} | {"svg": text.get("path.svg")}
    )


@pytest.fixture(scope="module")
def quick_start(folder, tmp_path_factory):
    """The reference's command, word for word."""
    prefix = tmp_path_factory.mktemp("out") / "deep" / "sparse"
    command = (
        f"--bed-prefix {folder}/data --pheno-txt {folder}/pheno.txt --covar-txt {folder}/age.txt --out-prefix {prefix}"
    )
    assert main(command.split()) == 0
    return prefix, read(prefix)


def test_the_quick_start_finds_the_planted_variants_and_names_them(quick_start):
    prefix, files = quick_start
    assert {path.name for path in prefix.parent.iterdir()} == {f"sparse.{name}" for name in FILES}
    table = files["selected_snps.tsv"]
    assert table["snp_id"].tolist() == [f"rs{j}" for j in PLANTED]
    assert table["snp_index"].tolist() == table["source_snp_index"].tolist() == PLANTED.tolist()
    assert (table["grm"] == "data").all()
    for name in ("beta_gls", "beta_debiased"):
        assert (np.abs(table[name] - EFFECTS) <= 4 * table[name.replace("beta", "se")]).all()
    assert (np.sign(table["beta_lasso"]) == np.sign(EFFECTS)).all()
    assert (np.abs(table["beta_lasso"]) < np.abs(table["beta_gls"])).all()
    np.testing.assert_allclose(np.log10(table["p_debiased"]), table["log10_p_debiased"])


def test_effects_and_variances_are_those_of_the_dense_formulas(folder, quick_start):
    _, files = quick_start
    table, summary = files["selected_snps.tsv"], files["summary.json"]
    data = np.load(folder / "truth" / "data.npz")
    Z, y, X = data["Z"], data["y"].astype("f8"), np.column_stack([np.ones(N), data["age"]])
    K = dense.kernel(Z)
    expected = exact_reml(y, np.column_stack([X, Z[:, PLANTED]]), [K])
    theta = [part["theta"] for part in [*summary["fit"]["components"], *summary["fit"]["residuals"]]]
    np.testing.assert_allclose(theta, expected.theta, rtol=1e-3)
    np.testing.assert_allclose(table["beta_gls"], expected.fixed_effects[2:], rtol=1e-4)
    np.testing.assert_allclose(table["se_gls"], np.sqrt(np.diag(expected.fixed_effects_cov))[2:], rtol=1e-3)
    named = {effect["name"]: effect["estimate"] for effect in summary["fixed_effects"]}
    np.testing.assert_allclose([named["intercept"], named["age"]], expected.fixed_effects[:2], rtol=1e-3)
    # the written solution is optimal for every variant
    P = dense.projection(np.array(theta), y, X, [K]).P
    gradient = Z.T @ P @ (y - Z[:, PLANTED] @ table["beta_lasso"].to_numpy()) / summary["lambda"]
    assert np.abs(gradient).max() <= 1 + 1e-5
    np.testing.assert_allclose(gradient[PLANTED], np.sign(table["beta_lasso"]), atol=1e-5)
    kkt = summary["kkt"]
    assert kkt["certified"] and kkt["violation"] <= 1e-5 and kkt["num_variants"] == M


def test_effects_of_an_allele_are_those_of_an_sd_over_it(folder, quick_start):
    table = quick_start[1]["selected_snps.tsv"]
    bim = pd.read_csv(folder / "data.bim", sep="\t", header=None).iloc[PLANTED]
    assert table["a1"].tolist() == bim[4].tolist() and table["a2"].tolist() == bim[5].tolist()
    from bed_reader import open_bed

    with open_bed(folder / "data.bed") as bed:
        counts = bed.read(dtype="float64")[:, PLANTED]
    np.testing.assert_allclose(table["freq"], counts.mean(axis=0) / 2)
    for name in ("beta_lasso", "beta_gls", "se_gls", "beta_debiased", "se_debiased"):
        np.testing.assert_allclose(table[f"{name}_per_allele"], table[name] / counts.std(axis=0))


def test_path_and_history_are_those_of_the_summary(quick_start):
    _, files = quick_start
    summary, path, history = files["summary.json"], files["path.tsv"], files["history.json"]
    chosen = path[path["chosen"] == 1]
    assert chosen["lambda"].nunique() == 1 and path["step"].nunique() == 60
    assert chosen["lambda"].iloc[0] == pytest.approx(summary["lambda"], rel=1e-8)
    np.testing.assert_allclose(
        chosen.set_index("snp_id")["beta"][[f"rs{j}" for j in PLANTED]], files["selected_snps.tsv"]["beta_lasso"]
    )
    steps = path.drop_duplicates("step")
    assert steps["ebic"].min() == chosen["ebic"].iloc[0] and (np.diff(steps["lambda"]) < 0).all()
    assert (path.groupby("step")["beta"].count() == steps.set_index("step")["df"]).all()
    assert history["status"] == "converged" and history["rounds"] == summary["history"]
    assert history["rounds"][-1]["snp_ids"] == summary["support_ids"] and "lambda" in history["rounds"][0]


def test_the_picture_names_the_variants_chosen(quick_start):
    pytest.importorskip("matplotlib")
    drawn = minidom.parseString(quick_start[1]["svg"])
    labels = {text.firstChild.data for text in drawn.getElementsByTagName("text")}
    assert {f"rs{j}" for j in PLANTED} <= labels


def test_heritability_does_not_depend_on_the_phenotypes_unit(folder, quick_start, tmp_path):
    run(folder, "--covar-txt", "{}/age.txt", "--pheno", "{}/metres.txt", out=tmp_path / "m")
    other, one = read(tmp_path / "m"), quick_start[1]
    for key in ("h2", "h2_reml", "h2_chive", "h2_chive_reml", "h2_se"):
        np.testing.assert_allclose(other["summary.json"][key], one["summary.json"][key], rtol=2e-4)
    np.testing.assert_allclose(
        other["selected_snps.tsv"]["beta_gls"], 1e-2 * one["selected_snps.tsv"]["beta_gls"], rtol=1e-5
    )
    assert 0.3 < one["summary.json"]["h2"] < 0.9 and one["summary.json"]["h2"] > one["summary.json"]["h2_reml"]


def test_unsorted_components_name_the_right_variants(folder, tmp_path):
    """Variants listed in any order: the index counts within components, and the rs number is the planted one."""
    rng = np.random.default_rng(1)
    order = rng.permutation(M).tolist()
    spec = {
        "components": [
            {"name": "some", "variant_indices": order[:300]},
            {"name": "others", "variant_indices": order[300:590]},
        ]
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    left_out = set(order[590:])
    assert not left_out & set(PLANTED.tolist())
    assert run(folder, "--component-spec", tmp_path / "spec.json", out=tmp_path / "s") == 0
    table = read(tmp_path / "s")["selected_snps.tsv"]
    assert table["snp_id"].tolist() == [f"rs{j}" for j in PLANTED]
    concatenated = [*sorted(order[:300]), *sorted(order[300:590])]
    assert [concatenated[i] for i in table["snp_index"]] == table["source_snp_index"].tolist() == PLANTED.tolist()
    assert table["grm"].tolist() == ["some" if j in order[:300] else "others" for j in PLANTED]


def test_several_filesets_and_filters_count_from_the_files(folder, tmp_path):
    flags = ("--bfile", "{}/first,{}/second")
    (tmp_path / "drop.txt").write_text("rs0\nrs1\nrs300\n")
    assert run(folder, "--exclude", tmp_path / "drop.txt", out=tmp_path / "s", genotypes=flags) == 0
    table = read(tmp_path / "s")["selected_snps.tsv"]
    assert table["snp_id"].tolist() == [f"rs{j}" for j in PLANTED]
    assert table["source_snp_index"].tolist() == PLANTED.tolist()
    assert table["snp_index"].tolist() == (PLANTED - [2, 3, 3]).tolist()
    assert table["grm"].tolist() == ["first", "second", "second"]


def test_a_pgens_counted_allele_is_alt(folder, quick_start, tmp_path):
    """The same genotypes counted from the other allele: the sign turns, and with it the labels."""
    from bed_reader import open_bed

    with open_bed(folder / "data.bed") as bed:
        counts = np.ascontiguousarray(2 - bed.read(dtype="int8").T)
    with pgenlib.PgenWriter(f"{tmp_path}/data.pgen".encode(), N, variant_ct=M, nonref_flags=False) as writer:
        writer.append_biallelic_batch(counts)
    bim = pd.read_csv(folder / "data.bim", sep="\t", header=None)
    pvar = pd.DataFrame({"#CHROM": bim[0], "POS": bim[3], "ID": bim[1], "REF": bim[4], "ALT": bim[5]})
    pvar.to_csv(tmp_path / "data.pvar", sep="\t", index=False)
    fam = pd.read_csv(folder / "data.fam", sep=r"\s+", header=None, dtype=str)
    fam[[0, 1]].set_axis(["#FID", "IID"], axis=1).to_csv(tmp_path / "data.psam", sep="\t", index=False)
    flags = ("--pgen-prefix", tmp_path / "data")
    assert run(folder, "--covar-txt", "{}/age.txt", out=tmp_path / "s", genotypes=flags) == 0
    table, other = read(tmp_path / "s")["selected_snps.tsv"], quick_start[1]["selected_snps.tsv"]
    assert table["snp_id"].tolist() == other["snp_id"].tolist()
    assert table["a1"].tolist() == other["a2"].tolist() and table["a2"].tolist() == other["a1"].tolist()
    np.testing.assert_allclose(table["freq"], 1 - other["freq"])
    np.testing.assert_allclose(table["beta_gls_per_allele"], -other["beta_gls_per_allele"], rtol=1e-4)


def test_every_flag_of_the_reference_system_is_understood(folder, tmp_path, capsys):
    command = (
        f"--bed-prefix {folder}/data --pheno-txt {folder}/pheno.txt --covar-txt {folder}/age.txt "
        f"--keep-path {folder}/keep.txt --keep-out {tmp_path}/kept --dropped-out {tmp_path}/dropped --device cpu "
        "--cpu-threads 0 --call-width 4096 --gpu-budget-gib 4 --ring-depth 4 --precond-type projected_core "
        f"--minq-iter 20 --n-rand-vec 40 --out-prefix {tmp_path}/r --slq-samples 100 --slq-m 50 --pcg-tol 5e-3 "
        "--pcg-ridge 1e-6 --max-pcg-iters 400 --outer-max 6 --screen-topk 200 --candidate-k 60 --max-active 50 "
        "--vc-rel-tol 1e-2 --support-stable-rounds 1 --lasso-lam-min-ratio 0.05 --lasso-n-lambda 40 "
        "--lasso-ebic-gamma 1 --lasso-ebic-early-stop --lasso-ebic-es-min-delta 0.0 "
        "--lasso-cd-max-iter 2000 --lasso-cd-tol 1e-6 --lasso-active-set-period 5 --lasso-ridge 1e-6 "
        "--proj-ridge 1e-6 --ebic-p-mode candidate "
        "--kkt-check --kkt-tol 1e-4 --kkt-rel-tol 1e-4 --kkt-add-topk 256 --kkt-max-rounds 20 --kkt-max-candidate 0 "
        "--verbose"
    )
    assert main(command.split()) == 0
    summary, printed = read(tmp_path / "r")["summary.json"], capsys.readouterr().out
    assert summary["n"] == 350 and summary["support_ids"] == [f"rs{j}" for j in PLANTED]
    for flag in "--call-width --precond-type --slq-samples --slq-m --pcg-ridge --lasso-ridge --proj-ridge".split():
        assert re.search(f"^note: .*{flag}.*: no effect, since ", printed, re.M), flag
    for line in ("var_components", "h2_reml", "h2_chive", "h2_chive_reml", "support_size"):
        assert re.search(rf"^\[RESULT\] {line}: ", printed, re.M), line
    value = float(re.search(r"\[RESULT\] h2_chive_reml: ([\d.]+)", printed).group(1))
    np.testing.assert_allclose(value, summary["h2"], atol=1e-6)
    assert len((tmp_path / "kept").read_text().splitlines()) == 351 and (tmp_path / "dropped").exists()
    for flag in ("--no-lasso-ebic-early-stop", "--no-kkt-check"):
        assert run(folder, flag, out=tmp_path / flag[2:]) == 0
    assert read(tmp_path / "no-kkt-check")["summary.json"]["kkt"] is None


def test_component_indices_npz_is_a_component_spec(folder, tmp_path):
    np.savez(tmp_path / "sets.npz", a=np.arange(0, M, 2), b=np.arange(1, M, 2))
    assert run(folder, "--component-indices-npz", tmp_path / "sets.npz", out=tmp_path / "s") == 0
    assert read(tmp_path / "s")["selected_snps.tsv"]["grm"].tolist() == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--outer-max", 1), "max_rounds"),
        (("--max-active", 2), "active_limit"),
        (("--candidate-k", 1, "--kkt-max-rounds", 1), "not_certified"),
        (("--candidate-k", 2, "--kkt-max-candidate", 2), "candidate_limit"),
        (("--max-pcg-iters", 1), "solver_stalled"),
    ],
)
def test_limits_write_what_there_is_and_exit_with_three(folder, tmp_path, capsys, flags, status):
    assert run(folder, *flags, out=tmp_path / "s") == 3
    files = read(tmp_path / "s")
    assert status in files["summary.json"]["status"] and not files["summary.json"]["converged"]
    assert status in capsys.readouterr().out and len(files["history.json"]["rounds"]) >= 1


def test_stochastic_fits_choose_the_same(folder, tmp_path, quick_start):
    flags = ("--covar-txt", "{}/age.txt", "--method", "stochastic", "--seed", 3)
    assert run(folder, *flags, out=tmp_path / "s") == 0
    found = read(tmp_path / "s")
    assert found["selected_snps.tsv"]["snp_id"].tolist() == [f"rs{j}" for j in PLANTED]
    fit, one = found["summary.json"]["fit"]["h2"], quick_start[1]["summary.json"]["fit"]["h2"]
    assert 0 < fit["mc_se"] and abs(fit["estimate"] - one["estimate"]) <= 4 * fit["mc_se"]


@pytest.mark.external
def test_a_published_cohort_as_bed_and_as_pgen_gives_the_same_table(tmp_path):
    """Genotypes and phenotypes that other people made, in both formats."""
    if not REGENIE.is_dir():
        pytest.skip(f"no external data at {REGENIE}; set GPU_REML_EXTERNAL_DATA")
    tables = []
    for flag in ("--bed-prefix", "--pgen-prefix"):
        files = f"--pheno-txt {REGENIE}/phenotype.txt --pheno-name Y1 --covar-txt {REGENIE}/covariates.txt"
        command = (
            f"{flag} {REGENIE}/example {files} --lasso-ebic-gamma 0.2 --device cpu --quiet --out-prefix {tmp_path}/s"
        )
        assert main(command.split()) == 0
        files = read(tmp_path / "s")
        assert files["summary.json"]["kkt"]["certified"]
        tables.append(files["selected_snps.tsv"].drop(columns="cm"))
    assert len(tables[0]) > 0
    pd.testing.assert_frame_equal(*tables, check_exact=True)


BAD = {
    "two phenotypes": (("--pheno", "{}/two.txt", "--pheno-name", "all"), "--pheno-name: .* name one"),
    "Haseman-Elston": (("--method", "he"), "--method he"),
    "ratio": (("--lasso-lam-min-ratio", "1e-8"), "--lasso-lam-min-ratio: expected 1e-06"),
    "no tolerance": (("--kkt-tol", 0, "--kkt-rel-tol", 0), "--kkt-tol, --kkt-rel-tol: both are 0"),
    "missing keep": (("--keep", "{}/absent.txt"), "absent.txt"),
    "output under a file": (("--out", "{}/pheno.txt/x"), "pheno.txt"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_two_before_any_fit(folder, tmp_path, capsys, monkeypatch, case):
    monkeypatch.setattr("gpu_reml.cli.sparse_run.sparse_reml", None)  # a fit would be a TypeError
    flags, message = BAD[case]
    assert run(folder, *flags, out=tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-reml-sparse: error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_plan_reads_no_genotype_and_writes_nothing(folder, tmp_path, capsys):
    assert run(folder, "--plan", out=tmp_path / "x") == 0
    assert "256 LASSO candidates" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_rounds_that_were_finished_are_on_disk_when_a_run_dies(folder, tmp_path, monkeypatch):
    """A crash after hours leaves the history, which says that it was running."""

    def die(*_, **__):
        raise ValueError("the power went")

    monkeypatch.setattr("gpu_reml.cli.sparse_run.selected_table", die)
    assert run(folder, out=tmp_path / "s") == 2
    history = json.loads((tmp_path / "s.history.json").read_text())
    assert history["status"] == "running" and len(history["rounds"]) >= 2


def test_help_names_the_flags_of_the_reference_system(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help", "all"])
    text = capsys.readouterr().out
    for flag in "--bed-prefix --candidate-k --ebic-p-mode --kkt-max-rounds --lasso-n-lambda --outer-max".split():
        assert flag in text


def test_tables_and_pictures_of_small_paths():
    none = PathTable(
        np.zeros(1), np.zeros(1, int), np.ones(1), np.ones(1), np.zeros((1, 2)), ["a", "b"], np.arange(2), 0
    )
    frame = path_frame(none)
    assert len(frame) == 1 and frame["snp_id"].isna().all() and frame["chosen"].tolist() == [1]
    two = PathTable(
        np.array([2.0, 1.0]), np.array([0, 2]), np.ones(2), np.ones(2), np.array([[0, 0], [0.5, -1]]), ["<a>", "b"],
        np.array([4, 9]), 1,
    )  # fmt: skip
    frame = path_frame(two)
    assert frame["snp_index"].tolist()[1:] == [4, 9] and frame["beta"].tolist()[1:] == [0.5, -1]
    assert frame["lambda"].tolist() == [2, 1, 1]
