"""Damaged files for every reader: none may end in a traceback, a crash or a hang, and every error names its file.

    python -m tests.fuzz --inputs 3000               # all readers, from the root of the repository
    python -m tests.fuzz --reader pgen --input 17    # one input again, with what became of it; --keep copies it

It prints a table of readers and exits with 1 where anything else came of an input than an answer or a refusal.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

MOST_MIB = 1024
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=300, help="of each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", action="append", help="only this one; may be given several times")
    parser.add_argument("--input", type=int, help="only this one, of --reader")
    parser.add_argument("--keep", metavar="FILE", help="with --input: write the damaged file here")
    parser.add_argument("--patience", type=float, default=30, help="seconds before an input is a hang")
    options = parser.parse_args()
    for name in THREADS:
        os.environ[name] = "1"
    from . import worker

    if options.input is not None:
        return one(worker, options)
    print(f"{'reader':16} inputs refused accepted unnamed tracebacks crashes hangs  peak MiB", flush=True)
    faults = sum(run(worker, name, options) for name in options.reader or worker.READERS)
    print(f"{faults} inputs that were neither read nor refused as they should be")
    return int(faults > 0)


def run(worker, name: str, options: argparse.Namespace) -> int:
    """A line of the table, with an example of each fault; the number of faults."""
    counts, peak, examples = Counter(), 0, {}
    for record in worker.outcomes(name, options.inputs, options.seed, options.patience):
        outcome = record["outcome"]
        counts[outcome] += 1
        peak = max(peak, record["peak"] / 1024)
        if outcome not in ("refused", "accepted"):
            where = record["text"].strip().splitlines()[-3:]  # the line that raised it, and what
            examples.setdefault((outcome, *where), record["input"])
    columns = [counts[kind] for kind in ("refused", "accepted", "unnamed", "traceback", "crash", "hang")]
    numbers = " ".join(f"{count:{width}}" for count, width in zip(columns, (7, 8, 7, 10, 7, 5), strict=True))
    print(f"{name:16} {sum(counts.values()):6} {numbers} {peak:9.1f}", flush=True)
    for (outcome, *where), k in examples.items():
        print(f"    --input {k}: {outcome}: " + "\n        ".join(line.strip()[:200] for line in where), flush=True)
    return sum(columns[2:]) + (peak > MOST_MIB)


def one(worker, options: argparse.Namespace) -> int:
    """One input in this process; what was said of it in full."""
    (name,) = options.reader
    reader = worker.READERS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        reader.make(Path(folder))
        target = Path(folder) / reader.name
        damaged = worker.input_of(name, options.seed, options.input, target.read_bytes())
        target.write_bytes(damaged)
        if options.keep:
            Path(options.keep).write_bytes(damaged)
        print(*worker.outcome_of(reader, Path(folder)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
