"""Ten cohorts, each with one problem planted, and clean ones: does the diagnosis name what was planted, and only that?

``python -m gpu_reml.validation.diagnosis_study`` prints a line for each and exits with 1 where the first diagnosis is
the planted one in fewer than nine of ten, or a clean cohort has any.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_reml import io, ops, reml
from gpu_reml.reml.studies.diagnosis import Diagnosis, diagnose, facts_of, frequency_and_ld_bins

from .dense import standardised
from .haplotypes import SPARSE, Haplotypes, Structure
from .simulate import Cohort, simulate_cohort

N, M, H2 = 900, 3000, 0.5
PREVALENCE = 0.05
WANTED = 0.9  # least share of planted problems that is named first
LD_WINDOW = 200  # variants on either side
# Common variants in some LD, of which half have few neighbours that go with them.
LINKED = Haplotypes(200, 0.003, 0.9, 0.05, 5, "log-odds", 0.0)


class Planted(NamedTuple):
    """Genotypes (n, m), a phenotype (n,), weights (m, G) of the components, and a disease's prevalence."""

    cohort: Cohort
    y: np.ndarray
    weights: np.ndarray | None = None
    prevalence: float | None = None


def polygenic(Z: np.ndarray, rng: np.random.Generator, h2: float = H2, which: np.ndarray | None = None) -> np.ndarray:
    """A phenotype of variance 1 with heritability h2, of all variants or those in ``which``."""
    Z = Z if which is None else Z[:, which]
    g = Z @ rng.standard_normal(Z.shape[1])
    return np.sqrt(h2) * (g - g.mean()) / g.std() + np.sqrt(1 - h2) * rng.standard_normal(len(Z))


def usual(seed: int, n: int = N, **more: Any) -> tuple[Cohort, np.ndarray, np.random.Generator]:
    """A cohort, its standardised genotypes, and a generator."""
    options = {"missing_rate": 0.005, "haplotypes": SPARSE, **more}
    cohort = simulate_cohort(n, M, seed, **options)
    return cohort, standardised(cohort.counts), np.random.default_rng(seed + 1000)


def clean(seed: int) -> Planted:
    cohort, Z, rng = usual(seed)
    return Planted(cohort, polygenic(Z, rng))


def duplicates(seed: int) -> Planted:
    """One in twenty people is there twice, with nearly the same phenotype."""
    cohort, Z, rng = usual(seed)
    y, copied = polygenic(Z, rng), N // 20
    cohort.counts[-copied:] = cohort.counts[:copied]
    y[-copied:] = y[:copied] + 0.1 * rng.standard_normal(copied)
    return Planted(cohort, y)


def relatives(seed: int) -> Planted:
    """Half of the people are in families, which share a household."""
    cohort, Z, rng = usual(seed, structure=Structure(family_share=0.5))
    families = np.unique(cohort.samples["fid"].to_numpy().astype(str), return_inverse=True)[1]
    return Planted(cohort, polygenic(Z, rng) + 0.7 * rng.standard_normal(families.max() + 1)[families])


def structure(seed: int) -> Planted:
    """Three populations with different means."""
    cohort, Z, rng = usual(seed, structure=Structure(3, 0.03))
    return Planted(cohort, polygenic(Z, rng) + 0.6 * cohort.samples["population"].to_numpy())


def missing(seed: int) -> Planted:
    """A tenth of the calls is missing."""
    cohort, Z, rng = usual(seed, missing_rate=0.1)
    return Planted(cohort, polygenic(Z, rng))


def ascertained(seed: int) -> Planted:
    """Half of the people are cases of a disease that one in twenty has."""
    cohort, Z, rng = usual(seed, n=8 * N)
    liability = polygenic(Z, rng)
    cases = np.flatnonzero(liability > np.quantile(liability, 1 - PREVALENCE))
    controls = rng.choice(np.setdiff1d(np.arange(len(liability)), cases), len(cases), replace=False)
    who = np.sort(np.concatenate([cases, controls]))
    chosen = Cohort(cohort.counts[who], cohort.samples.iloc[who].reset_index(drop=True), cohort.variants)
    return Planted(chosen, np.isin(who, cases).astype(float), prevalence=PREVALENCE)


def rare_variants(seed: int) -> Planted:
    """All effects are of variants that less than one in twenty alleles is."""
    cohort, Z, rng = usual(seed)
    frequency = io.minor_allele_frequencies(genotypes_of(cohort))
    return Planted(cohort, polygenic(Z, rng, 0.6, frequency < 0.05))


def low_ld(seed: int) -> Planted:
    """All effects are of variants in little LD."""
    cohort, Z, rng = usual(seed, haplotypes=LINKED)
    scores = ld_of(cohort, genotypes_of(cohort))
    return Planted(cohort, polygenic(Z, rng, 0.6, scores < np.nanquantile(scores, 0.3)))


def made_of_genotypes(seed: int) -> Planted:
    """The phenotype is a score of the genotypes."""
    cohort, Z, rng = usual(seed)
    return Planted(cohort, polygenic(Z, rng, 1.0))


def few_samples(seed: int) -> Planted:
    """A hundred people."""
    cohort, Z, rng = usual(seed, n=100)
    return Planted(cohort, polygenic(Z, rng))


def many_components(seed: int) -> Planted:
    """Twelve sets that overlap so much that nobody could tell them apart."""
    cohort, Z, rng = usual(seed)
    return Planted(cohort, polygenic(Z, rng), rng.choice([0.9, 1.0], (M, 12)) * (rng.random((M, 12)) < 0.97))


PROBLEMS: dict[str, tuple[str, Callable[[int], Planted]]] = {
    "duplicates": ("duplicates", duplicates),
    "relatives": ("relatives", relatives),
    "structure": ("structure", structure),
    "missing calls": ("missing", missing),
    "ascertained cases": ("ascertained", ascertained),
    "rare variants": ("bins", rare_variants),
    "low LD": ("bins", low_ld),
    "made of genotypes": ("bound", made_of_genotypes),
    "few samples": ("samples", few_samples),
    "many components": ("samples", many_components),
}


def genotypes_of(cohort: Cohort) -> ops.PackedGenotypes:
    """Packed and standardised genotypes."""
    return ops.standardise([ops.pack(cohort.counts)], len(cohort.counts))


def ld_of(cohort: Cohort, genotypes: ops.PackedGenotypes) -> np.ndarray:
    """(m,) LD scores."""
    table = cohort.variants
    return ops.ld_scores(genotypes, table["chrom"].to_numpy(), table["bp"].to_numpy(), window_variants=LD_WINDOW)


def diagnosed(planted: Planted, seed: int) -> list[Diagnosis]:
    """What the diagnosis says of an exact fit."""
    genotypes = genotypes_of(planted.cohort)
    covariance = ops.make_covariance(ops.make_products(genotypes, "cpu"), planted.weights)
    y, X = planted.y, np.ones((len(planted.y), 1))
    result = reml.fit_exact(y, X, covariance, strict=False)
    bins = frequency_and_ld_bins(io.minor_allele_frequencies(genotypes), ld_of(planted.cohort, genotypes))
    return diagnose(facts_of(result, y, X, covariance, prevalence=planted.prevalence, bins=bins, seed=seed))


class Case(NamedTuple):
    """What was planted ("" for nothing), the kind that it is of, and what was found."""

    name: str
    kind: str
    found: list[Diagnosis]

    @property
    def right(self) -> bool:
        """Whether the planted problem is named first, or nothing where nothing was planted."""
        return not self.found if not self.kind else bool(self.found) and self.found[0].kind == self.kind


def cases(seed: int, names: Sequence[str] | None = None, num_clean: int = 2) -> Iterator[Case]:
    """Every problem once, then clean cohorts."""
    for place, (name, (kind, make)) in enumerate(PROBLEMS.items()):
        if names is None or name in names:
            yield Case(name, kind, diagnosed(make(seed + place), seed))
    for place in range(num_clean):
        yield Case("nothing", "", diagnosed(clean(seed + 100 + place), seed))


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 where nine of ten planted problems are named first, and clean cohorts have none."""
    parser = argparse.ArgumentParser(prog="python -m gpu_reml.validation.diagnosis_study", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first cohort (default 1)")
    parser.add_argument("--clean", type=int, default=2, metavar="N", help="cohorts without a problem (default 2)")
    options = parser.parse_args(argv)
    met = []
    for case in cases(options.seed, num_clean=options.clean):
        met.append(case)
        said = "; ".join(f"{each.kind}: {each.evidence}" for each in case.found) or "nothing"
        print(f"{'right' if case.right else 'WRONG'}  {case.name}: {said}", flush=True)
    planted = [case for case in met if case.kind]
    named = sum(case.right for case in planted)
    clear = all(case.right for case in met if not case.kind)
    print(
        f"{named} of {len(planted)} planted problems are named first; clean cohorts {'are' if clear else 'NOT'} clean"
    )
    return 0 if named >= WANTED * len(planted) and clear else 1


if __name__ == "__main__":
    sys.exit(main())
