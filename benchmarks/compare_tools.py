"""``python -m benchmarks.compare_tools``: the same cohort by every program that is installed, as a table.

    python -m benchmarks.compare_tools --cohort S --components 1 5         # n = 2,000, m = 10,000
    python -m benchmarks.compare_tools --libraries --threads 1 --readme    # README's table is made anew

Each program fits components of all variants, from the .bed to h2, by its own command lines (:mod:`.programs`), one
after another on the same threads: seconds, CPU seconds and the largest resident memory are of all its steps, reading
and relationship matrices included.  The error is the largest distance of a share of the phenotypic variance, that is
of h2 and of each component's, from dense REML, in standard errors of that.  Programs that are not on the PATH are named
and have no figures.  ``--libraries`` installs Python libraries that do REML into an environment beside the cohorts.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io

from .cohorts import COHORTS, DEFAULT_CACHE, Cohort, cached_cohort, component_sets
from .process import available_threads, measure
from .programs import NO_RECIPE, PACKAGES, TOOLS, Found, Task, Tool, path_of
from .references import Reference, find_reference, make_dense, store_reference

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- measured by benchmarks.compare_tools -->", "<!-- end of what was measured -->"
ENVIRONMENT = "libraries"  # the folder in the cache where Python libraries are installed


class Exact(NamedTuple):
    """Dense REML: shares of the phenotypic variance (G + 1,), h2 the last, and their standard errors."""

    shares: np.ndarray
    se: np.ndarray


class Row(NamedTuple):
    """A program's figures; ``version`` is empty, and all else NaN, where it is missing or takes fewer components."""

    tool: str
    version: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    h2: float
    se: float
    error: float


def row_of(
    tool: Tool, command: str | None, prefix: Path, sets: Sequence[np.ndarray], exact: Exact, threads: int
) -> Row:
    """Run a program on the first trait of a cohort; RuntimeError with what it printed where it fails."""
    if command is None or len(sets) > tool.most:
        return Row(tool.name, "", *[float("nan")] * 6)
    with tempfile.TemporaryDirectory() as folder:
        task = Task(prefix, Path(folder, "out"), sets, threads)
        table = (
            pd.read_csv(f"{prefix}.pheno", sep="\t", dtype=str).iloc[:, :3].set_axis(["FID", "IID", "trait"], axis=1)
        )
        table.to_csv(f"{task.out}.pheno", sep=" ", index=False)
        table.to_csv(f"{task.out}.plain", sep=" ", index=False, header=False)
        runs = []
        for step in tool.steps(command, task):
            runs.append(measure(step, threads))
            if runs[-1].code != 0:
                raise RuntimeError(f"{' '.join(step)} ended with {runs[-1].code}:\n{runs[-1].output}")
        printed = "".join(run.output for run in runs)
        found = tool.read(task.out, printed)
    version = re.search(tool.version, printed)
    return Row(
        tool.name,
        version[1].rstrip(",") if version else "unknown",
        sum(run.seconds for run in runs),
        sum(run.user_seconds + run.system_seconds for run in runs),
        max(run.peak_bytes for run in runs) / 2**20,
        found.h2,
        found.se,
        error_of(found, exact),
    )


def error_of(found: Found, exact: Exact) -> float:
    """The largest distance of a share from dense REML, in its standard errors."""
    shares = found.shares if len(found.shares) > 1 else ()
    wanted, se = (exact.shares, exact.se) if shares else (exact.shares[-1:], exact.se[-1:])
    return float(np.abs((np.array([*shares, found.h2]) - wanted) / se).max())


def exact_of(reference: Reference, traces: np.ndarray) -> Exact:
    """Shares of dense REML; ``traces`` (G,) tr(K_g) / n.  The error of a component's share is that of its variance."""
    theta, se = np.array(reference.theta), np.array(reference.se)
    explained = theta[:-1] * traces
    total = explained.sum() + theta[-1]
    return Exact(np.append(explained / total, reference.h2), np.append(se[:-1] * traces / total, reference.h2_se))


def traces_of(prefix: Path, sets: Sequence[np.ndarray]) -> np.ndarray:
    """(G,) tr(K_g) / n: 1 but for missing calls, which are 0 once standardised."""
    bed = io.read_bed(str(prefix))
    genotypes = io.load_genotypes([bed], [np.arange(len(bed.samples))])
    squares = genotypes.squared_norm / genotypes.num_samples
    return np.array([squares[rows].mean() for rows in sets])


def reference_of(cohort: Cohort, num_components: int, prefix: Path, threads: int) -> Reference:
    """Dense REML of the cohort, made where it is not stored yet."""
    known = find_reference(cohort, num_components, prefix)
    if known is None:
        known = make_dense(cohort, num_components, prefix, threads)
        store_reference(cohort, num_components, known)
    return known


def install_libraries(cache: Path) -> Path:
    """The environment with Python libraries that do REML, made where it is not there yet."""
    folder = cache / ENVIRONMENT
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "installed").touch()
    return folder


def table_text(rows: dict[int, list[Row]], references: dict[int, Reference], cohort: Cohort, conditions: str) -> str:
    """Markdown: programs that ran by number of components, then what they ran on."""
    lines = [
        "| program | components | seconds | CPU seconds | memory, MiB | h2 (SE) | largest error, in SE |",
        "|---|---|---|---|---|---|---|",
    ]
    for components, found in rows.items():
        for row in found:
            if row.version:
                se = "none" if np.isnan(row.se) else f"{row.se:.4f}"
                figures = f"{row.seconds:.1f} | {row.cpu_seconds:.1f} | {row.peak_mib:,.0f} | {row.h2:.4f} ({se})"
                lines.append(f"| {row.tool} {row.version} | {components} | {figures} | {row.error:.4f} |")
    dense = "; ".join(f"{G} component(s) {each.h2:.4f} (SE {each.h2_se:.4f})" for G, each in references.items())
    lines += [
        "",
        f"{cohort.num_samples:,} people, {cohort.num_variants:,} variants. h2 by dense REML: {dense}. {conditions}",
    ]
    return "\n".join(lines)


def conditions_of(threads: int, missing: Sequence[str]) -> str:
    """On what it was measured, and which programs are ``missing``."""
    return (
        f"Measured on {threads} thread(s) of {processor()}, {date.today():%B %Y}, while {os.getloadavg()[0]:.1f} tasks "
        f"ran on the machine on average. Not installed there: {', '.join(missing) or 'none'}; no command line is known "
        f"here for {', '.join(NO_RECIPE)}."
    )


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
    parser.add_argument("--components", type=int, nargs="+", default=[1, 5], metavar="G", help="default 1 5")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="where cohorts are kept")
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N", help="default: all")
    parser.add_argument("--only", nargs="+", choices=[tool.name for tool in TOOLS], help="these programs (default all)")
    parser.add_argument("--libraries", action="store_true", help=f"install {', '.join(PACKAGES)} for this comparison")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args(argv)
    cohort, tools = COHORTS[options.cohort], [tool for tool in TOOLS if tool.name in (options.only or tool.name)]
    prefix = cached_cohort(cohort, options.cache)
    libraries = install_libraries(options.cache) if options.libraries else options.cache / ENVIRONMENT
    paths = {tool.name: path_of(tool, libraries) for tool in tools}
    rows, references = {}, {}
    for G in options.components:
        references[G] = reference_of(cohort, G, prefix, options.threads)
        sets, rows[G] = component_sets(cohort.num_variants, G), []
        exact = exact_of(references[G], traces_of(prefix, sets))
        for tool in tools:
            rows[G].append(row_of(tool, paths[tool.name], prefix, sets, exact, options.threads))
            print(f"{G} component(s), {tool.name}: {rows[G][-1].version or 'not run'}", file=sys.stderr, flush=True)
    missing = [name for name, path in paths.items() if path is None]
    table = table_text(rows, references, cohort, conditions_of(options.threads, missing))
    print(table)
    if options.readme:
        partial = README.with_suffix(".partial")
        partial.write_text(with_table(README.read_text(), table))
        os.replace(partial, README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
