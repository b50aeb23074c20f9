"""Sample identity: FID and IID together, or the IID alone where a table has no FID and IIDs are unique."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .errors import InputError

NUM_EXAMPLES = 5


@dataclass(frozen=True)
class SampleTable:
    """Samples that a file lists: ``samples`` has fid and iid (strings), one row each and no row twice.

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


def locate(samples: pd.DataFrame, table: SampleTable) -> np.ndarray:
    """(n,) int64: the row of ``table`` that holds each of ``samples``, -1 where there is none.

    Raises:
        InputError: ``table`` has IIDs only and ``samples`` has an IID twice.
    """
    if not table.has_fid and samples["iid"].duplicated().any():
        twice = samples[samples["iid"].duplicated(keep=False)]
        raise InputError(
            f"{table.path} identifies samples by IID alone, but the genotypes have an IID more than once "
            f"({first_ids(twice)}); add a FID column to it"
        )
    return sample_keys(table.samples, table.has_fid).get_indexer(sample_keys(samples, table.has_fid)).astype(np.int64)
