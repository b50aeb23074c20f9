"""Small cohorts and commands that once gave a wrong answer, a traceback or nothing, each held to what is right.

They lie beside the external data, every one a folder with a run.sh for a shell that finds gpu-reml.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.external
LIMIT = 300  # seconds; what a case does takes a few, and what hangs should say so


@pytest.fixture(scope="session")
def cases(external_data, tmp_path_factory):
    """A copy of the cases beside the data that they read."""
    folder = external_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    home = tmp_path_factory.mktemp("home")
    (home / "data").symlink_to(external_data)
    return Path(shutil.copytree(folder, home / "cases"))


@pytest.fixture
def run(cases, tmp_path):
    """run(case) -> what its run.sh printed, on both streams; its files go to tmp_path."""

    def run_case(name):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OUT": str(tmp_path)}
        script = ["bash", str(cases / name / "run.sh")]
        done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=LIMIT)
        printed = done.stdout + done.stderr
        assert "Traceback" not in printed, printed
        return printed

    return run_case


def numbers(pattern, printed):
    """What the group of ``pattern`` finds, as numbers."""
    return [float(found) for found in re.findall(pattern, printed)]


def refusals(printed):
    """The lines of errors."""
    return re.findall(r"^gpu-reml[a-z-]*: error: .*$", printed, re.MULTILINE)


def test_coordinates_in_an_annotation_are_no_components(run):
    printed = run("annot-coordinate-columns")
    assert numbers(r"h2 = ([\d.]+)", printed) == pytest.approx([0.200074, 0.200074, 0.697041], abs=2e-6)
    assert re.findall(r"component (\w+):", printed) == ["coding", "coding", "base", "coding"]


def test_a_closed_or_full_screen_costs_no_result(run, tmp_path):
    run("closed-outputs")
    assert all((tmp_path / f"{name}.json").stat().st_size > 1000 for name in "abc")


def test_damaged_archives_are_named_in_one_line(run, cases):
    lines = run("damaged-archives").splitlines()
    made = sorted(path.name for path in (cases / "damaged-archives" / "made").iterdir())
    archives = [name for name in made if name.endswith((".npz", ".json"))]
    blocks = [name for name in made if name.endswith(".npz")]
    told = [*("p.txt.gz",), *archives, *blocks]
    assert len(lines) == len(told) and len(archives) == 6
    for line in lines:
        assert "gpu-reml: error: " in line, line
        assert sum(f"made/{name}" in line.split("gpu-reml: error: ")[1] for name in made) == 1, line


def test_an_empty_value_is_refused_by_the_name_of_its_flag(run):
    printed = run("empty-values")
    flags = "--keep --remove --qcovar --covar --maf-bins --w-files --vc-block-sizes --out".split()
    assert re.findall(r"^(--\S+) '' exit (\d+)$", printed, re.MULTILINE) == [(flag, "2") for flag in flags]
    said = refusals(printed)
    assert [re.search(r"error: (--[\w-]+): its value is empty", line).group(1) for line in said] == flags


def test_a_fam_that_lost_a_line_is_refused(run):
    printed = run("fam-line-lost")
    assert "exit 2" in printed and "h2" not in printed
    (said,) = refusals(printed)
    assert "mouse_hs1940.bed" in said and "mouse_hs1940.fam" in said


def test_five_components_of_a_hundred_variants_converge_to_dense_reml(run, tmp_path):
    printed = run("few-variants")
    assert "not positive definite" not in printed and len(re.findall("^written: ", printed, re.MULTILINE)) == 4
    record = json.loads((tmp_path / "o.json").read_text())  # of the last seed
    for found, exact in ((record["h2"], 0.9785), (record["residuals"][0], 0.0704)):
        assert abs(found.get("estimate", found.get("variance")) - exact) <= 4 * found["mc_se"] + 5e-5


def test_a_chromosome_under_two_names_is_one_that_is_left_out(run):
    lines = [line for line in run("loco-chromosome-names").splitlines() if "h2 without" in line]
    values = [numbers(r"(\d\.\d+)", line) for line in lines]
    assert len(values) == 3 and values[0] == values[1] == values[2] and len(values[0]) == 5


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes another user, which root alone can")
def test_a_fit_needs_no_folder_that_can_be_written_but_its_own(run):
    printed = run("no-writable-home")
    assert "exit 0" in printed and ("written: " in printed or "note: compiled code is " in printed)


def test_what_comes_through_a_pipe_is_read_whole(run):
    printed = run("pipes")
    assert numbers(r"(\d+) samples analysed", printed) == [1580]
    assert numbers(r"h2 = ([\d.]+)", printed) == pytest.approx([0.3208], abs=1e-4)
    assert numbers(r"(?m)^(\d+) samples, ", printed) == [861]
    assert printed.count("MiB") >= 1 and not refusals(printed)


def test_a_list_to_remove_that_matches_nobody_is_an_error_and_one_of_iids_is_matched_with_a_note(run):
    printed = run("remove-matches-nobody")
    assert numbers(r"h2 = ([\d.]+)", printed) == pytest.approx([0.533673, 0.533673], abs=2e-6)
    assert printed.count("250 samples analysed, 50 dropped") == 2
    assert "note: --remove rm_iidiid.txt: samples are matched by IID alone" in printed
    said = refusals(printed)
    assert ["rm_c.txt" in said[0], len(said)] == [True, 1]


def test_the_header_of_a_sample_file_says_which_column_is_the_iid(run):
    printed = run("sample-fid-iid")
    if refusals(printed):
        assert "x.sample" in printed and "h2" not in printed
    else:
        assert numbers(r"h2 = ([\d.]+)", printed) == pytest.approx([0.697041], abs=2e-6)


def test_fits_in_several_threads_of_python_give_the_same_answer(cases):
    script = [sys.executable, str(cases / "threads" / "run.py")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 or re.search(r"^ValueError: .*thread", done.stderr, re.MULTILINE), done.stderr


def test_every_case_has_its_test(cases):
    names = {path.name for path in cases.iterdir() if (path / "expected.txt").exists()}
    assert names <= {*re.findall(r'run\("([\w-]+)"\)', Path(__file__).read_text()), "threads"}
