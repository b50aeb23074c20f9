"""The record of a run: JSON that is whole after every step, and tables of it in Markdown."""

import json
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.run import write_whole

ROOT = Path(__file__).resolve().parents[2]
PRODUCT_COLUMNS = {
    "columns": ("columns", 1, "d"),
    "resident, ms": ("resident_seconds", 1e3, ".2f"),
    "TB/s": ("resident_bytes_per_second", 1e-12, ".3f"),
    "TFLOP/s": ("resident_flops_per_second", 1e-12, ".1f"),
    "/ copy": ("ratio_to_copy", 1, ".2f"),
    "/ GEMM": ("ratio_to_gemm", 1, ".2f"),
    "streamed, ms": ("streamed_seconds", 1e3, ".1f"),
    "/ bus": ("ratio_to_host_to_device", 1, ".2f"),
    "peer, ms": ("peer_seconds", 1e3, ".2f"),
    "peer / ours": ("speed_over_peer", 1, ".2f"),
    "peer's error": ("peer_error", 1, ".1e"),
}
FIT_COLUMNS = {
    "n": ("n", 1, ",d"),
    "m": ("m", 1, ",d"),
    "G": ("G", 1, "d"),
    "load, s": ("load_seconds", 1, ".2f"),
    "fit, s": ("fit_seconds", 1, ".2f"),
    "passes": ("passes", 1, ".0f"),
    "h2 off, SE": ("h2_off_by_se", 1, "+.2f"),
    "peak, MiB": ("peak_bytes", 2**-20, ",.0f"),
    "planned, MiB": ("planned_bytes", 2**-20, ",.0f"),
}


def commit() -> dict:
    """Commit of the checkout, and whether tracked files differ from it; None where git does not tell."""

    def git(*arguments: str) -> str | None:
        try:
            ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        except OSError:
            return None
        return ran.stdout.strip() if ran.returncode == 0 else None

    head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "changed": None if changed is None else bool(changed)}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def save(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1) + "\n")


def markdown(record: dict) -> str:
    """What the record says, for a person."""
    steps = record["steps"]
    lines = [f"# {record['device']['device']}, {record['started']}", ""]
    lines += [f"commit {record['commit']}{', with changes' if record['changed'] else ''}", ""]
    for step in steps.values():
        if "rows" in step:
            lines += [
                f"## V B for n = {step['n']:,}, m = {step['m']:,} ({step['packed_bytes'] / 2**30:.2f} GiB packed, "
                f"{step['kernels']} kernels)",
                "",
                *table(step["rows"], PRODUCT_COLUMNS),
                "",
            ]
            if step.get("peer_missing"):
                lines += [f"No peer: {step['peer_missing']}", ""]
    fits = [step for step in steps.values() if "fit_seconds" in step]
    if fits:
        lines += ["## Fits (the last with half the genotypes' size as limit, if there is one)", ""]
        lines += [*table(fits, FIT_COLUMNS), ""]
    lines += ["## Steps", ""]
    lines += [f"* {name}: {step['outcome']}{remark(step)}" for name, step in steps.items()]
    return "\n".join(lines) + "\n"


def remark(step: dict) -> str:
    text = f", {step['seconds']:.1f} s" if "seconds" in step else ""
    return text + (f": {step['why']}" if step.get("why") else "")


def table(rows: Iterable[dict], columns: dict) -> list[str]:
    """Lines of a table; a dash for what was not measured."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [
            "-" if row.get(key) is None else format(row[key] if scale == 1 else scale * row[key], form)
            for key, scale, form in columns.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
