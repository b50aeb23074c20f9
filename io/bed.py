"""PLINK 1 binary genotypes: metadata checked line by line, genotype bytes mapped and never decoded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..ops.genotypes import PackedGenotypes, standardise
from ..ops.packing import take_samples
from .errors import InputError
from .ids import first_ids, repeated
from .text import WHITESPACE, TextTable, read_text_table

MAGIC = b"\x6c\x1b"
SNP_MAJOR = 1
HEADER_BYTES = 3


@dataclass(frozen=True)
class BedFile:
    """One PLINK 1 fileset, open for reading.

    ``samples``: fid, iid (strings), in .fam order.  ``variants``: chrom, id, a1, a2 (strings), cm (float64,
    centimorgan), bp (int64), in .bim order; a1 is the counted allele.  ``packed``: read-only memory map, uint8
    (m, ceil(n / 4)), of the bytes that follow the magic.  ``notes``: what was noticed and is no error.
    """

    prefix: str
    samples: pd.DataFrame
    variants: pd.DataFrame
    packed: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def num_variants(self) -> int:
        return len(self.variants)


def read_bed(prefix: str | Path) -> BedFile:
    """Open ``prefix``.bed, .bim and .fam (``prefix`` may end in .bed).

    The text files are parsed here and not by bed-reader, which takes ``#`` for the start of a comment and does not
    name the line of an error; the tests hold the two parsers equal.  Cost: the text files; no genotype is read.

    Raises:
        InputError: a missing file, a malformed or empty .fam or .bim (with its line), a repeated FID + IID, a .bed
            that is not SNP-major or whose size does not fit the .fam and .bim.
    """
    prefix = str(prefix).removesuffix(".bed")
    paths = {suffix: Path(f"{prefix}.{suffix}") for suffix in ("bed", "bim", "fam")}
    absent = [str(path) for path in paths.values() if not os.path.isfile(path)]
    if absent:
        raise InputError(
            f"genotypes {prefix!r}: file(s) not found: {', '.join(absent)}; give the path shared by .bed, .bim and .fam"
        )
    samples = _read_fam(paths["fam"])
    variants = _read_bim(paths["bim"])
    packed = _map_bed(paths["bed"], len(samples), len(variants))
    num_repeated = int(variants["id"].duplicated(keep=False).sum())
    notes = (f"{paths['bim']}: {num_repeated} variants share their id with another one",) if num_repeated else ()
    return BedFile(prefix, samples, variants, packed, notes)


def load_genotypes(bed_files: Sequence[BedFile], keep: Sequence[np.ndarray] | None = None) -> PackedGenotypes:
    """Genotypes of the same samples from one or more filesets, variants one fileset after another.

    ``keep``: for each fileset the row in its .fam of every analysed sample, in analysis order
    (:attr:`Alignment.indices <gpu_reml.io.Alignment>`); None takes every sample in file order.  A fileset whose
    samples are all taken in file order stays a memory map; any other is copied once, packed.

    Raises:
        InputError: no fileset, ``keep`` of the wrong shape or out of range, or filesets whose samples differ.
    """
    bed_files = list(bed_files)
    if not bed_files:
        raise InputError("bed_files: expected at least one fileset, found none")
    if keep is None:
        keep = [np.arange(bed.num_samples) for bed in bed_files]
    if len(keep) != len(bed_files):
        raise InputError(f"keep: expected one index array for each of {len(bed_files)} filesets, found {len(keep)}")
    rows = [_checked_rows(bed, index) for bed, index in zip(bed_files, keep, strict=True)]
    _check_same_samples(bed_files, rows)
    parts = [_take(bed, index) for bed, index in zip(bed_files, rows, strict=True)]
    return standardise(parts, len(rows[0]))


def _take(bed: BedFile, index: np.ndarray) -> np.ndarray:
    if np.array_equal(index, np.arange(bed.num_samples)):
        return bed.packed
    return take_samples(bed.packed, index)


def _checked_rows(bed: BedFile, index: np.ndarray) -> np.ndarray:
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise InputError(f"keep: expected a vector of integers for {bed.prefix}, found {index.dtype} {index.shape}")
    if not len(index):
        raise InputError(f"keep: no samples of {bed.prefix} are left; loosen the filters")
    if index.min() < 0 or index.max() >= bed.num_samples:
        raise InputError(
            f"keep: expected rows 0..{bed.num_samples - 1} of {bed.prefix}.fam, found {index.min()}..{index.max()}"
        )
    return index.astype(np.int64)


def _check_same_samples(bed_files: Sequence[BedFile], rows: Sequence[np.ndarray]) -> None:
    first = bed_files[0].samples.iloc[rows[0]].reset_index(drop=True)
    for bed, index in zip(bed_files[1:], rows[1:], strict=True):
        other = bed.samples.iloc[index].reset_index(drop=True)
        if len(other) != len(first):
            raise InputError(
                f"{bed.prefix} gives {len(other)} samples and {bed_files[0].prefix} {len(first)}; "
                "take their common samples with align()"
            )
        unlike = (first[["fid", "iid"]] != other[["fid", "iid"]]).any(axis=1).to_numpy()
        if unlike.any():
            i = int(np.argmax(unlike))
            raise InputError(
                f"sample {i + 1} is {first_ids(first.iloc[[i]])} in {bed_files[0].prefix} and "
                f"{first_ids(other.iloc[[i]])} in {bed.prefix}; put them in one order with align()"
            )


def _read_fam(path: Path) -> pd.DataFrame:
    table = read_text_table(path, ".fam", "FID IID father mother sex phenotype", min_width=6, sep=WHITESPACE)
    if not len(table.fields):
        raise InputError(f"{path} is empty; expected one line for each sample")
    samples = pd.DataFrame({"fid": table.fields[0], "iid": table.fields[1]})
    twice = repeated(samples)
    if len(twice):
        raise InputError(
            f"{path}: {len(twice)} FID + IID occur more than once ({first_ids(twice)}); make every pair unique"
        )
    return samples


def _read_bim(path: Path) -> pd.DataFrame:
    table = read_text_table(path, ".bim", "chromosome id cM position A1 A2", min_width=6, sep=WHITESPACE)
    if not len(table.fields):
        raise InputError(f"{path} is empty; expected one line for each variant")
    if table.fields.shape[1] != 6:
        raise InputError(f"{table.where(0)}: expected 6 fields, found {table.fields.shape[1]}; is this a .bim file?")
    chrom, ids, cm, bp, a1, a2 = (table.fields[k] for k in range(6))
    return pd.DataFrame(
        {
            "chrom": chrom,
            "id": ids,
            "cm": _bim_numbers(table, cm, "genetic position (cM)", whole=False),
            "bp": _bim_numbers(table, bp, "base-pair position", whole=True).astype(np.int64),
            "a1": a1,
            "a2": a2,
        }
    )


def _bim_numbers(table: TextTable, column: pd.Series, name: str, whole: bool) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    good = np.isfinite(numbers)
    if whole:
        good &= numbers == np.round(numbers)
    if not good.all():
        row = int(np.argmin(good))
        kind = "a whole number" if whole else "a number"
        raise InputError(
            f"{table.where(row)} (variant {table.fields.at[row, 1]}): expected {kind} for the {name}, "
            f"found {column[row]!r}; write 0 where it is unknown"
        )
    return numbers


def _map_bed(path: Path, num_samples: int, num_variants: int) -> np.ndarray:
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    if header[:2] != MAGIC or len(header) < HEADER_BYTES or header[2] > 1:
        raise InputError(
            f"{path} does not start with PLINK's magic bytes 6c 1b 01 (found {header.hex(' ') or 'nothing'}); "
            "is it a .bed of PLINK 1.9 or 2?"
        )
    if header[2] != SNP_MAJOR:
        raise InputError(f"{path} is individual-major; rewrite it SNP-major with plink --make-bed")
    bytes_per_variant = (num_samples + 3) // 4
    expected = HEADER_BYTES + num_variants * bytes_per_variant
    found = path.stat().st_size
    if found != expected:
        raise InputError(
            f"{path}: expected {expected} bytes for {num_samples} samples in the .fam and {num_variants} variants in "
            f"the .bim, found {found}; copy the three files again, together"
        )
    return np.memmap(path, np.uint8, "r", offset=HEADER_BYTES, shape=(num_variants, bytes_per_variant))
