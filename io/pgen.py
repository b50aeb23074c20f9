"""PLINK 2 genotypes: .pgen read by pgenlib a block at a time and packed at once, .pvar and .psam beside it."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from pgenlib import PgenReader

from ..ops.dosages import encode_dosages
from ..ops.genotypes import CALL_BITS
from ..ops.packing import pack_rows
from .errors import InputError
from .pvar import read_psam, read_pvar
from .rows import Listed, notes_on_ids, room, selected, stretches
from .stamps import Stamp, stamp_of

MAGIC = b"\x6c\x1b"
_WORD_SAMPLES = 512  # pgenlib goes through samples by words of at most as many bits
_UNTOUCHED = -5  # items beyond the samples keep this value, which is no call and no dosage
PLAIN_BED, INDEXED_APART = 0x01, (0x20, 0x21)  # the headers of these modes do not count samples and variants


@dataclass(frozen=True)
class PgenFile(Listed):
    """One PLINK 2 fileset, open for reading: a :class:`~gpu_reml.io.GenotypeFile`.

    ``variants``: a1 is the ALT allele, a2 is REF.  A variant with several ALT alleles is as many rows, one for each
    ALT, in which copies of that allele are counted and all others are not (what ``bcftools norm -m-`` does).
    ``record``, ``allele``: for each row of ``variants``, the record of the .pgen and the number of its ALT allele.
    ``allele_offsets``: alleles of the records before each, where a record has more than two.  ``stamp``: the .pgen when
    its variants were read.  ``num_records``: of the .pgen, where not all are among ``record``.
    """

    prefix: str
    samples: pd.DataFrame
    variants: pd.DataFrame
    paths: tuple[Path, Path, Path]
    record: np.ndarray
    allele: np.ndarray
    allele_offsets: np.ndarray | None
    notes: tuple[str, ...] = ()
    stamp: Stamp | None = None
    num_records: int | None = None

    def read_packed(
        self, samples: np.ndarray | None = None, variants: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """uint8 (m, ceil(n / 4)): hard calls in .bed coding; dosages are not looked at."""
        chosen, index = selected(self.num_variants, variants), selected(self.num_samples, samples)
        out = room(len(chosen), len(index), CALL_BITS, out)
        for rows, counts in self._blocks(chosen, np.int8, PgenReader.read):
            pack_rows(counts, index, out[rows])
        return out

    def read_dosages(
        self,
        samples: np.ndarray | None = None,
        variants: np.ndarray | None = None,
        bits: int = 16,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(m, n) dosages of ``bits`` bits, those of 16 as the .pgen holds them; hard calls where it has no dosage."""
        chosen, index = selected(self.num_variants, variants), selected(self.num_samples, samples)
        out = room(len(chosen), len(index), bits, out)
        for rows, copies in self._blocks(chosen, np.float32, PgenReader.read_dosages):
            encode_dosages(copies, bits, index, out[rows])
        return out

    def piece(self, variants: np.ndarray) -> "PgenFile":
        """The file with these variants alone, without tables but for their ids: for another process."""
        return replace(
            self,
            samples=range(self.num_samples),
            variants=self.variants[["id"]].iloc[variants].reset_index(drop=True),
            paths=tuple(path.absolute() for path in self.paths),
            record=self.record[variants],
            allele=self.allele[variants],
            notes=(),
            num_records=self.num_records or int(self.record[-1]) + 1,
        )

    def _blocks(self, chosen: np.ndarray, dtype: type, read: Callable) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows of the result, what ``read`` gives for those variants and all samples), a block at a time.

        pgenlib believes a damaged record that has dosages of more samples than there are, and writes them, so rows are
        longer than the samples and what is beyond them is looked at.  Such items are not to be used.
        """
        width = -(-self.num_samples // _WORD_SAMPLES) * _WORD_SAMPLES
        buffer = np.empty((0, width), dtype)
        with _reading(self.paths[0]), self._reader() as reader:
            for rows in stretches(len(chosen), width * buffer.itemsize):
                wanted = chosen[rows]
                if len(buffer) < len(wanted):
                    buffer = np.full((len(wanted), width), _UNTOUCHED, dtype)
                pairs = zip(self.record[wanted].tolist(), self.allele[wanted].tolist(), strict=True)
                for target, (record, allele) in zip(buffer, pairs, strict=False):
                    read(reader, record, target, allele)
                self._check_block(buffer[: len(wanted)], wanted)
                yield rows, buffer[: len(wanted)]

    def _check_block(self, block: np.ndarray, wanted: np.ndarray) -> None:
        """InputError where something was written beyond the samples."""
        beyond = (block[:, self.num_samples :] != _UNTOUCHED).any(axis=1)
        if beyond.any():
            variant = self.variants["id"].iat[wanted[int(np.argmax(beyond))]]
            raise InputError(
                f"{self.paths[0]}: variant {variant} has dosages of more than the {self.num_samples} samples; the "
                "file is damaged, check it with plink2 --validate"
            )

    def _reader(self) -> PgenReader:
        num_records = self.num_records or int(self.record[-1]) + 1
        return PgenReader(bytes(self.paths[0]), self.num_samples, num_records, allele_idx_offsets=self.allele_offsets)


def read_pgen(prefix: str | Path) -> PgenFile:
    """Open ``prefix``.pgen, .psam and .pvar or .pvar.zst (``prefix`` may end in .pgen).

    Cost: the text files and the index of the .pgen; no genotype is read.

    Raises:
        InputError: a missing file, a malformed or empty .psam or .pvar (with its line), a repeated FID + IID, a file
            that is no .pgen or does not hold as many samples and variants as its text files list.
    """
    prefix = str(prefix).removesuffix(".pgen")
    paths = _find_files(prefix)
    stamp = stamp_of(paths[0])
    samples, table = read_psam(paths[2]), read_pvar(paths[1])
    _check_counts(paths, len(samples), len(table))
    num_alleles = 2 + table["alt"].str.count(",").to_numpy(np.int64)
    record = np.repeat(np.arange(len(table)), num_alleles - 1)
    allele = np.arange(len(record)) - np.cumsum(num_alleles - 1)[record] + num_alleles[record]
    offsets = None
    notes = notes_on_ids(paths[1], table)
    if len(record) > len(table):
        offsets = np.concatenate([[0], np.cumsum(num_alleles)]).astype(np.uintp)
        several = int((num_alleles > 2).sum())
        notes += (f"{paths[1]}: {several} variants with several ALT alleles are split, one row each ALT",)
    file = PgenFile(prefix, samples, _split(table, record), paths, record, allele, offsets, notes, stamp)
    with _reading(paths[0]), file._reader():
        pass
    return file


def _find_files(prefix: str) -> tuple[Path, Path, Path]:
    pgen, psam = Path(f"{prefix}.pgen"), Path(f"{prefix}.psam")
    pvars = [Path(f"{prefix}.pvar"), Path(f"{prefix}.pvar.zst")]
    pvar = next((path for path in pvars if path.is_file()), pvars[0])
    absent = [str(path) for path in (pgen, pvar, psam) if not path.is_file()]
    if absent:
        raise InputError(
            f"genotypes {prefix!r}: file(s) not found: {', '.join(absent)}; give the path shared by .pgen, .pvar (or "
            ".pvar.zst) and .psam"
        )
    return pgen, pvar, psam


def _check_counts(paths: tuple[Path, Path, Path], num_samples: int, num_variants: int) -> None:
    """The header of the .pgen against its text files; pgenlib would not say which of them is wrong."""
    pgen, pvar, psam = paths
    with open(pgen, "rb") as file:
        header = file.read(11)
    if header[:2] != MAGIC or len(header) < 3:
        raise InputError(f"{pgen} does not start with the magic bytes of a .pgen (6c 1b); is it one of PLINK 2?")
    if header[2] == PLAIN_BED:
        raise InputError(f"{pgen} is a PLINK 1 .bed; name it so, with .bim and .fam beside it")
    if header[2] in INDEXED_APART:
        return
    variants, samples = struct.unpack("<II", header[3:11].ljust(8, b"\0"))
    for path, listed, held, what in (
        (psam, num_samples, samples, "samples"),
        (pvar, num_variants, variants, "variants"),
    ):
        if listed != held:
            raise InputError(
                f"{path} lists {listed} {what}, but {pgen} holds {held}; copy the three files again, together"
            )


def _split(table: pd.DataFrame, record: np.ndarray) -> pd.DataFrame:
    """The variants table: one row for each ALT allele."""
    rows = table.iloc[record].reset_index(drop=True) if len(record) > len(table) else table
    a1 = table["alt"]
    if len(record) > len(table):
        a1 = a1.str.split(",").explode().reset_index(drop=True)
    return pd.DataFrame(
        {
            "chrom": rows["chrom"],
            "id": rows["id"],
            "cm": rows["cm"],
            "bp": rows["bp"],
            "a1": a1,
            "a2": rows["ref"],
        }
    )


@contextmanager
def _reading(path: Path):
    """pgenlib's errors, in our words."""
    try:
        yield
    except RuntimeError as error:
        text = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        reason = text.strip().split("\0")[0].strip()
        raise InputError(f"{path}: pgenlib cannot read it ({reason}); check it with plink2 --validate") from None
