"""Matrices of R, by the package rdata (pip install 'gpu-reml[rds]')."""

import bz2
import gzip
import io
import lzma
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .content import CHUNK, most_expanded, read_stored
from .errors import InputError

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def read_rds(path: str | Path, what: str) -> np.ndarray:
    """The matrix in an .rds file.

    Raises:
        InputError: rdata is not installed, no such file, or one that does not hold a matrix.
    """
    try:
        import rdata
    except ImportError:
        raise InputError(
            f"{path}: reading .rds needs the package rdata; pip install 'gpu-reml[rds]', or save the matrix as .csv"
        ) from None
    stored = read_stored(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # rdata warns where it guesses
            found = rdata.conversion.convert(rdata.parser.parse_data(_expanded(stored), extension=".rds"))
    except Exception as error:  # the parser does not document what it raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not an .rds file that can be read ({reason}); save it by saveRDS(W, file)") from None
    if getattr(found, "ndim", 0) != 2:
        raise InputError(
            f"{path}: expected an R matrix, found {type(found).__name__}; save it by saveRDS(as.matrix(W))"
        )
    return np.asarray(found)


def _expanded(stored: bytes) -> bytes:
    """What R serialised; ValueError where it is larger than the compressed bytes can expand to."""
    opener = _opener(stored)
    if opener is None:
        return stored
    held, most = io.BytesIO(), most_expanded(len(stored))
    with opener(io.BytesIO(stored)) as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            held.write(chunk)
            if held.tell() > most:
                raise ValueError("it expands beyond measure")
    if _opener(held.getvalue()) is not None:
        raise ValueError("compressed twice")
    return held.getvalue()


def _opener(stored: bytes) -> Callable | None:
    return next((opener for magic, opener in _OPENERS.items() if stored.startswith(magic)), None)
