"""``python -m benchmarks.compare_tools``: the same cohort by every program that is installed, as a table.

    python -m benchmarks.compare_tools --cohort S              # n = 2,000, m = 10,000
    python -m benchmarks.compare_tools --cohort M --readme     # n = 5,000, m = 50,000; README's table is made anew

Each program fits one component of all variants, from the .bed to h2, by its own command line, one after another on the
same threads: seconds, CPU seconds and the largest resident memory are of all its steps, reading and relationship
matrices included.  The error is the distance of its h2 from dense REML in standard errors of that.  Programs that are
not on the PATH are named and have no figures.
"""

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .cohorts import COHORTS, DEFAULT_CACHE, Cohort, cached_cohort
from .process import available_threads, measure
from .references import Reference, find_reference, make_dense, store_reference

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- measured by benchmarks.compare_tools -->", "<!-- end of what was measured -->"


class Found(NamedTuple):
    """A program's h2 with its standard error, as it printed them."""

    h2: float
    se: float


class Tool(NamedTuple):
    """A program: ``commands`` are those on the PATH that may be it; ``steps(command, prefix, out, threads)``: its
    command lines; ``read(out, printed)``: h2; ``version(printed)``: as it says itself."""

    name: str
    commands: tuple[str, ...]
    steps: Callable[[str, Path, Path, int], list[list[str]]]
    read: Callable[[Path, str], Found]
    version: str


class Row(NamedTuple):
    """A program's figures; ``version`` is empty, and all else NaN, where it is missing."""

    tool: str
    version: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    h2: float
    se: float
    error: float


def own_steps(command: str, prefix: Path, out: Path, threads: int) -> list[list[str]]:
    flags = ["--bfile", str(prefix), "--pheno", f"{out}.pheno", "--method", "stochastic", "--device", "cpu"]
    return [[command, *flags, "--threads", str(threads), "--out", str(out)]]


def bolt_steps(command: str, prefix: Path, out: Path, threads: int) -> list[list[str]]:
    return [
        [
            command,
            f"--bfile={prefix}",
            f"--phenoFile={out}.pheno",
            "--phenoCol=trait",
            "--reml",
            f"--numThreads={threads}",
        ]
    ]


def gcta_steps(command: str, prefix: Path, out: Path, threads: int) -> list[list[str]]:
    common = ["--thread-num", str(threads), "--out", str(out)]
    return [
        [command, "--bfile", str(prefix), "--make-grm", *common],
        [command, "--grm", str(out), "--pheno", f"{out}.plain", "--reml", *common],
    ]


def ldak_steps(command: str, prefix: Path, out: Path, threads: int) -> list[list[str]]:
    common = ["--max-threads", str(threads)]
    kinship = ["--bfile", str(prefix), "--ignore-weights", "YES", "--power", "-1"]
    return [
        [command, "--calc-kins-direct", str(out), *kinship, *common],
        [command, "--reml", str(out), "--grm", str(out), "--pheno", f"{out}.plain", *common],
    ]


def matched(pattern: str, text: str, where: str) -> Found:
    """The two numbers that a pattern finds last; ValueError where it finds none."""
    found = re.findall(pattern, text, re.MULTILINE)
    if not found:
        raise ValueError(f"{where}: no h2 in what it wrote: {text[-500:]!r}")
    return Found(*map(float, found[-1]))


def read_hsq(out: Path, _printed: str) -> Found:
    """GCTA's table, which gpu-reml writes too."""
    return matched(r"^V\(G\)/Vp\t(\S+)\t(\S+)", Path(f"{out}.hsq").read_text(), f"{out}.hsq")


def read_bolt(_out: Path, printed: str) -> Found:
    return matched(r"h2g \(1,1\): (\S+) \((\S+)\)", printed, "bolt")


def read_ldak(out: Path, _printed: str) -> Found:
    return matched(r"^Her_(?:All|K1)\s+(\S+)\s+(\S+)", Path(f"{out}.reml").read_text(), f"{out}.reml")


TOOLS = (
    Tool("gpu-reml", ("gpu-reml",), own_steps, read_hsq, r"gpu-reml (\S+)"),
    Tool("BOLT-REML", ("bolt",), bolt_steps, read_bolt, r"BOLT-LMM, v(\S+)"),
    Tool("GCTA", ("gcta64", "gcta"), gcta_steps, read_hsq, r"version v?(\S+)"),
    Tool("LDAK", ("ldak", "ldak6", "ldak5.2.linux", "ldak6.linux"), ldak_steps, read_ldak, r"Version (\S+)"),
)
NO_RECIPE = ("MPH", "GENIE", "GPU_REML")  # no command line of these has been tried here


def path_of(tool: Tool) -> str | None:
    """Where the program is; gpu-reml is the one beside this Python."""
    beside = Path(sys.executable).parent / tool.commands[0]
    if tool.name == "gpu-reml" and beside.exists():
        return str(beside)
    return next(filter(None, map(shutil.which, tool.commands)), None)


def row_of(tool: Tool, prefix: Path, reference: Reference, threads: int) -> Row:
    """Run a program on the first trait of a cohort; RuntimeError with what it printed where it fails."""
    command = path_of(tool)
    if command is None:
        return Row(tool.name, "", *[float("nan")] * 6)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        table = (
            pd.read_csv(f"{prefix}.pheno", sep="\t", dtype=str).iloc[:, :3].set_axis(["FID", "IID", "trait"], axis=1)
        )
        table.to_csv(f"{out}.pheno", sep=" ", index=False)
        table.to_csv(f"{out}.plain", sep=" ", index=False, header=False)
        runs = []
        for step in tool.steps(command, prefix, out, threads):
            runs.append(measure(step, threads))
            if runs[-1].code != 0:
                raise RuntimeError(f"{' '.join(step)} ended with {runs[-1].code}:\n{runs[-1].output}")
        printed = "".join(run.output for run in runs)
        found = tool.read(out, printed)
    version = re.search(tool.version, printed)
    return Row(
        tool.name,
        version[1].rstrip(",") if version else "unknown",
        sum(run.seconds for run in runs),
        sum(run.user_seconds + run.system_seconds for run in runs),
        max(run.peak_bytes for run in runs) / 2**20,
        found.h2,
        found.se,
        abs(found.h2 - reference.h2) / reference.h2_se,
    )


def reference_of(cohort: Cohort, prefix: Path, threads: int) -> Reference:
    """Dense REML of the cohort, made where it is not stored yet."""
    known = find_reference(cohort, 1, prefix)
    if known is None:
        known = make_dense(cohort, 1, prefix, threads)
        store_reference(cohort, 1, known)
    return known


def table_text(rows: Sequence[Row], cohort: Cohort, reference: Reference, threads: int) -> str:
    """Markdown: programs that ran, then what they ran on, and those that are missing."""
    lines = [
        "| program | seconds | CPU seconds | memory, MiB | h2 (SE) | error of h2, in SE |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.version:
            figures = f"{row.seconds:.1f} | {row.cpu_seconds:.1f} | {row.peak_mib:,.0f} | {row.h2:.4f} ({row.se:.4f})"
            lines.append(f"| {row.tool} {row.version} | {figures} | {row.error:.3f} |")
    missing = [row.tool for row in rows if not row.version]
    lines += [
        "",
        f"{cohort.num_samples:,} people, {cohort.num_variants:,} variants, one component; dense REML: h2 "
        f"{reference.h2:.4f} (SE {reference.h2_se:.4f}). {threads} thread(s) of {processor()}, "
        f"{date.today():%B %Y}, while {os.getloadavg()[0]:.1f} other tasks ran on the machine on average. "
        f"Not installed where this was measured: {', '.join(missing) or 'none'}; no command line is known here for "
        f"{', '.join(NO_RECIPE)}.",
    ]
    return "\n".join(lines)


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", path.read_text(), re.MULTILINE) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def with_table(text: str, table: str) -> str:
    """A document with what stands between the marks replaced; ValueError where it has no marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"expected {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_tools", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cohort", choices=tuple(COHORTS), default="S", help="default S")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="where cohorts are kept")
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N", help="default: all")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args(argv)
    cohort = COHORTS[options.cohort]
    prefix = cached_cohort(cohort, options.cache)
    reference = reference_of(cohort, prefix, options.threads)
    rows = []
    for tool in TOOLS:
        rows.append(row_of(tool, prefix, reference, options.threads))
        print(f"{tool.name}: {rows[-1].version or 'not installed'}", file=sys.stderr, flush=True)
    table = table_text(rows, cohort, reference, options.threads)
    print(table)
    if options.readme:
        partial = README.with_suffix(".partial")
        partial.write_text(with_table(README.read_text(), table))
        os.replace(partial, README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
