"""The library speaks of arguments and settings, the commands of flags and of the names in the user's tables."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from gpu_reml import io, ops, reml
from gpu_reml.cli import main, predict, relax, sparse, wording
from gpu_reml.cli.wording import in_flags, in_names
from gpu_reml.reml import Status, draw_probes, fit, settings
from gpu_reml.reml.studies import certified, lasso
from gpu_reml.reml.studies.sparse import SparseStatus
from gpu_reml.validation.simulate import simulate_cohort, write_plink


def texts_of(path):
    """String literals of a module but its docstrings."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


OTHER_PROGRAMS = re.compile(r"(plink2?|bcftools \w+)( --?[\w-]+)+")


def test_no_message_of_the_library_names_a_flag():
    folders = [Path(package.__file__).parent for package in (reml, ops, io)]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert len(files) > 100
    for path in files:
        for text in texts_of(path):
            assert not re.search(r"(?<!\w)--[a-z]", OTHER_PROGRAMS.sub("", text)), (path.name, text)


def test_every_argument_that_is_marked_is_a_flag_of_the_commands():
    files = list(Path(io.__file__).parent.rglob("*.py"))
    marked = {name for path in files for text in texts_of(path) for name in re.findall(r"`(\w+)`", text)}
    assert len(marked) > 15 and marked <= set(wording._FLAG_OF)
    known = {*sparse.make_sparse_parser("").flags, *main.make_parser("").flags, *predict.make_predict_parser("").flags}
    assert {flag for text in wording._FLAG_OF.values() for flag in re.findall("--[a-z-]+", text)} <= known
    assert in_flags("`maf` 0.1 is below `chrom` 1-4; `other`") == "--maf 0.1 is below --chr 1-4; `other`"


def test_python_reads_arguments_and_a_command_flags(folder, capsys):
    with pytest.raises(io.InputError, match=r"^`max_maf` 0\.1 is below `maf` 0\.2; no variant can pass both"):
        io.GenotypeFilters(maf=0.2, max_maf=0.1)
    paths = ["--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"), "--out", str(folder / "x")]
    assert main.main([*paths, "--maf", "0.2", "--max-maf", "0.1"]) == 2
    assert "--max-maf 0.1 is below --maf 0.2; no variant" in capsys.readouterr().err


@pytest.mark.parametrize("status", [*Status, *SparseStatus], ids=str)
def test_a_status_tells_a_command_to_change_flags_that_there_are(status):
    said = in_flags(status.value)
    assert "Settings" not in said and "float64 products" not in said
    known = {*sparse.make_sparse_parser("").flags, *main.make_parser("").flags}
    assert set(re.findall(r"--[a-z][\w-]*", said)) <= known
    if "Settings" in status.value:
        assert "--" in said


def test_every_setting_that_is_looked_up_is_one():
    classes = {**vars(settings), **vars(lasso), **vars(certified), **vars(reml)}
    classes["SparseSettings"] = __import__("gpu_reml.reml.studies.sparse", fromlist=["SparseSettings"]).SparseSettings
    for name in wording._FLAGS:
        found = re.fullmatch(r"(\w+Settings)\.(\w+)", name)
        if found:
            assert found[2] in classes[found[1]].__dataclass_fields__, name


def test_columns_are_named_as_in_the_tables():
    names = (["height", "weight"], ["intercept", "age"])
    assert in_names("y: does not vary", *names) == "phenotype height: does not vary"
    assert in_names("Y[:, 1]: give Y[:, 1] / 1e+99", *names) == "phenotype weight: give phenotype weight / 1e+99"
    assert in_names("X: column 1 is large; X[:, 1] / 10", *names) == "covariate age is large; covariate age / 10"


def test_the_number_of_samples_found_is_that_of_the_vector_given():
    K = np.eye(300)
    with pytest.raises(ValueError, match=r"^y: expected 300 samples, as the covariance has, found 400$"):
        reml.fit_exact(np.arange(400.0), np.ones((400, 1)), reml.dense_covariance([K]))
    with pytest.raises(ValueError, match=r"^y: expected 300 samples, as the covariance has, found 400$"):
        fit(np.arange(400.0), np.ones((400, 1)), reml.dense_covariance([K]), draw_probes(300, seed=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small cohort, a phenotype that its covariate explains, and memberships that are none."""
    made = tmp_path_factory.mktemp("wording")
    people = simulate_cohort(60, 80, 3)
    write_plink(people, made / "data")
    rng = np.random.default_rng(1)
    age, y = rng.standard_normal((2, 60))
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(height=y, older=2 * age + 1).to_csv(made / "pheno.txt", sep="\t", index=False)
    ids.assign(age=age).to_csv(made / "age.txt", sep="\t", index=False)
    np.save(made / "T.npy", np.zeros((80, 2)))
    return made


@pytest.mark.parametrize(
    ("run", "words", "code", "said"),
    [
        (main.main, "--qcovar {}/age.txt --pheno-name all", 2, "error: phenotype older: does not vary once"),
        (main.main, "--qcovar {}/age.txt --pheno-name older --method stochastic", 2, "phenotype older: does not vary"),
        (sparse.main, "--qcovar {}/age.txt --pheno-name older", 2, "error: phenotype older: does not vary once"),
        (relax.main, "--qcovar {}/age.txt --pheno-name older --n-groups 2", 2, "error: phenotype older: does not vary"),
        (relax.main, "--n-groups 2 --theta-init-npy {}/T.npy", 2, "T.npy: memberships of variant 0"),
        (main.main, "--method he --max-probes 1", 2, "--max-probes 1: Haseman-Elston regression takes 2 or more"),
        (main.main, "--maf-bins 0.2,0.1", 2, "--maf-bins: expected rising edges"),
        (main.main, "--alpha -300", 2, "error: --alpha: "),
        (main.main, "--dominance --dosage", 2, "--dominance: deviations are made of calls; leave --dosage out"),
        (main.main, "--by-chromosome --max-iterations 1", 3, "under the tolerance; raise --max-iterations, or look"),
    ],
)
def test_a_command_names_flags_and_the_users_own_names(folder, capsys, run, words, code, said):
    data = ["--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"), "--out", str(folder / "o")]
    assert run([*data, "--device", "cpu", "--quiet", *words.format(folder).split()]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_a_result_file_says_what_to_change_in_flags(folder):
    data = ["--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"), "--out", str(folder / "o")]
    assert main.main([*data, "--device", "cpu", "--quiet", "--by-chromosome", "--max-iterations", "1"]) == 3
    written = (folder / "o.json").read_text()
    assert "raise --max-iterations" in written and "FitSettings" not in written
