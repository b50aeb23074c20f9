"""The benchmarks measure what they say: processes, cohorts, dense REML, stored references, differences."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_reml.validation import exact_reml, kernel

ROOT = Path(__file__).resolve().parents[1]
COMPONENTS = 3


@pytest.fixture(scope="module")
def benchmarks():
    """Modules of the benchmarks, which are run from the repository's root and are not installed."""
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def tiny(benchmarks, tmp_path_factory):
    """A cohort of 120 people and 400 variants, and the prefix of its files."""
    cohort = benchmarks("cohorts").Cohort(120, 400, 3)
    return cohort, benchmarks("cohorts").cached_cohort(cohort, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tiny_kernels(benchmarks, tiny):
    """Kept kernels of the tiny cohort in float64, streamed ones in float32."""
    dense = benchmarks("dense")
    W = dense.membership(tiny[0].num_variants, COMPONENTS)
    kept = dense.Kernels(dense.Tiles(tiny[1], np.float64), W)
    narrow = dense.Tiles(tiny[1], np.float32)
    narrow.width = 64
    return kept, dense.StreamedKernels(narrow, W)


def test_a_process_is_measured_apart_from_its_caller(benchmarks):
    ballast = np.ones(40 << 20)  # 320 MiB in the caller
    run = benchmarks("process").measure([sys.executable, "-S", "-c", "b = b'x' * (60 << 20); print(len(b))"], 1)
    assert (run.code, run.output.strip()) == (0, str(60 << 20)), run.output
    assert 60 << 20 < run.peak_bytes < ballast.nbytes / 2
    assert 0 < run.seconds < 60


def test_a_process_that_fails_is_an_error_with_what_it_printed(benchmarks):
    with pytest.raises(RuntimeError, match=r"--no-such-flag.*ended with 2[\s\S]*unknown flag"):
        benchmarks("process").measure_module("gpu_reml.cli.main", ["--no-such-flag"], 1)


def test_a_cached_cohort_is_made_once_and_leaves_nothing_else(benchmarks, tiny, monkeypatch):
    cohort, prefix = tiny
    monkeypatch.delattr(benchmarks("cohorts"), "make_cohort")
    assert benchmarks("cohorts").cached_cohort(cohort, prefix.parents[1]) == prefix
    assert [folder.name for folder in prefix.parents[1].iterdir()] == [cohort.key]
    assert {file.suffix for file in prefix.parent.iterdir()} == {".bed", ".bim", ".fam", ".pheno"}


def test_a_cohort_that_cannot_be_made_leaves_nothing(benchmarks, tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        benchmarks("cohorts").cached_cohort(benchmarks("cohorts").Cohort(0, 10), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_that_another_process_made_meanwhile_is_used(benchmarks, tmp_path, monkeypatch):
    cohorts = benchmarks("cohorts")
    cohort = cohorts.Cohort(10, 10)
    theirs = tmp_path / cohort.key / "cohort.bed"

    def make_while_another_finishes(_, prefix):
        theirs.parent.mkdir()
        theirs.touch()
        prefix.touch()

    monkeypatch.setattr(cohorts, "make_cohort", make_while_another_finishes)
    assert cohorts.cached_cohort(cohort, tmp_path) == theirs.with_suffix("")
    assert list(tmp_path.iterdir()) == [theirs.parent] and list(theirs.parent.iterdir()) == [theirs]


def test_traits_of_one_cohort_are_half_genetic_and_independent(benchmarks, tmp_path):
    cohorts = benchmarks("cohorts")
    cohorts.make_cohort(cohorts.Cohort(2000, 300, 1, num_traits=3), tmp_path / "c")
    lines = Path(tmp_path, "c.pheno").read_text().splitlines()
    assert lines[0].split("\t") == ["FID", "IID", "t1", "t2", "t3"]
    Y = np.array([line.split("\t")[2:] for line in lines[1:]], float)
    # 300 correlated variants: the spread of a trait's genetic variance is a few times sampling's 1/sqrt(n)
    assert np.allclose(np.cov(Y.T), np.eye(3), atol=0.3)


def test_few_components_partition_the_variants_and_many_overlap_fivefold(benchmarks):
    component_sets = benchmarks("cohorts").component_sets
    assert np.array_equal(np.concatenate(component_sets(1000, 22)), np.arange(1000))
    many = component_sets(20_000, 100)
    assert len(many) == 100
    assert sum(map(len, many)) / 20_000 == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("which", ["kept", "streamed"])
def test_the_dense_fit_is_the_exact_fit(benchmarks, tiny, tiny_kernels, which, monkeypatch):
    dense, cohorts = benchmarks("dense"), benchmarks("cohorts")
    monkeypatch.setattr(dense, "ROWS", 50)  # so that there are several blocks of rows
    Z = np.concatenate([tile for _, tile in dense.Tiles(tiny[1], np.float64)], axis=1)
    W = dense.membership(tiny[0].num_variants, COMPONENTS)
    y, X = cohorts.read_trait(tiny[1]), np.ones((tiny[0].num_samples, 1))
    exact = exact_reml(y, X, [kernel(Z, w.astype(float)) for w in W.T])
    found = dense.fit(y, X, tiny_kernels[which == "streamed"])
    assert np.abs((found.theta - exact.theta) / found.se).max() < 1e-3
    assert found.h2 == pytest.approx(exact.h2, abs=1e-3 * found.h2_se)
    assert np.allclose(found.se**2, np.diag(np.linalg.inv(exact.ai)), rtol=1e-3)


def test_streamed_kernels_are_the_kept_ones(tiny_kernels):
    kept, streamed = tiny_kernels
    theta = np.array([0.2, 0.0, 0.7])
    A = np.random.default_rng(0).standard_normal((kept.K.shape[1], 5))
    assert np.allclose(streamed.combine(theta), kept.combine(theta), atol=1e-5)
    assert np.allclose(streamed.traces(A @ A.T), kept.traces(A @ A.T), rtol=1e-5)
    assert np.allclose(streamed.images(A[:, 0]), kept.images(A[:, 0]), atol=1e-5)
    assert np.allclose(streamed.mean_traces, kept.mean_traces, rtol=1e-6)


def a_reference(benchmarks, prefix, **changed):
    references = benchmarks("references")
    values = {
        "theta": [0.4, 0.6], "se": [0.1, 0.2], "h2": 0.4, "h2_se": 0.05, "error": 0.0, "how": "dense", "seconds": 1.0,
        "threads": 1, "digest": references.phenotype_digest(prefix),
    }  # fmt: skip
    return references.Reference(**{**values, **changed})


def test_a_reference_comes_back_for_its_own_cohort_and_components(benchmarks, tiny, tmp_path):
    references, (cohort, prefix) = benchmarks("references"), tiny
    path, stored = tmp_path / "references.json", a_reference(benchmarks, prefix)
    assert references.find_reference(cohort, 1, prefix, path) is None
    references.store_reference(cohort, 1, stored, path)
    references.store_reference(cohort, 22, stored._replace(h2=0.1), path)
    assert references.find_reference(cohort, 1, prefix, path) == stored
    assert references.find_reference(cohort, 2, prefix, path) is None


def test_a_reference_of_another_phenotype_is_refused(benchmarks, tiny, tmp_path):
    references, (cohort, prefix) = benchmarks("references"), tiny
    path = tmp_path / "references.json"
    digest = references.phenotype_digest(prefix)
    other = a_reference(benchmarks, prefix, digest=[digest[0], digest[1] * 1.001, digest[2]])
    references.store_reference(cohort, 1, other, path)
    with pytest.raises(ValueError, match=r"another phenotype.*--make-references"):
        references.find_reference(cohort, 1, prefix, path)


def test_differences_are_in_standard_errors_of_the_reference(benchmarks, tiny):
    record = {
        "components": [{"theta": 0.43, "theta_mc_se": 0.02}], "residuals": [{"theta": 0.52, "theta_mc_se": 0.01}],
        "h2": {"estimate": 0.41},
    }  # fmt: skip
    found = benchmarks("fits").differences(record, a_reference(benchmarks, tiny[1]))
    assert found == pytest.approx({"max": 0.4, "rms": np.sqrt((0.3**2 + 0.4**2) / 2), "h2": 0.2, "max/mc": 8})


def test_a_fit_and_its_reference_must_have_as_many_components(benchmarks, tiny):
    record = {"components": [{"theta": 0.1}] * 2, "residuals": [{"theta": 0.5}], "h2": {"estimate": 0.2}}
    with pytest.raises(ValueError, match="3 variances and its reference 2"):
        benchmarks("fits").differences(record, a_reference(benchmarks, tiny[1]))


def test_rows_print_with_dashes_for_what_was_not_measured(benchmarks):
    fits = benchmarks("fits")
    line = fits.table_line({"cohort": "S", "G": 22, "T": 1, "s": 7.25, "passes": 1033.0, "status": "converged"})
    assert line.split() == ["S", "22", "1", "7.2", *["-"] * 5, "1033", *["-"] * 7, "converged"]


def test_ten_traits_are_set_against_one_of_the_same_components(benchmarks):
    one = {"cohort": "M", "G": 22, "T": 1, "passes": 600.0, "cpu": 20.0, "s": 10.0}
    ten = {**one, "T": 10, "passes": 900.0, "cpu": 25.0, "s": 12.0}
    other = {**one, "G": 1}
    times = "1.50 times the column-passes, 1.25 times the CPU seconds, 1.20 times the seconds"
    assert benchmarks("fits").trait_lines([one, ten, other]) == [f"M G=22: 10 traits against one: {times}"]


def test_a_cohort_of_the_users_is_fitted_with_one_component_and_by_chromosome(benchmarks, tiny, monkeypatch, capsys):
    fits = benchmarks("fits")
    monkeypatch.setattr(fits, "floor_seconds", lambda n, m, threads: 1e-6 * n)
    given = ["--bfile", str(tiny[1]), "--pheno", f"{tiny[1]}.pheno", "--pheno-name", "trait", "--threads", "1"]
    assert fits.main(given) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines[1:3]] == [["cohort", "1", "1"], ["cohort", "22", "1"]]
    assert float(lines[1][6]) == pytest.approx(float(lines[1][3]) / (100 * 1.2e-4), rel=0.1)


def test_a_cohort_of_the_users_needs_its_phenotypes(benchmarks, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmarks("fits").main(["--bfile", "mice"])
    assert "--bfile: give --pheno and --pheno-name with it" in capsys.readouterr().err


def test_ratios_are_to_the_first_row(benchmarks):
    first, row = {"value": 2, "seconds": 4.0, "passes": 10.0}, {"value": 6, "seconds": 6.0, "passes": 10.0}
    found = benchmarks("scaling").with_ratios(row, first)
    assert [found[f"{name}_ratio"] for name in first] == [3, 1.5, 1]


@pytest.mark.parametrize("vary", ["n", "m", "G", "traits", "threads"])
def test_a_point_differs_from_the_base_in_one_thing(benchmarks, vary):
    scaling = benchmarks("scaling")
    low, high = (scaling.make_point(vary, value, 7) for value in (1, 9))
    flat = [(*point.cohort, *point[1:]) for point in (low, high)]
    assert sum(a != b for a, b in zip(*flat, strict=True)) == 1


def test_more_traits_than_the_cohort_has_are_refused(benchmarks):
    with pytest.raises(ValueError, match="1 to 10 traits, found 11"):
        benchmarks("scaling").make_point("traits", 11, 1)


def test_the_floor_is_seconds_of_one_column_through_all_variants(benchmarks, monkeypatch):
    floor = benchmarks("floor")
    monkeypatch.setattr(floor, "MOST_BYTES", 4 * 50 * 100)
    monkeypatch.setattr(floor.time, "perf_counter", iter(range(100)).__next__)
    # 100 of 700 variants are multiplied, 8 columns at a time, in one second of this clock
    assert floor.column_pass_seconds(50, 700, 8) == pytest.approx(7 / 8)


FAKE = """#!/bin/sh
echo "Version 9.1, a program that stands in for another"
for last; do :; done
case "$*" in *--calc-kins-direct*|*--make-grm*) exit 0;; esac
printf 'Component Heritability SE\\nHer_K1 0.41 0.05\\nHer_All 0.41 0.05\\n' > "$2.reml"
"""


def test_programs_that_are_installed_are_run_and_the_others_are_named(benchmarks, tiny, tmp_path, monkeypatch, capsys):
    tools = benchmarks("compare_tools")
    cohort, prefix = tiny
    ldak = tmp_path / "ldak"
    ldak.write_text(FAKE)
    ldak.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(benchmarks("programs").shutil, "which", lambda name: str(ldak) if name == "ldak" else None)
    monkeypatch.setattr(tools, "cached_cohort", lambda *_: prefix)
    monkeypatch.setattr(tools, "COHORTS", {"S": cohort})
    reference = benchmarks("references").Reference([0.5, 0.5], [0.1, 0.1], 0.5, 0.1, 0.0, "", 1.0, 1, [])
    monkeypatch.setattr(tools, "reference_of", lambda *_: reference)
    asked = ["--components", "1", "--threads", "1", "--cache", str(tmp_path)]
    assert tools.main([*asked, "--only", "LDAK", "GCTA", "GEMMA", "glimix-core"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\| LDAK 9.1 \| 1 \| \d+\.\d \| .* \| 0.4100 \(0.0500\) \| 0.9000 \|", text)
    assert "Not installed there: GEMMA, glimix-core, GCTA;" in text and "| GCTA" not in text


def test_the_error_of_a_program_is_that_of_its_worst_share(benchmarks):
    tools = benchmarks("compare_tools")
    reference = benchmarks("references").Reference([1.0, 2.0, 1.0], [0.1, 0.2, 0.1], 0.75, 0.05, 0.0, "", 1.0, 1, [])
    exact = tools.exact_of(reference, np.array([1.0, 1.0]))
    np.testing.assert_allclose(exact.shares, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(exact.se, [0.025, 0.05, 0.05])
    assert tools.error_of(tools.Found(0.76, 0.1, (0.20, 0.56)), exact) == pytest.approx(2)
    assert tools.error_of(tools.Found(0.76, 0.1, (0.76,)), exact) == pytest.approx(0.2)


def test_results_of_other_programs_are_read_as_they_print_them(benchmarks, tmp_path):
    programs = benchmarks("programs")
    printed = "h2e (1,1): 0.6 (0.2)\n h2g (1,1): 0.4 (0.2)\nagain\n  h2e (1,1): 0.49 (0.03)\n  h2g (1,1): 0.2 (0.01)\n"
    found = programs.read_bolt(tmp_path, f"{printed}  h2g (1,1): 0.31 (0.02)\n")
    assert found.shares == (0.2, 0.31) and found.se == 0.03 and found.h2 == pytest.approx(0.51)
    (tmp_path / "o.hsq").write_text("Source\tVariance\tSE\nV(G)\t1\t0.1\nV(G)/Vp\t0.4\t0.04\n")
    assert programs.read_hsq(tmp_path / "o", "") == (0.4, 0.04, (0.4,))
    (tmp_path / "o.hsq").write_text("V(G1)/Vp\t0.4\t0.04\nV(G2)/Vp\t0.1\t0.05\nSum of V(G)/Vp\t0.5\t0.06\n")
    assert programs.read_hsq(tmp_path / "o", "") == (0.5, 0.06, (0.4, 0.1))
    one, several = "## pve estimates =   0.5\n## se(pve) =   0.03\n", "## total pve = 0.6\n## se(total pve) = 0.04\n"
    (tmp_path / "o.vc.log.txt").write_text(one)
    assert programs.read_gemma(tmp_path / "o", "") == (0.5, 0.03, (0.5,))
    (tmp_path / "o.vc.log.txt").write_text(one.replace("0.5", "0.5  0.1").replace("0.03", "0.03 0.02") + several)
    assert programs.read_gemma(tmp_path / "o", "") == (0.6, 0.04, (0.5, 0.1))
    with pytest.raises(ValueError, match="no h2 in what it wrote"):
        programs.read_bolt(tmp_path, "ERROR")


def test_components_are_told_to_each_program_in_its_own_way(benchmarks, tiny, tmp_path):
    programs = benchmarks("programs")
    (tmp_path / "out.pheno").write_text("FID IID trait\nF P 1.5\n")
    task = programs.Task(tiny[1], tmp_path / "out", [np.array([0, 2]), np.array([1])], 3)
    ids = [line.split()[1] for line in open(f"{tiny[1]}.bim")]
    (bolt,) = programs.bolt_steps("bolt", task)
    assert bolt[-2:] == [f"--modelSnps={tmp_path}/out.sets", "--numThreads=3"]
    assert (tmp_path / "out.sets").read_text() == f"{ids[0]} set1\n{ids[2]} set1\n{ids[1]} set2\n"
    *made, last = programs.gemma_steps("gemma", task)
    assert len(made) == 2 and (tmp_path / "out.set1").read_text() == f"{ids[1]}\n"
    assert last[last.index("-mk") + 1] == f"{tmp_path}/out.matrices" and last[last.index("-vc") + 1] == "2"
    (own,) = programs.own_steps("gpu-reml", task)
    assert own[own.index("--component-table") + 1] == f"{tmp_path}/out.sets"


def test_the_table_of_the_readme_is_replaced_and_nothing_else(benchmarks):
    tools = benchmarks("compare_tools")
    text = f"before\n{tools.BEGIN}\nold\n{tools.END}\nafter\n"
    once = tools.with_table(text, "new")
    assert once == f"before\n{tools.BEGIN}\n\nnew\n\n{tools.END}\nafter\n" and tools.with_table(once, "new") == once
    with pytest.raises(ValueError, match="once each"):
        tools.with_table("no marks", "new")


def test_the_model_of_several_workers_shares_operations_and_sends_blocks_in_rounds(benchmarks):
    cluster = benchmarks("cluster")
    rates = cluster.Rates(flops=1e12, bandwidth=1e9, latency=1e-3)
    n, m, k = 10_000, 100_000, 50
    one, eight = (cluster.product_seconds(n, m, k, cluster.Setting("", W, rates)) for W in (1, 8))
    block = 4 * n * k / 1e9
    assert one.compute == 4 * n * m * k / 1e12 == 8 * eight.compute
    assert (one.send, eight.send, eight.collect) == pytest.approx((block, 4 * block, 4 * block))
    narrow = cluster.product_seconds(n, m, k, cluster.Setting("", 8, rates, at_once=2))
    assert narrow.compute == 4 * eight.compute and narrow.whole > eight.whole


def test_the_table_of_large_machines_is_printed_from_the_model(benchmarks, capsys):
    cluster = benchmarks("cluster")
    assert cluster.main(["--table"]) == 0
    printed = capsys.readouterr().out
    assert "1.25 TB of packed genotypes" in printed
    for setting in cluster.ELSEWHERE:
        whole = cluster.product_seconds(*cluster.LARGE, setting).whole
        assert f"{setting.name:24s}" in printed and f"{whole:7.1f}" in printed
