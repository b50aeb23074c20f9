"""Alignment: which samples all files share, and which traits have the same ones."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io

from .flags.data import Samples
from .read import Tables


class Group(NamedTuple):
    """Traits that the same samples have."""

    alignment: io.Alignment
    Y: np.ndarray
    phenotypes: tuple[str, ...]


def groups_of_samples(tables: Tables, samples: Samples) -> Iterator[Group]:
    """Traits with the same analysed samples together, in the order of the first of each group."""
    keep = io.read_sample_list(samples.keep) if samples.keep else None
    remove = io.read_sample_list(samples.remove) if samples.remove else None
    sources = [*tables.sources.files, *tables.parts.grms]
    names, listed = [str(source.prefix) for source in sources], [source.samples for source in sources]
    complete = [*tables.covariates, *tables.parts.tables]
    groups: dict[bytes, list[tuple[str, io.Alignment]]] = {}
    for phenotype in tables.phenotypes:
        alignment = io.align(listed, phenotype, complete, keep=keep, remove=remove, source_names=names)
        groups.setdefault(alignment.indices[0].tobytes(), []).append((phenotype.name, alignment))
    for members in groups.values():
        Y = np.column_stack([alignment.y for _, alignment in members])
        yield Group(replace(members[0][1]), Y, tuple(name for name, _ in members))


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
    return Group(left, group.Y[kept], group.phenotypes)


def design_of(tables: Tables, alignment: io.Alignment) -> io.Design:
    """Fixed effects of a group's samples; environments are among them."""
    environments = tables.parts.environments
    return io.design_matrix(tables.quantitative, tables.categorical, alignment.samples, environments)


def group_lines(groups: list[Group]) -> list[str]:
    """Which traits are analysed together; nothing for a single one."""
    if len(groups) == 1 and len(groups[0].phenotypes) == 1:
        return []
    lines = [f"{sum(len(g.phenotypes) for g in groups)} phenotypes in {len(groups)} group(s) of the same samples:"]
    return lines + [f"  {group.alignment.num_samples} samples: {', '.join(group.phenotypes)}" for group in groups]
