"""Packed genotypes kept in a folder: a second run maps what the first one packed.

An entry is the bytes of the genotypes and their checksum, in a file named by a digest of everything that it depends on:
size, time of change and sampled content of the source's files, who and what was taken, and the coding.  When a source
changes, its digest does, so a stale entry is never found.  An entry is written under a temporary name and renamed when
it is whole: runs that share a folder may both write it, to the same bytes, and one that is killed leaves nothing that
another would take.  The checksum is verified whenever an entry is mapped; one that is damaged is made again.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..ops.checksum import checksum
from ..ops.genotypes import item_type, items_per_row
from .errors import InputError, OutputError
from .genotype_file import GenotypeFile
from .staging import held, is_abandoned
from .stamps import Stamp, add_file, stamp_of_map

FORMAT = 2  # it is raised when the same source is packed differently
TRAILER = b"gpu-reml packed\n"  # this and eight bytes of checksum follow the genotypes
UNFINISHED = ".part"


class PackedCache:
    """A folder of packed genotypes, made on first use; safe to share among runs.  ``notes``: entries made again.

    Raises OutputError where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.notes: list[str] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cache {self.folder} cannot be made ({error.strerror or error})") from None

    def load(
        self,
        file: GenotypeFile,
        samples: np.ndarray,
        variants: np.ndarray,
        bits: int,
        read: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, Stamp | None]:
        """A read-only map of the entry and its stamp; ``read(out)`` fills it when there is none yet.

        samples, variants: rows and indices that are taken.  Cost: of a hit, the digest of the sources, a few MB read,
        and one read of the entry for its checksum.
        """
        path = self.path(file, samples, variants, bits)
        shape, dtype = (len(variants), items_per_row(len(samples), bits)), item_type(bits)
        if not all(shape):
            return read(np.empty(shape, dtype)), None  # an empty file cannot be mapped
        found = self._found(path, shape, dtype)
        if found is not None:
            return found
        self._remove_abandoned()
        unfinished = self.folder / f"{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}"
        try:
            unfinished.touch(exist_ok=False)
            with held(unfinished):
                self._fill(unfinished, shape, dtype, read)
                if self.path(file, samples, variants, bits) != path:
                    raise InputError(f"{file.prefix}: its files changed while they were read; run again")
                os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        stamp = stamp_of_map(path)
        return _entry(path, shape, dtype, "r"), stamp

    def _fill(self, path: Path, shape: tuple[int, int], dtype: np.dtype, read: Callable) -> None:
        """Write an entry: what ``read`` gives, and the trailer."""
        rows = self._make_room(path, shape, dtype)
        read(rows)
        rows.flush()
        with open(path, "r+b") as entry:
            entry.seek(rows.nbytes)
            entry.write(_trailer(rows))

    def _found(self, path: Path, shape: tuple[int, int], dtype: np.dtype) -> tuple[np.ndarray, Stamp] | None:
        """The entry, every byte of it checked; None where there is none, or where something has damaged it."""
        if not path.is_file():
            return None
        stamp = stamp_of_map(path)
        if stamp.size == shape[0] * shape[1] * dtype.itemsize + len(TRAILER) + 8:
            rows = _entry(path, shape, dtype, "r")
            if _is_whole(path, rows):
                return rows, stamp
        self.notes.append(f"{path}: the genotypes kept there are damaged; they are made again")
        return None

    def path(self, file: GenotypeFile, samples: np.ndarray, variants: np.ndarray, bits: int) -> Path:
        """Where the entry of these samples and variants is, or would be."""
        digest = hashlib.sha256(f"gpu-reml packed {FORMAT} {bits} {type(file).__name__}".encode())
        for source in file.paths:
            add_file(digest, source)
        taken = file.samples.iloc[samples]
        for column in (taken["fid"], taken["iid"]):
            digest.update("\t".join(column).encode() + b"\n")
        for index in (samples, variants):
            digest.update(np.ascontiguousarray(index, np.int64).tobytes() + b"\n")
        return self.folder / f"{Path(file.prefix).name}-{digest.hexdigest()[:32]}.packed"

    def _make_room(self, path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.memmap:
        """A writable map of a new file whose blocks exist: a full disk is an error here, not a bus error later."""
        try:
            rows = _entry(path, shape, dtype, "w+")
            if hasattr(os, "posix_fallocate"):  # some systems lack it
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, rows.nbytes + len(TRAILER) + 8)
        except OSError as error:
            gib = shape[0] * shape[1] * dtype.itemsize / 2**30
            raise OutputError(
                f"cache {self.folder}: no room for {gib:.3g} GiB ({error.strerror or error}); free some, or do without"
            ) from None
        return rows

    def _remove_abandoned(self) -> None:
        """Temporary files of runs that were killed."""
        for path in self.folder.glob(f"*{UNFINISHED}"):
            with ExitStack() as stack:
                if is_abandoned(path, stack):
                    path.unlink(missing_ok=True)


def _entry(path: Path, shape: tuple[int, int], dtype: np.dtype, mode: str) -> np.ndarray:
    """A map of what is in front of the trailer."""
    return np.memmap(path, dtype, mode, shape=shape)


def _trailer(rows: np.ndarray) -> bytes:
    """What follows the genotypes in an entry: what it is, and the checksum of all their bytes."""
    return TRAILER + checksum(rows).to_bytes(8, "little")


def _is_whole(path: Path, rows: np.ndarray) -> bool:
    """Whether an entry is what was written."""
    with open(path, "rb") as file:
        file.seek(rows.nbytes)
        return file.read() == _trailer(rows)
