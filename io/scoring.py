"""Genetic values and fixed effects of new samples from a saved model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from ..ops.backend import make_products
from ..ops.genotypes import CALL_BITS, items_per_row
from .errors import InputError
from .genotype_file import GenotypeFile
from .genotypes import load_genotypes
from .harmonise import Matching
from .ids import first_ids, locate
from .model import FixedTerms, Model, Scale
from .stamps import check_unchanged
from .tables import Covariates

BATCH_BYTES = 1 << 28  # so many bytes of packed genotypes are held at once


class Scores(NamedTuple):
    """Of n samples: ``values`` (n, G) sum_j (count_ij - mean_j) effects_jg; where the model has reliabilities, for each
    of its distinct scales ``replicates`` (n, R), the same of effects of replicates, and ``variances`` (n,)
    sum_j (count_ij - mean_j)^2 times the variance of the effect.  None is multiplied by what scales it yet."""

    values: np.ndarray
    replicates: list[np.ndarray]
    variances: list[np.ndarray]


def genetic_scores(
    model: Model,
    files: Sequence[GenotypeFile],
    rows: Sequence[np.ndarray],
    matching: Matching,
    *,
    dosage: bool = False,
    backend: str = "cpu",
    dtype: type = np.float32,
    batch_bytes: int = BATCH_BYTES,
) -> Scores:
    """Sums over the model's variants, with its means and effects.

    ``files``: pieces of one genome, whose variants one after another are those that ``matching`` counts; ``rows``: of
    the samples in each.  A missing genotype is the model's mean, as is a variant that is not there.  Where alleles are
    swapped, count' = 2 - count, the effect changes its sign and the mean becomes 2 - mean.
    Cost: half a pass of G columns, and with reliabilities of R and one more for each distinct scale, over at most
    ``batch_bytes`` of packed genotypes at a time.
    """
    G, n = len(model.components), len(rows[0])
    total, spreads = np.zeros((n, G)), model.spreads
    replicates = [np.zeros((n, spread.replicates.shape[1])) for spread in spreads]
    variances = [np.zeros(n) for _ in spreads]
    sign = np.where(matching.swapped, -1.0, 1.0)
    effects = sparse.csr_array(model.effects[matching.model])
    effects.data *= np.repeat(sign, np.diff(effects.indptr))
    mean = np.where(matching.swapped, 2 - model.mean[matching.model], model.mean[matching.model])
    first = 0
    for file, index in zip(files, rows, strict=True):
        here = np.flatnonzero((matching.rows >= first) & (matching.rows < first + file.num_variants))
        bits = 16 if dosage else CALL_BITS
        width = max(1, batch_bytes // (items_per_row(len(index), bits) * (2 if dosage else 1)))
        for start in range(0, len(here), width):
            batch = here[start : start + width]
            found = load_genotypes([file], [index], [matching.rows[batch] - first], dosage)
            # With 1 in the place of 1/SD a genotype is its count less the mean, to which the effects belong.
            products = make_products(replace(found, mean=mean[batch], inv_sd=np.ones(len(batch))), backend, dtype)
            total += _values(products, effects[batch])
            for p, spread in enumerate(spreads):
                those = matching.model[batch]
                replicated = np.ascontiguousarray(spread.replicates[those] * sign[batch, None], products.dtype)
                replicates[p] += np.asarray(products.z(replicated), np.float64)
                weights = sparse.csr_array(spread.variances[those][:, None])
                variances[p] += products.squared_norms_by_sample(weights)[:, 0]
            check_unchanged(found.stamps)
        first += file.num_variants
    return Scores(total, replicates, variances)


def _values(products, effects: sparse.csr_array) -> np.ndarray:
    """(n, G) Z effects, every component for itself."""
    if effects.shape[1] == 1:
        return np.asarray(products.z(effects.toarray().astype(products.dtype)), np.float64)
    ones = np.ones((effects.shape[0], 1), products.dtype)
    groups = products.grouped(ones, effects)
    return np.column_stack([np.asarray(group, np.float64)[:, 0] for group in groups])


def complete_samples(fixed: FixedTerms, tables: Sequence[Covariates], samples: pd.DataFrame) -> dict[str, np.ndarray]:
    """(n,) bool by reason: samples without a row in a table, or without a value of a covariate that the model has.

    Raises:
        InputError: a covariate of the model that no table has.
    """
    reasons: dict[str, np.ndarray] = {}
    for name, table in _tables_of(fixed, tables).items():
        rows = locate(samples, table)
        reasons[f"no covariates in {table.path}"] = rows < 0
        reasons[f"missing covariate {name}"] = (rows >= 0) & table.values[name].isna().to_numpy()[rows]
    return reasons


def fixed_columns(fixed: FixedTerms, tables: Sequence[Covariates], samples: pd.DataFrame) -> np.ndarray:
    """X (n, c) of the model's fixed effects for ``samples``, all of them complete.

    Quantitative covariates are found by name in the quantitative table, categorical ones by name and level in the
    other.

    Raises:
        InputError: a covariate of the model that no table has, or a level that the model was not fitted with.
    """
    found = _tables_of(fixed, tables)
    values = {name: table.values[name].to_numpy()[locate(samples, table)] for name, table in found.items()}
    for name, levels in fixed.levels.items():
        unknown = ~np.isin(values[name].astype(str), levels)
        if unknown.any():
            raise InputError(
                f"{found[name].path}: covariate {name} has level {values[name][unknown][0]} for "
                f"{first_ids(samples[unknown])}; the model has levels {', '.join(levels)}: recode it, or write NA to "
                "leave such samples out"
            )
    columns = [values[name] if level is None else values[name] == level for name, level in fixed.columns]
    return np.column_stack([np.ones(len(samples)), *(column.astype(np.float64) for column in columns)])


def _tables_of(fixed: FixedTerms, tables: Sequence[Covariates]) -> dict[str, Covariates]:
    """The table that has each of the model's covariates."""
    found: dict[str, Covariates] = {}
    wanted = {"quantitative": fixed.quantitative, "categorical": tuple(fixed.levels)}
    for kind, names in wanted.items():
        mine = [table for table in tables if table.kind == kind]
        for name in names:
            having = [table for table in mine if name in table.values.columns]
            if not having:
                there = ", ".join(str(column) for table in mine for column in table.values.columns)
                raise InputError(
                    f"`{kind}`: the model has the {kind} covariate {name}, "
                    + (f"and the file has {there}; name its columns as in the fit" if mine else "and no file was given")
                )
            found[name] = having[0]
    return found


def complete_scales(
    scales: Sequence[Scale | None],
    ancestries: Covariates | None,
    environments: Sequence[Covariates],
    samples: pd.DataFrame,
) -> dict[str, np.ndarray]:
    """(n,) bool by reason: samples of whom there is no number that a component is scaled by; tables and errors as in
    :func:`scale_columns`."""
    reasons: dict[str, np.ndarray] = {}
    for scale, table in _scale_tables(scales, ancestries, environments).items():
        rows = locate(samples, table)
        what = "ancestries" if scale.kind == "ancestry" else "environments"
        reasons[f"no {what} in {table.path}"] = rows < 0
        missing = table.values[scale.name].isna().to_numpy()
        reasons[f"missing {scale.kind} {scale.name}"] = (rows >= 0) & missing[rows]
    return reasons


def scale_columns(
    scales: Sequence[Scale | None],
    ancestries: Covariates | None,
    environments: Sequence[Covariates],
    samples: pd.DataFrame,
) -> np.ndarray:
    """(n, G) what multiplies each component of ``samples``, who are all complete; 1 where nothing does.

    ancestries: a column for each of the model's, by name.  environments: quantitative tables, in the order in which an
    environment's column is looked for.

    Raises:
        InputError: an ancestry or environment that no table has.
    """
    found = np.ones((len(samples), len(scales)))
    for scale, table in _scale_tables(scales, ancestries, environments).items():
        values = table.values[scale.name].to_numpy()[locate(samples, table)]
        found[:, [g for g, other in enumerate(scales) if other == scale]] = scale.of(values)[:, None]
    return found


def _scale_tables(
    scales: Sequence[Scale | None], ancestries: Covariates | None, environments: Sequence[Covariates]
) -> dict[Scale, Covariates]:
    """The table that has the numbers of each scale."""
    found: dict[Scale, Covariates] = {}
    for scale in dict.fromkeys(scale for scale in scales if scale is not None):
        tables = [ancestries] if scale.kind == "ancestry" and ancestries is not None else []
        if scale.kind == "environment":
            tables = [table for table in environments if table.kind == "quantitative"]
        having = [table for table in tables if scale.name in table.values.columns]
        if not having:
            there = ", ".join(str(column) for table in tables for column in table.values.columns)
            argument = "ancestries" if scale.kind == "ancestry" else "environments"
            raise InputError(
                f"`{argument}`: the model has components scaled by {scale.kind} {scale.name}, "
                + (f"and there are {there}; name the columns as in the fit" if tables else "and no file was given")
            )
        found[scale] = having[0]
    return found
