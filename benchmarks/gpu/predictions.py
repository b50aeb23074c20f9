"""What docs/performance.md predicts of a run, beside what the run found."""

from collections.abc import Callable
from typing import NamedTuple

PAIRS = 500_000 * 600_000  # samples x variants of the predicted seconds, which are for one H200


class Prediction(NamedTuple):
    """``found``: a run's steps -> what was measured, or None; ``least``: whether ``value`` is the least or the most."""

    name: str
    value: float
    form: str
    found: Callable[[dict], float | None]
    least: bool = True

    def outcome(self, steps: dict) -> dict:
        """Name, prediction, what was found and whether it held; None for the latter two where nothing was measured."""
        found = self.found(steps)
        held = None if found is None else bool(found >= self.value if self.least else found <= self.value)
        return {"name": self.name, "predicted": self.value, "found": found, "held": held}

    def text(self, found: float) -> str:
        return f"{self.name} {format(found, self.form)} ({format(self.value, self.form)} predicted)"


def tables(steps: dict, *, missing: bool) -> list[dict]:
    """Steps that measured products, of genotypes with missing calls or without."""
    return [step for step in steps.values() if "rows" in step and bool(step.get("missing")) == missing]


def of_row(columns: int, key: str) -> Callable[[dict], float | None]:
    """The worst of what the steps' rows of that many columns have for ``key``, where no call is missing."""

    def found(steps: dict) -> float | None:
        rows = [row for step in tables(steps, missing=False) for row in step["rows"] if row["columns"] == columns]
        values = [row[key] for row in rows if row.get(key) is not None]
        return min(values, default=None)

    return found


def scaled_seconds(columns: int, *, missing: bool = False) -> Callable[[dict], float | None]:
    """The longest resident product of that many columns, as long as it would be for PAIRS."""

    def found(steps: dict) -> float | None:
        seconds = [
            row["resident_seconds"] * PAIRS / (step["n"] * step["m"])
            for step in tables(steps, missing=missing)
            for row in step["rows"]
            if row["columns"] == columns and "resident_seconds" in row
        ]
        return max(seconds, default=None)

    return found


def of_fit(num_components: int) -> Callable[[dict], float | None]:
    return lambda steps: steps.get(f"fit, G = {num_components}", {}).get("fit_seconds")


PREDICTIONS = (
    *(
        Prediction(f"seconds of {columns} columns at n = 500,000 m = 600,000", s, ".3f", scaled_seconds(columns), False)
        for columns, s in ((8, 0.080), (32, 0.180), (128, 0.600))
    ),
    Prediction("seconds of 32 columns, calls missing", 0.330, ".3f", scaled_seconds(32, missing=True), False),
    Prediction("share of copy bandwidth, 8 columns", 0.40, ".2f", of_row(8, "ratio_to_copy")),
    Prediction("share of the float16 GEMM, 32 columns", 0.35, ".2f", of_row(32, "ratio_to_gemm")),
    Prediction("times as fast as decode and cuBLAS, 32 columns", 4.0, ".1f", of_row(32, "speed_over_peer")),
    Prediction("share of the bus when streamed, 8 columns", 0.85, ".2f", of_row(8, "ratio_to_host_to_device")),
    Prediction("seconds of a fit, G = 1", 20.0, ".1f", of_fit(1), least=False),
    Prediction("seconds of a fit, G = 22", 60.0, ".1f", of_fit(22), least=False),
)


def outcomes(steps: dict) -> list[dict]:
    """Every prediction beside a run's ``steps``."""
    return [prediction.outcome(steps) for prediction in PREDICTIONS]


def last_line(steps: dict) -> str:
    """What fell short of the predictions, what was not measured, and which steps are not done, in one line."""
    short = [p.text(p.found(steps)) for p in PREDICTIONS if p.outcome(steps)["held"] is False]
    unknown = [p.name for p in PREDICTIONS if p.found(steps) is None]
    undone = [f"{name} ({step['outcome']})" for name, step in steps.items() if step["outcome"] != "done"]
    told = [
        f"{what}: {'; '.join(names)}" for what, names in (("fell short", short), ("not measured", unknown)) if names
    ]
    if undone:
        told.append(f"not done: {', '.join(undone)}")
    return " | ".join(told) or "every prediction held"
