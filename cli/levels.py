"""Levels that samples belong to: people with several records, groups, animals of a pedigree, people of a matrix."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from gpu_reml import io, ops
from gpu_reml.io.grm import definite_notes
from gpu_reml.io.ids import RECORD, sample_keys
from gpu_reml.io.pedigree_files import ANIMAL
from gpu_reml.reml import IncidenceCovariance, dense_covariance, grouping, incidence, records

from .flags.model import IID
from .parts import Parts
from .pieces import GROUP, OneKind

PEDIGREE, SINGLE_STEP = "pedigree", "single_step"


def people_of(samples: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Where records are samples: the first record of each of q people, (q,), and the person of each record, (n,)."""
    if RECORD not in samples:
        return None
    codes, _ = pd.factorize(sample_keys(samples, True))
    first = np.flatnonzero(~pd.Series(codes).duplicated().to_numpy())
    return first, codes


def with_records(covariance: Any, samples: pd.DataFrame) -> Any:
    """A covariance of people as one of their records; as it is where people have one."""
    found = people_of(samples)
    if found is None:
        return covariance
    return records(covariance, found[1], person_labels(samples.iloc[found[0]]))


def person_labels(people: pd.DataFrame) -> np.ndarray:
    """FID and IID, as the tables of values have them."""
    return np.asarray(sample_keys(people, True))


def matrix_piece(grm: io.GrmFile, rows: np.ndarray) -> tuple[OneKind, Any, tuple[str, ...]]:
    """A relationship matrix as a component, itself, and what is to be known of it.

    A sparse one stays whole, so that all of its people have values; of a dense one the samples are taken.
    """
    name, text = grm.prefix.rsplit("/", 1)[-1], f"relationship matrix {grm.path}"
    people, who = np.unique(rows, return_inverse=True)
    if grm.is_sparse:
        matrix = grm.matrix()
        covariance = dense_covariance([matrix], [name])
        piece = IncidenceCovariance(covariance, incidence(rows, grm.num_samples), None, person_labels(grm.samples))
        return OneKind(piece, (text,), (None,)), matrix, definite_notes(grm.path, matrix)
    single = len(people) == len(rows)
    matrix = grm.matrix(rows if single else people)
    notes = definite_notes(grm.path, matrix)
    covariance = dense_covariance([matrix], [name])
    if not single:
        covariance = records(covariance, who, person_labels(grm.samples.iloc[people]))
    return OneKind(covariance, (text,), (None,)), matrix, notes


def level_pieces(parts: Parts, samples: pd.DataFrame, *, records: bool) -> list[OneKind]:
    """The pedigree's component, those of groups, and that of people with several records."""
    pieces = []
    if parts.pedigree is not None:
        file = parts.pedigree
        rows = io.values_of(file.table, samples)[:, file.table.values.columns.get_loc(ANIMAL)]
        A = parts.relationships or ops.PedigreeCovariance(file.pedigree, PEDIGREE)
        covariance = IncidenceCovariance(A, incidence(rows, file.pedigree.num_animals), None, file.animals)
        how = "descent and genotypes" if parts.relationships else "descent"
        text = f"relationships by {how} of {file.pedigree.num_animals} animals, {file.table.path}"
        pieces.append(OneKind(covariance, (text,), (None,)))
    for table in parts.groups:
        labels = io.values_of(table, samples)
        for name, column in zip(table.values.columns, labels.T, strict=True):
            pieces.append(group_piece(column.astype(str), name, table.path))
    if records:
        first, codes = people_of(samples)
        if len(first) == len(codes):
            raise io.InputError("--random iid: no analysed person has several records; leave it out")
        labels = person_labels(samples.iloc[first])
        covariance = IncidenceCovariance(sparse_identity(len(first), IID), incidence(codes, len(first)), None, labels)
        text = f"{len(first)} people with {len(codes)} records"
        pieces.append(OneKind(covariance, (text,), (None,), kind=GROUP))
    return pieces


def sparse_identity(q: int, name: str) -> Any:
    """Levels that do not depend on each other."""
    return dense_covariance([sparse.eye_array(q, format="csr")], [name])


def group_piece(labels: np.ndarray, name: str, path: str) -> OneKind:
    """A column of groups as a component; InputError where each group has one sample, or there is one group."""
    covariance = grouping(labels, name)
    q = len(covariance.levels)
    if q == 1 or q == len(labels):
        found = "are all in one group" if q == 1 else "have a group each"
        raise io.InputError(f"{path}: the analysed samples {found} of column {name}; leave it out")
    return OneKind(covariance, (f"{q} groups, {path}",), (None,), kind=GROUP)
