"""Sample identity: FID and IID together, or the IID alone where a table has no FID and IIDs are unique."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import pandas as pd

from .errors import InputError

NUM_EXAMPLES = 5
RECORD = "record"  # the column of samples that are records


@dataclass(frozen=True)
class SampleTable:
    """Samples that a file lists: ``samples`` has fid and iid (strings), one row each, several only where they are
    records.

    ``has_fid``: False when the file gives IIDs only; fid is then empty and never compared.  ``heading``: the first
    line's fields when it was taken for a header for want of a numeric third field, else empty.
    """

    path: str
    samples: pd.DataFrame
    has_fid: bool
    heading: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @cached_property
    def has_records(self) -> bool:
        """Whether a sample has several rows, each of a record."""
        return bool(self.samples.duplicated(["fid", "iid"]).any())


def sample_keys(samples: pd.DataFrame, with_fid: bool) -> pd.Index:
    """One string for each sample, equal when the samples are."""
    # A tab separates fields in every file read here, so it is in no id.
    return pd.Index(samples["fid"] + "\t" + samples["iid"] if with_fid else samples["iid"])


def repeated(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples that occur more than once, each named once."""
    again = samples.duplicated(["fid", "iid"], keep=False)
    return samples[again].drop_duplicates(["fid", "iid"])


def first_ids(samples: pd.DataFrame) -> str:
    """``FID 1 IID a, FID 1 IID b, ...``: the first few samples, for a message."""
    names = [
        f"FID {fid} IID {iid}" if fid else f"IID {iid}"
        for fid, iid in samples[["fid", "iid"]].head(NUM_EXAMPLES).itertuples(index=False)
    ]
    return ", ".join(names) + (", ..." if len(samples) > NUM_EXAMPLES else "")


def first_words(words: Iterable[str]) -> str:
    """``a, b, ...``: the first few words, for a message."""
    shown = list(islice(words, NUM_EXAMPLES + 1))
    return ", ".join(shown[:NUM_EXAMPLES]) + (", ..." if len(shown) > NUM_EXAMPLES else "")


def locate(samples: pd.DataFrame, table: SampleTable) -> np.ndarray:
    """(n,) int64: the row of ``table`` that holds each of ``samples``, -1 where there is none.

    Samples that are records have their row among the phenotype's in a column "record", and a table of records the same
    rows (:func:`~gpu_reml.io.samples.align` sees to that).

    Raises:
        InputError: ``table`` has IIDs only and ``samples`` has an IID twice.
    """
    if table.has_records:
        return samples[RECORD].to_numpy(np.int64)
    people = samples[["fid", "iid"]].drop_duplicates()
    if not table.has_fid and people["iid"].duplicated().any():
        twice = people[people["iid"].duplicated(keep=False)]
        raise InputError(
            f"{table.path} identifies samples by IID alone, but the genotypes have an IID more than once "
            f"({first_ids(twice)}); add a FID column to it"
        )
    return rows_among(table.samples, samples, with_fid=table.has_fid)


def rows_among(table: pd.DataFrame, samples: pd.DataFrame, *, with_fid: bool = True) -> np.ndarray:
    """(n,) int64: the row of ``table`` (fid, iid) of each of ``samples``, -1 where there is none.

    Where no FID + IID is the same at all, and no IID occurs more than once on either side, people are matched by their
    IIDs: files of one cohort may have 0, the IID or a family in the place of the FID.
    """
    rows = sample_keys(table, with_fid).get_indexer(sample_keys(samples, with_fid)).astype(np.int64)
    if with_fid and (rows < 0).all() and iids_are_unique(table, samples):
        return pd.Index(table["iid"]).get_indexer(pd.Index(samples["iid"])).astype(np.int64)
    return rows


def iids_are_unique(*tables: pd.DataFrame) -> bool:
    """Whether no two people of a table have the same IID."""
    people = (table[["fid", "iid"]].drop_duplicates() for table in tables)
    return not any(each["iid"].duplicated().any() for each in people)


def matched_by_iid(table: SampleTable, genotyped: pd.DataFrame) -> bool:
    """Whether FIDs are passed over (:func:`rows_among`), as all of them differ."""
    if not table.has_fid or not table.num_samples:
        return False
    keys = sample_keys(genotyped, True)
    alike = sample_keys(table.samples, True).isin(keys).any()
    return not alike and iids_are_unique(table.samples, genotyped) and table.samples["iid"].isin(genotyped["iid"]).any()


def iid_note(what: str, table: SampleTable, genotyped: pd.DataFrame) -> tuple[str, ...]:
    """A note where samples are matched by IID alone, with one of them; and on those of the table who are nowhere."""
    rows = pd.Index(genotyped["iid"]).get_indexer(pd.Index(table.samples["iid"]))
    here = int(np.argmax(rows >= 0))
    pair = f"{first_ids(table.samples.iloc[[here]])} is {first_ids(genotyped.iloc[[rows[here]]])}"
    absent = table.samples[rows < 0]
    told = (
        "" if absent.empty else f"; {len(absent)} of {table.num_samples} are not in the genotypes ({first_ids(absent)})"
    )
    return (f"{what}: samples are matched by IID alone, as all FIDs differ from the genotypes' ({pair}){told}",)


def absent_note(what: str, table: SampleTable, genotyped: pd.Index) -> tuple[str, ...]:
    """A note that counts and shows the samples of ``table`` who are not ``genotyped``; nothing where all are.

    genotyped: different :func:`sample_keys`, with FIDs where the table has them.
    """
    if not table.num_samples:
        return (f"{what}: lists nobody",)
    absent = table.samples[genotyped.get_indexer(sample_keys(table.samples, table.has_fid)) < 0]
    if absent.empty:
        return ()
    known = set(genotyped.str.rpartition("\t", expand=False).map(lambda key: key[-1].lstrip("0")))
    zeros = int(absent["iid"].str.lstrip("0").isin(known).sum())
    told = f"; {zeros} would be but for zeros before the IID, or for the FID" if zeros else ""
    return (
        f"{what}: {len(absent)} of {table.num_samples} samples are not in the genotypes ({first_ids(absent)}){told}",
    )


def nothing_shared(what: str, table: SampleTable, genotyped: pd.DataFrame) -> InputError:
    """The error of a table that has none of the samples ``genotyped``: an id of each side, the reason, the remedy."""
    theirs = first_ids(table.samples.head(1)) if table.num_samples else "nobody"
    reason = _mismatch(table, genotyped)
    remedy = "make FID and IID agree, or give IIDs alone below a header that starts with IID"
    return InputError(
        f"{what} shares no sample with the genotypes: it has {theirs}, they have {first_ids(genotyped.head(1))}"
        f"{f' ({reason})' if reason else ''}; {remedy}"
    )


def _mismatch(table: SampleTable, genotyped: pd.DataFrame) -> str:
    """Why no key is the same, where that can be told."""
    mine, theirs = table.samples, genotyped[["fid", "iid"]].drop_duplicates("iid")
    if mine["iid"].str.contains(",").any() and not theirs["iid"].str.contains(",").any():
        return "its fields are separated by commas, which is read in a file named .csv only"
    joined = theirs["fid"] + "_" + theirs["iid"]
    bare = mine["iid"].str.strip("\"'")
    ways = (
        ("its IIDs are genotyped with another FID", mine["iid"], theirs["iid"]),
        ("its IIDs are genotyped in another case of letters", mine["iid"].str.casefold(), theirs["iid"].str.casefold()),
        ("its IIDs are the genotypes' FID_IID", mine["iid"], joined),
        ("its FID_IID are the genotypes' IIDs", mine["fid"] + "_" + mine["iid"], theirs["iid"]),
        ("its IIDs are genotyped with zeros before them", mine["iid"].str.lstrip("0"), theirs["iid"].str.lstrip("0")),
        ("its ids are in quotes; in R, write.table(quote = FALSE)", bare, theirs["iid"]),
        ("its IIDs are the genotypes' FIDs", mine["iid"], theirs["fid"]),
        ("its first column has the genotypes' IIDs, and no header begins with IID", mine["fid"], theirs["iid"]),
    )
    for reason, left, right in ways:
        same = left.isin(right).to_numpy() & (left != "").to_numpy()
        if same.any():
            i = int(np.argmax(same))
            j = int(np.argmax((right == left.iloc[i]).to_numpy()))
            pair = f"{first_ids(mine.iloc[[i]])} is {first_ids(theirs.iloc[[j]])}"
            return f"{reason}: {pair}"
    return ""
