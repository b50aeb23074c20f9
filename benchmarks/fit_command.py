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
    """The run and its OUT.json, for the first trait; RuntimeError with what it printed where there were no results."""
    run, records = fit_traits(cohort, num_components, prefix, threads, extra)
    (record,) = records
    return run, record


def fit_traits(
    cohort: Cohort, num_components: int, prefix: Path, threads: int, extra: Sequence = ()
) -> tuple[Run, list[dict]]:
    """The run and the JSON record of every trait it analysed: the cohort's first, unless ``extra`` names others."""
    arguments = ["--bfile", prefix, "--pheno", f"{prefix}.pheno"]
    if num_components > 1:
        arguments += ["--component-spec", component_file(prefix, cohort.num_variants, num_components)]
    return fit_command([*arguments, *extra], threads)


def fit_command(arguments: Sequence, threads: int) -> tuple[Run, list[dict]]:
    """``gpu-reml`` on the CPU with these arguments, and the records that it wrote, by name of their files."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--threads", threads, "--device", "cpu", "--quiet", "--out", Path(folder, "out")]
        run = measure_module("gpu_reml.cli.main", [*options, *arguments], threads, FINISHED)
        records = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("out*.json"))]
    return run, records
