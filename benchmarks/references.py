"""What a cohort's fit should give: dense REML where n x n matrices are affordable, else the library with many probes.

Kept in references.json next to this file, by cohort and number of components, with how each was made.
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .cohorts import Cohort, read_trait
from .fit_command import fit_cohort
from .process import measure_module

REFERENCES = Path(__file__).with_name("references.json")
MOST_DENSE = 6_000  # people for whom an n x n float64 matrix and its inverse are affordable
MOST_KEPT_BYTES = 5 << 30  # of component matrices; beyond, genotypes are streamed
REFERENCE_SEED = 1_000  # of the probes; fits that are compared use others
REFERENCE_PROBES = 2_000


class Reference(NamedTuple):
    """``theta`` (G + 1,), residual last, ``se`` (G + 1,) from the inverse information of all components, h2 and its se.

    ``error``: largest error of theta in standard errors; 0 for a dense fit.  ``how``: in words.  ``seconds`` and
    ``threads``: what it took where it was made.  ``digest``: of the phenotype it belongs to.
    """

    theta: list[float]
    se: list[float]
    h2: float
    h2_se: float
    error: float
    how: str
    seconds: float
    threads: int
    digest: list[float]


def reference_key(cohort: Cohort, num_components: int) -> str:
    return f"{cohort.key}_G{num_components}"


def phenotype_digest(prefix: Path) -> list[float]:
    """Three sums over y that no other simulation gives; all genotypes and their order enter them."""
    y = read_trait(prefix)
    return [float(y.sum()), float(y @ y), float(y @ np.arange(len(y))) / len(y)]


def find_reference(cohort: Cohort, num_components: int, prefix: Path, path: Path = REFERENCES) -> Reference | None:
    """The stored reference, or None.  ValueError where it was made for other data than the cohort's at ``prefix``."""
    stored = read_references(path).get(reference_key(cohort, num_components))
    if stored is None:
        return None
    found = phenotype_digest(prefix)
    if not np.allclose(found, stored.digest, rtol=1e-6, atol=1e-6):
        raise ValueError(
            f"{reference_key(cohort, num_components)}: the reference is of another phenotype ({stored.digest}) than "
            f"{prefix}.pheno ({found}); the simulator has changed: run with --make-references"
        )
    return stored


def read_references(path: Path = REFERENCES) -> dict[str, Reference]:
    if not path.exists():
        return {}
    return {key: Reference(**record) for key, record in json.loads(path.read_text()).items()}


def store_reference(cohort: Cohort, num_components: int, reference: Reference, path: Path = REFERENCES) -> None:
    """Add or replace one reference."""
    stored = {**read_references(path), reference_key(cohort, num_components): reference}
    records = {key: value._asdict() for key, value in sorted(stored.items())}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(records, indent=1) + "\n")
    partial.replace(path)


def is_dense(cohort: Cohort) -> bool:
    return cohort.num_samples <= MOST_DENSE


def make_reference(cohort: Cohort, num_components: int, prefix: Path, threads: int, mc_target: float) -> Reference:
    """The dense fit, or for large cohorts the library's with probes until their error is ``mc_target`` se."""
    if is_dense(cohort):
        return make_dense(cohort, num_components, prefix, threads)
    extra = ["--seed", REFERENCE_SEED, "--max-probes", REFERENCE_PROBES, "--mc-target", mc_target]
    run, record = fit_cohort(cohort, num_components, prefix, threads, extra)
    return of_record(record, run.seconds, threads, phenotype_digest(prefix))


def make_dense(cohort: Cohort, num_components: int, prefix: Path, threads: int) -> Reference:
    """By :mod:`benchmarks.dense` in a process of its own."""
    stream = 8 * num_components * cohort.num_samples**2 > MOST_KEPT_BYTES
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "dense.json")
        arguments = [prefix, out, "--components", num_components, *(["--stream"] if stream else [])]
        run = measure_module("benchmarks.dense", arguments, threads)
        found = json.loads(out.read_text())
    return of_dense(found, stream, run.seconds, threads, prefix)


def of_dense(found: dict, stream: bool, seconds: float, threads: int, prefix: Path) -> Reference:
    """A reference from what :mod:`benchmarks.dense` wrote."""
    kept = "genotypes streamed in float32" if stream else "matrices kept, float64"
    how = f"dense REML, {kept}, {found['iterations']} iterations, last squared step {found['decrement']:.1e}"
    theta, se, h2, h2_se = (found[key] for key in ("theta", "se", "h2", "h2_se"))
    return Reference(theta, se, h2, h2_se, 0.0, how, seconds, threads, phenotype_digest(prefix))


def of_record(record: dict, seconds: float, threads: int, digest: list[float]) -> Reference:
    """A reference from OUT.json of the library itself; it must have converged."""
    if not record["converged"]:
        raise ValueError(f"the reference fit did not converge: {record['message']}")
    rows = [*record["components"], *record["residuals"]]
    error = record["mc_se_over_se"]
    how = f"{record['num_probes']:,} probes, own error {error:.3f} SE" if record["num_probes"] else "--method exact"
    theta, se = [row["theta"] for row in rows], [row["theta_se"] for row in rows]
    h2 = record["h2"]
    return Reference(theta, se, h2["estimate"], h2["se"], error, how, seconds, threads, digest)
