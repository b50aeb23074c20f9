"""``python -m benchmarks.gpu``: what the device backend does on a real GPU, in one go of less than ten minutes.

steps:
  compile      every kernel a first time and again
  correctness  every product of every set of kernels against float64, and resident, streamed and portable alike
  ceilings     bytes a second of copies, on the device and to it; operations a second of cuBLAS' float16 GEMM
  products     V B from about 12 GB of packed genotypes: time, shares of the ceilings, and decode + cuBLAS as the peer
  fits         1 and 22 components: time, passes, distance from the simulated truth, memory beside the plan
  budget       the fit of one component again within half the memory that its genotypes take

--first-run is for a device that nothing has run on yet: all steps on one cohort of n = 100,000 and m = 500,000 in less
than eight minutes, and a last line that names what fell short of the predictions in docs/performance.md.

The record is rewritten after every step, so what is done stays when a run is cut off.  Exit code 1 when a check failed,
2 without a device.
Genotypes are simulated on the device.  The package need not be installed: numba-cuda, numpy and scipy are all it takes.
"""

import argparse
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from gpu_reml.ops import PackedGenotypes

from . import fits, predictions, products, record
from .cohorts import Cohort
from .machines import CudaMachine, HostMachine

STEPS = ("compile", "correctness", "ceilings", "products", "fits", "budget")
RECORDS = record.ROOT / "validation" / "gpu_runs"


class Sizes(NamedTuple):
    """Cohorts of the checks, bytes that are copied, order of the GEMM, cohorts and columns of products, and fits."""

    small: tuple[Cohort, ...]
    medium: Cohort
    copy_bytes: int
    gemm: int
    tables: tuple[Cohort, ...]
    columns: tuple[int, ...]
    fit: Cohort
    components: tuple[int, ...]


FULL = Sizes(
    small=(Cohort(77, 5), Cohort(530, 129, missing=0.0), Cohort(1_003, 2_001)),
    medium=Cohort(20_001, 20_000),
    copy_bytes=1 << 32,
    gemm=8_192,
    tables=(Cohort(50_000, 960_000), Cohort(100_000, 480_000), Cohort(500_000, 96_000)),
    columns=(1, 8, 32, 128),
    fit=Cohort(100_000, 200_000),
    components=(1, 22),
)
COMPLETE = Cohort(100_000, 120_000, missing=0.0)
FIRST = FULL._replace(tables=(COMPLETE, Cohort(100_000, 500_000)), columns=(8, 32, 128), fit=Cohort(100_000, 500_000))
LIMIT, FIRST_LIMIT = 570, 480  # seconds
QUICK = FULL._replace(
    medium=Cohort(4_001, 4_000),
    copy_bytes=1 << 28,
    gemm=4_096,
    tables=(Cohort(20_000, 40_000),),
    fit=Cohort(10_000, 40_000),
)
TINY = Sizes(
    small=(Cohort(77, 5), Cohort(203, 301, missing=0.0)),
    medium=Cohort(301, 500),
    copy_bytes=1 << 20,
    gemm=64,
    tables=(Cohort(400, 500, missing=0.0), Cohort(400, 1_000)),
    columns=(1, 8),
    fit=Cohort(400, 1_500),
    components=(1, 3),
)


class Clock:
    """Seconds since the start and the limit that no step may pass."""

    def __init__(self, limit: float, now: Callable[[], float] = time.monotonic):
        self._now, self._start, self._limit = now, now(), limit

    @property
    def elapsed(self) -> float:
        return self._now() - self._start

    def allows(self, seconds: float) -> bool:
        return self.elapsed + seconds <= self._limit


class Step(NamedTuple):
    """``group``: what chooses it; ``seconds``: a generous guess of what it takes; ``run``: () -> its record."""

    name: str
    group: str
    seconds: float
    run: Callable[[], dict]


class Bench:
    """What the steps share: machine, sizes, clock, what was measured so far, and one cohort that is kept."""

    def __init__(self, machine, sizes: Sizes, clock: Clock):
        self.machine, self.sizes, self.clock = machine, sizes, clock
        self.ceilings: dict = {}
        self._kept: tuple[Cohort, PackedGenotypes] | None = None

    @staticmethod
    def say(text: str) -> None:
        print(text, flush=True)

    def genotypes(self, cohort: Cohort) -> PackedGenotypes:
        """A cohort's genotypes, the last of which are kept."""
        if self._kept is None or self._kept[0] != cohort:
            self._kept = None  # before the next take as much memory again
            self._kept = cohort, self.machine.simulate(cohort)
        return self._kept[1]

    def measure_ceilings(self) -> dict:
        self.ceilings = products.ceilings(self)
        return self.ceilings


def make_steps(bench: Bench) -> list[Step]:
    """All steps in order; seconds are for the full sizes on a device of 2023."""
    sizes = bench.sizes
    share = 1.0 if sizes.fit.num_samples >= FULL.fit.num_samples else 0.2
    steps = [
        Step("compile", "compile", 75, lambda: products.compile_kernels(bench)),
        Step("correctness, small", "correctness", 60, lambda: products.check_small(bench)),
        Step("correctness, medium", "correctness", 30, lambda: products.check_medium(bench)),
        Step("ceilings", "ceilings", 15, bench.measure_ceilings),
    ]
    for cohort in sizes.tables:
        name = f"products, n = {cohort.num_samples:,}{'' if cohort.missing else ', no call missing'}"
        steps.append(Step(name, "products", 60, lambda cohort=cohort: products.product_rows(bench, cohort)))
    for G in sizes.components:
        name = f"fit, G = {G}"
        steps.append(Step(name, "fits", 60, lambda G=G: fits.fit_step(bench, sizes.fit, G)))
    steps.append(Step("budget", "budget", 45, lambda: fits.budget_step(bench, sizes.fit)))
    return [step._replace(seconds=share * step.seconds) for step in steps]


def run_step(bench: Bench, step: Step) -> dict:
    """The step's record with its outcome: done, failed (a check), error, or skipped; and why."""
    if not bench.clock.allows(step.seconds):
        why = f"expected to take {step.seconds:.0f} s; {bench.clock.elapsed:.0f} s of the limit are gone"
        return {"outcome": "skipped", "why": why}
    bench.say(f"{step.name} (at {bench.clock.elapsed:.0f} s)")
    start = time.perf_counter()
    try:
        found = {"outcome": "done", **step.run()}
    except products.CheckError as failure:
        found = {"outcome": "failed", "why": str(failure), **failure.found}
    except Exception as error:  # other steps may still tell something
        found = {"outcome": "error", "why": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    if found["outcome"] != "done":
        bench.say(f"  {found['outcome']}: {found['why']}")
    bench.machine.reclaim()
    return {**found, "seconds": time.perf_counter() - start}


def run_steps(bench: Bench, groups: list[str], keep: Callable[[dict], None]) -> dict[str, dict]:
    """Every chosen step's record, given to ``keep`` as they come; nothing is timed once a product is wrong."""
    done: dict[str, dict] = {}
    for step in make_steps(bench):
        if step.group not in groups:
            continue
        done[step.name] = run_step(bench, step)
        keep(done)
        if step.group == "correctness" and done[step.name]["outcome"] in ("failed", "error"):
            break
    return done


def default_path(device: str) -> Path:
    """A record that is not there yet, by date and device."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{words}"
    paths = (RECORDS / f"{stem}{suffix}.json" for suffix in chain([""], (f"-{number}" for number in count(2))))
    return next(path for path in paths if not path.exists())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--first-run", action="store_true", help="all that a new device has to tell, and a verdict")
    size.add_argument("--quick", action="store_true", help="small sizes: about a minute")
    size.add_argument("--large", action="store_true", help="fits of 500,000 samples")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    text = f"seconds that no step may pass ({LIMIT}; first run {FIRST_LIMIT})"
    parser.add_argument("--limit", type=float, metavar="S", help=text)
    parser.add_argument("--out", type=Path, metavar="FILE", help="record (validation/gpu_runs/DATE-DEVICE.json)")
    parser.add_argument("--commit", help="commit of the code, where there is no git to ask")
    parser.add_argument("--device", choices=("cuda", "host"), default="cuda", help="host: a device made of NumPy, tiny")
    return parser


def sizes_of(options: argparse.Namespace) -> Sizes:
    if options.device == "host":
        return TINY
    sizes = FIRST if options.first_run else QUICK if options.quick else FULL
    return sizes._replace(fit=sizes.fit._replace(num_samples=500_000)) if options.large else sizes


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    usual = FIRST_LIMIT if options.first_run else LIMIT
    clock = Clock(usual if options.limit is None else options.limit)
    try:
        machine = CudaMachine() if options.device == "cuda" else HostMachine()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    whole = {"started": record.now(), **record.commit()}
    if options.commit:
        whole["commit"] = options.commit
    chosen = {name: value for name, value in vars(options).items() if name != "out"}
    whole |= {"options": chosen, "device": machine.describe(), "steps": {}}
    path = options.out or default_path(whole["device"]["device"])
    print(f"{whole['device']}\nrecord: {path}", flush=True)
    record.save(path, whole)

    def keep(steps: dict[str, dict]) -> None:
        told = {"predictions": predictions.outcomes(steps)} if options.first_run else {}
        record.save(path, {**whole, "steps": steps, **told, "total_seconds": clock.elapsed})

    whole["steps"] = run_steps(Bench(machine, sizes_of(options), clock), options.steps, keep)
    text = record.markdown(whole)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    if options.first_run:
        print(predictions.last_line(whole["steps"]))
    return int(any(step["outcome"] in ("failed", "error") for step in whole["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
