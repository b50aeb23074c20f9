"""The files of ``--compute-effects``: fixed effects, genetic values, and effects of variants by id and allele."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from gpu_reml import io
from gpu_reml.io.model import Scale
from gpu_reml.reml import FitResult
from gpu_reml.reml.studies.effects import Effects, Reliability, fixed_tests

from .inputs import Inputs

SCORE = "plink2 --pfile NEW --score {name} 3 4 7 header cols=+scoresums"
SCORES = "plink2 --pfile NEW --score {name} 3 4 header-read cols=+scoresums --score-col-nums 7-{last}"
UNITS = {
    "beta of a fixed effect": "phenotype units a unit of the covariate, as in its file",
    "random effects": "phenotype units",
    "effects of variants": "snp_effects.tsv: phenotype units a copy of A1; snp_effects.component_*.tsv: beta, a "
    "standard deviation of its count, as in GPU_REML, and beta_allele, a copy",
}
GENETIC_VALUE = "intercept + sum of count of A1 times effect, a missing count being 2 FREQ"
SCALED_VALUE = (
    "sum over components of s (intercept of the component + sum of count of A1 times effect), a missing count being "
    "2 FREQ; s is the component's multiplier, 1 where it has none"
)
MATCH_COLUMNS = {"chrom": "CHR", "bp": "BP", "id": "ID", "a1": "A1", "a2": "A2"}


class VariantEffects(NamedTuple):
    """Effects (m, G) csr of one more copy of a1, in phenotype units, in G components ``names`` of the genotypes.

    ``scales`` (G,): what multiplies each component's genetic values, None where nothing does.  ``table``: chrom, id,
    bp, a1, a2 of the variants, which are ``rows`` (m,) of the analysed ones; ``mean``, ``inv_sd`` (m,) of the count of
    a1 among the analysed samples.
    """

    names: tuple[str, ...]
    scales: tuple[Scale | None, ...]
    table: pd.DataFrame
    mean: np.ndarray
    inv_sd: np.ndarray
    effects: sparse.csr_array
    standardisation: str
    rows: np.ndarray

    @property
    def scaled(self) -> bool:
        """Whether effects of a variant in different components cannot be added, as samples scale them."""
        return any(scale is not None for scale in self.scales)

    @property
    def intercepts(self) -> np.ndarray:
        """(G,) - sum_j mean_j effects_jg."""
        return -(self.effects.T @ self.mean)


NO_VARIANTS = VariantEffects(
    (), (), pd.DataFrame(columns=["chrom", "id", "bp", "a1", "a2"]), np.zeros(0), np.zeros(0),
    sparse.csr_array((0, 0)), "no variants", np.zeros(0, np.int64),
)  # fmt: skip


def effect_files(
    prefix: str,
    name: str,
    result: FitResult,
    found: Effects,
    of_variants: VariantEffects | None,
    inputs: Inputs,
    reliable: Reliability | None,
) -> dict[str, str]:
    """Path and content of the effects, all in the phenotype's units; of variants where there are any."""
    samples = inputs.alignment.samples
    tables = {
        "fixed_effects.tsv": fixed_table(inputs.design.names, found, len(samples)),
        "random_effect.tsv": random_table(samples, found.total[:, None], ["random_effect"], reliable),
        "random_effect_components.tsv": random_table(samples, found.random, found.names, None),
    }
    if of_variants is not None:
        tables["snp_effects.tsv"] = variant_table(of_variants)
        for g, component in enumerate(of_variants.names):
            tables[f"snp_effects.component_{g:03d}.tsv"] = component_table(of_variants, g, component)
    files = {f"{prefix}.{suffix}": io.table_text(table) for suffix, table in tables.items()}
    residuals = zip(result.residual_names, found.theta[len(found.names) :], strict=True)
    record = {
        "version": version("gpu-reml"),
        "phenotype": name,
        "units": UNITS,
        "y_mean": 0.0,
        "y_scale": 1.0,
        "pcg_rel_res": found.solve_residual,
        "pcg_iters": found.iterations,
        "n_samples": len(samples),
        "components": component_records(found, of_variants),
        "residuals": [{"name": each, "theta": value} for each, value in residuals],
        **variant_record(f"{prefix}.snp_effects.tsv", found.names, of_variants),
        "files": sorted(Path(path).name for path in files),
    }
    return {**files, f"{prefix}.effect_metadata.json": io.json_text(record)}


def component_records(found: Effects, of_variants: VariantEffects | None) -> list[dict[str, Any]]:
    """Every component with its theta; of those with effects of variants how many, and what multiplies them."""
    records: list[dict[str, Any]] = [
        {"index": g, "name": each, "theta": found.theta[g]} for g, each in enumerate(found.names)
    ]
    if of_variants is not None:
        counts = np.bincount(of_variants.effects.indices, minlength=len(of_variants.names))
        for record, count, scale in zip(records, counts, of_variants.scales, strict=False):
            record.update(n_snps=int(count), multiplied_by=scale_record(scale))
    return records


def scale_record(scale: Scale | None) -> dict[str, Any] | None:
    """What multiplies a component's genetic values."""
    return None if scale is None else {**asdict(scale), "formula": scale.formula}


def variant_record(path: str, names, of_variants: VariantEffects | None) -> dict[str, Any]:
    """What the metadata says of the effects of variants; nothing where there are none."""
    if of_variants is None:
        return {}
    record: dict[str, Any] = {
        "n_variants": len(of_variants.table),
        "standardisation": of_variants.standardisation,
        "intercept_components": of_variants.intercepts,
    }
    file = Path(path).name
    if of_variants.scaled:
        last = 6 + len(of_variants.names)
        record.update(genetic_value=SCALED_VALUE, score_with_plink2=SCORES.format(name=file, last=last))
    else:
        record.update(
            genetic_value=GENETIC_VALUE,
            intercept=of_variants.intercepts.sum(),
            score_with_plink2=SCORE.format(name=file),
        )
    others = names[len(of_variants.names) :]
    if others:
        record["components_without_effects_of_variants"] = list(others)
    return record


def fixed_table(names, found: Effects, num_samples: int) -> pd.DataFrame:
    """One row a column of X."""
    tested = fixed_tests(found.fixed, num_samples)
    labels = {"covariate_index": np.arange(len(names)), "label": list(names)}
    return pd.DataFrame({**labels, "beta": tested.estimate, "se": tested.se, "t": tested.t, "p": tested.p})


def random_table(samples: pd.DataFrame, values: np.ndarray, names, reliable: Reliability | None) -> pd.DataFrame:
    """One row a sample: genetic values, and how reliable they are."""
    table = samples[["fid", "iid"]].rename(columns={"fid": "FID", "iid": "IID"}).reset_index(drop=True)
    for name, column in zip(names, values.T, strict=True):
        table[name] = column
    if reliable is not None:
        table["reliability"] = reliable.reliability
        table["reliability_mc_se"] = reliable.reliability_mc_se
        table["pev"] = reliable.pev
    return table.assign(sample_index=np.arange(len(table)))


def variant_table(of_variants: VariantEffects) -> pd.DataFrame:
    """One row a variant: its effect in all components together (column 7, for plink2 --score), then in each.

    Where samples scale components there is no effect in all together, and column 7 is the first component's.
    """
    table = of_variants.table[list(MATCH_COLUMNS)].rename(columns=MATCH_COLUMNS)
    columns = {"FREQ": of_variants.mean / 2}
    if not of_variants.scaled:
        columns["TOTAL"] = of_variants.effects.sum(axis=1)
    if of_variants.scaled or len(of_variants.names) > 1:
        effects_of = of_variants.effects.tocsc()
        columns |= {name: effects_of[:, [g]].toarray()[:, 0] for g, name in enumerate(of_variants.names)}
    return table.assign(**columns)


def component_table(of_variants: VariantEffects, g: int, name: str) -> pd.DataFrame:
    """The variants of one component."""
    column = of_variants.effects.tocsc()[:, [g]].tocoo()
    rows, values = column.row, column.data
    table = of_variants.table[list(MATCH_COLUMNS)].rename(columns=MATCH_COLUMNS).iloc[rows]
    table.insert(0, "component_index", g)
    table.insert(1, "component_name", name)
    return table.assign(
        FREQ=of_variants.mean[rows] / 2, beta=values / of_variants.inv_sd[rows], beta_allele=values, snp_index=rows
    )
