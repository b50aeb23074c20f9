"""The wheel holds everything: built from a copy of the sources, installed apart, and run from there."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = (
    "import gpu_reml.ops, gpu_reml.io, gpu_reml.validation, gpu_reml.cli.main as cli\n"
    "import gpu_reml.ops.cuda.driver, gpu_reml.ops.device.plan\n"
    "from gpu_reml.reml import fit, loglik, score, ai_step, pcg, slq\n"
    "print(gpu_reml.ops.__file__)\n"
    "cli.main(['--version'])\n"
)


def test_a_wheel_installed_elsewhere_runs(tmp_path):
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 to build the wheel (the test extra brings it)")
    source, site = tmp_path / "source", tmp_path / "site"
    skipped = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", "tests", "example")
    shutil.copytree(ROOT, source, ignore=skipped)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "dist", source]
    subprocess.run(built, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("gpu_reml-*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True, capture_output=True)
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(site)) and "gpu-reml 0." in ran.stdout


def test_importing_everything_touches_no_gpu_software():
    code = (
        "import sys, gpu_reml.ops, gpu_reml.reml, gpu_reml.io, gpu_reml.cli.main, gpu_reml.validation\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] == 'cuda' or name.startswith('numba.cuda')]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
