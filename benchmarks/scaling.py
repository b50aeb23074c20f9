"""``python -m benchmarks.scaling --vary n|m|G|traits|threads``: how a whole fit grows with one thing at a time.

Every row is the real command on a simulated cohort, with ratios to the first row.  Ratios of column-passes say how the
algorithm grows, ratios of seconds how the program does; start-up and reading are in the seconds, and what importing
the command takes is shown apart.  ``--extra --method stochastic`` keeps small cohorts from being fitted densely.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from .cohorts import DEFAULT_CACHE, Cohort, cached_cohort
from .fit_command import fit_traits
from .process import available_threads, measure

BASE_N, BASE_M, MOST_TRAITS = 2_000, 20_000, 10
VALUES = {
    "n": [1_000, 2_000, 4_000, 8_000],
    "m": [5_000, 10_000, 20_000, 40_000, 80_000],
    "G": [1, 2, 5, 10, 22, 50, 100],
    "traits": [1, 2, 5, 10],
    "threads": [1, 2],
}
ROW_FORMAT = "{:>8s} {:>8s} {:>7s} {:>9s} {:>7s} {:>7s} {:>8s}  {}"


class Point(NamedTuple):
    """One row's work; ``traits`` is None for a cohort of one trait, else how many of MOST_TRAITS are analysed."""

    cohort: Cohort
    num_components: int
    threads: int
    traits: int | None = None


def make_point(vary: str, value: int, threads: int) -> Point:
    """The base point with one thing changed; ValueError where there are not so many traits."""
    base = Cohort(BASE_N, BASE_M)
    if vary == "traits":
        if not 1 <= value <= MOST_TRAITS:
            raise ValueError(f"--values: expected 1 to {MOST_TRAITS} traits, found {value}")
        return Point(base._replace(num_traits=MOST_TRAITS), 1, threads, value)
    changed = {
        "n": lambda: Point(base._replace(num_samples=value), 1, threads),
        "m": lambda: Point(base._replace(num_variants=value), 1, threads),
        "G": lambda: Point(base, value, threads),
        "threads": lambda: Point(base, 1, value),
    }
    return changed[vary]()


def scaling_row(point: Point, vary: str, value: int, options: argparse.Namespace) -> dict:
    """The fastest of ``options.repeats`` runs; column-passes and status are the same in all."""
    prefix = cached_cohort(point.cohort, options.cache)
    extra = list(options.extra)
    if point.traits is not None:
        extra += ["--pheno-name", ",".join(f"t{t + 1}" for t in range(point.traits))]
    runs = [
        fit_traits(point.cohort, point.num_components, prefix, point.threads, extra) for _ in range(options.repeats)
    ]
    run, records = min(runs, key=lambda run_and_records: run_and_records[0].seconds)
    if len(records) != (point.traits or 1):
        raise RuntimeError(f"expected results of {point.traits or 1} traits, found {len(records)}")
    statuses = sorted({record["status"] for record in records})
    return {
        "vary": vary,
        "value": value,
        "seconds": run.seconds,
        # Traits that share products all carry the count of the run that they share.
        "passes": max(record["passes"] for record in records),
        "peak_mib": run.peak_bytes / 2**20,
        "status": ", ".join(statuses),
    }


def with_ratios(row: dict, first: dict) -> dict:
    """The row with its value, seconds and passes over those of the first row."""
    return {**row, **{f"{name}_ratio": row[name] / first[name] for name in ("value", "seconds", "passes")}}


def table_line(row: dict) -> str:
    ratios = [f"{row[f'{name}_ratio']:.2f}" for name in ("value", "seconds", "passes")]
    value, seconds, passes = f"{row['value']}", f"{row['seconds']:.2f}", f"{row['passes']:.0f}"
    peak = f"{row['peak_mib']:.0f}"
    return ROW_FORMAT.format(value, ratios[0], seconds, ratios[1], passes, ratios[2], peak, row["status"])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vary", choices=VALUES, required=True)
    parser.add_argument("--values", type=int, nargs="+", metavar="V", help="values in place of the usual ones")
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="runs a row, of which the fastest counts")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of simulated cohorts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="all that follows goes to gpu-reml")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    vary, values = options.vary, options.values or VALUES[options.vary]
    start_up = measure([sys.executable, "-c", "import gpu_reml.cli.reml"], options.threads).seconds
    print(f"others: n={BASE_N} m={BASE_M} G=1 threads={options.threads}; imports alone take {start_up:.2f} s")
    print(ROW_FORMAT.format(vary, "ratio", "s", "ratio", "passes", "ratio", "peak MiB", "status"), flush=True)
    rows = []
    for value in values:
        row = scaling_row(make_point(vary, value, options.threads), vary, value, options)
        rows.append(with_ratios(row, rows[0] if rows else row))
        print(table_line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
