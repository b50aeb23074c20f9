"""Genotype files of any format as one operator's input: how sources are put together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..ops.genotypes import CALL_BITS, PackedGenotypes, standardise
from .cache import PackedCache
from .errors import InputError
from .genotype_file import GenotypeFile
from .ids import first_ids
from .stamps import Stamp, check_same

DOSAGE_BITS = (8, 16)


def load_genotypes(
    files: Sequence[GenotypeFile],
    keep: Sequence[np.ndarray] | None = None,
    variants: Sequence[np.ndarray | None] | None = None,
    dosage: bool = False,
    dosage_bits: int = 16,
    cache: str | Path | PackedCache | None = None,
) -> PackedGenotypes:
    """Genotypes of the same samples from one or more sources, variants one source after another.

    ``keep``: for each source the row of every analysed sample, in analysis order
    (:attr:`Alignment.indices <gpu_reml.io.Alignment>`); None takes every sample in file order.  ``variants``: for each
    source the ascending indices of the variants to take, None for all.  ``dosage``: dosages instead of calls, of
    ``dosage_bits`` (16, or 8 for half the memory and steps of 1/127 copy).  ``cache``: folder where what had to be
    packed is kept, to be mapped by later runs.

    A .bed stays a memory map where all its samples are taken in file order, and one stretch of its variants; anything
    else is packed once.

    Raises:
        InputError: no source, ``keep`` or ``variants`` of the wrong shape or out of range, nothing left, or sources
            whose samples differ.

    >>> import pathlib, tempfile
    >>> from gpu_reml import load_genotypes, read_bed
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "tiny.bed").write_bytes(bytes([0x6C, 0x1B, 1, 0b00111000, 0b00100010]))
    >>> _ = (folder / "tiny.bim").write_text("1 rs1 0 100 A G\\n1 rs2 0 200 C T\\n")
    >>> _ = (folder / "tiny.fam").write_text("1 a 0 0 0 -9\\n1 b 0 0 0 -9\\n1 c 0 0 0 -9\\n")
    >>> load_genotypes([read_bed(folder / "tiny")]).mean.tolist()
    [1.0, 1.3333333333333333]
    """
    files = list(files)
    if not files:
        raise InputError("files: expected at least one fileset, found none")
    if dosage and dosage_bits not in DOSAGE_BITS:
        raise InputError(f"dosage_bits: expected 8 or 16, found {dosage_bits}")
    keep = _one_each("keep", keep, files)
    variants = _one_each("variants", variants, files)
    rows = [_checked_rows(file, index) for file, index in zip(files, keep, strict=True)]
    chosen = [_checked_variants(file, index) for file, index in zip(files, variants, strict=True)]
    if not sum(len(index) for index in chosen):
        raise InputError(f"variants: none of {', '.join(file.prefix for file in files)} is left; loosen the filters")
    _check_same_samples(files, rows)
    bits = dosage_bits if dosage else CALL_BITS
    store = PackedCache(cache) if isinstance(cache, str | Path) else cache
    loaded = [_load(*source, bits, store) for source in zip(files, rows, chosen, strict=True)]
    genotypes = standardise([part for part, _ in loaded], len(rows[0]), bits)
    return replace(genotypes, stamps=tuple(stamp for _, stamp in loaded if stamp is not None))


def _load(
    file: GenotypeFile, rows: np.ndarray, chosen: np.ndarray, bits: int, store: PackedCache | None
) -> tuple[np.ndarray, Stamp | None]:
    """A source's part - mapped, from the cache, or packed now - and the stamp of the file that it is a map of."""
    # None instead of all indices tells a source that it need not copy
    samples = None if _is_all(rows, file.num_samples) else rows
    variants = None if _is_all(chosen, file.num_variants) else chosen

    def read(out: np.ndarray | None = None) -> np.ndarray:
        if bits == CALL_BITS:
            return file.read_packed(samples, variants, out)
        return file.read_dosages(samples, variants, bits, out)

    if bits == CALL_BITS and file.is_mapped(samples, variants):
        return read(), file.stamp
    part = (read(), None) if store is None else store.load(file, rows, chosen, bits, read)
    if file.stamp is not None:
        check_same([file.stamp])
    return part


def _is_all(index: np.ndarray, count: int) -> bool:
    return len(index) == count and np.array_equal(index, np.arange(count))


def _one_each(name: str, arrays: Sequence | None, files: Sequence[GenotypeFile]) -> list:
    if arrays is None:
        return [None] * len(files)
    if len(arrays) != len(files):
        raise InputError(f"{name}: expected one index array for each of {len(files)} filesets, found {len(arrays)}")
    return list(arrays)


def _checked_rows(file: GenotypeFile, index: np.ndarray | None) -> np.ndarray:
    if index is None:
        return np.arange(file.num_samples)
    index = _integers("keep", file, index)
    if not len(index):
        raise InputError(f"keep: no samples of {file.prefix} are left; loosen the filters")
    _check_range("keep", "rows", index, file.num_samples, file.paths[2])
    return index


def _checked_variants(file: GenotypeFile, index: np.ndarray | None) -> np.ndarray:
    if index is None:
        return np.arange(file.num_variants)
    index = _integers("variants", file, index)
    if len(index):
        _check_range("variants", "indices", index, file.num_variants, file.paths[1])
    if (np.diff(index) <= 0).any():
        first = int(np.argmax(np.diff(index) <= 0))
        raise InputError(
            f"variants: expected ascending indices of {file.prefix}, each once, found {index[first]} before "
            f"{index[first + 1]}"
        )
    return index


def _integers(name: str, file: GenotypeFile, index: np.ndarray) -> np.ndarray:
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise InputError(f"{name}: expected a vector of integers for {file.prefix}, found {index.dtype} {index.shape}")
    return index.astype(np.int64)


def _check_range(name: str, what: str, index: np.ndarray, count: int, path: Path) -> None:
    if index.min() < 0 or index.max() >= count:
        raise InputError(f"{name}: expected {what} 0..{count - 1} of {path}, found {index.min()}..{index.max()}")


def _check_same_samples(files: Sequence[GenotypeFile], rows: Sequence[np.ndarray]) -> None:
    first = files[0].samples.iloc[rows[0]].reset_index(drop=True)
    for file, index in zip(files[1:], rows[1:], strict=True):
        other = file.samples.iloc[index].reset_index(drop=True)
        if len(other) != len(first):
            raise InputError(
                f"{file.prefix} gives {len(other)} samples and {files[0].prefix} {len(first)}; "
                "take their common samples with align()"
            )
        unlike = (first[["fid", "iid"]] != other[["fid", "iid"]]).any(axis=1).to_numpy()
        if unlike.any():
            i = int(np.argmax(unlike))
            raise InputError(
                f"sample {i + 1} is {first_ids(first.iloc[[i]])} in {files[0].prefix} and "
                f"{first_ids(other.iloc[[i]])} in {file.prefix}; put them in one order with align()"
            )
