"""The fixed-effect design matrix: intercept, quantitative covariates, one-hot levels, and a check of its rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import qr, solve_triangular

from .errors import InputError
from .ids import first_ids, locate
from .tables import Covariates

INTERCEPT = "intercept"
# A column is dependent when less than this share of its norm, after centring, is outside the span of the others.
DEPENDENCE_TOL = 1e-8
# Coefficients below this share of the largest are rounding, so the column they belong to is not named as a cause.
COEFFICIENT_TOL = 1e-6
# So many numeric levels beside the reference may be a quantity in the wrong file: a note says so.
MANY_LEVELS = 20


@dataclass(frozen=True)
class Design:
    """``X`` (n, c) float64, full column rank, in the units of the files; column 0 is the intercept.

    ``names``: one for each column, ``sex[2]`` for level 2 of the categorical sex.  ``reference_levels``: the level of
    each categorical covariate that has no column.  ``notes``: what was left out, and why,
    and what may be meant otherwise.
    """

    X: np.ndarray
    names: tuple[str, ...]
    reference_levels: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def num_columns(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _Term:
    """One covariate over the samples.  ``levels``: those with a column, None when quantitative."""

    name: str
    values: np.ndarray
    levels: tuple[str, ...] | None = None
    reference: str | None = None
    note: str | None = None
    varies: bool = True

    @property
    def column_names(self) -> list[str]:
        if not self.varies:
            return []
        return [self.name] if self.levels is None else [f"{self.name}[{level}]" for level in self.levels]

    def columns(self) -> np.ndarray:
        """(n, number of column names) float64."""
        if self.levels is None:
            return self.values[:, None]
        return np.column_stack([self.values == level for level in self.levels]).astype(np.float64)


def design_matrix(
    quantitative: Covariates | None,
    categorical: Covariates | None,
    samples: pd.DataFrame,
    environments: Covariates | None = None,
) -> Design:
    """Design matrix of ``samples`` (fid, iid; their order), from complete covariates.

    ``environments``: further quantitative covariates; one whose name is taken already is that covariate.

    The intercept comes first and is always there.  A categorical covariate gives one 0/1 column for each level but
    the reference, the first in sorted order (numerically when every level is a number, as R does).  A covariate that
    does not vary among ``samples`` repeats the intercept: it is left out, with a note.  The rank is decided by QR with
    column pivoting on centred columns of norm 1, so it does not depend on units or offsets; ``X`` itself is not scaled.

    Raises:
        InputError: no samples, a sample without a complete row, two covariates of one name, as many columns as
            samples or more, or columns that depend linearly on others (all named).
    """
    if samples.empty:
        raise InputError("samples: expected at least one sample, found none; loosen the filters")
    terms = list(_terms(quantitative, categorical, samples))
    if environments is not None:
        taken = {term.name for term in terms}
        values = values_of(environments, samples)
        new = [(k, name) for k, name in enumerate(environments.values.columns) if name not in taken]
        terms += [_quantitative_term(name, values[:, k], environments.path) for k, name in new]
    names = (INTERCEPT, *(name for term in terms for name in term.column_names))
    n, c = len(samples), len(names)
    if c >= n:
        raise InputError(
            f"covariates: {c} columns with the intercept for {n} samples, which leaves no residual; "
            f"drop covariates, merge levels, or give numbers as covariates of `quantitative` "
            f"({_widest(terms)})"
        )
    X = np.column_stack([np.ones(n), *(term.columns() for term in terms if term.column_names)])
    _check_rank(X, names)
    references = {term.name: term.reference for term in terms if term.reference is not None}
    return Design(X, names, references, tuple(term.note for term in terms if term.note is not None))


def _terms(quantitative: Covariates | None, categorical: Covariates | None, samples: pd.DataFrame) -> Iterator[_Term]:
    seen: set[str] = set()
    for covariates, make in ((quantitative, _quantitative_term), (categorical, _categorical_term)):
        if covariates is None:
            continue
        values = _complete_values(covariates, samples)
        for name in values.columns:
            if name in seen:
                raise InputError(f"{covariates.path}: covariate {name} is also in the quantitative file; rename one")
            seen.add(name)
            yield make(name, values[name].to_numpy(), covariates.path)


def values_of(table: Covariates, samples: pd.DataFrame) -> np.ndarray:
    """(n, columns) values of ``samples`` (fid, iid; their order); raises InputError where one has none."""
    return _complete_values(table, samples).to_numpy()


def _complete_values(covariates: Covariates, samples: pd.DataFrame) -> pd.DataFrame:
    rows = locate(samples, covariates)
    if (rows < 0).any():
        raise InputError(
            f"{covariates.path}: no row for {first_ids(samples[rows < 0])}; choose the samples with align() first"
        )
    values = covariates.values.iloc[rows]
    incomplete = values.isna().any(axis=1).to_numpy()
    if incomplete.any():
        raise InputError(
            f"{covariates.path}: missing values for {first_ids(samples[incomplete])}; choose the samples with align()"
        )
    return values


def _quantitative_term(name: str, values: np.ndarray, path: str) -> _Term:
    # Values that differ by rounding are equal, as 0.1 + 0.2 and 0.3 are.
    constant = np.ptp(values) <= 16 * np.finfo(float).eps * np.abs(values).max()
    note = f"{path}: covariate {name} is {values[0]:g} for every sample, left out" if constant else None
    return _Term(name, values, note=note, varies=not constant)


def _categorical_term(name: str, values: np.ndarray, path: str) -> _Term:
    reference, *levels = _sorted_levels(set(values))
    note = None
    if not levels:
        note = f"{path}: covariate {name} is {reference} for every sample, left out"
    elif len(levels) >= MANY_LEVELS and all(_is_number(level) for level in levels):
        taken = f"{path}: covariate {name} is taken as {len(levels) + 1} categories"
        note = f"{taken}; if it is a quantity, give it by `quantitative`"
    return _Term(name, values, tuple(levels), reference, note, bool(levels))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _sorted_levels(levels: set[str]) -> list[str]:
    try:
        return sorted(levels, key=lambda level: (float(level), level))
    except ValueError:
        return sorted(levels)


def _widest(terms: Sequence[_Term]) -> str:
    """The covariates with most columns, by name."""
    widest = sorted(terms, key=lambda term: -len(term.column_names))[:5]
    return ", ".join(f"{term.name}: {len(term.column_names)}" for term in widest) + (", ..." if len(terms) > 5 else "")


def _check_rank(X: np.ndarray, names: tuple[str, ...]) -> None:
    centred = X[:, 1:] - X[:, 1:].mean(axis=0)
    if not centred.shape[1]:
        return
    centred /= np.linalg.norm(centred, axis=0)
    R, order = qr(centred, mode="r", pivoting=True, overwrite_a=True, check_finite=False)
    rank = int((np.abs(np.diag(R)) > DEPENDENCE_TOL).sum())
    if rank == len(order):
        return
    coefficients = np.abs(solve_triangular(R[:rank, :rank], R[:rank, rank:]))
    clauses = []
    for dependent, weights in zip(order[rank:], coefficients.T, strict=True):
        involved = sorted({int(dependent), *map(int, order[:rank][weights > COEFFICIENT_TOL * weights.max()])})
        # Any column of the set follows from the rest; naming the last keeps the blame on what was added last.
        others = ", ".join(names[k + 1] for k in involved[:-1])
        clauses.append(f"{names[involved[-1] + 1]} depends linearly on the intercept and {others}")
    raise InputError(f"covariates: {'; '.join(clauses)}; remove one column of each set")
