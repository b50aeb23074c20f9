"""Ancestry proportions as ADMIXTURE writes them: a .Q matrix whose rows are those of a .fam."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError
from .headings import refuse_heading
from .ids import first_ids, repeated
from .tables import Covariates
from .text import WHITESPACE, read_text_table

NEGATIVE = 1e-6  # a value below zero by no more than this is rounding, and becomes zero
SUM = 5e-3  # a row's sum may differ from one by this much


def read_admixture(path: str | Path, fam: str | Path | None = None, names: Sequence[str] | None = None) -> Covariates:
    """Proportions of K ancestries, one quantitative column each, of the samples of ``fam``.

    fam: by default DATA.fam for DATA.<K>.Q and DATA.Q.  names (K,): by default admix_000, admix_001, ...  Values within
    1e-6 below zero are set to zero, and counted in ``notes``; rows must sum to 1 within 5e-3 and are left as they are.

    Raises:
        InputError: no such file, numbers of rows that differ, a value that is no proportion, or a sum that is not one
            (with the line and the sample), or another number of names than columns.
    """
    path = Path(path)
    fam = Path(fam) if fam is not None else fam_of(path)
    people = read_text_table(fam, ".fam", "FID IID ...", min_width=2, sep=WHITESPACE)
    if len(people.fields):
        refuse_heading(f"{fam}, line 1", people.fields.iloc[0].tolist())
    samples = pd.DataFrame({"fid": people.fields[0], "iid": people.fields[1]})
    twice = repeated(samples)
    if len(twice):
        raise InputError(f"{fam}: {len(twice)} FID + IID occur more than once ({first_ids(twice)})")
    table = read_text_table(path, "ancestry", "one proportion for each ancestry", min_width=1, sep=WHITESPACE)
    if len(table.fields) != len(samples):
        raise InputError(f"{path}: {len(table.fields)} rows, but {fam} has {len(samples)} samples; give `fam`")
    K = table.fields.shape[1]
    names = list(names) if names else [f"admix_{a:03d}" for a in range(K)]
    if len(names) != K or len(set(names)) < K:
        raise InputError(f"{path}: expected {K} different names of ancestries, found {', '.join(names)}")
    values = table.fields.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values) | (values < -NEGATIVE) | (values > 1 + SUM)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        where = f"{table.where(int(row))} ({first_ids(samples.iloc[[row]])})"
        raise InputError(f"{where}: {table.fields.iloc[row, column]!r} is not a proportion")
    off = np.abs(values.sum(axis=1) - 1) > SUM
    if off.any():
        row = int(np.argmax(off))
        where = f"{table.where(row)} ({first_ids(samples.iloc[[row]])})"
        raise InputError(f"{where}: proportions sum to {values[row].sum():g}, not 1")
    negative = int((values < 0).sum())
    notes = (f"{path}: {negative} proportion(s) below zero by rounding set to 0",) if negative else ()
    columns = pd.DataFrame(np.maximum(values, 0), columns=names)
    return Covariates(path=str(path), samples=samples, has_fid=True, kind="quantitative", values=columns, notes=notes)


def fam_of(path: Path) -> Path:
    """The .fam that a .Q file belongs to: DATA.fam for DATA.<K>.Q or DATA.Q."""
    stem = path.name.removesuffix(".Q")
    head, dot, last = stem.rpartition(".")
    fam = path.with_name(f"{head if dot and last.isdigit() else stem}.fam")
    if not fam.is_file():
        raise InputError(f"{path}: the samples of its rows should be in {fam}, which is not there; give `fam`")
    return fam
