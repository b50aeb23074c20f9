"""Who is analysed: the samples that every source has, in one order, and why each of the others is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import InputError
from .ids import (
    RECORD,
    SampleTable,
    absent_note,
    first_ids,
    iid_note,
    locate,
    matched_by_iid,
    nothing_shared,
    repeated,
    rows_among,
    sample_keys,
)
from .tables import Covariates, Phenotype
from .writers import write_text


@dataclass(frozen=True)
class Alignment:
    """The analysed samples and where they are in every source.

    ``samples``: fid, iid, in the order of the first genotype source; where people have several rows, these are the
    samples, in the phenotype's order, and a column "record" has their rows there.  ``indices``: for each genotype
    source, (n,) int64, the row of every analysed sample.  ``y``: (n,) float64, the phenotype in its own units.
    ``dropped``: fid, iid, reason, one row for every genotyped or phenotyped sample that is out.  ``notes``: how many
    samples of each list and table are in no genotype source.
    """

    samples: pd.DataFrame
    indices: tuple[np.ndarray, ...]
    y: np.ndarray
    dropped: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def dropped_counts(self) -> dict[str, int]:
        """Number of samples out, by reason, most frequent first."""
        return {str(reason): int(count) for reason, count in self.dropped["reason"].value_counts().items()}


def align(
    genotype_samples: Sequence[pd.DataFrame],
    phenotype: Phenotype,
    covariates: Sequence[Covariates] = (),
    keep: SampleTable | None = None,
    remove: SampleTable | None = None,
    source_names: Sequence[str] | None = None,
) -> Alignment:
    """Choose the samples with genotypes in every source, a phenotype, complete covariates, kept and not removed.

    ``genotype_samples``: one table (fid, iid) for each genotype source; ``source_names``: their names in reasons and
    errors ("genotypes 1", ... by default).  A sample is dropped for the first reason that applies: not in keep, in
    remove, not in <source>, no phenotype, missing phenotype, no covariates, missing covariate <name>.

    Raises:
        InputError: a sample twice in a source, a table or list, also of samples to remove, that shares no sample with
            the genotypes (with one id from each side), a header line that is a sample, nobody left, or a phenotype that
            does not vary.

    >>> import pathlib, tempfile
    >>> from gpu_reml import align, read_phenotype
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> import pandas as pd
    >>> _ = (folder / "traits.txt").write_text("FID IID height\\n1 b 1.5\\n1 c 2.5\\n1 d 3.5\\n")
    >>> genotyped = pd.DataFrame({"fid": ["1", "1", "1"], "iid": ["a", "b", "c"]})
    >>> found = align([genotyped], read_phenotype(folder / "traits.txt"))
    >>> found.y.tolist(), found.indices[0].tolist(), found.dropped_counts
    ([1.5, 2.5], [1, 2], {'no phenotype': 1, 'not genotyped': 1})
    """
    names = list(source_names or [f"genotypes {k + 1}" for k in range(len(genotype_samples))])
    if not genotype_samples or len(names) != len(genotype_samples):
        raise InputError(f"genotype_samples: expected one table for each of {names}, found {len(genotype_samples)}")
    sources = [samples[["fid", "iid"]].reset_index(drop=True) for samples in genotype_samples]
    for name, samples in zip(names, sources, strict=True):
        twice = repeated(samples)
        if len(twice):
            raise InputError(f"{name}: samples occur more than once ({first_ids(twice)}); make FID + IID unique")
    first = sources[0]
    for table in (phenotype, *covariates):
        _check_heading(first, table)
    if phenotype.has_records:
        first = _records_among(first, phenotype)

    reasons = _Reasons(len(first))
    for mask, reason in listed_out(first, keep, remove):
        reasons.mark(mask, reason)
    rows_of = partial(_rows_of, first, phenotype)
    positions = [_locate_source(first, samples, name, names[0]) for name, samples in zip(names, sources, strict=True)]
    for name, rows in zip(names[1:], positions[1:], strict=True):
        reasons.mark(rows < 0, f"not in {name}")
    phenotype_rows = rows_of(phenotype)
    reasons.mark(phenotype_rows < 0, "no phenotype")
    y = phenotype.values[phenotype_rows]  # a row of -1 takes the last value, and is marked already
    reasons.mark(np.isnan(y), "missing phenotype")
    for table in covariates:
        _mark_covariates(reasons, rows_of(table), table)

    taken = reasons.unmarked
    out = first.loc[~taken, ["fid", "iid"]].assign(reason=reasons.text[~taken])
    dropped = pd.concat([out, _elsewhere(sources, names, phenotype)], ignore_index=True)
    aligned = Alignment(
        first[taken].reset_index(drop=True),
        tuple(rows[taken] for rows in positions),
        y[taken],
        dropped,
        sample_notes(
            pd.concat(sources), (phenotype, *(each for each in covariates if each.is_of_samples)), keep, remove
        ),
    )
    _check_analysable(aligned, phenotype)
    return aligned


def _records_among(genotyped: pd.DataFrame, phenotype: Phenotype) -> pd.DataFrame:
    """fid, iid and record: the phenotype's rows of people who are genotyped, in its order, with their FIDs there."""
    table = SampleTable("genotypes", genotyped, has_fid=True)
    if not phenotype.has_fid:
        locate(genotyped, phenotype_people(phenotype))  # an IID of two people is refused
    rows = rows_among(table.samples, phenotype.samples, with_fid=phenotype.has_fid)
    if (rows < 0).all():
        raise nothing_shared(phenotype.path, phenotype_people(phenotype), genotyped)
    taken = np.flatnonzero(rows >= 0)
    return genotyped.iloc[rows[taken]].reset_index(drop=True).assign(**{RECORD: taken})


def phenotype_people(phenotype: SampleTable) -> SampleTable:
    """Who has records, each once."""
    people = phenotype.samples.drop_duplicates(["fid", "iid"]).reset_index(drop=True)
    return SampleTable(phenotype.path, people, phenotype.has_fid)


def _rows_of(first: pd.DataFrame, phenotype: Phenotype, table: SampleTable) -> np.ndarray:
    """The row of each sample in a table; InputError for one of other records than the phenotype's."""
    if table.has_records and not (RECORD in first and table.samples.equals(phenotype.samples)):
        twice = first_ids(repeated(table.samples))
        raise InputError(
            f"{table.path}: samples have several rows ({twice}), which are not those of {phenotype.path} one by one; "
            "put the values of records into one file, or keep one row each"
        )
    return locate_some(first, table, table.path)


def listed_out(
    first: pd.DataFrame, keep: SampleTable | None, remove: SampleTable | None
) -> list[tuple[np.ndarray, str]]:
    """(n,) bool of who is out by a list, with the reason.

    Raises InputError for a list of which nobody is among the samples ``first``; an empty one removes nobody.
    """
    out = []
    if keep is not None:
        out.append((locate_some(first, keep, f"`keep` {keep.path}") < 0, "not in keep"))
    if remove is not None and remove.num_samples:
        out.append((locate_some(first, remove, f"`remove` {remove.path}") >= 0, "in remove"))
    return out


def sample_notes(
    genotyped: pd.DataFrame, tables: Sequence[SampleTable], keep: SampleTable | None, remove: SampleTable | None
) -> tuple[str, ...]:
    """How many samples of the lists and tables are not ``genotyped``, each file once."""
    named = [(f"`{name}` {table.path}", table) for name, table in (("keep", keep), ("remove", remove)) if table]
    named += [(table.path, table) for table in tables]
    keys = {has_fid: sample_keys(genotyped, has_fid).unique() for has_fid in {table.has_fid for _, table in named}}
    people = genotyped[["fid", "iid"]].drop_duplicates()

    def noted(what: str, table: SampleTable) -> tuple[str, ...]:
        if matched_by_iid(table, people):
            return iid_note(what, table, people)
        return absent_note(what, table, keys[table.has_fid])

    return tuple(dict.fromkeys(note for what, table in named for note in noted(what, table)))


def write_samples(path: str | Path, samples: pd.DataFrame) -> None:
    """Write fid and iid, tab-separated below ``#FID IID``: a file that ``read_sample_list`` and PLINK take."""
    lines = [f"{fid}\t{iid}\n" for fid, iid in samples[["fid", "iid"]].itertuples(index=False)]
    write_text(path, "".join(["#FID\tIID\n", *lines]))


class _Reasons:
    """The first reason that applies to each sample; empty where none does."""

    def __init__(self, num_samples: int) -> None:
        self.text = np.full(num_samples, "", dtype=object)

    @property
    def unmarked(self) -> np.ndarray:
        return self.text == ""

    def mark(self, mask: np.ndarray, reason: str) -> None:
        self.text[mask & self.unmarked] = reason


def _mark_covariates(reasons: _Reasons, rows: np.ndarray, table: Covariates) -> None:
    reasons.mark(rows < 0, f"no {table.what}" if table.what == "covariates" else f"not in {table.what}")
    for name in table.values.columns:
        reasons.mark(table.values[name].isna().to_numpy()[rows], f"missing covariate {name}")


def locate_some(first: pd.DataFrame, table: SampleTable, what: str) -> np.ndarray:
    """As :func:`locate`; InputError, which starts with ``what``, where the table has none of the samples."""
    rows = locate(first, table)
    if (rows < 0).all():
        raise nothing_shared(what, table, first)
    return rows


def _locate_source(first: pd.DataFrame, samples: pd.DataFrame, name: str, first_name: str) -> np.ndarray:
    rows = rows_among(samples, first)
    if (rows < 0).all():
        raise InputError(
            f"{name} shares no sample with {first_name}: it has {first_ids(samples.head(1))}, {first_name} has "
            f"{first_ids(first.head(1))}; make FID and IID agree in all genotype files"
        )
    return rows


def _check_heading(first: pd.DataFrame, table: SampleTable) -> None:
    """A first line of words was taken for a header; it was not one if it begins with a genotyped sample."""
    if not table.heading:
        return
    iid = table.heading[1 if table.has_fid else 0]
    if ((first["iid"] == iid) & ((first["fid"] == table.heading[0]) | (not table.has_fid))).any():
        raise InputError(
            f"{table.path}: the first line ({' '.join(table.heading)}) is sample {iid} with no number, not a header; "
            "write NA for a missing value"
        )


def _elsewhere(sources: Sequence[pd.DataFrame], names: Sequence[str], phenotype: Phenotype) -> pd.DataFrame:
    """Samples that only a later genotype source, or only the phenotype, has."""
    later = pd.concat([*sources[1:], sources[0].iloc[:0]], ignore_index=True).drop_duplicates()
    later = later[~sample_keys(later, True).isin(sample_keys(sources[0], True))]
    genotyped = pd.concat([sources[0], later], ignore_index=True)
    mine, theirs = (sample_keys(samples, phenotype.has_fid) for samples in (phenotype.samples, genotyped))
    only_phenotype = phenotype.samples[~mine.isin(theirs)]
    return pd.concat([later.assign(reason=f"not in {names[0]}"), only_phenotype.assign(reason="not genotyped")])


def _check_analysable(aligned: Alignment, phenotype: Phenotype) -> None:
    if not aligned.num_samples:
        counts = ", ".join(f"{reason}: {count}" for reason, count in aligned.dropped_counts.items())
        raise InputError(f"no samples are left to analyse ({counts}); loosen the filters or complete the tables")
    if np.ptp(aligned.y) == 0:
        raise InputError(
            f"{phenotype.path}: phenotype {phenotype.name} is {aligned.y[0]:g} for all {aligned.num_samples} analysed "
            "samples; choose one that varies"
        )
