#!/usr/bin/env python3
"""Set up and run, from nothing but Python 3.11 and pip:

    python3 dev.py example   make an example cohort and run the main job on it
    python3 dev.py test      run the whole test suite (arguments after it go to pytest)
    python3 dev.py docs      build the documentation into site/, with every link checked

All make a virtual environment in .venv on first use and bring it up to date when pyproject.toml changes.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed"


def set_up() -> None:
    """Virtual environment with the package (editable) and the test extra."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists():
        return
    print(f"setting up {VENV} (once)", flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[test]"], check=True)
    STAMP.write_text(wanted)


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036  (this runs before any install could refuse)
        print(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    # workers with one BLAS thread each: the tests are small, and more threads than cores make BLAS crawl
    workers = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadfile"] if len(arguments) < 2 else []
    commands = {
        "example": ["-m", "gpu_reml.validation.quickstart"],
        "test": ["-m", "pytest", "--quiet", "-ra", *workers],
        "docs": ["-m", "mkdocs", "build", "--strict", "--quiet"],
    }
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    set_up()
    environment = dict(os.environ)
    if arguments[0] == "test":
        environment.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    return subprocess.run([PYTHON, *commands[arguments[0]], *arguments[1:]], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
