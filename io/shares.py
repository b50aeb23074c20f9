"""Genotypes that other processes read: a share is some variants of one file, told in few bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..ops.genotypes import CALL_BITS, item_type, items_per_row
from .errors import InputError
from .genotype_file import GenotypeFile


@dataclass(frozen=True)
class FileShare:
    """Variants of ``file`` (all that it has, see :meth:`GenotypeFile.piece`) for ``samples``, None for all in file
    order; ``size``: bytes of the file where it was opened first.

    It stands for the array of packed genotypes, of ``shape`` and ``dtype``: some rows are read when they are asked for.
    """

    file: GenotypeFile
    samples: np.ndarray | None
    bits: int
    path: Path
    size: int | None

    @property
    def num_variants(self) -> int:
        return self.file.num_variants

    @property
    def num_samples(self) -> int:
        return self.file.num_samples if self.samples is None else len(self.samples)

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_variants, items_per_row(self.num_samples, self.bits)

    @property
    def dtype(self) -> np.dtype:
        return item_type(self.bits)

    ndim = 2

    @property
    def num_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    nbytes = num_bytes

    def __len__(self) -> int:
        return self.num_variants

    def read(self) -> np.ndarray:
        """The packed genotypes (m, items); raises InputError where the file is another one, or cannot be read."""
        return self[:]

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        self._check_size()
        rows = np.arange(self.num_variants)[key]
        if self.bits == CALL_BITS:
            return np.asarray(self.file.read_packed(self.samples, rows))
        return self.file.read_dosages(self.samples, rows, self.bits)

    def _check_size(self) -> None:
        try:
            found = self.path.stat().st_size
        except OSError as error:
            raise InputError(
                f"{self.path}: a worker cannot read it ({error.strerror}); every machine has to see the genotypes "
                "under the same path"
            ) from None
        if self.size is not None and found != self.size:
            raise InputError(
                f"{self.path}: has {found} bytes where a worker reads it and had {self.size} where the run began; "
                "every machine has to see the same file"
            )


def share_of(file: GenotypeFile, samples: np.ndarray | None, variants: np.ndarray, bits: int) -> FileShare:
    """Some variants of a file, for these samples in this order."""
    everyone = samples is None or np.array_equal(samples, np.arange(file.num_samples))
    size = None if file.stamp is None else file.stamp.size
    rows = None if everyone else np.asarray(samples, np.int32)
    return FileShare(file.piece(variants), rows, bits, file.paths[0].absolute(), size)


def shares_between(
    files: Sequence[GenotypeFile],
    samples: Sequence[np.ndarray | None],
    variants: Sequence[np.ndarray],
    edges: Sequence[int],
    bits: int,
) -> Iterator[tuple[FileShare, ...]]:
    """The shares of every stretch of the chosen variants, one file's after another's, between two ``edges``."""
    starts = np.cumsum([0, *map(len, variants)])
    for first, last in pairwise(edges):
        found = []
        for file, who, chosen, start in zip(files, samples, variants, starts[:-1], strict=True):
            mine = chosen[max(first - start, 0) : max(last - start, 0)]
            if len(mine):
                found.append(share_of(file, who, mine, bits))
        yield tuple(found)
