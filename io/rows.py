"""Rows of genotypes in the making: room for the result, and blocks of variants small enough to be read at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..ops.genotypes import item_type, items_per_row
from .errors import InputError
from .ids import first_ids, repeated
from .plausible import check_words

BLOCK_BYTES = 1 << 25  # so many bytes are decoded and not yet packed at a time


class Listed:
    """What genotype files with tables of their samples and variants have in common."""

    samples: pd.DataFrame
    variants: pd.DataFrame

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def num_variants(self) -> int:
        return len(self.variants)

    def is_mapped(self, samples: np.ndarray | None, variants: np.ndarray | None) -> bool:
        """Whether ``read_packed`` gives a view of the file: not where genotypes have to be decoded."""
        return False


@dataclass(frozen=True)
class RowsOfFile:
    """Rows of ``width`` bytes of a file, by their numbers in it: read when they are asked for, by a slice or indices.

    A map of the file would count to the memory of the process that reads it.
    """

    path: Path
    offset: int
    width: int
    rows: np.ndarray | range

    @classmethod
    def of(cls, path: Path, offset: int, width: int, rows: np.ndarray) -> "RowsOfFile":
        """Consecutive rows take no memory."""
        whole = len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows) and bool((np.diff(rows) == 1).all())
        return cls(path, offset, width, range(int(rows[0]), int(rows[-1]) + 1) if whole else np.asarray(rows, np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.width

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """uint8 (k, width); raises InputError where the file ends before."""
        wanted = np.asarray(self.rows[key] if isinstance(key, slice) else np.asarray(self.rows)[key], np.int64)
        out = np.empty((len(wanted), self.width), np.uint8)
        ends = np.flatnonzero(np.diff(wanted) != 1) + 1
        with open(self.path, "rb", buffering=0) as file:
            for first, last in zip([0, *ends], [*ends, len(wanted)], strict=True):
                if first < last:
                    file.seek(self.offset + self.width * int(wanted[first]))
                    _fill(file, out[first:last].reshape(-1), self.path)
        return out


def _fill(file, target: np.ndarray, path: Path) -> None:
    done, view = 0, memoryview(target)
    while done < len(target):  # the system reads at most 2 GiB at once
        got = file.readinto(view[done:])
        if not got:
            raise InputError(f"{path}: ends before the last variant that it should hold; copy it again")
        done += got


def selected(count: int, index: np.ndarray | None) -> np.ndarray:
    """Indices int64: all of ``count`` where None is given."""
    return np.arange(count) if index is None else np.ascontiguousarray(index, np.int64)


def room(num_variants: int, num_samples: int, bits: int, out: np.ndarray | None) -> np.ndarray:
    """``out``, or a new array, for rows of genotypes of ``bits`` bits."""
    shape, dtype = (num_variants, items_per_row(num_samples, bits)), item_type(bits)
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out: expected {dtype} {shape}, found {out.dtype} {out.shape}")
    return out


def stretches(num_rows: int, row_bytes: int) -> Iterator[slice]:
    """Slices of the rows in order, of at most ``BLOCK_BYTES`` each."""
    width = max(1, BLOCK_BYTES // max(1, row_bytes))
    for first in range(0, num_rows, width):
        yield slice(first, min(first + width, num_rows))


def check_samples(path, samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of a genotype file; raises InputError when there is none, or one twice."""
    if not len(samples):
        raise InputError(f"{path} is empty; expected one line for each sample")
    for column in ("fid", "iid"):
        check_words(path, samples[column])
    twice = repeated(samples)
    if len(twice):
        raise InputError(
            f"{path}: {len(twice)} FID + IID occur more than once ({first_ids(twice)}); make every pair unique"
        )
    return samples


def notes_on_ids(path, variants: pd.DataFrame) -> tuple[str, ...]:
    """A note where variants share an id."""
    num_repeated = int(variants["id"].duplicated(keep=False).sum())
    return (f"{path}: {num_repeated} variants share their id with another one",) if num_repeated else ()
