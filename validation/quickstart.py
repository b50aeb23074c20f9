"""``python -m gpu_reml.validation.quickstart``: simulate a cohort, run gpu-reml on it, compare with the truth."""

import argparse
import json
import sys
from pathlib import Path

from gpu_reml.cli.main import main as gpu_reml

from .example import example_cohort


def comparison(record: dict, truth: dict) -> str:
    """The table of estimates beside the simulated truth."""
    keys = ("name", "theta", "theta_se", "theta_mc_se")
    rows = [tuple(c[key] for key in keys) for c in [*record["components"], *record["residuals"]]]
    lines = [f"{'':12s} {'simulated':>10s} {'estimate':>10s} {'SE':>8s} {'MC error':>9s} {'(est - sim)/SE':>15s}"]
    for name, variance, se, mc_se in rows:
        true = truth["theta"][name]
        lines.append(f"{name:12s} {true:10.3f} {variance:10.3f} {se:8.3f} {mc_se:9.3f} {(variance - true) / se:15.2f}")
    h2 = record["h2"]
    z = (h2["estimate"] - truth["h2"]) / h2["se"]
    lines.append(f"{'h2':12s} {truth['h2']:10.3f} {h2['estimate']:10.3f} {h2['se']:8.3f} {h2['mc_se']:9.3f} {z:15.2f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_reml.validation.quickstart", description=__doc__)
    parser.add_argument("--dir", default="example", metavar="DIR", help="where the cohort and results go")
    options = parser.parse_args(argv)
    directory = Path(options.dir)
    print(f"simulating a cohort in {directory}/ (PLINK files, phenotype, covariates, component spec)", flush=True)
    example_cohort(directory)
    command = [
        *("--bfile", str(directory / "example"), "--component-spec", str(directory / "components.json")),
        *("--pheno", str(directory / "height.txt"), "--qcovar", str(directory / "covariates.txt")),
        *("--out", str(directory / "height")),
    ]
    print("gpu-reml " + " ".join(command) + "\n", flush=True)
    code = gpu_reml(command)
    if code:
        return code
    record = json.loads((directory / "height.json").read_text())
    print("\nestimates beside the simulated truth (variances in cm^2, h2 as a share):\n")
    print(comparison(record, json.loads((directory / "truth.json").read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
