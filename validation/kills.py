"""Runs that are killed at random times and resumed: the same results as if nothing had happened, and nothing left over.

    python -m gpu_reml.validation.kills --kills 200

A run is a forked process, so that it is killed at work and not while Python starts.  It gets KILL, TERM or INT at a
time drawn from its usual length, is resumed, and in half of the cases killed again; then it is let end.  Then eight
processes write to one ``--out`` at once.  Exit code 1 where anything differs.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..cli import reml  # noqa: F401  (imported here, so that a forked process begins with its work)
from ..cli.main import main as gpu_reml
from .simulate import simulate_bed

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CASES = {"one component": (), "four components": ("--vc-block-sizes", "500,500,500,500"), "merge": ("--merge",)}
CASES["merge"] = (*CASES["four components"], *CASES["merge"], "--z-cutoff", "100")
AT_ONCE = 8
OF_THE_RUN = ("seconds", "settings", "created_at", "run")  # what is of a run, and not of its results
NO_TIMES = re.compile(r"\b[\d.]+ s\b")


class Case(NamedTuple):
    """Flags of a kind of fit, the files of a run of it that nobody killed, and how long it took."""

    name: str
    flags: tuple[str, ...]
    files: dict[str, object]
    seconds: float


def started(flags: Sequence[str], out: Path) -> int:
    """A process that runs gpu-reml quietly; its number."""
    child = os.fork()
    if child:
        return child
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    code = 1
    try:
        code = gpu_reml([*flags, "--out", str(out)])
    except KeyboardInterrupt:  # before the command began
        code = 128 + signal.SIGINT
    finally:
        os._exit(code)


def code_of(child: int) -> int:
    """The exit code of a process that has ended, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content_of(folder: Path) -> dict[str, object]:
    """Every file below a folder, hidden ones too, without what a clock or the path says."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> object:
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        return {key: value for key, value in record.items() if key not in OF_THE_RUN}
    if path.suffix == ".npy":
        return path.read_bytes()
    lines = [NO_TIMES.sub("", line) for line in path.read_text().splitlines() if "resum" not in line]
    if path.name.endswith("history.tsv"):
        rows = [line.split("\t") for line in lines]
        clock = rows[0].index("seconds")
        return [row[:clock] + row[clock + 1 :] for row in rows]
    return lines


def whole(name: str, flags: tuple[str, ...], folder: Path) -> Case:
    """The case, from two runs that nobody kills: the first compiles."""
    for number in range(2):
        out = folder / f"{name}.{number}"
        out.mkdir()
        begin = time.monotonic()
        if code := code_of(started(flags, out / "run")):
            raise RuntimeError(f"{name}: a run that nobody killed ended with {code}")
        seconds = time.monotonic() - begin
    return Case(name, flags, content_of(out), seconds)


def killed_run(case: Case, out: Path, rng: np.random.Generator, counts: Counter) -> str | None:
    """Kill a run once or twice, resume it to its end, and say what is wrong; None where nothing is."""
    for _ in range(1 + int(rng.integers(2))):
        child = started([*case.flags, "--resume"], out / "run")
        time.sleep(rng.uniform(0, 1.05) * case.seconds)
        number = SIGNALS[rng.integers(len(SIGNALS))]
        os.kill(child, number)
        code = code_of(child)
        counts[case.name, number.name, "killed" if code else "had ended"] += 1
        if code not in (0, -number, 128 + number):
            return f"{case.name}: ended with {code} after {number.name}"
        if list(out.rglob("*.checkpoint.npz")):
            counts[case.name, number.name, "with a checkpoint"] += 1
    left = [path for path in out.rglob(".*.tmp")]
    counts[case.name, "", "left temporary files"] += bool(left)
    if code := code_of(started([*case.flags, "--resume"], out / "run")):
        return f"{case.name}: the resumed run ended with {code}"
    return difference(case, content_of(out))


def difference(case: Case, found: dict[str, object]) -> str | None:
    """What differs from the run that nobody killed."""
    odd = sorted(found.keys() ^ case.files.keys())
    if odd:
        return f"{case.name}: files left over or missing: {', '.join(odd)}"
    unlike = [name for name in found if found[name] != case.files[name]]
    return f"{case.name}: {', '.join(unlike)} differ" if unlike else None


def at_once(case: Case, out: Path) -> str | None:
    """Several processes with one ``--out``."""
    children = [started(case.flags, out / "run") for _ in range(AT_ONCE)]
    codes = [code_of(child) for child in children]
    return f"{case.name}: exit codes {codes}" if any(codes) else difference(case, content_of(out))


def cohort(folder: Path) -> tuple[str, ...]:
    """Flags of a small cohort."""
    n = 400
    simulate_bed(folder / "data", n, 2000, 1)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    values = np.random.default_rng(0).standard_normal(n)
    rows = [f"{fid} {iid} {value:.6f}\n" for (fid, iid), value in zip(people, values, strict=True)]
    (folder / "pheno.txt").write_text("".join(rows))
    paths = ("--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"))
    return (*paths, "--device", "cpu", "--method", "stochastic", "--checkpoint-seconds", "0", "--threads", "1")


def study(kills: int, seed: int, folder: Path, names: Sequence[str] = tuple(CASES)) -> tuple[Counter, list[str]]:
    """Counts of what happened, and what went wrong."""
    rng, counts, wrong = np.random.default_rng(seed), Counter(), []
    flags = cohort(folder)
    cases = [whole(name, (*flags, *CASES[name]), folder) for name in names]
    number = 0
    while sum(count for (_, _, what), count in counts.items() if what == "killed") < kills:
        out = folder / f"killed.{number}"
        out.mkdir()
        wrong.append(killed_run(cases[number % len(cases)], out, rng, counts))
        number += 1
        counts["", "", "runs"] += 1
    for case in cases:
        out = folder / f"{case.name} at once"
        out.mkdir()
        wrong.append(at_once(case, out))
    return counts, [each for each in wrong if each]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where anything differed."""
    parser = argparse.ArgumentParser(prog="python -m gpu_reml.validation.kills", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--kills", type=int, default=200, metavar="N", help="kills that hit a run at work (default 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the times and signals (default 0)")
    parser.add_argument("--only", choices=tuple(CASES), action="append", help="this kind of fit (default: all)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = study(options.kills, options.seed, Path(folder), options.only or tuple(CASES))
    for key, count in sorted(counts.items()):
        print("\t".join([*key, str(count)]))
    print("\n".join(wrong) or f"all results as of runs that nobody killed; {AT_ONCE} processes with one --out: whole")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
