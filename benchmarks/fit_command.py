"""The real command, ``gpu-reml``, on a benchmark's cohort: what it wrote, its wall time and its peak memory."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .cohorts import Cohort, component_file
from .process import Run, measure_module

FINISHED = (0, 3)  # converged, and not converged with results written


def fit_cohort(
    cohort: Cohort, num_components: int, prefix: Path, threads: int, extra: Sequence = ()
) -> tuple[Run, dict]:
    """The run and its OUT.json, for one trait; RuntimeError with what it printed where there were no results."""
    run, records = fit_traits(cohort, num_components, prefix, threads, extra)
    (record,) = records
    return run, record


def fit_traits(
    cohort: Cohort, num_components: int, prefix: Path, threads: int, extra: Sequence = ()
) -> tuple[Run, list[dict]]:
    """The run and the JSON record of every trait it analysed."""
    arguments = ["--bfile", prefix, "--pheno", f"{prefix}.pheno", "--threads", threads, "--device", "cpu", *extra]
    if num_components > 1:
        arguments += ["--component-spec", component_file(prefix, cohort.num_variants, num_components)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        run = measure_module("gpu_reml.cli.main", [*arguments, "--quiet", "--out", out], threads, FINISHED)
        records = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("out*.json"))]
    return run, records
