"""The simulated cohorts that benchmarks run on: their sizes, the components they are analysed with, a cache on disk."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml.validation import Genetics, Structure, simulate_bed, write_covariates

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "gpu_reml_benchmarks"
MOST_CONTIGUOUS = 22  # components up to this many are chromosomes; more are annotations that overlap
MEMBERSHIPS = 5  # sets that a variant is in, on average, where they overlap
SETS_SEED = 5
PEOPLE = Structure(num_populations=3, fst=0.005, family_share=0.1)


class Cohort(NamedTuple):
    """What :func:`gpu_reml.validation.simulate_bed` is given; half of y's variance is genetic, from all variants.

    LD is that of a genotyping array on 22 chromosomes, and the people are PEOPLE: populations, and families.
    ``num_traits``: more than one adds columns t2, t3, ... to the phenotype file, of the same model, and names the
    first t1.
    """

    num_samples: int
    num_variants: int
    seed: int = 1
    num_traits: int = 1

    @property
    def key(self) -> str:
        traits = f"_t{self.num_traits}" if self.num_traits > 1 else ""
        return f"array_n{self.num_samples}_m{self.num_variants}_seed{self.seed}{traits}"


TRAITS = 10
COHORTS = {
    "S": Cohort(2_000, 10_000, num_traits=TRAITS),
    "M": Cohort(5_000, 50_000, num_traits=TRAITS),
    "L": Cohort(20_000, 100_000, num_traits=TRAITS),
}


def cached_cohort(cohort: Cohort, cache: Path) -> Path:
    """The prefix of the cohort's files, made first where the cache does not have them.

    The folder of a cohort appears whole: it is made under another name and renamed.
    """
    folder = cache / cohort.key
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{cohort.key}.", dir=cache))
        try:
            make_cohort(cohort, unfinished / "cohort")
            os.rename(unfinished, folder)
        except OSError:
            if not folder.exists():  # else another process made the same one in the meantime
                raise
        finally:
            if unfinished.exists():
                shutil.rmtree(unfinished)
    return folder / "cohort"


def make_cohort(cohort: Cohort, prefix: Path) -> None:
    """Write ``prefix``.bed, .bim, .fam and .pheno."""
    n, m, seed, num_traits = cohort
    if num_traits == 1:
        simulate_bed(prefix, n, m, seed, genetics=Genetics((0.5, 0.5)), structure=PEOPLE)
        return
    # As many components of unit weight give as many independent genetic values in one pass over the genotypes.
    weights = [np.ones(m)] * num_traits
    genetics = Genetics((*[0.5] * num_traits, 0.5), weights)
    trait = simulate_bed(prefix, n, m, seed, genetics=genetics, structure=PEOPLE)
    noise = np.random.default_rng(seed).standard_normal((n, num_traits)) * np.sqrt(0.5)
    fam = read_fam(prefix)
    columns = {f"t{t + 1}": trait.genetic[:, t] + noise[:, t] for t in range(num_traits)}
    write_covariates(f"{prefix}.pheno", fam, columns)


def read_fam(prefix: Path) -> pd.DataFrame:
    """fid and iid, text, in the order of the genotypes."""
    return pd.read_csv(f"{prefix}.fam", sep=r"\s+", header=None, usecols=[0, 1], names=["fid", "iid"], dtype=str)


def read_trait(prefix: Path) -> np.ndarray:
    """(n,) the first phenotype, in the order of the genotypes; ValueError where the samples differ."""
    table = pd.read_csv(f"{prefix}.pheno", sep="\t", dtype={"FID": str, "IID": str})
    if list(table["IID"]) != list(read_fam(prefix)["iid"]):
        raise ValueError(f"{prefix}: .pheno and .fam list different samples; delete the folder to make it anew")
    return table.iloc[:, 2].to_numpy()


def component_sets(num_variants: int, num_components: int) -> list[np.ndarray]:
    """Zero-based variants of every component.

    Up to MOST_CONTIGUOUS: equal runs of neighbours; that many are the chromosomes.  More: random sets that overlap,
    every variant in MEMBERSHIPS of them on average.
    """
    if num_components <= MOST_CONTIGUOUS:
        run = np.arange(num_variants) * num_components // num_variants
        return [np.flatnonzero(run == g) for g in range(num_components)]
    rng = np.random.default_rng(SETS_SEED)
    return [np.flatnonzero(rng.random(num_variants) < MEMBERSHIPS / num_components) for _ in range(num_components)]


def component_file(prefix: Path, num_variants: int, num_components: int) -> Path:
    """The component specification next to the cohort, written where it is not there yet."""
    path = prefix.with_name(f"sets{num_components}.json")
    if not path.exists():
        sets = component_sets(num_variants, num_components)
        entries = [{"name": f"set{g + 1}", "variant_indices": s.tolist()} for g, s in enumerate(sets)]
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(entries))
        partial.replace(path)
    return path
