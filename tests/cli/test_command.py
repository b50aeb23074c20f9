"""The command end to end: what it writes, and one line with exit code 2 for everything that is wrong with the input."""

import errno
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from gpu_reml import io as io_module
from gpu_reml.cli import methods
from gpu_reml.cli.main import main
from gpu_reml.reml import BreakdownError
from gpu_reml.reml.studies.liability import liability_factor
from gpu_reml.validation import SPARSE, dense
from gpu_reml.validation.exact import exact_reml
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 221, 500  # one sample fewer takes a byte less a variant, so a short .fam shows


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """PLINK files, a phenotype with two missing values, two covariates, and three components, one of which overlaps."""
    folder = tmp_path_factory.mktemp("cohort")
    people = simulate_cohort(N, M, 5, haplotypes=SPARSE)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(2)
    Z = dense.standardised(people.counts)
    age, sex = rng.integers(20, 70, N).astype(float), rng.integers(1, 3, N)
    y = 170 + 0.1 * age + 5 * sex + 4 * (Z @ rng.standard_normal(M) / np.sqrt(M)) + 4 * rng.standard_normal(N)
    y[[3, 8]] = np.nan
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(other=1.0 + np.arange(N), height=y).to_csv(folder / "pheno.txt", **write)
    ids.assign(age=age).to_csv(folder / "q.txt", **write)
    ids.assign(sex=sex).to_csv(folder / "c.txt", **write)
    ids.assign(age=age, sex=sex).to_csv(folder / "numeric.txt", **write)
    sets = [("a", range(0, 200)), ("b", range(200, M)), ("c", range(150, 250))]
    spec = [{"name": name, "variant_indices": list(indices)} for name, indices in sets]
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def run(folder, *arguments, out="out/result"):
    defaults = {"--bfile": folder / "data", "--pheno": folder / "pheno.txt", "--out": folder / out}
    given = [str(a) for a in arguments]
    command = [part for flag, value in defaults.items() if flag not in given for part in (flag, str(value))]
    return main([*command, "--device", "cpu", "--quiet", *given])


def dense_fit(folder, X_columns, sets):
    from bed_reader import open_bed

    with open_bed(folder / "data.bed") as bed:
        counts = bed.read(dtype="int8")
    table = pd.read_csv(folder / "pheno.txt", sep="\t")
    kept = table["height"].notna().to_numpy()
    X = np.column_stack([np.ones(N), *X_columns])[kept]
    Z = dense.standardised(counts[kept])
    weights = [np.isin(np.arange(M), list(indices)).astype(float) for indices in sets]
    return exact_reml(table["height"].to_numpy()[kept], X, [dense.kernel(Z, w) for w in weights])


@pytest.mark.parametrize("method", ["stochastic", "exact", "auto"])
def test_one_component_gives_the_dense_answer_and_every_file(cohort, method):
    assert (
        run(
            cohort,
            "--method",
            method,
            "--pheno-name",
            "height",
            "--qcovar",
            cohort / "q.txt",
            "--covar",
            cohort / "c.txt",
        )
        == 0
    )
    record = json.loads((cohort / "out/result.json").read_text())
    age = pd.read_csv(cohort / "q.txt", sep="\t")["age"]
    sex = pd.read_csv(cohort / "c.txt", sep="\t")["sex"]
    exact = dense_fit(cohort, [age, sex == 2], [range(M)])
    h2 = record["h2"]
    assert abs(h2["estimate"] - exact.h2) <= 4 * h2["mc_se"] + 0.02 * h2["se"]
    np.testing.assert_allclose(h2["se"], exact.h2_se, rtol=0.05)
    assert abs(record["loglik"] - exact.loglik) <= 4 * record["loglik_mc_se"] + 1e-5
    effects = record["fixed_effects"]
    assert [effect["name"] for effect in effects] == ["intercept", "age", "sex[2]"]
    for effect, value in zip(effects, exact.fixed_effects, strict=True):
        assert abs(effect["estimate"] - value) <= 0.1 * effect["se"]
    assert record["samples"] == {"analysed": N - 2, "dropped": {"missing phenotype": 2}}
    for key in (
        "status converged n num_variants loglik_null lrt lrt_mc_se lrt_df lrt_p components residuals theta_covariance "
        "settings seed backend version passes seconds"
    ).split():
        assert key in record
    hsq = pd.read_csv(cohort / "out/result.hsq", sep="\t", index_col=0)
    assert list(hsq.index) == ["V(G)", "V(e)", "Vp", "V(G)/Vp", "logL", "logL0", "LRT", "df", "Pval", "n"]
    np.testing.assert_allclose(hsq.loc["V(G)/Vp"].to_numpy(float), [h2["estimate"], h2["se"]], atol=1e-6)
    np.testing.assert_allclose(float(hsq.loc["LRT", "Variance"]), record["lrt"], atol=1e-3)
    history = pd.read_csv(cohort / "out/result.history.tsv", sep="\t")
    assert len(history) == record["iterations"]
    assert "h2 =" in (cohort / "out/result.log").read_text()


def test_the_reference_systems_flags_give_the_same_answer(cohort):
    assert run(cohort, "--pheno-name", "height", "--qcovar", cohort / "numeric.txt", out="one") == 0
    code = main(
        f"--bed-prefix {cohort}/data --pheno-txt {cohort}/pheno.txt --pheno-name height "
        f"--covar-txt {cohort}/numeric.txt --out-prefix {cohort}/two "
        f"--gpu-budget-gib 40 --ring-depth 0 --device cpu --non-verbose "
        "--slq-m 8 --slq-samples 4 --call-width 0".split()
    )
    assert code == 0
    one, two = (json.loads((cohort / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["components"] == two["components"] and one["loglik"] == two["loglik"]


def test_overlapping_components_of_a_spec_match_the_dense_fit(cohort):
    arguments = ("--mpheno", 2, "--component-spec", cohort / "spec.json", "--mc-target", 0.05)
    assert run(cohort, *arguments, out="sets") == 0
    record = json.loads((cohort / "sets.json").read_text())
    exact = dense_fit(cohort, [], [range(0, 200), range(200, M), range(150, 250)])
    assert [c["name"] for c in record["components"]] == ["a", "b", "c"]
    for component, value in zip([*record["components"], *record["residuals"]], exact.theta, strict=True):
        assert abs(component["variance"] - value) <= 4 * component["mc_se"] + 0.02 * component["se"]


def test_prefixes_are_components_matched_by_sample_id(cohort, tmp_path):
    from bed_reader import open_bed, to_bed

    with open_bed(cohort / "data.bed") as bed:
        order = np.random.default_rng(0).permutation(N)
        properties = {key: np.array(value) for key, value in bed.properties.items()}
        people = {key: value[order] for key, value in properties.items() if len(value) == N and key != "sid"}
        variants = {key: value[250:] for key, value in properties.items() if len(value) == M}
        to_bed(tmp_path / "second.bed", bed.read(np.s_[order, 250:], dtype="int8"), {**people, **variants})
    both = f"{cohort}/data,{tmp_path}/second"
    assert run(cohort, "--bfile", both, "--pheno-name", "height", out="both") == 0
    record = json.loads((cohort / "both.json").read_text())
    assert [c["name"] for c in record["components"]] == ["data", "second"]
    exact = dense_fit(cohort, [], [range(M), range(250, M)])
    for component, value in zip(record["components"], exact.theta, strict=False):
        assert abs(component["variance"] - value) <= 4 * component["mc_se"] + 0.02 * component["se"]


def test_keep_and_remove_and_the_sample_files(cohort, tmp_path):
    ids = pd.read_csv(cohort / "pheno.txt", sep="\t")[["FID", "IID"]]
    ids[:150].to_csv(tmp_path / "keep.txt", sep=" ", header=False, index=False)
    ids[100:160].to_csv(tmp_path / "remove.txt", sep=" ", header=False, index=False)
    files = ("--keep-out", tmp_path / "kept.txt", "--dropped-out", tmp_path / "dropped.txt")
    lists = ("--keep", tmp_path / "keep.txt", "--remove", tmp_path / "remove.txt")
    assert run(cohort, "--pheno-name", "height", *lists, *files) == 0
    kept = pd.read_csv(tmp_path / "kept.txt", sep="\t")
    assert list(kept["IID"].astype(str)) == [i for k, i in enumerate(ids["IID"].astype(str)[:100]) if k not in (3, 8)]
    dropped = pd.read_csv(tmp_path / "dropped.txt", sep="\t")
    assert list(dropped) == ["FID", "IID", "reason"]
    assert set(dropped["reason"]) == {
        "missing phenotype",
        "not in keep",
        "in remove",
    }


def truncate(folder):
    path = folder / "data.bed"
    path.write_bytes(path.read_bytes()[:-7])


def individual_major(folder):
    path = folder / "data.bed"
    path.write_bytes(b"\x6c\x1b\x00" + path.read_bytes()[3:])


def drop_last_line(name):
    def change(folder):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:-1]))

    return change


def duplicate_sample(folder):
    lines = (folder / "data.fam").read_text().splitlines(keepends=True)
    (folder / "data.fam").write_text("".join([lines[1], *lines[1:]]))


def edit_pheno(change):
    def edit(folder):
        table = pd.read_csv(folder / "pheno.txt", sep="\t", dtype=object)
        change(table).to_csv(folder / "pheno.txt", sep="\t", index=False, na_rep="NA")

    return edit


def append_to_pheno(line):
    def edit(folder):
        with open(folder / "pheno.txt", "a", encoding="utf-8") as file:
            file.write(line)

    return edit


def write_spec(indices):
    def edit(folder):
        (folder / "spec.json").write_text(json.dumps([{"name": "odd", "variant_indices": indices}]))

    return edit


def monomorphic(folder):
    from bed_reader import to_bed

    counts = np.zeros((N, M), np.int8)
    counts[:, ::2] = -127
    fam = [line.split() for line in (folder / "data.fam").read_text().splitlines()]
    to_bed(folder / "data.bed", counts, {"fid": [f[0] for f in fam], "iid": [f[1] for f in fam]})


def collinear(folder):
    table = pd.read_csv(folder / "q.txt", sep="\t")
    table.assign(double=2 * table["age"] + 1).to_csv(folder / "q.txt", sep="\t", index=False)


def too_many(folder):
    table = pd.read_csv(folder / "q.txt", sep="\t")
    extra = pd.DataFrame(np.random.default_rng(0).standard_normal((N, N)), columns=[f"x{i}" for i in range(N)])
    pd.concat([table, extra], axis=1).to_csv(folder / "q.txt", sep="\t", index=False)


NOTHING = lambda folder: None  # noqa: E731
BAD_INPUTS = {
    "missing prefix": (NOTHING, ["--bfile", "{}/absent"], "absent.*not found"),
    "missing phenotype file": (NOTHING, ["--pheno", "{}/absent.txt"], "absent.txt"),
    "missing keep file": (NOTHING, ["--keep", "{}/absent.txt"], "absent.txt"),
    "truncated bed": (truncate, [], "data.bed.*expected .* bytes"),
    "individual-major bed": (individual_major, [], "data.bed.*individual-major"),
    "short fam": (drop_last_line("data.fam"), [], "data.bed"),
    "short bim": (drop_last_line("data.bim"), [], "data.bed"),
    "duplicate id": (duplicate_sample, [], "data.fam.*(duplicate|more than once)"),
    "short row": (append_to_pheno("x\n"), [], "pheno.txt.*line 223"),
    "text value": (append_to_pheno("f i 1 tall\n"), [], "pheno.txt.*line 223.*tall"),
    "infinite value": (append_to_pheno("f i 1 inf\n"), [], "pheno.txt.*line 223.*inf"),
    "no overlap": (edit_pheno(lambda t: t.assign(IID=t["IID"] + "x")), [], "pheno.txt"),
    "constant": (edit_pheno(lambda t: t.assign(height="5")), [], "height"),
    "unknown name": (NOTHING, ["--pheno-name", "weight"], "weight.*(other|height)"),
    "empty component": (write_spec([]), ["--component-spec", "{}/spec.json"], "odd.*(no|empty)"),
    "index out of range": (write_spec([0, 500]), ["--component-spec", "{}/spec.json"], "odd.*500"),
    "index repeated": (write_spec([4, 4]), ["--component-spec", "{}/spec.json"], "odd.*4"),
    "nothing varies": (monomorphic, [], "none of the 0 analysed variants that vary"),
    "collinear": (collinear, ["--qcovar", "{}/q.txt"], "(double|age)"),
    "too many covariates": (too_many, ["--qcovar", "{}/q.txt"], "covariates"),
    "output is a directory": (lambda f: (f / "dir").mkdir(), ["--out", "{}/dir/"], "is a directory"),
    "output under a file": (NOTHING, ["--out", "{}/pheno.txt/x"], "pheno.txt"),
    "no device": (NOTHING, ["--device", "cuda"], "--device cuda: "),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_exit_code_two_and_no_output(cohort, tmp_path, capsys, case):
    change, arguments, message = BAD_INPUTS[case]
    if case == "no device":
        from gpu_reml.ops.cuda.driver import cuda_available

        if cuda_available():
            pytest.skip("this machine has a CUDA device")
    folder = tmp_path / "case"
    shutil.copytree(cohort, folder, ignore=shutil.ignore_patterns("out", "*.hsq", "*.log"))
    change(folder)
    before = sorted(folder.rglob("*"))
    given = [a.format(folder) for a in arguments]
    name = [] if "--pheno-name" in given else ["--pheno-name", "height"]
    assert run(folder, *name, *given, out="fresh") == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-reml: error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert sorted(folder.rglob("*")) == before


def test_too_few_iterations_end_with_code_three_and_the_reason_in_the_results(cohort, capsys):
    several = ("--component-spec", cohort / "spec.json", "--method", "stochastic")
    assert run(cohort, "--pheno-name", "height", *several, "--max-iterations", 1, out="short") == 3
    assert "not converged: the iteration limit" in capsys.readouterr().err
    record = json.loads((cohort / "short.json").read_text())
    assert record["status"] == "max_iterations" and record["converged"] is False


def test_a_disk_that_fills_while_results_are_written_leaves_nothing(cohort, tmp_path, monkeypatch, capsys):
    synced = []

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) > 2:  # the check before the work and the first result fit, the second does not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert run(cohort, "--pheno-name", "height", "--out", tmp_path / "x") == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-reml: error: ") and error.count("\n") == 1 and "No space left" in error
    assert len(synced) == 3 and not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(cohort):
    values = []
    for seed in (1, 1, 2):
        assert run(cohort, "--pheno-name", "height", "--method", "stochastic", "--seed", seed, out="seed") == 0
        values.append(json.loads((cohort / "seed.json").read_text())["components"])
    assert values[0] == values[1] != values[2]


def test_several_phenotypes_share_a_run_with_those_of_the_same_samples(cohort, tmp_path, capsys):
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    table["also"] = table["height"] + table["other"]
    table.to_csv(tmp_path / "three.txt", sep="\t", index=False, na_rep="NA")
    arguments = ("--pheno", tmp_path / "three.txt", "--method", "stochastic", "--out")
    apart = ("--standardize", "per-trait")
    assert run(cohort, "--pheno-name", "all", *apart, *arguments, tmp_path / "all") == 0
    records = {name: json.loads((tmp_path / f"all.{name}.json").read_text()) for name in ("other", "height", "also")}
    assert [records[name]["n"] for name in records] == [N, N - 2, N - 2]
    assert records["height"]["passes"] == records["also"]["passes"] != records["other"]["passes"]
    assert run(cohort, "--pheno-name", "also,height", *arguments, tmp_path / "two") == 0
    assert run(cohort, "--pheno-name", "height", *arguments, tmp_path / "one") == 0
    alone = json.loads((tmp_path / "one.json").read_text())["h2"]
    assert abs(records["height"]["h2"]["estimate"] - alone["estimate"]) <= 0.01 * alone["se"]
    rows = pd.read_csv(tmp_path / "all.traits.tsv", sep="\t", index_col="trait")
    assert list(rows.index) == ["other", "height", "also"] and (rows["status"] == "converged").all()
    for name, record in records.items():
        assert rows.loc[name, "n"] == record["n"]
        row = rows.loc[name, ["h2", "h2_se", "h2_mc_se", "vp", "lrt", "p"]].to_numpy(float)
        h2, vp = record["h2"], record["vp"]["estimate"]
        values = [h2["estimate"], h2["se"], h2["mc_se"], vp, record["lrt"], record["lrt_p"]]
        np.testing.assert_allclose(row, values, rtol=1e-7)
    assert not (tmp_path / "one.traits.tsv").exists()
    assert "phenotype also" in capsys.readouterr().out
    assert run(cohort, "--pheno-name", "height,nobody", *arguments, tmp_path / "no") == 2
    assert "no phenotype 'nobody'" in capsys.readouterr().err


@pytest.fixture
def one_breaks_down(cohort, monkeypatch):
    """Fits in which height is wanted end with an error."""
    real, height = methods.fit_traits, pd.read_csv(cohort / "pheno.txt", sep="\t")["height"].dropna().to_numpy()

    def fit_traits(Y, *arguments, **options):
        if any(np.array_equal(y[np.isfinite(y)], height) for y in Y.T):
            raise BreakdownError("V is not positive definite")
        return real(Y, *arguments, **options)

    monkeypatch.setattr(methods, "fit_traits", fit_traits)


SETS = ("--component-spec", "{}/spec.json")


@pytest.mark.parametrize("flags", [(), SETS, (*SETS, "--merge")])
def test_a_trait_that_cannot_be_fitted_has_a_row_and_the_others_go_on(cohort, tmp_path, capsys, one_breaks_down, flags):
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    table.assign(last=table["other"] ** 2).to_csv(tmp_path / "pheno.txt", sep="\t", index=False, na_rep="NA")
    given = ("--pheno", tmp_path / "pheno.txt", "--pheno-name", "all", "--method", "stochastic")
    assert run(cohort, *given, *[flag.format(cohort) for flag in flags], out=tmp_path / "all") == 3
    rows = pd.read_csv(tmp_path / "all.traits.tsv", sep="\t", index_col="trait")
    assert list(rows["status"]) == ["converged", "failed", "converged"]
    assert rows.loc["height", "n"] == N - 2 and rows.loc["height", "message"] == "V is not positive definite"
    assert np.isnan(rows.loc["height", "h2"])
    assert "gpu-reml: not converged: height: V is not positive definite" in capsys.readouterr().err
    assert (tmp_path / "all.last.json").exists() and not (tmp_path / "all.height.json").exists()


def test_haseman_elston_is_a_method_of_its_own(cohort):
    assert run(cohort, "--pheno-name", "height", "--method", "he", out="he") == 0
    record = json.loads((cohort / "he.json").read_text())
    assert record["method"] == "haseman-elston" and record["fixed_effects"] is None
    assert 0 < record["h2"]["mc_se"] < record["h2"]["se"]
    assert (cohort / "he.hsq").read_text().splitlines()[-1] == f"n\t{N - 2}"


@pytest.mark.parametrize("components", [(), ("--component-spec",)])
def test_a_run_killed_between_iterations_resumes_to_the_same_results(cohort, tmp_path, monkeypatch, components):
    extra = [*components, *([cohort / "spec.json"] if components else [])]
    flags = ("--pheno-name", "height", "--method", "stochastic", "--checkpoint-seconds", 0, *extra, "--out")
    assert run(cohort, *flags, tmp_path / "whole") == 0
    real, count = io_module.write_checkpoint, []

    def dies_at_the_third(*arguments):
        real(*arguments)
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(io_module, "write_checkpoint", dies_at_the_third)
    assert run(cohort, *flags, tmp_path / "cut") == 130
    assert [path.name for path in tmp_path.glob("cut*")] == ["cut.height.checkpoint.npz"]
    monkeypatch.setattr(io_module, "write_checkpoint", real)
    assert run(cohort, *flags, tmp_path / "cut", "--resume", "--seed", 5) == 2
    assert run(cohort, *flags, tmp_path / "cut", "--resume") == 0
    whole, cut = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "cut"))
    for record in (whole, cut):
        del record["seconds"], record["settings"], record["run"]
    assert whole == cut
    assert not list(tmp_path.glob("*checkpoint*"))


def test_help_names_the_flags_and_exit_codes(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help", "all"])
    text = capsys.readouterr().out
    for word in ("--bfile", "--component-spec", "exit codes", "--covar-txt"):
        assert word in text


def test_what_a_user_may_have_meant_otherwise_is_noted(cohort, tmp_path):
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    disease = table[["FID", "IID"]].assign(disease=1 + (table["height"] > 174).astype(int))
    disease.to_csv(tmp_path / "disease.txt", sep="\t", index=False)
    flags = ["--pheno", tmp_path / "disease.txt", "--covar", cohort / "q.txt"]
    assert run(cohort, *flags, out=tmp_path / "noted") == 0
    out = (tmp_path / "noted.log").read_text()
    levels = pd.read_csv(cohort / "q.txt", sep="\t")["age"].nunique()
    assert "note: disease has two values: variances and h2 are on that observed scale" in out
    assert f"covariate age is taken as {levels} categories; if it is a quantity, give it by --qcovar" in out
    assert run(cohort, *flags, "--prevalence", "0.1", out=tmp_path / "liability") == 0
    record = json.loads((tmp_path / "liability.json").read_text())
    cases = (disease["disease"] == 2).mean()
    factor = liability_factor(0.1, record["liability"]["share_of_cases"])
    assert abs(record["liability"]["share_of_cases"] - cases) < 0.1
    for name in ("estimate", "se"):
        np.testing.assert_allclose(record["liability"]["h2"][name], factor * record["h2"][name], rtol=1e-9)
    assert "V(G)/Vp_L" in (tmp_path / "liability.hsq").read_text()
    assert "h2 of liability = " in (tmp_path / "liability.log").read_text()
    assert run(cohort, "--pheno-name", "height", "--prevalence", "0.1", out=tmp_path / "no") == 2
    (line,) = [line for line in out.splitlines() if line.startswith("fixed effects: ")]
    assert line.startswith(f"fixed effects: {levels}: intercept, ") and line.endswith(f" and {levels - 30} more")
    assert len(json.loads((tmp_path / "noted.json").read_text())["notes"]) == 2
    assert run(cohort, "--pheno-name", "height", "--covar", cohort / "c.txt", out=tmp_path / "plain") == 0
    assert "note:" not in (tmp_path / "plain.log").read_text()


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e12])
def test_the_hsq_has_digits_whatever_the_unit(cohort, tmp_path, unit):
    table = pd.read_csv(cohort / "pheno.txt", sep="\t")
    table.assign(height=unit * table["height"]).to_csv(tmp_path / "pheno.txt", sep="\t", index=False, na_rep="NA")
    assert run(cohort, "--pheno", tmp_path / "pheno.txt", "--pheno-name", "height", out=tmp_path / "fit") == 0
    record = json.loads((tmp_path / "fit.json").read_text())
    hsq = pd.read_csv(tmp_path / "fit.hsq", sep="\t", index_col=0)
    np.testing.assert_allclose(hsq["Variance"]["Vp"], record["vp"]["estimate"], rtol=1e-6)
    assert ("e" in (tmp_path / "fit.hsq").read_text().splitlines()[3]) == (unit != 1)


def test_more_folds_than_samples_are_refused_before_the_fit(cohort, tmp_path, capsys):
    assert run(cohort, "--pheno-name", "height", "--cv", 500, out=tmp_path / "folds") == 2
    assert "--cv 500: more folds than the 219 analysed samples" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_relationship_matrix_needs_no_phenotype_and_a_fit_does(cohort, tmp_path, capsys):
    command = [str(part) for part in ("--bfile", cohort / "data", "--device", "cpu", "--out", tmp_path / "all")]
    assert main([*command, "--make-grm"]) == 0
    assert f"{N} samples" in capsys.readouterr().out
    ids = pd.read_csv(cohort / "data.fam", sep=r"\s+", header=None)[[0, 1]]
    ids.assign(y=np.arange(N)).to_csv(tmp_path / "pheno.txt", sep=" ", header=False, index=False)
    assert main([*command[:-1], str(tmp_path / "some"), "--pheno", str(tmp_path / "pheno.txt"), "--make-grm"]) == 0
    for end in ("grm.bin", "grm.id", "grm.N.bin"):
        assert (tmp_path / f"all.{end}").read_bytes() == (tmp_path / f"some.{end}").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "missing --pheno FILE; for example: gpu-reml --bfile" in capsys.readouterr().err
