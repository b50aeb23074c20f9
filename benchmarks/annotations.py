"""A fit of 97 overlapping annotations beside one of 10 components, whole processes of ``gpu-reml`` in one run.

``--check N`` instead: enrichments of the stochastic fit of N of the samples against those of dense REML.

The annotations are like those of LDSC's baseline model: one of all variants, 52 binary (1 to 30 % of the variants, in
stretches) and 44 continuous, all in one .annot.gz.  The 10 components are contiguous sets of the same variants.
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from gpu_reml import io

from .cohorts import COHORTS, DEFAULT_CACHE, cached_cohort, component_file
from .process import available_threads, measure_module

NUM_BINARY, NUM_CONTINUOUS = 52, 44


def write_annotations(variants: pd.DataFrame, path: Path, seed: int = 1) -> None:
    """The annotations of a cohort's variants as LDSC writes them."""
    rng = np.random.default_rng(seed)
    m = len(variants)
    columns = {"base": np.ones(m, np.int8)}
    for a in range(NUM_BINARY):
        stretches = rng.random(-(-m // 50)) < rng.uniform(0.01, 0.3)
        columns[f"binary_{a}"] = np.repeat(stretches, 50)[:m].astype(np.int8)
    for a in range(NUM_CONTINUOUS):
        columns[f"continuous_{a}"] = rng.gamma(2.0, 0.5, m).round(4)
    head = pd.DataFrame({"CHR": variants["chrom"], "BP": variants["bp"], "SNP": variants["id"], "CM": variants["cm"]})
    with gzip.open(path, "wt", compresslevel=1) as file:
        pd.concat([head, pd.DataFrame(columns)], axis=1).to_csv(file, sep="\t", index=False)


def fit(prefix: Path, flags: list[str], out: Path, threads: int) -> dict:
    """Seconds, peak memory, passes and largest Monte-Carlo error of a fit."""
    files = ["--bfile", prefix, "--pheno", f"{prefix}.pheno", "--out", out, "--device", "cpu", "--quiet"]
    run = measure_module("gpu_reml.cli.main", [*files, "--method", "stochastic", *flags], threads, accepted=(0, 3))
    found = json.loads(Path(f"{out}.json").read_text())
    ratio = max(part["mc_se"] / part["se"] for part in found["components"] if part["se"])
    return {"seconds": run.seconds, "mib": run.peak_bytes / 2**20, "passes": found["passes"], "mc": ratio}


def check(prefix: Path, annot: Path, num_samples: int, folder: Path, threads: int) -> None:
    """Print how far enrichments of a stochastic fit are from dense ones, in Monte-Carlo and in sampling errors."""
    keep = Path(folder, "keep.txt")
    io.write_samples(keep, io.read_bed(prefix).samples.head(num_samples))
    found = {}
    for method in ("exact", "stochastic"):
        out = Path(folder, method)
        files = ["--bfile", prefix, "--pheno", f"{prefix}.pheno", "--keep", keep, "--annot", annot, "--out", out]
        flags = ["--device", "cpu", "--quiet", "--method", method]
        run = measure_module("gpu_reml.cli.main", [*files, *flags], threads, accepted=(0, 3))
        print(f"{method:12s} {run.seconds:7.1f} s  {run.peak_bytes / 2**20:6.0f} MiB", flush=True)
        found[method] = pd.read_csv(f"{out}.enrichment.tsv", sep="\t")
    for name in ("h2", "enrichment"):
        gap = (found["stochastic"][name] - found["exact"][name]).abs()
        mc, se = found["stochastic"][f"{name}_mc_se"], found["exact"][f"{name}_se"]
        told = se > 1e-6  # not the base, whose enrichment is 1 by definition
        gap, mc, se = gap[told], mc[told], se[told]
        z = gap / mc
        print(
            f"{name}: {len(gap)} annotations, largest difference {z.max():.2f} mc_se (median {z.median():.2f}) and "
            f"{(gap / se).max():.3f} SE; {(z <= 4).mean():.1%} within 4 mc_se; largest mc_se {(mc / se).max():.3f} SE"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", choices=tuple(COHORTS), default="M")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--check", type=int, metavar="N", help="compare enrichments of N samples with dense REML")
    options = parser.parse_args()
    prefix = cached_cohort(COHORTS[options.cohort], DEFAULT_CACHE)
    bed = io.read_bed(prefix)
    with tempfile.TemporaryDirectory() as folder:
        annot = Path(folder, "baseline.annot.gz")
        write_annotations(bed.variants, annot)
        if options.check:
            check(prefix, annot, options.check, Path(folder), options.threads)
            return
        ten = component_file(prefix, bed.num_variants, 10)
        rows = {
            "10 components": fit(prefix, ["--component-spec", str(ten)], Path(folder, "ten"), options.threads),
            "97 annotations": fit(prefix, ["--annot", str(annot)], Path(folder, "many"), options.threads),
        }
    first = rows["10 components"]["seconds"]
    for name, row in rows.items():
        print(
            f"{name:16s} {row['seconds']:7.1f} s  ratio {row['seconds'] / first:5.2f}  {row['mib']:6.0f} MiB  "
            f"{row['passes']:7.0f} passes  largest Monte-Carlo error {row['mc']:.3f} SE"
        )


if __name__ == "__main__":
    main()
