"""OUT.traits.tsv: one row for every trait of a run of several, written as results come."""

import time
from collections.abc import Sequence
from typing import Any, Self

import pandas as pd

from gpu_reml import io
from gpu_reml.reml import FitResult, HEResult

from .wording import in_flags

COLUMNS = (
    *("trait", "n", "h2", "h2_se", "h2_mc_se", "vp", "lrt", "lrt_mc_se", "p", "status", "method", "seconds"),
    "message",
)
PAUSE = 1.0  # the table is written again after so many seconds, at the earliest: it may have thousands of rows


class TraitsTable:
    """The rows so far, in the order of ``traits``; ``with`` writes the last ones however its block ends.

    ``path``: None for a run that has no table.  ``started``: the clock at the start of the command.
    """

    def __init__(self, path: str | None, traits: Sequence[str], started: float):
        self.path, self.started = path, started
        self._order = {name: position for position, name in enumerate(traits)}
        self._rows: dict[str, dict[str, Any]] = {}
        self._written, self._last = 0, -PAUSE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._write()

    def add(self, trait: str, row: dict[str, Any]) -> None:
        """One more trait is done."""
        elapsed = time.perf_counter() - self.started
        self._rows[trait] = {"trait": trait, **row, "seconds": round(elapsed, 3)}
        if time.monotonic() - self._last >= PAUSE:
            self._write()

    def _write(self) -> None:
        if self.path is None or self._written == len(self._rows):
            return
        ordered = sorted(self._rows.values(), key=lambda row: self._order[row["trait"]])
        io.write_table(self.path, pd.DataFrame(ordered, columns=list(COLUMNS)))
        self._written, self._last = len(self._rows), time.monotonic()


def row_of(result: FitResult | HEResult) -> dict[str, Any]:
    """What the table says of a trait that has a result."""
    _, h2 = result.heritabilities[0]
    row = {
        "n": result.num_samples,
        "h2": float(h2.estimate[0]),
        "h2_se": float(h2.se[0]),
        "h2_mc_se": float(h2.mc_se[0]),
        "vp": float(result.vp.estimate[0]),
    }
    if isinstance(result, HEResult):
        return {**row, "status": "estimated", "method": result.to_dict()["method"]}
    told = {} if result.converged else {"message": in_flags(result.status.value)}
    ratio = {"lrt": result.lrt.statistic, "lrt_mc_se": result.lrt.mc_se, "p": result.lrt.p}
    return {**row, **ratio, "status": result.status.name.lower(), "method": result.method, **told}


def failed_row(num_samples: int, error: Exception) -> dict[str, Any]:
    """What the table says of a trait that has none."""
    return {"n": num_samples, "status": "failed", "message": " ".join(in_flags(str(error)).split())}
