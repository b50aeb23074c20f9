"""PLINK 1 binary genotypes: metadata checked line by line, genotype bytes mapped and never decoded."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..ops.dosages import dosages_of_calls
from ..ops.genotypes import CALL_BITS
from ..ops.packing import take_samples
from .errors import InputError
from .headings import refuse_heading
from .ids import first_ids
from .rows import Listed, RowsOfFile, check_samples, notes_on_ids, room, selected, stretches
from .stamps import Stamp, stamp_of_map
from .text import WHITESPACE, parse_numbers, parse_positions, read_text_table

MAGIC = b"\x6c\x1b"
SNP_MAJOR = 1
HEADER_BYTES = 3
LOOKED_AT = 2000  # padding is looked at in so many variants, spread over the file
NEIGHBOURS = 64  # so many bytes before the padding say how common a call is
WINDOW_BP = 5_000_000  # variants within this distance may be in LD
IMPLAUSIBLE = -30.0  # a sample who has the padding's call everywhere with a smaller log-probability is no sample


@dataclass(frozen=True)
class BedFile(Listed):
    """One PLINK 1 fileset, open for reading: a :class:`~gpu_reml.io.GenotypeFile`.

    ``samples``: fid, iid (strings), in .fam order.  ``variants``: chrom, id, a1, a2 (strings), cm (float64,
    centimorgan), bp (int64), in .bim order; a1 is the counted allele.  ``packed``: read-only memory map, uint8
    (m, ceil(n / 4)), of the bytes that follow the magic.  ``notes``: what was noticed and is no error.  ``stamp``: the
    .bed when it was mapped.
    """

    prefix: str
    samples: pd.DataFrame
    variants: pd.DataFrame
    packed: np.ndarray
    notes: tuple[str, ...] = ()
    stamp: Stamp | None = None

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return tuple(Path(f"{self.prefix}.{suffix}") for suffix in ("bed", "bim", "fam"))

    def is_mapped(self, samples: np.ndarray | None, variants: np.ndarray | None) -> bool:
        """Whether :meth:`read_packed` returns a view of the map: all samples in file order, one stretch of variants."""
        return samples is None and (variants is None or _is_stretch(variants))

    def read_packed(
        self, samples: np.ndarray | None = None, variants: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """uint8 (m, ceil(n / 4)): a view of the map where :meth:`is_mapped` and ``out`` is None, else one copy."""
        if out is None and self.is_mapped(samples, variants):
            return self.packed if variants is None else self.packed[_stretch(variants)]
        chosen, index = selected(self.num_variants, variants), selected(self.num_samples, samples)
        out = room(len(chosen), len(index), CALL_BITS, out)
        for rows, packed in self._blocks(chosen):
            out[rows] = packed if samples is None else take_samples(packed, index)
        return out

    def read_dosages(
        self,
        samples: np.ndarray | None = None,
        variants: np.ndarray | None = None,
        bits: int = 16,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(m, n) calls as dosages of ``bits`` bits: whole numbers of copies."""
        chosen, index = selected(self.num_variants, variants), selected(self.num_samples, samples)
        out = room(len(chosen), len(index), bits, out)
        for rows, packed in self._blocks(chosen):
            dosages_of_calls(packed, bits, index, out[rows])
        return out

    def piece(self, variants: np.ndarray) -> "BedFile":
        """The file with these variants alone, without tables: for another process, which reads their bytes and no
        others."""
        rows = RowsOfFile.of(self.paths[0].absolute(), HEADER_BYTES, self.packed.shape[1], variants)
        return replace(self, samples=range(self.num_samples), variants=range(len(variants)), packed=rows, notes=())

    def _blocks(self, chosen: np.ndarray):
        """(rows of the result, packed bytes of those variants), a block at a time."""
        for rows in stretches(len(chosen), self.packed.shape[1]):
            wanted = chosen[rows]
            yield rows, self.packed[_stretch(wanted) if _is_stretch(wanted) else wanted]


def _is_stretch(variants: np.ndarray) -> bool:
    return len(variants) > 0 and (np.diff(variants) == 1).all()


def _stretch(variants: np.ndarray) -> slice:
    return slice(int(variants[0]), int(variants[-1]) + 1)


def read_bed(prefix: str | Path) -> BedFile:
    """Open ``prefix``.bed, .bim and .fam (``prefix`` may end in .bed).

    The text files are parsed here and not by bed-reader, which takes ``#`` for the start of a comment and does not
    name the line of an error; the tests hold the two parsers equal.  Cost: the text files, and the ends of a few
    variants.

    Raises:
        InputError: a missing file, a malformed or empty .fam or .bim (with its line), a repeated FID + IID, a .bed
            that is not SNP-major, whose size does not fit the .fam and .bim, or whose padding shows another number of
            samples than the .fam has.

    >>> import pathlib, tempfile
    >>> from gpu_reml import read_bed
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "tiny.bed").write_bytes(bytes([0x6C, 0x1B, 1, 0b00111000, 0b00100010]))
    >>> _ = (folder / "tiny.bim").write_text("1 rs1 0 100 A G\\n1 rs2 0 200 C T\\n")
    >>> _ = (folder / "tiny.fam").write_text("1 a 0 0 0 -9\\n1 b 0 0 0 -9\\n1 c 0 0 0 -9\\n")
    >>> found = read_bed(folder / "tiny")
    >>> found.samples["iid"].tolist(), found.variants["id"].tolist()
    (['a', 'b', 'c'], ['rs1', 'rs2'])
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
    stamp = stamp_of_map(paths["bed"])
    packed = _map_bed(paths["bed"], len(samples), len(variants))
    _check_padding(paths, packed, samples, variants)
    return BedFile(prefix, samples, variants, packed, notes_on_ids(paths["bim"], variants), stamp)


def _read_fam(path: Path) -> pd.DataFrame:
    table = read_text_table(path, ".fam", "FID IID father mother sex phenotype", min_width=6, sep=WHITESPACE)
    if not len(table.fields):
        return check_samples(path, pd.DataFrame({"fid": [], "iid": []}))
    refuse_heading(f"{path}, line 1", table.fields.iloc[0].tolist())
    return check_samples(path, pd.DataFrame({"fid": table.fields[0], "iid": table.fields[1]}))


def _read_bim(path: Path) -> pd.DataFrame:
    table = read_text_table(path, ".bim", "chromosome id cM position A1 A2", min_width=6, sep=WHITESPACE)
    if not len(table.fields):
        raise InputError(f"{path} is empty; expected one line for each variant")
    if table.fields.shape[1] != 6:
        raise InputError(f"{table.where(0)}: expected 6 fields, found {table.fields.shape[1]}; is this a .bim file?")
    chrom, ids, cm, bp, a1, a2 = (table.fields[k] for k in range(6))

    def where(row: int) -> str:
        return f"{table.where(row)} (variant {ids[row]})"

    return pd.DataFrame(
        {
            "chrom": chrom,
            "id": ids,
            "cm": parse_numbers(cm, "genetic position (cM)", where),
            "bp": parse_positions(bp, where),
            "a1": a1,
            "a2": a2,
        }
    )


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


def _check_padding(paths: dict[str, Path], packed: np.ndarray, samples: pd.DataFrame, variants: pd.DataFrame) -> None:
    """Tell from the padding whether the .fam lost or gained a line, which the .bed's size may not show: four samples
    share a byte.

    PLINK pads a variant's last byte with zeros, which as calls are two copies of A1.  A pair of bits in the padding
    that is not zero belongs to a sample who is not in the .fam; a last sample with nothing but zeros is padding.  That
    a person has two copies at every variant of a window is no more probable than at the one where they are rarest,
    whatever the LD, and windows count as independent.
    """
    last = packed.shape[1] - 1
    rows = np.unique(np.linspace(0, len(packed) - 1, LOOKED_AT).astype(np.int64))
    ends = np.asarray(packed[rows, max(0, last - NEIGHBOURS) :])
    in_last = len(samples) - 4 * last
    if in_last < 4 and (ends[:, -1] >> (2 * in_last)).any():
        raise InputError(
            f"{paths['bed']}: the bits after the last of the {len(samples)} samples of {paths['fam']} are not zero, so "
            "it holds more samples than that, or samples in another order; copy the three files again, together (or "
            "rewrite them with plink --make-bed, if another program wrote the .bed)"
        )
    two_copies = np.stack([(ends >> shift) & 3 == 0 for shift in (0, 2, 4, 6)], axis=2).reshape(len(ends), -1)
    two_copies = two_copies[:, : two_copies.shape[1] - 4 + in_last]
    if not two_copies[:, -1].all() or two_copies.shape[1] < 2:
        return
    share = (two_copies[:, :-1].sum(axis=1) + 0.5) / two_copies.shape[1]
    places = [variants["chrom"].to_numpy()[rows], variants["bp"].to_numpy()[rows] // WINDOW_BP]
    if np.log(pd.Series(share).groupby(places).min()).sum() < IMPLAUSIBLE:
        raise InputError(
            f"{paths['bed']}: the last sample of {paths['fam']} ({first_ids(samples.tail(1))}) has two copies of A1 in "
            f"every variant looked at ({len(rows)}), as the padding after the last sample has; the .fam has a line too "
            "many: copy the three files again, together"
        )
