"""The path of a LASSO as a table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd


class PathTable(NamedTuple):
    """A path: one lambda, df, RSS and EBIC a step, ``coefficients`` (steps, k) of variants ``ids`` with their
    ``snp_index``, and the step that was ``chosen``."""

    lambdas: np.ndarray
    df: np.ndarray
    rss: np.ndarray
    ebic: np.ndarray
    coefficients: np.ndarray
    ids: Sequence[str]
    snp_index: np.ndarray
    chosen: int


def path_frame(path: PathTable) -> pd.DataFrame:
    """Long format: a row for every coefficient that is not 0, and one without a variant for a step that has none."""
    steps, variants = np.nonzero(path.coefficients)
    empty = np.flatnonzero(~path.coefficients.any(axis=1))
    ids = np.asarray(path.ids, object)
    rows = pd.DataFrame(
        {
            "step": np.concatenate([steps, empty]),
            "snp_index": pd.array([*path.snp_index[variants].tolist(), *[None] * len(empty)], "Int64"),
            "snp_id": [*ids[variants], *[None] * len(empty)],
            "beta": np.concatenate([path.coefficients[steps, variants], np.full(len(empty), np.nan)]),
        }
    ).sort_values("step", kind="stable", ignore_index=True)
    step = rows["step"].to_numpy()
    for place, name in enumerate(("lambda", "df", "rss", "ebic"), start=1):
        rows.insert(place, name, path[place - 1][step])
    rows.insert(5, "chosen", (step == path.chosen).astype(int))
    return rows
