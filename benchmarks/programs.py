"""Programs that fit variance components by REML: how each is told what to fit, and how its answer is read.

A task is a cohort, a trait and sets of variants; one set of all variants is one component.  Recipes of GCTA and LDAK
follow their manuals: neither could be installed where the others were tried.
"""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

LIBRARIES = Path(__file__).with_name("libraries")
MANY = 10**6


class Found(NamedTuple):
    """h2 of all components with its standard error (NaN where a program has none), and the share of each (G,)."""

    h2: float
    se: float
    shares: tuple[float, ...]


class Task(NamedTuple):
    """``prefix`` of a fileset; ``out``: where files go, with ``out``.pheno (a header, FID IID trait) and ``out``.plain
    (without one) written already; ``sets``: (G,) zero-based variants of each component."""

    prefix: Path
    out: Path
    sets: Sequence[np.ndarray]
    threads: int

    @property
    def ids(self) -> list[list[str]]:
        """Of every set the ids of its variants."""
        column = pd.read_csv(f"{self.prefix}.bim", sep=r"\s+", header=None, usecols=[1], dtype=str)[1].to_numpy()
        return [column[rows].tolist() for rows in self.sets]

    def write(self, suffix: str, lines: Sequence[str]) -> str:
        """A text file beside ``out``; its path."""
        path = f"{self.out}.{suffix}"
        Path(path).write_text("".join(f"{line}\n" for line in lines))
        return path


class Tool(NamedTuple):
    """A program: ``commands`` are those on the PATH that may be it, or a script for an environment that has a library;
    ``steps(command, task)``: its command lines; ``read(out, printed)``: what it found; ``version``: a pattern of what
    it prints of itself; ``most``: how many components its recipe here takes."""

    name: str
    commands: tuple[str, ...]
    steps: Callable[[str, Task], list[list[str]]]
    read: Callable[[Path, str], Found]
    version: str
    most: int = 1


def own_steps(command: str, task: Task) -> list[list[str]]:
    flags = ["--bfile", str(task.prefix), "--pheno", f"{task.out}.pheno", "--method", "stochastic", "--device", "cpu"]
    if len(task.sets) > 1:
        rows = [f"{name} set{g + 1}" for g, names in enumerate(task.ids) for name in names]
        flags += ["--component-table", task.write("sets", ["variant component", *rows])]
    return [[command, *flags, "--threads", str(task.threads), "--out", str(task.out)]]


def bolt_steps(command: str, task: Task) -> list[list[str]]:
    flags = [f"--bfile={task.prefix}", f"--phenoFile={task.out}.pheno", "--phenoCol=trait", "--reml"]
    if len(task.sets) > 1:
        rows = [f"{name} set{g + 1}" for g, names in enumerate(task.ids) for name in names]
        flags.append(f"--modelSnps={task.write('sets', rows)}")
    return [[command, *flags, f"--numThreads={task.threads}"]]


def gemma_steps(command: str, task: Task) -> list[list[str]]:
    """A matrix of standardised genotypes for every set, then AI-REML; every variant is kept."""
    y = task.write("y", pd.read_csv(f"{task.out}.pheno", sep=" ", dtype=str)["trait"].tolist())
    folder, every = ["-outdir", str(task.out.parent)], ["-maf", "0", "-miss", "1", "-r2", "1", "-notsnp"]
    steps, matrices = [], []
    for g, names in enumerate(task.ids):
        own = ["-snps", task.write(f"set{g}", names)] if len(task.sets) > 1 else []
        made = f"{task.out.name}.k{g}"
        steps.append([command, "-bfile", str(task.prefix), "-p", y, "-gk", "2", *every, *own, "-o", made, *folder])
        matrices.append(f"{task.out.parent}/{made}.sXX.txt")
    given = ["-mk", task.write("matrices", matrices)] if len(matrices) > 1 else ["-k", matrices[0]]
    return [*steps, [command, "-p", y, *given, "-vc", "2", "-o", f"{task.out.name}.vc", *folder]]


def gcta_steps(command: str, task: Task) -> list[list[str]]:
    common = ["--thread-num", str(task.threads), "--out", str(task.out)]
    return [
        [command, "--bfile", str(task.prefix), "--make-grm", *common],
        [command, "--grm", str(task.out), "--pheno", f"{task.out}.plain", "--reml", *common],
    ]


def ldak_steps(command: str, task: Task) -> list[list[str]]:
    common = ["--max-threads", str(task.threads)]
    kinship = ["--bfile", str(task.prefix), "--ignore-weights", "YES", "--power", "-1"]
    return [
        [command, "--calc-kins-direct", str(task.out), *kinship, *common],
        [command, "--reml", str(task.out), "--grm", str(task.out), "--pheno", f"{task.out}.plain", *common],
    ]


def script_steps(script: str) -> Callable[[str, Task], list[list[str]]]:
    """Of a library: its script, by the Python that has it."""

    def steps(command: str, task: Task) -> list[list[str]]:
        return [[command, str(LIBRARIES / script), str(task.prefix), f"{task.out}.pheno"]]

    return steps


def matched(pattern: str, text: str, where: str) -> list[tuple[str, ...]]:
    """All that a pattern with groups finds; ValueError where it finds nothing."""
    found = re.findall(pattern, text, re.MULTILINE)
    if not found:
        raise ValueError(f"{where}: no h2 in what it wrote: {text[-500:]!r}")
    return found


def read_hsq(out: Path, _printed: str) -> Found:
    """GCTA's table, which gpu-reml writes too."""
    text, where = Path(f"{out}.hsq").read_text(), f"{out}.hsq"
    rows = matched(r"^V\(G\d*\)/Vp\t(\S+)\t(\S+)", text, where)
    ((h2, se),) = matched(r"^Sum of V\(G\)/Vp\t(\S+)\t(\S+)", text, where) if len(rows) > 1 else rows
    return Found(float(h2), float(se), tuple(float(share) for share, _ in rows))


def read_bolt(_out: Path, printed: str) -> Found:
    """What stands at the end; the error of the residual's share is that of h2."""
    end = printed[printed.rfind("h2e (1,1)") :]
    (rest,) = matched(r"h2e \(1,1\): (\S+) \((\S+)\)", end, "bolt")
    shares = tuple(float(share) for share, _ in matched(r"h2g \(1,1\): (\S+) \((\S+)\)", end, "bolt"))
    return Found(sum(shares), float(rest[1]), shares)


def read_gemma(out: Path, _printed: str) -> Found:
    """The log of its last step."""
    text, where = Path(f"{out}.vc.log.txt").read_text(), f"{out}.vc.log.txt"
    shares = tuple(map(float, matched(r"^## pve estimates =(.+)$", text, where)[0].split()))
    total = re.findall(r"^## (?:se\(total pve\)|se\(pve\)) =\s+(\S+)", text, re.MULTILINE)
    return Found(sum(shares), float(total[-1]), shares)


def read_ldak(out: Path, _printed: str) -> Found:
    ((h2, se),) = matched(r"^Her_(?:All|K1)\s+(\S+)\s+(\S+)", Path(f"{out}.reml").read_text(), f"{out}.reml")[-1:]
    return Found(float(h2), float(se), (float(h2),))


def read_script(_out: Path, printed: str) -> Found:
    ((h2, se),) = matched(r" h2 (\S+) (\S+)$", printed, "the library")
    return Found(float(h2), float(se), (float(h2),))


TOOLS = (
    Tool("gpu-reml", ("gpu-reml",), own_steps, read_hsq, r"gpu-reml (\S+)", MANY),
    Tool("BOLT-REML", ("bolt",), bolt_steps, read_bolt, r"BOLT-LMM, v(\S+)", MANY),
    Tool("GEMMA", ("gemma",), gemma_steps, read_gemma, r"GEMMA (\d\S+)", MANY),
    Tool("glimix-core", ("by_glimix.py",), script_steps("by_glimix.py"), read_script, r"glimix-core (\S+)"),
    Tool("FaST-LMM", ("by_fastlmm.py",), script_steps("by_fastlmm.py"), read_script, r"fastlmm (\S+)"),
    Tool("GCTA", ("gcta64", "gcta"), gcta_steps, read_hsq, r"version v?(\S+)"),
    Tool("LDAK", ("ldak", "ldak6", "ldak5.2.linux", "ldak6.linux"), ldak_steps, read_ldak, r"Version (\S+)"),
)
NO_RECIPE = ("MPH", "GENIE", "GPU_REML")  # no command line of these has been tried here
PACKAGES = ("glimix-core", "fastlmm", "six", "bed-reader", "pandas")  # fastlmm needs six and does not say so


def path_of(tool: Tool, libraries: Path) -> str | None:
    """Where the program is: gpu-reml beside this Python, libraries in an environment of theirs, others on the PATH."""
    if tool.commands[0].endswith(".py"):
        python = libraries / "bin" / "python"
        return str(python) if python.exists() else None
    beside = Path(sys.executable).parent / tool.commands[0]
    if tool.name == "gpu-reml" and beside.exists():
        return str(beside)
    return next(filter(None, map(shutil.which, tool.commands)), None)
