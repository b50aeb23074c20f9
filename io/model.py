"""A fitted model, from which genetic values and phenotypes of other samples are predicted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from .design import INTERCEPT, Design
from .errors import InputError
from .ids import rows_among

ScaleKind = Literal["ancestry", "environment"]
LevelKind = Literal["person", "animal", "group"]


@dataclass(frozen=True)
class FixedTerms:
    """Fixed effects and how their columns come from covariates.

    ``names`` (c,), the intercept first; ``estimate`` (c,) in the phenotype's units a unit of the covariate;
    ``covariance`` (c, c).  ``columns`` (c - 1,): of each further column its covariate, and the level that is 1 in it,
    or None where the covariate is the column.  ``references``: of each categorical covariate the level without one.
    """

    names: tuple[str, ...]
    estimate: np.ndarray
    covariance: np.ndarray
    columns: tuple[tuple[str, str | None], ...]
    references: Mapping[str, str]

    @property
    def quantitative(self) -> tuple[str, ...]:
        return tuple(name for name, level in self.columns if level is None)

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Levels of each categorical covariate, the reference first."""
        return {
            name: (reference, *(level for other, level in self.columns if other == name and level is not None))
            for name, reference in self.references.items()
        }


@dataclass(frozen=True)
class Scale:
    """What multiplies a component's genetic values, from one number x of the sample: s = (x - centre) / sd, or the
    ``root`` of that.

    ``kind``: "ancestry", x is the sample's proportion of the ancestry ``name``, or "environment", x is its value of the
    quantitative covariate ``name``; ``centre`` and ``sd`` are those of the fit's samples, also for others.
    """

    kind: ScaleKind
    name: str
    centre: float = 0.0
    sd: float = 1.0
    root: bool = False

    def __post_init__(self):
        if self.kind not in get_args(ScaleKind):
            raise ValueError(f"scale {self.name}: expected a kind of {', '.join(get_args(ScaleKind))}, not {self.kind}")
        if type(self.name) is not str or type(self.root) is not bool:
            raise ValueError(f"scale {self.name}: expected a name and a root that is true or false, found {self}")
        if not (np.isfinite(self.centre) and np.isfinite(self.sd) and self.sd > 0):
            raise ValueError(f"scale {self.name}: expected a finite centre and a positive SD, found {self}")

    @property
    def formula(self) -> str:
        """s in words."""
        value = f"{self.kind} {self.name}"
        if (self.centre, self.sd) != (0.0, 1.0):
            value = f"({value} - {self.centre!r}) / {self.sd!r}"
        return f"sqrt({value})" if self.root else value

    def of(self, values: np.ndarray) -> np.ndarray:
        """(n,) s of samples with these ``values``."""
        scaled = (np.asarray(values, np.float64) - self.centre) / self.sd
        return np.sqrt(scaled) if self.root else scaled


@dataclass(frozen=True)
class ReplicatedEffects:
    """What reliabilities are made of, for effects of m variants or values of q levels: their ``variances`` (m,) before
    the data, and what is predicted from replicates of the phenotype, ``replicates`` (m, R), whose products with a
    sample's genotypes have as their mean square the variance of its predicted value; float32 will do.

    ``complete``: without Monte-Carlo error.
    """

    variances: np.ndarray
    replicates: np.ndarray
    complete: bool = False

    def __post_init__(self):
        if self.replicates.ndim != 2 or self.variances.shape != self.replicates.shape[:1]:
            found = f"{self.variances.shape} and {self.replicates.shape}"
            raise ValueError(f"replicates: expected (m,) variances and (m, R) effects, found {found}")
        if not (np.isfinite(self.variances).all() and np.isfinite(self.replicates).all()):
            raise ValueError("replicates: have values that are not finite")


@dataclass(frozen=True)
class LevelValues:
    """Values of a component that is no variants', phenotyped or not: ``values`` (q,) in phenotype units.

    ``by``: what a sample has one by.  "person": ``labels`` (q,) are FID and IID with a tab between; "animal": the IID
    alone; "group": levels of the categorical column ``name``.  ``genetic``: whether these are genetic values, as those
    of groups and of permanent environments are not.  ``spread``: of the values, where it was asked for; ``unknown``:
    the variance of a level that is not there, nan where nothing tells it.
    """

    name: str
    by: LevelKind
    labels: tuple[str, ...]
    values: np.ndarray
    genetic: bool = True
    spread: ReplicatedEffects | None = None
    unknown: float = np.nan

    def __post_init__(self):
        if self.spread is not None and len(self.spread.variances) != len(self.labels):
            raise ValueError(f"levels {self.name}: expected replicates of {len(self.labels)} people or levels")
        if self.by not in get_args(LevelKind) or self.values.shape != (len(self.labels),):
            raise ValueError(f"levels {self.name}: expected a value for each of {len(self.labels)} people or levels")
        if not np.isfinite(self.values).all() or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"levels {self.name}: expected finite values of different people or levels")
        if self.by == "person" and not all(label.count("\t") == 1 for label in self.labels):
            raise ValueError(f"levels {self.name}: expected FID and IID of people with a tab between")

    @property
    def people(self) -> pd.DataFrame:
        """fid (empty where the IID alone is known) and iid of the people or animals (q,); none of groups."""
        if self.by == "group":
            return pd.DataFrame({"fid": [], "iid": []}, dtype=str)
        pairs = [label.split("\t") if self.by == "person" else ("", label) for label in self.labels]
        return pd.DataFrame(pairs, columns=["fid", "iid"], dtype=str)

    def rows_of(self, samples: pd.DataFrame, groups: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n,) int64 where samples (fid, iid) are among the labels, -1 where they are not; ``groups``: column name ->
        (n,) the level of each."""
        if self.by == "person":
            return rows_among(self.people, samples)
        keys = samples["iid"] if self.by == "animal" else groups.get(self.name, [None] * len(samples))
        return pd.Index(self.labels, dtype=object).get_indexer(pd.Index(keys, dtype=object)).astype(np.int64)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) values at rows of the labels, 0 at -1."""
        return np.where(rows >= 0, self.values[rows], 0.0)

    def variances_at(self, rows: np.ndarray) -> np.ndarray:
        """(n,) variances of the values at rows of the labels, before the data."""
        return np.where(rows >= 0, self.spread.variances[rows], self.unknown)

    def replicates_at(self, rows: np.ndarray) -> np.ndarray:
        """(n, R) values that replicates predict at rows of the labels, 0 at -1."""
        return np.where(rows[:, None] >= 0, self.spread.replicates[rows], 0)


@dataclass(frozen=True)
class Model:
    """What predicts: effects of alleles and fixed effects, with what they were estimated from.

    ``scales`` (G,): what multiplies each component, None where nothing does.  ``theta``, ``theta_se`` (G + J,):
    variances, those of the ``residuals`` (J,) last, in the phenotype's units squared.  ``samples``: fid, iid of the
    ``Py`` (n,).  ``variants``: chrom, id, bp, a1, a2 of those that carry an effect; ``mean`` and ``inv_sd`` (m,) of the
    count of a1 among the analysed samples.  ``effects`` (m, G) csr: phenotype units a copy of a1, so that a genetic
    value is s_g sum_j (count_ij - mean_j) effects_jg, s_g that of the component's scale for the sample, or 1.
    ``about``: settings, standardisation, hashes and origin, for the record.  ``levels``: of components that are no
    variants', whose variances are among those of the ``residuals``; a model may have these alone.  ``spreads``: of the
    effects of a copy of a1, one for each different scale in its order, where reliabilities were asked for.
    """

    phenotype: str
    components: tuple[str, ...]
    scales: tuple[Scale | None, ...]
    residuals: tuple[str, ...]
    theta: np.ndarray
    theta_se: np.ndarray
    samples: pd.DataFrame
    Py: np.ndarray
    variants: pd.DataFrame
    mean: np.ndarray
    inv_sd: np.ndarray
    effects: sparse.csr_array
    fixed: FixedTerms
    about: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[LevelValues, ...] = ()
    spreads: tuple[ReplicatedEffects, ...] = ()

    def __post_init__(self):
        """Raises ValueError where shapes do not fit together or a number is not finite."""
        m, n, G, c = len(self.variants), len(self.samples), len(self.components), len(self.fixed.names)
        J = len(self.residuals)
        if not G and not self.levels:
            raise ValueError("components: expected some, or levels; a model without either predicts nobody")
        if len(self.scales) != G or not J:
            raise ValueError(f"scales, residuals: expected {G} scales and a residual, found {len(self.scales)} and {J}")
        shapes = {
            "theta": (self.theta, (G + J,)),
            "theta_se": (self.theta_se, (G + J,)),
            "Py": (self.Py, (n,)),
            "mean": (self.mean, (m,)),
            "inv_sd": (self.inv_sd, (m,)),
            "effects": (self.effects, (m, G)),
            "fixed.estimate": (self.fixed.estimate, (c,)),
            "fixed.covariance": (self.fixed.covariance, (c, c)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"{name}: expected {shape}, found {array.shape}")
        finite = {name: shapes[name][0] for name in ("Py", "theta", "mean", "inv_sd", "fixed.estimate")}
        for name, array in {**finite, "effects": self.effects.data}.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: has values that are not finite")
        wanted = len(self.distinct_scales) if self.has_reliabilities else 0
        if [len(spread.variances) for spread in self.spreads] != [m] * wanted:
            raise ValueError(f"replicates: expected effects of {m} variants for each of {wanted} scales")
        sizes = {each.replicates.shape[1] for each in self._all_spreads if each is not None}
        if self.has_reliabilities and (len(sizes) > 1 or any(level.spread is None for level in self.levels)):
            raise ValueError("replicates: expected as many of all effects and levels")
        columns = [name if level is None else f"{name}[{level}]" for name, level in self.fixed.columns]
        if list(self.fixed.names) != [INTERCEPT, *columns]:
            raise ValueError(f"fixed: its covariates make the columns {INTERCEPT}, {columns}, not {self.fixed.names}")

    @property
    def parts(self) -> tuple[str, ...]:
        """What a genetic value is the sum of: the components, then those of levels."""
        return (*self.components, *(level.name for level in self.levels))

    @property
    def distinct_scales(self) -> tuple[Scale | None, ...]:
        """What multiplies components, each once."""
        return tuple(dict.fromkeys(self.scales))

    @property
    def _all_spreads(self) -> list[ReplicatedEffects | None]:
        return [*self.spreads, *(level.spread for level in self.levels)]

    @property
    def has_reliabilities(self) -> bool:
        """Whether predictions have reliabilities."""
        return any(spread is not None for spread in self._all_spreads)

    @property
    def replicates_are_complete(self) -> bool:
        """Whether reliabilities have no Monte-Carlo error."""
        return all(spread is not None and spread.complete for spread in self._all_spreads)

    def genetic_only(self) -> "Model":
        """The model without what is no genetic value: groups and permanent environments."""
        return replace(self, levels=tuple(level for level in self.levels if level.genetic))

    @property
    def groups(self) -> tuple[str, ...]:
        """Columns of groups that it has effects of."""
        return tuple(level.name for level in self.levels if level.by == "group")

    @property
    def ancestries(self) -> tuple[str, ...]:
        """Ancestries that components are scaled by, in the order of the columns that the fit had."""
        return self._scaled_by("ancestry")

    @property
    def environments(self) -> tuple[str, ...]:
        """Environments that components are scaled by."""
        return self._scaled_by("environment")

    def _scaled_by(self, kind: ScaleKind) -> tuple[str, ...]:
        return tuple(dict.fromkeys(scale.name for scale in self.scales if scale is not None and scale.kind == kind))

    @property
    def freq(self) -> np.ndarray:
        """(m,) frequency of a1 among the analysed samples."""
        return self.mean / 2

    @property
    def intercepts(self) -> np.ndarray:
        """(G,) - sum_j mean_j effects_jg: what sums of counts times effects lack to be genetic values, before s_g."""
        return -(self.effects.T @ self.mean)


def fixed_terms(design: Design, estimate: np.ndarray, covariance: np.ndarray) -> FixedTerms:
    """The fixed effects of a design with the coding of its columns.

    Raises:
        InputError: a quantitative covariate that is named like a level of a categorical one.
    """
    columns: list[tuple[str, str | None]] = []
    for k, column in enumerate(design.names[1:], 1):
        owners = [name for name in design.reference_levels if column.startswith(f"{name}[") and column.endswith("]")]
        if not owners:
            columns.append((column, None))
            continue
        if len(owners) > 1 or not np.isin(design.X[:, k], (0, 1)).all():
            raise InputError(
                f"covariate {column}: reads like a level of {' or of '.join(owners)}; rename it before saving the model"
            )
        columns.append((owners[0], column[len(owners[0]) + 1 : -1]))
    estimate, covariance = np.asarray(estimate), np.asarray(covariance)
    return FixedTerms(tuple(design.names), estimate, covariance, tuple(columns), dict(design.reference_levels))
