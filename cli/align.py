"""Alignment: which samples all files share, and which traits have the same ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.io.ids import RECORD, sample_keys
from gpu_reml.io.samples import phenotype_people

from .flags.data import Samples
from .read import Tables


class Group(NamedTuple):
    """Traits that the same samples have, with the same ``covariates`` (None: all); or, with ``members``, all of these,
    and nan in Y where a sample has none."""

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]
    members: tuple["Group", ...] = ()
    covariates: tuple[str, ...] | None = None


def groups_of_samples(tables: Tables, samples: Samples) -> Iterator[Group]:
    """Traits with the same analysed samples together, in the order of the first of each group."""
    keep = io.read_sample_list(samples.keep) if samples.keep else None
    remove = io.read_sample_list(samples.remove) if samples.remove else None
    names, listed = sample_sources(tables)
    groups: dict[tuple, list[tuple[str, io.Alignment]]] = {}
    for phenotype in tables.phenotypes:
        covariates = tables.covariates_for.get(phenotype.name)
        complete = [*tables.with_covariates(covariates).covariates, *tables.parts.tables]
        alignment = io.align(listed, phenotype, complete, keep=keep, remove=remove, source_names=names)
        rows = alignment.samples.get(RECORD, alignment.indices[0])
        groups.setdefault((covariates, np.asarray(rows).tobytes()), []).append((phenotype.name, alignment))
    for (covariates, _), members in groups.items():
        Y = np.column_stack([alignment.y for _, alignment in members])
        yield Group(replace(members[0][1]), Y, tuple(name for name, _ in members), covariates=covariates)


def sample_sources(tables: Tables) -> tuple[list[str], list[pd.DataFrame]]:
    """Names and samples of genotypes and relationship matrices; of those who are phenotyped where there are none, or
    genotypes are of some alone."""
    sources = [*tables.sources.files, *tables.parts.grms]
    if not sources or tables.parts.single_step:
        people = phenotype_people(tables.phenotypes[0])
        return [people.path], [people.samples]
    return [str(source.prefix) for source in sources], [source.samples for source in sources]


def everybody(groups: Sequence[Group]) -> Group:
    """Groups with the same covariates as one, of the samples that have any of their traits."""
    own = [group.alignment for group in groups]
    rows, first = np.unique(np.concatenate([each.indices[0] for each in own]), return_index=True)
    ids = pd.concat([each.samples for each in own], ignore_index=True).iloc[first].reset_index(drop=True)
    indices = tuple(np.concatenate(parts)[first] for parts in zip(*(each.indices for each in own), strict=True))
    dropped = pd.concat([each.dropped for each in own], ignore_index=True).drop_duplicates(["fid", "iid"])
    taken = sample_keys(dropped, True).isin(sample_keys(ids, True))
    notes = tuple(dict.fromkeys(note for each in own for note in each.notes))
    dropped = dropped[~taken].reset_index(drop=True)
    Y = np.full((len(rows), sum(len(group.phenotypes) for group in groups)), np.nan)
    column = 0
    for group in groups:
        width = len(group.phenotypes)
        Y[np.searchsorted(rows, group.alignment.indices[0]), column : column + width] = group.Y
        column += width
    names = tuple(name for group in groups for name in group.phenotypes)
    alignment = io.Alignment(ids, indices, Y[:, 0], dropped, notes)
    return Group(alignment, Y, names, tuple(groups), groups[0].covariates)


def gathered(groups: Sequence[Group]) -> list[Group]:
    """Groups with the same covariates as one (:func:`everybody`)."""
    alike: dict[tuple[str, ...] | None, list[Group]] = {}
    for group in groups:
        alike.setdefault(group.covariates, []).append(group)
    return [everybody(same) if len(same) > 1 else same[0] for same in alike.values()]


def without_samples(group: Group, kept: np.ndarray, reason: str) -> Group:
    """The group with only the samples where ``kept`` is True."""
    alignment = group.alignment
    dropped = alignment.samples[~kept].assign(reason=reason)
    left = replace(
        alignment,
        samples=alignment.samples[kept].reset_index(drop=True),
        indices=tuple(index[kept] for index in alignment.indices),
        y=alignment.y[kept],
        dropped=pd.concat([alignment.dropped, dropped], ignore_index=True),
    )
    rows = alignment.indices[0]
    members = tuple(
        without_samples(member, kept[np.searchsorted(rows, member.alignment.indices[0])], reason)
        for member in group.members
    )
    return group._replace(alignment=left, Y=group.Y[kept], members=members)


def design_of(tables: Tables, group: Group) -> io.Design:
    """Fixed effects of a group's samples; environments are among them."""
    own = tables.with_covariates(group.covariates)
    return io.design_matrix(own.quantitative, own.categorical, group.alignment.samples, tables.parts.environments)


def group_lines(groups: list[Group]) -> list[str]:
    """Which traits are analysed together; nothing for a single one."""
    if len(groups) == 1 and len(groups[0].phenotypes) == 1:
        return []
    lines = [f"{sum(len(g.phenotypes) for g in groups)} phenotypes in {len(groups)} group(s) of the same samples:"]
    return lines + [f"  {group.alignment.num_samples} samples: {', '.join(group.phenotypes)}" for group in groups]
