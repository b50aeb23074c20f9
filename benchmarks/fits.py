"""``python -m benchmarks.fits``: whole fits by the real command, against dense REML in time and in what they find.

    python -m benchmarks.fits --cohorts M --dense              # n = 5,000, m = 50,000
    python -m benchmarks.fits --cohorts L                      # n = 20,000, m = 100,000
    python -m benchmarks.fits --traits 1 10                    # ten traits against one
    python -m benchmarks.fits --bfile mice --pheno mice.txt --pheno-name CD8,MCH --dense --extra --method stochastic

One row for each cohort, number of components and number of traits.  Cohorts are simulated with the LD of a genotyping
array, populations and families: S 2,000 people and 10,000 variants, M 5,000 and 50,000, L 20,000 and 100,000.
Twenty-two components are the chromosomes; more are sets that overlap.  --bfile takes a cohort of your own instead, with
one component and by chromosome.

columns:
  s, cpu     wall and CPU seconds of the whole process, start-up and reading included
  /dense     s over that of a dense REML fit, whole process too (--dense, where n x n matrices are affordable)
  floors     s over one product Z(Z'B) of 100 columns by two GEMMs on a float32 Z in memory, timed after the fit
  peak, packed   MiB: most resident memory of the process, and the genotypes at 2 bits
  passes     column-passes: columns that went through Z and Z', of all traits together
  max, rms, h2   |estimate - reference| in standard errors: over the variances, and of the heritability; of the first
             trait
  max/mc     largest |estimate - reference| of a variance in its stated Monte-Carlo error
  mc         largest Monte-Carlo error that the fit states, in standard errors
  ref        the reference's own error in standard errors: 0 is dense REML
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpu_reml.validation.honesty import multiples

from .cohorts import COHORTS, DEFAULT_CACHE, TRAITS, Cohort, cached_cohort
from .fit_command import fit_command, fit_traits
from .process import Run, available_threads, measure_module
from .references import Reference, find_reference, is_dense, make_dense, make_reference, of_record, store_reference

FLOOR_COLUMNS = 100
COLUMNS = {
    "cohort": "{}", "G": "{}", "T": "{}", "s": "{:.1f}", "cpu": "{:.1f}", "/dense": "{:.2f}", "floors": "{:.1f}",
    "peak": "{:.0f}", "packed": "{:.0f}", "passes": "{:.0f}", "probes": "{}", "max": "{:.4f}", "rms": "{:.4f}",
    "h2": "{:.4f}", "max/mc": "{:.2f}", "mc": "{:.3f}", "ref": "{:.3f}", "status": "{}",
}  # fmt: skip
ROW_FORMAT = (
    "{:>8s} {:>4s} {:>3s} {:>7s} {:>7s} {:>7s} {:>7s} {:>6s} {:>6s} {:>7s} {:>6s} {:>7s} {:>7s} {:>7s} {:>7s} {:>6s} "
    "{:>6s}  {}"
)


def differences(record: dict, reference: Reference) -> dict[str, float]:
    """|estimate - reference| over the reference's standard errors, ``max`` and ``rms`` of theta, and ``h2``; and the
    largest over the fit's own Monte-Carlo error, ``max/mc``."""
    rows = (*record["components"], *record["residuals"])
    if len(rows) != len(reference.theta):
        raise ValueError(f"the fit has {len(rows)} variances and its reference {len(reference.theta)}")
    error = np.abs(np.array([row["theta"] for row in rows]) - reference.theta)
    z = multiples(error, np.array(reference.se), np.nan)  # a variance at its bound may have none
    in_mc = multiples(error, np.array([row["theta_mc_se"] for row in rows]))
    h2 = abs(record["h2"]["estimate"] - reference.h2) / reference.h2_se
    rms = np.sqrt(np.nanmean(z**2))
    return {"max": float(np.nanmax(z)), "rms": float(rms), "h2": float(h2), "max/mc": float(in_mc.max())}


def floor_seconds(n: int, m: int, threads: int) -> float:
    """Seconds of one column-pass at the floor, in a process of its own."""
    return json.loads(measure_module("benchmarks.floor", [n, m, FLOOR_COLUMNS], threads).output)["seconds"]


def measured(run: Run, records: list[dict], threads: int) -> dict:
    """What a row says of the run itself."""
    first = records[0]
    floor = floor_seconds(first["n"], first["num_variants"], threads)
    return {
        "G": len(first["components"]),
        "T": len(records),
        "s": run.seconds,
        "cpu": run.user_seconds + run.system_seconds,
        "floors": run.seconds / (FLOOR_COLUMNS * floor),
        "peak": run.peak_bytes / 2**20,
        # traits that share products all carry the count of what they share
        "passes": max(record["passes"] for record in records),
        "probes": first["num_probes"],
        "mc": max(record["mc_se_over_se"] for record in records),
        "status": ", ".join(sorted({record["status"] for record in records})),
        "floor_seconds": floor,
        "threads": threads,
    }


def against(record: dict, reference: Reference | None) -> dict:
    """What a row says of the distance from the reference; nothing without one."""
    if reference is None:
        return {}
    return {**differences(record, reference), "ref": reference.error, "reference": reference.how}


def cohort_row(name: str, num_components: int, num_traits: int, options: argparse.Namespace) -> dict:
    """One row of a simulated cohort; the numbers that do not apply are left out."""
    cohort: Cohort = COHORTS[name]
    prefix = cached_cohort(cohort, options.cache)
    extra = ["--pheno-name", ",".join(f"t{t + 1}" for t in range(num_traits)), *options.extra]
    run, records = fit_traits(cohort, num_components, prefix, options.threads, extra)
    row = {"cohort": name, **measured(run, records, options.threads)}
    row["packed"] = Path(f"{prefix}.bed").stat().st_size / 2**20
    reference = find_reference(cohort, num_components, prefix)
    if options.dense and is_dense(cohort):
        dense = make_dense(cohort, num_components, prefix, options.threads)
        row |= {"/dense": run.seconds / dense.seconds, "dense_seconds": dense.seconds}
        reference = reference or dense
    return row | against(records[0], reference)


def given_row(names: list[str], by_chromosome: bool, options: argparse.Namespace) -> dict:
    """One row of the user's cohort; its reference is the command's own dense fit (--dense)."""
    arguments = ["--bfile", options.bfile, "--pheno", options.pheno, "--pheno-name", ",".join(names), *options.extra]
    arguments += ["--by-chromosome"] if by_chromosome else []
    run, records = fit_command(arguments, options.threads)
    row = {"cohort": Path(options.bfile).name[:8], **measured(run, records, options.threads)}
    row["packed"] = Path(f"{options.bfile}.bed").stat().st_size / 2**20
    if not options.dense:
        return row
    dense, found = fit_command([*arguments, "--method", "exact"], options.threads)
    row |= {"/dense": run.seconds / dense.seconds, "dense_seconds": dense.seconds}
    return row | against(records[0], of_record(found[0], dense.seconds, options.threads, []))


def all_rows(options: argparse.Namespace) -> Iterator[dict]:
    """The rows that were asked for, as they are measured."""
    if options.bfile:
        names = options.pheno_name.split(",")
        for by_chromosome in (False, True):
            for T in sorted({1, len(names)}):
                yield given_row(names[:T], by_chromosome, options)
        return
    for name in options.cohorts:
        for num_components in options.components:
            for num_traits in options.traits:
                yield cohort_row(name, num_components, num_traits, options)


def table_line(row: dict) -> str:
    """A row of the table; - for what was not measured."""
    cells = [form.format(row[name]) if name in row else "-" for name, form in COLUMNS.items()]
    return ROW_FORMAT.format(*cells)


def reference_lines(rows: list[dict]) -> list[str]:
    """What every row was compared with."""
    return [f"{row['cohort']} G={row['G']}: reference: {row.get('reference', 'none')}" for row in rows]


def trait_lines(rows: list[dict]) -> list[str]:
    """Several traits against one of the same cohort and components."""
    ones = {(row["cohort"], row["G"]): row for row in rows if row["T"] == 1}
    return [
        f"{row['cohort']} G={row['G']}: {row['T']} traits against one: "
        + ", ".join(f"{row[name] / one[name]:.2f} times the {what}" for name, what in TIMES.items())
        for row in rows
        if row["T"] > 1 and (one := ones.get((row["cohort"], row["G"])))
    ]


TIMES = {"passes": "column-passes", "cpu": "CPU seconds", "s": "seconds"}


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
    parser.add_argument("--traits", nargs="+", type=int, choices=range(1, TRAITS + 1), default=[1], metavar="T")
    parser.add_argument("--bfile", metavar="PREFIX", help="a cohort of your own (.bed, .bim, .fam) instead")
    parser.add_argument("--pheno", metavar="FILE", help="its phenotypes, FID IID and columns with a header")
    parser.add_argument("--pheno-name", metavar="NAME[,NAME...]", help="which: the first alone, and all together")
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
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.make_references:
        make_references(options)
        return 0
    if options.bfile and not (options.pheno and options.pheno_name):
        parser.error("--bfile: give --pheno and --pheno-name with it")
    print(ROW_FORMAT.format(*COLUMNS), flush=True)
    rows = []
    for row in all_rows(options):
        rows.append(row)
        print(table_line(row), flush=True)
    print("\n".join([*trait_lines(rows), *reference_lines(rows)]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
