"""``python -m gpu_reml.validation``: matrix-free fits against exact dense REML over a grid, as a table and a TSV.

``python -m gpu_reml.validation compare a.json b.json ...`` sets component specifications side by side
(:mod:`gpu_reml.validation.compare`).
"""

import argparse
import sys

from gpu_reml import io

from .compare import main as compare
from .report import GRIDS, complaints, report_text, run_grid


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when every fit is within its stated error, 1 when something is out of line."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["compare"]:
        return compare(words[1:])
    parser = argparse.ArgumentParser(prog="python -m gpu_reml.validation", description=__doc__)
    parser.add_argument("--grid", choices=tuple(GRIDS), default="standard", help="how many settings (default standard)")
    parser.add_argument("--seeds", type=int, default=5, help="probe seeds for every setting (default 5)")
    parser.add_argument("--out", default="validation.tsv", metavar="FILE", help="where the TSV goes")
    options = parser.parse_args(words)
    io.check_writable(options.out)
    table = run_grid(GRIDS[options.grid], options.seeds, progress=sys.stderr)
    io.write_table(options.out, table)
    print(report_text(table))
    found = complaints(table)
    for line in found:
        print(f"out of line: {line}", file=sys.stderr)
    print(f"written: {options.out}; {len(found)} complaint(s)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
