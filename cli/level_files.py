"""Values of levels: groups, animals of a pedigree, people of a matrix or with several records, phenotyped or not."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.io.model import LevelValues, ReplicatedEffects
from gpu_reml.reml import (
    IncidenceCovariance,
    Levels,
    dense_covariance,
    draw_probes,
    exact_probes,
    incidence,
    replicated_values,
)
from gpu_reml.reml.studies.effects import Effects, Reliability
from gpu_reml.reml.studies.scan_replicates import Replicates
from gpu_reml.reml.studies.values import find_levels, level_reliability, level_values

from .flags.model import Terms
from .inputs import Inputs
from .levels import PEDIGREE, SINGLE_STEP, person_labels
from .outputs import safe_name
from .pieces import GROUP

MOST_PEOPLE = 11_000  # of a dense matrix, of which others than the analysed are given values: it takes 1 GB


class Wanted(NamedTuple):
    """``probes``: for reliabilities, None without; ``core``: the preconditioner of the fit."""

    probes: int | None
    seed: int
    core: object


def level_files(prefix: str, found: Effects, inputs: Inputs, terms: Terms, wanted: Wanted) -> dict[str, str]:
    """PREFIX.NAME.values.tsv of every component with levels.  Cost: a pass for each, and with reliabilities a solve of
    as many columns as probes, which are exact where there are as many as levels."""
    covariance, files = inputs.covariance, {}
    others = people_of_matrices(inputs, found.names)
    for g, name in enumerate(found.names):
        levels = others.get(name) or find_levels(covariance, g)
        if levels is None:
            continue
        values = level_values(found.theta, found.Py, covariance, levels)
        reliable = None
        if wanted.probes:
            q = len(values)
            known = wanted.probes >= q  # then as many solves make them exact
            probes = exact_probes(q).trace if known else draw_probes(q, wanted.probes, 0, wanted.seed + 1).trace
            options = {"preconditioner": wanted.core, "at_once": inputs.planned.columns}
            reliable = level_reliability(found.theta, inputs.design.X, covariance, levels, probes, **options)
        what = "animal" if name in (PEDIGREE, SINGLE_STEP) and terms.pedigree else "level"
        table = level_table(levels, what, values, reliable)
        files[f"{prefix}.{safe_name(name)}.values.tsv"] = io.table_text(table)
    return files


def saved_levels(found: Effects, inputs: Inputs, replicates: Replicates | None) -> tuple[LevelValues, ...]:
    """Values of what samples belong to, for a saved model: groups, people with records, animals of a pedigree, and all
    people of a matrix, or the analysed ones where a dense matrix has more than 11,000.  Cost: a pass of one column
    each, and of as many as ``replicates``."""
    saved, covariance = [], inputs.covariance
    others = people_of_matrices(inputs, found.names)
    own = 0 if inputs.model.of_variants is None else len(inputs.model.of_variants.names)
    for g in range(own, len(found.names)):
        name, is_group = found.names[g], inputs.model.kinds[g] == GROUP
        levels = others.get(name) or find_levels(covariance, g)
        if levels is None and name not in inputs.model.matrices:
            continue
        levels = levels or levels_of_samples(inputs, found.names, g)
        values = level_values(found.theta, found.Py, covariance, levels)
        by = "person" if all("\t" in str(label) for label in levels.labels) else "group" if is_group else "animal"
        spread = None
        if replicates is not None:
            prior = found.theta[g] * levels.covariance.base.diagonals()[:, levels.own]
            replicated = replicated_values(found.theta, covariance, levels, replicates.x)
            spread = ReplicatedEffects(prior, replicated.astype(np.float32), replicates.complete)
        labels = tuple(map(str, levels.labels))
        # one more group, or an animal of unknown parents, is unrelated to all others; of a matrix nothing is known
        unknown = found.theta[g] if is_group or by == "animal" else np.nan
        saved.append(LevelValues(name, by, labels, values, not is_group, spread, unknown))
    return tuple(saved)


def levels_of_samples(inputs: Inputs, names: Sequence[str], g: int) -> Levels:
    """The samples themselves as the levels of a relationship matrix whose people are all analysed."""
    matrix, rows = inputs.model.matrices[names[g]]
    whole = dense_covariance([matrix.matrix(rows)], [names[g]])
    n = len(rows)
    covariance = IncidenceCovariance(whole, incidence(np.arange(n), n), None, person_labels(inputs.alignment.samples))
    return Levels(covariance, 0, np.ones(n), g)


def people_of_matrices(inputs: Inputs, names: Sequence[str]) -> dict[str, Levels]:
    """Name of a component -> all people of its dense relationship matrix, where not all of them are analysed."""
    found = {}
    for name, (grm, rows) in inputs.model.matrices.items():
        if len(np.unique(rows)) < grm.num_samples <= MOST_PEOPLE:
            whole = dense_covariance([grm.matrix()], [name])
            covariance = IncidenceCovariance(whole, incidence(rows, grm.num_samples), None, person_labels(grm.samples))
            found[name] = Levels(covariance, 0, np.ones(len(rows)), names.index(name))
    return found


def level_table(levels: Levels, what: str, values: np.ndarray, reliable: Reliability | None) -> pd.DataFrame:
    """One row a level: its ids, how many samples it has, its value, and how reliable that is."""
    labels = [str(label) for label in levels.labels]
    if labels and all("\t" in label for label in labels):
        ids = pd.DataFrame([label.split("\t") for label in labels], columns=["FID", "IID"])
    else:
        ids = pd.DataFrame({what: labels})
    table = ids.assign(n_samples=np.diff(levels.covariance.Z.tocsc().indptr), value=values)
    if reliable is not None:
        table = table.assign(
            reliability=reliable.reliability, reliability_mc_se=reliable.reliability_mc_se, pev=reliable.pev
        )
    return table
