"""Packed genotypes kept in a folder: a second run maps what the first one packed.

An entry is a .npy file, named by a digest of everything that it depends on: size, time of change and sampled content of
the source's files, who and what was taken, and the coding.  When a source changes, its digest does, so a stale entry is
never found.  An entry is written under a temporary name and renamed when it is whole: runs that share a folder may both
write it, to the same bytes, and one that is killed leaves nothing that another would take.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..ops.genotypes import item_type, items_per_row
from .archives import load_npy
from .errors import InputError, OutputError

if TYPE_CHECKING:
    from .genotypes import GenotypeFile

FORMAT = 1  # raise it when what is packed from the same source changes
HEAD_BYTES = 1 << 16  # read from the start of each file
SAMPLED_BLOCKS, SAMPLED_BYTES = 64, 1 << 12  # spread evenly over the rest
UNFINISHED = ".part"
ABANDONED = 24 * 3600.0  # seconds after the last write when a temporary file is taken for a killed run's


class PackedCache:
    """A folder of packed genotypes, made on first use; safe to share among runs.

    Raises OutputError where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cache {self.folder} cannot be made ({error.strerror or error})") from None

    def load(
        self,
        file: "GenotypeFile",
        samples: np.ndarray,
        variants: np.ndarray,
        bits: int,
        read: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """A read-only map of the entry; ``read(out)`` fills it when there is none yet.

        samples, variants: rows and indices that are taken.  Cost: of a hit, the digest: a few MB read.
        """
        path = self.path(file, samples, variants, bits)
        shape, dtype = (len(variants), items_per_row(len(samples), bits)), item_type(bits)
        found = _mapped(path, shape, dtype)
        if found is not None:
            return found
        if not all(shape):
            return read(np.empty(shape, dtype))  # an empty file cannot be mapped
        self._remove_abandoned()
        unfinished = self.folder / f"{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}"
        try:
            rows = self._make_room(unfinished, shape, dtype)
            read(rows)
            rows.flush()
            if self.path(file, samples, variants, bits) != path:
                raise InputError(f"{file.prefix}: its files changed while they were read; run again")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return _mapped(path, shape, dtype)

    def path(self, file: "GenotypeFile", samples: np.ndarray, variants: np.ndarray, bits: int) -> Path:
        """Where the entry of these samples and variants is, or would be."""
        digest = hashlib.sha256(f"gpu-reml packed {FORMAT} {bits} {type(file).__name__}".encode())
        for source in file.paths:
            _add_content(digest, source)
        taken = file.samples.iloc[samples]
        for column in (taken["fid"], taken["iid"]):
            digest.update("\t".join(column).encode() + b"\n")
        for index in (samples, variants):
            digest.update(np.ascontiguousarray(index, np.int64).tobytes() + b"\n")
        return self.folder / f"{Path(file.prefix).name}-{digest.hexdigest()[:32]}.npy"

    def _make_room(self, path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.memmap:
        """A writable map of a new file whose blocks exist: a full disk is an error here, not a bus error later."""
        try:
            rows = np.lib.format.open_memmap(path, "w+", dtype, shape)
            if hasattr(os, "posix_fallocate"):  # not on every system
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            gib = shape[0] * shape[1] * dtype.itemsize / 2**30
            raise OutputError(
                f"cache {self.folder}: no room for {gib:.3g} GiB ({error.strerror or error}); free some, or do without"
            ) from None
        return rows

    def _remove_abandoned(self) -> None:
        """Temporary files of runs that were killed."""
        for path in self.folder.glob(f"*{UNFINISHED}"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
            except OSError:  # another run was faster, or the file is another user's
                continue


def _mapped(path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray | None:
    """The entry; None where there is none, or where something else has damaged it."""
    if not path.is_file():
        return None
    try:
        found = load_npy(path, "cached genotypes", mapped=True)
    except InputError:
        return None
    return found if (found.shape, found.dtype) == (shape, dtype) else None


def _add_content(digest, path: Path) -> None:
    """Size, time of change, start and evenly spread blocks of a file."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update(file.read(HEAD_BYTES))
        rest = max(0, status.st_size - HEAD_BYTES - SAMPLED_BYTES)
        for block in range(SAMPLED_BLOCKS):  # the last one ends with the file
            file.seek(HEAD_BYTES + rest * block // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(SAMPLED_BYTES))
