"""--workers and --scheduler: the same results as one process, the same bits for any number of workers."""

import json

import numpy as np
import pytest
from bed_reader import to_bed

from gpu_reml.cli.gwas import main as gwas
from gpu_reml.cli.main import main

pytestmark = pytest.mark.usefixtures("within_two_minutes")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Prefix of a fileset of 260 people with a phenotype that varies with it."""
    rng = np.random.default_rng(4)
    counts = rng.binomial(2, rng.uniform(0.1, 0.5, 900), (260, 900)).astype(np.int8)
    counts[:, :20] = rng.binomial(2, 0.03, (260, 20))
    Z = (counts - counts.mean(axis=0)) / counts.std(axis=0)
    y = Z @ rng.standard_normal(900) / np.sqrt(900) + rng.standard_normal(260)
    prefix = tmp_path_factory.mktemp("workers") / "cohort"
    properties = {
        "fid": [f"F{i}" for i in range(260)],
        "iid": [f"s{i}" for i in range(260)],
        "chromosome": [str(1 + 3 * j // 900) for j in range(900)],
        "sid": [f"rs{j}" for j in range(900)],
        "bp_position": [1000 * j + 1 for j in range(900)],
    }
    to_bed(f"{prefix}.bed", counts, properties=properties)
    lines = (f"F{i} s{i} {value:.6f}\n" for i, value in enumerate(y))
    prefix.with_suffix(".pheno").write_text("FID IID y\n" + "".join(lines))
    return prefix


@pytest.fixture(scope="module")
def scheduler(forked_workers):
    """The address of a scheduler with two workers, for all runs that join one."""
    from gpu_reml.ops.cluster.session import Size, local_cluster

    with local_cluster(Size(2, 1, 1 << 30), lambda text: None) as cluster:
        yield cluster.client.scheduler.address


def run(cohort, out, *flags, command=main):
    """Run a command on the cohort; its record."""
    fixed = ["--bfile", cohort, "--pheno", cohort.with_suffix(".pheno"), "--threads", "2", "--out", out]
    assert command(list(map(str, [*fixed, *flags]))) == 0
    path = out.with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else None


def estimates(record):
    """What was estimated, of a record: without what tells of the run."""
    return {key: value for key, value in record.items() if key not in ("run", "seconds", "settings")}


def test_two_workers_and_three_give_the_same_bits_and_one_process_the_same_results(cohort, tmp_path, scheduler, capsys):
    flags = ("--by-chromosome", "--maf", "0.05", "--method", "stochastic", "--max-probes", "8", "--compute-effects")
    here = run(cohort, tmp_path / "here", *flags)
    two = run(cohort, tmp_path / "two", *flags, "--scheduler", scheduler, "--shards", "5")
    three = run(cohort, tmp_path / "three", *flags, "--workers", "3", "--shards", "5")
    printed = capsys.readouterr().out
    assert estimates(two) == estimates(three)
    assert "workers: 3, each with" in printed and "dashboard http://" in printed and "5 shards" in printed
    for found, expected in zip(three["components"], here["components"], strict=True):
        assert abs(found["theta"] - expected["theta"]) <= 1e-5 * expected["theta_se"]
        assert found["num_variants"] == expected["num_variants"]
    effects = [(tmp_path / f"{name}.snp_effects.tsv").read_text() for name in ("two", "three")]
    assert effects[0] == effects[1]


@pytest.mark.parametrize(
    "flags",
    [
        ("--method", "stochastic"),
        ("--method", "exact", "--by-chromosome"),
        ("--ld-bins", "2", "--maf-bins", "0.2", "--method", "he", "--mind", "0.5"),
        ("--smile-ld", "correlation", "--smile-block-size", "64", "--method", "stochastic"),
    ],
)
def test_workers_that_are_joined_give_the_results_of_one_process(flags, cohort, tmp_path, scheduler):
    here = run(cohort, tmp_path / "here", *flags)
    there = run(cohort, tmp_path / "there", *flags, "--scheduler", scheduler)
    for found, expected in zip(there["components"], here["components"], strict=True):
        assert abs(found["theta"] - expected["theta"]) <= 1e-5 * (expected["theta_se"] or 1)
        assert found["num_variants"] == expected["num_variants"]


@pytest.mark.parametrize("model", ["ols", "loco"])
def test_a_scan_by_workers_is_that_of_one_process(model, cohort, tmp_path, scheduler):
    flags = ("--model", model, *(["--method", "score"] if model == "loco" else []))
    tables = []
    for name, more in (("here", ()), ("there", ("--scheduler", scheduler))):
        run(cohort, tmp_path / name, *flags, *more, command=gwas)
        (path,) = tmp_path.glob(f"{name}*.t*v*")
        tables.append(np.genfromtxt(path, names=True, dtype=None, encoding=None))
    names = [name for name in tables[0].dtype.names if tables[0][name].dtype.kind == "f"]
    assert names
    for name in names:
        np.testing.assert_allclose(tables[1][name], tables[0][name], rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--workers", "2", "--dominance"), "--workers: --dominance cannot be used with workers"),
        (("--workers", "2", "--device", "cuda"), "--num-gpus shares variants among its devices"),
        (("--workers", "2", "--scheduler", "x.json"), "--scheduler: not allowed with --workers"),
        (("--scheduler", "absent.json"), "absent.json: no such file; it is what a scheduler of dask writes"),
        (("--scheduler", "127.0.0.1:9"), "no scheduler answers at tcp://127.0.0.1:9"),
        (("--workers", "1", "--worker-memory-gib", "0.2"), "--workers: each of 1 would take about 231 MiB and has 205"),
    ],
)
def test_what_workers_cannot_do_is_said_in_one_line(flags, expected, cohort, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gpu_reml.ops.cluster.session.ANSWER", 0.5)
    arguments = ["--bfile", cohort, "--pheno", cohort.with_suffix(".pheno"), "--out", tmp_path / "x", *flags]
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_the_plan_tells_the_memory_of_workers_and_starts_none(cohort, tmp_path, capsys):
    run(cohort, tmp_path / "plan", "--workers", "4", "--plan")
    printed = capsys.readouterr().out
    assert "memory of the 4 workers about" in printed
    assert "packed genotypes" not in printed.split("memory of")[0]
