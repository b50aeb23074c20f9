"""``python -m benchmarks.fits``: whole fits by the real command, against dense REML in time and in what they find.

One row for each cohort and number of components.  Cohorts are simulated: S 2,000 people and 10,000 variants, M 5,000
and 50,000, L 20,000 and 100,000.  Up to 22 components are equal runs of variants; more are sets that overlap.

columns:
  s          wall seconds of the whole process, start-up and reading included
  /dense     s over that of a dense REML fit, whole process too (--dense, where n x n matrices are affordable)
  /floor     s over column-passes x one column-pass of two GEMMs on a float32 Z in memory, timed before and after
  peak, packed   MiB: most resident memory of the process, and the genotypes at 2 bits
  passes     column-passes: columns that went through Z and Z'
  max, rms, h2   |estimate - reference| in standard errors: over the variances, and of the heritability
  mc         largest Monte-Carlo error that the fit states, in standard errors
  ref        the reference's own error in standard errors: 0 is dense REML
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from .cohorts import COHORTS, DEFAULT_CACHE, Cohort, cached_cohort
from .fit_command import fit_cohort
from .process import available_threads, measure_module
from .references import Reference, find_reference, is_dense, make_dense, make_reference, store_reference

FLOOR_COLUMNS = 64
COLUMNS = {
    "cohort": "{}", "G": "{}", "s": "{:.1f}", "/dense": "{:.2f}", "/floor": "{:.2f}", "peak": "{:.0f}",
    "packed": "{:.0f}", "passes": "{:.0f}", "probes": "{}", "max": "{:.4f}", "rms": "{:.4f}", "h2": "{:.4f}",
    "mc": "{:.3f}", "ref": "{:.3f}", "status": "{}",
}  # fmt: skip
ROW_FORMAT = "{:>6s} {:>4s} {:>7s} {:>7s} {:>7s} {:>6s} {:>6s} {:>7s} {:>6s} {:>7s} {:>7s} {:>7s} {:>6s} {:>6s}  {}"


def differences(record: dict, reference: Reference) -> dict[str, float]:
    """|estimate - reference| over the reference's standard errors: ``max`` and ``rms`` of theta, and ``h2``."""
    theta = [row["theta"] for row in (*record["components"], *record["residuals"])]
    if len(theta) != len(reference.theta):
        raise ValueError(f"the fit has {len(theta)} variances and its reference {len(reference.theta)}")
    z = (np.array(theta) - reference.theta) / reference.se
    h2 = abs(record["h2"]["estimate"] - reference.h2) / reference.h2_se
    return {"max": float(np.abs(z).max()), "rms": float(np.sqrt(np.mean(z**2))), "h2": float(h2)}


def floor_seconds(cohort: Cohort, threads: int) -> float:
    """Seconds of one column-pass at the floor, in a process of its own."""
    arguments = [cohort.num_samples, cohort.num_variants, FLOOR_COLUMNS]
    return json.loads(measure_module("benchmarks.floor", arguments, threads).output)["seconds"]


def fit_row(name: str, cohort: Cohort, num_components: int, cache: Path, options: argparse.Namespace) -> dict:
    """One row of the table; the numbers that do not apply are left out."""
    prefix = cached_cohort(cohort, cache)
    before = floor_seconds(cohort, options.threads)
    run, record = fit_cohort(cohort, num_components, prefix, options.threads, options.extra)
    floor = (before + floor_seconds(cohort, options.threads)) / 2
    row = {
        "cohort": name,
        "G": num_components,
        "s": run.seconds,
        "/floor": run.seconds / (record["passes"] * floor),
        "peak": run.peak_bytes / 2**20,
        "packed": Path(f"{prefix}.bed").stat().st_size / 2**20,
        "passes": record["passes"],
        "probes": record["num_probes"],
        "mc": record["mc_se_over_se"],
        "status": record["status"],
        "floor_seconds": floor,
        "threads": options.threads,
    }
    reference = find_reference(cohort, num_components, prefix)
    if options.dense and is_dense(cohort):
        dense = make_dense(cohort, num_components, prefix, options.threads)
        row |= {"/dense": run.seconds / dense.seconds, "dense_seconds": dense.seconds}
        reference = reference or dense
    if reference is not None:
        row |= {**differences(record, reference), "ref": reference.error, "reference": reference.how}
    return row


def table_line(row: dict) -> str:
    """A row of the table; - for what was not measured."""
    cells = [form.format(row[name]) if name in row else "-" for name, form in COLUMNS.items()]
    return ROW_FORMAT.format(*cells)


def reference_lines(rows: list[dict]) -> list[str]:
    """What every row was compared with."""
    return [f"{row['cohort']} G={row['G']}: reference: {row.get('reference', 'none')}" for row in rows]


def make_references(options: argparse.Namespace) -> None:
    for name in options.cohorts:
        cohort = COHORTS[name]
        prefix = cached_cohort(cohort, options.cache)
        for num_components in options.components:
            made = make_reference(cohort, num_components, prefix, options.threads, options.reference_mc)
            store_reference(cohort, num_components, made)
            print(f"{name} G={num_components}: {made.how}; {made.seconds:.0f} s", flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=["S", "M"])
    parser.add_argument("--components", nargs="+", type=int, default=[1, 22, 100], metavar="G")
    parser.add_argument("--threads", type=int, default=available_threads(), metavar="N")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of simulated cohorts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--dense", action="store_true", help="time dense REML too, where it is affordable")
    parser.add_argument("--make-references", action="store_true", help="recompute the stored references and stop")
    parser.add_argument(
        "--reference-mc", type=float, default=0.02, metavar="X",
        help="standard errors that the probes may leave in a reference that is not dense (default 0.02)",
    )  # fmt: skip
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="all that follows goes to gpu-reml")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    if options.make_references:
        make_references(options)
        return 0
    print(ROW_FORMAT.format(*COLUMNS), flush=True)
    rows = []
    for name in options.cohorts:
        for num_components in options.components:
            rows.append(fit_row(name, COHORTS[name], num_components, options.cache, options))
            print(table_line(rows[-1]), flush=True)
    print("\n".join(reference_lines(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
