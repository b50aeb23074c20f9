"""A small cohort to begin with: PLINK files, a phenotype, covariates, components, and the truth they were made from."""

import json
from pathlib import Path

import numpy as np

from .haplotypes import SPARSE, Structure
from .simulate import Trait, simulate_cohort, simulate_phenotype, write_covariates, write_phenotype, write_plink

NUM_SAMPLES, NUM_VARIANTS = 1500, 4500
# Component: share of the variants, and variance in cm^2.  Coding variants carry the most for their number.
COMPONENTS = {"coding": (0.15, 12.0), "regulatory": (0.30, 9.0), "other": (0.55, 6.0)}
RESIDUAL = 20.0
FIXED_EFFECTS = {"intercept": 164.0, "age": -0.05, "sex": 13.0}  # cm; cm a year; cm for 1 against 0


def example_cohort(directory: str | Path, seed: int = 1) -> Trait:
    """Write the example to ``directory`` (made if absent) and return the phenotype with its truth.

    example.bed, .bim, .fam; height.txt (``height`` in cm, 2 % NA); covariates.txt (``age`` in years, ``sex`` 0 or 1,
    some ages NA); components.json (``coding``, ``regulatory``, ``other``: disjoint, all variants); truth.json
    (variances in cm^2, h2, effects).  A tenth of the samples are in families of two parents and two children.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    cohort = simulate_cohort(NUM_SAMPLES, NUM_VARIANTS, seed, haplotypes=SPARSE, structure=Structure(family_share=0.1))
    rng = np.random.default_rng([seed, 1])
    names = list(COMPONENTS)
    member_of = rng.choice(len(names), NUM_VARIANTS, p=[share for share, _ in COMPONENTS.values()])
    age = rng.integers(18, 80, NUM_SAMPLES).astype(np.float64)
    sex = (cohort.samples["sex"] == 1).to_numpy(np.float64)
    trait = simulate_phenotype(
        cohort,
        [member_of == g for g in range(len(names))],
        [variance for _, variance in COMPONENTS.values()] + [RESIDUAL],
        seed,
        X=np.column_stack([np.ones(NUM_SAMPLES), age, sex]),
        effects=np.array(list(FIXED_EFFECTS.values())),
    )
    write_plink(cohort, directory / "example")
    height = np.where(rng.random(NUM_SAMPLES) < 0.02, np.nan, trait.y.round(1))
    write_phenotype(directory / "height.txt", cohort.samples, "height", height)
    age[rng.random(NUM_SAMPLES) < 0.005] = np.nan
    write_covariates(directory / "covariates.txt", cohort.samples, {"age": age, "sex": sex})
    members = [np.flatnonzero(member_of == g).tolist() for g in range(len(names))]
    components = [{"name": name, "variant_indices": indices} for name, indices in zip(names, members, strict=True)]
    _write_json(directory / "components.json", {"components": components})
    _write_json(directory / "truth.json", _truth(trait, names, seed))
    return trait


def _truth(trait: Trait, names: list[str], seed: int) -> dict:
    variances = trait.theta * np.append(trait.traces / len(trait.y), 1.0)
    return {
        "phenotype": "height",
        "unit": "cm",
        "theta": dict(zip([*names, "residual"], trait.theta.tolist(), strict=True)),
        "theta_unit": "cm^2",
        "h2": trait.h2,
        "h2_by_component": dict(zip(names, (variances[:-1] / variances.sum()).tolist(), strict=True)),
        "fixed_effects": FIXED_EFFECTS,
        "seed": seed,
    }


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
