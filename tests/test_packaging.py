"""The wheel holds everything: built from a copy of the sources, installed apart, run and type-checked from there."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

import gpu_reml

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = (
    "import gpu_reml.ops, gpu_reml.io, gpu_reml.validation, gpu_reml.cli.main as cli\n"
    "import gpu_reml.ops.cuda.driver, gpu_reml.ops.device.plan\n"
    "from gpu_reml.reml import fit, loglik, score, ai_step, pcg, slq\n"
    "print(gpu_reml.ops.__file__)\n"
    "cli.main(['--version'])\n"
)


TYPED = """import numpy as np
import gpu_reml

y, X = np.zeros(4), np.ones((4, 1))
result = gpu_reml.fit(y, X, np.eye(4), gpu_reml.draw_probes(4, seed=1))
reveal_type(result)
reveal_type(gpu_reml.read_bed("data"))
gpu_reml.fit(y)
gpu_reml.no_such_name
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel has been installed."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 to build the wheel (the test extra brings it)")
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", "tests", "example")
    shutil.copytree(ROOT, folder / "source", ignore=skipped)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(built, check=True, capture_output=True)
    (wheel,) = folder.glob("gpu_reml-*.whl")
    installed = [*pip, "install", "--quiet", "--no-deps", "--target", folder / "site", wheel]
    subprocess.run(installed, check=True, capture_output=True)
    return folder / "site"


def run_apart(site, tmp_path, *arguments):
    """Python run where the sources are not, with the installed wheel first."""
    environment = {**os.environ, "PYTHONPATH": str(site), "MYPYPATH": str(site)}
    return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_a_wheel_installed_elsewhere_runs(site, tmp_path):
    ran = run_apart(site, tmp_path, "-c", IMPORTS)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(site)) and "gpu-reml 0." in ran.stdout


def test_a_wheel_holds_every_module(site):
    folders = {"root": ".", **{name: name for name in ("reml", "io", "ops", "cli", "validation")}}
    modules = [
        Path(to) / path.relative_to(ROOT / of) for of, to in folders.items() for path in (ROOT / of).rglob("*.py")
    ]
    assert modules and not [str(module) for module in modules if not (site / "gpu_reml" / module).is_file()]


def test_an_installed_package_writes_a_report_with_its_template(site, tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    code = "import gpu_reml; print(gpu_reml.__file__); gpu_reml.report({'notes': ['a note']}, 'page.html')"
    ran = run_apart(site, tmp_path, "-c", code)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(site)) and "a note" in (tmp_path / "page.html").read_text()


def test_the_source_archive_holds_what_the_wheel_is_made_of(site, tmp_path):
    """A wheel can be built of it: every module, the template, README and the build's settings are in it."""
    code = "from setuptools import build_meta; print(build_meta.build_sdist(__import__('sys').argv[1]))"
    source = site.parent / "source"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=source, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (archive,) = tmp_path.glob("gpu_reml-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    modules = {
        str(path.relative_to(ROOT))
        for folder in ("root", "reml", "io", "ops", "cli", "validation")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= names
    assert {"pyproject.toml", "README.md", "root/reports/page.html", "root/py.typed"} <= names


def test_importing_the_command_loads_nothing_large_that_a_fit_may_do_without():
    """Each of these takes from a tenth of a second to a second."""
    large = ("scipy.stats", "matplotlib", "jinja2", "distributed", "dask", "sklearn", "rdata", "bed_reader")
    code = f"import sys, gpu_reml.cli.reml\nassert not set(sys.modules) & set({large}), set(sys.modules) & set({large})"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_type_checker_knows_what_an_installed_package_offers(site, tmp_path):
    (tmp_path / "script.py").write_text(TYPED)
    options = ("--follow-imports=silent", "--cache-dir", str(tmp_path))
    lines = run_apart(site, tmp_path, "-m", "mypy", *options, "script.py").stdout.splitlines()
    expected = ("gpu_reml.reml.result.FitResult", "gpu_reml.io.bed.BedFile", "call-arg", "no_such_name")
    assert [next(n for n, line in enumerate(lines) if part in line) for part in expected] == list(range(4)), lines


def test_every_name_of_the_package_is_there_and_typed():
    tree = ast.parse((ROOT / "root/__init__.py").read_text())
    seen = [
        name.name for part in ast.walk(tree) if isinstance(part, ast.ImportFrom) and part.level for name in part.names
    ]
    assert sorted(set(seen) - {"prefer_sleeping_threads"}) == sorted(gpu_reml.__all__)
    assert all(getattr(gpu_reml, name) is not None for name in gpu_reml.__all__)
    assert gpu_reml.__version__ == version("gpu-reml") and set(gpu_reml.__all__) <= set(dir(gpu_reml))
    with pytest.raises(AttributeError, match="no_such_name"):
        gpu_reml.no_such_name  # noqa: B018 - it is the lookup that fails


def test_importing_everything_touches_no_gpu_software():
    code = (
        "import sys, gpu_reml.ops, gpu_reml.reml, gpu_reml.io, gpu_reml.cli.main, gpu_reml.validation\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] == 'cuda' or name.startswith('numba.cuda')]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
