"""BGEN genotypes (layout 2: versions 1.2 and 1.3), expanded a variant at a time and packed at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from ..ops.dosages import calls_of_dosages, encode_dosages
from ..ops.genotypes import CALL_BITS
from .bgen_blocks import ZSTD, Header, Variant, copies_of_block, read_header, walk
from .content import opened
from .errors import InputError
from .headings import SAMPLE_NAMES, key_of, plain
from .plausible import check_words
from .pvar import NO_FID
from .rows import Listed, check_samples, notes_on_ids, room, selected, stretches
from .stamps import Stamp, stamp_of
from .text import WHITESPACE, read_text_table

HARD_CALL = 0.1  # a dosage is called where it is no farther from a whole number; this is PLINK 2's default


@dataclass(frozen=True)
class BgenFile(Listed):
    """One BGEN file, open for reading: a :class:`~gpu_reml.io.GenotypeFile`.

    ``variants``: a1 is the second allele, a2 the first (``ref-first`` of PLINK 2); cm is 0.
    ``places`` (m, 2): byte where a variant's genotypes begin, and how many there are.
    Dosages are rounded to 2^-14 copies, PLINK 2's unit; a call is the whole number within ``HARD_CALL``, if any.
    ``stamp``: the file when its variants were read.
    """

    prefix: str
    samples: pd.DataFrame
    variants: pd.DataFrame
    paths: tuple[Path, Path, Path]
    places: np.ndarray
    compression: int
    notes: tuple[str, ...] = ()
    stamp: Stamp | None = None

    def read_packed(
        self, samples: np.ndarray | None = None, variants: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """uint8 (m, ceil(n / 4)): calls in .bed coding."""
        chosen, index = selected(self.num_variants, variants), selected(self.num_samples, samples)
        out = room(len(chosen), len(index), CALL_BITS, out)
        for rows, copies in self._blocks(chosen):
            dosages = np.empty((len(copies), len(index)), np.uint16)
            encode_dosages(copies, 16, index, dosages)
            calls_of_dosages(dosages, HARD_CALL, out[rows])
        return out

    def read_dosages(
        self,
        samples: np.ndarray | None = None,
        variants: np.ndarray | None = None,
        bits: int = 16,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(m, n) dosages of ``bits`` bits."""
        chosen, index = selected(self.num_variants, variants), selected(self.num_samples, samples)
        out = room(len(chosen), len(index), bits, out)
        for rows, copies in self._blocks(chosen):
            encode_dosages(copies, bits, index, out[rows])
        return out

    def piece(self, variants: np.ndarray) -> "BgenFile":
        """The file with these variants alone, without tables but for their ids and places: for another process."""
        kept = self.variants[["id", "chrom", "bp"]].iloc[variants].reset_index(drop=True)
        places = self.places[variants]
        return replace(
            self,
            samples=range(self.num_samples),
            variants=kept,
            paths=tuple(path.absolute() for path in self.paths),
            places=places,
            notes=(),
        )

    def _blocks(self, chosen: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows of the result, copies of the second allele, NaN where missing), a block of variants at a time."""
        buffer = np.empty((0, self.num_samples), np.float32)
        with opened(self.paths[0], "BGEN file") as file:
            for rows in stretches(len(chosen), self.num_samples * buffer.itemsize):
                wanted = chosen[rows]
                if len(buffer) < len(wanted):
                    buffer = np.empty((len(wanted), self.num_samples), np.float32)
                for target, row in zip(buffer, wanted, strict=False):
                    target[:] = self._copies(file, row)
                yield rows, buffer[: len(wanted)]

    def _copies(self, file: BinaryIO, row: int) -> np.ndarray:
        """(n,) float32 expected copies of the second allele of a variant."""
        start, length = self.places[row].tolist()
        file.seek(start)
        variant = f"variant {self.variants['id'].iat[row]} at {self.variants['chrom'].iat[row]}:" + str(
            self.variants["bp"].iat[row]
        )
        try:
            copies, num_odd = copies_of_block(file.read(length), self.compression, self.num_samples)
        except ValueError as error:
            raise InputError(f"{self.paths[0]}: {variant}: {error}; copy the file again, or write it again") from None
        if num_odd:
            raise InputError(
                f"{self.paths[0]}: {variant} is not diploid in {num_odd} samples; leave such variants out (`autosome`)"
            )
        return copies


def read_bgen(path: str | Path, sample: str | Path | None = None) -> BgenFile:
    """Open a BGEN file (``path`` may lack its .bgen).

    ``sample``: an Oxford .sample file; by default the one of the same name beside it, or else the ids in the BGEN
    itself (FID 0, as PLINK 2 writes where there is none).  Cost: one walk over the file that skips the genotypes.

    Raises:
        InputError: a missing or malformed file, layout 1, a variant that is not biallelic, no sample ids, another
            number of them than the BGEN holds, or the same ids in another order; zstandard is not installed and needed.
    """
    prefix = str(path).removesuffix(".bgen")
    bgen = Path(f"{prefix}.bgen")
    if not bgen.is_file():
        raise InputError(f"BGEN file not found: {bgen}; check the path")
    stamp = stamp_of(bgen)
    beside = Path(f"{prefix}.sample")
    sample = Path(sample) if sample is not None else (beside if beside.is_file() else None)
    with opened(bgen, "BGEN file") as file, _reading(bgen):
        header = read_header(file)
        if header.layout != 2:
            raise InputError(
                f"{bgen} is BGEN 1.1 (layout {header.layout}); rewrite it with qctool or plink2 as BGEN 1.2"
            )
        if header.compression == ZSTD and find_spec("zstandard") is None:
            raise InputError(f"{bgen}: reading it needs the package zstandard; pip install 'gpu-reml[zst]'")
        samples = _embedded_samples(bgen, header) if sample is None else _read_sample(sample)
        if len(samples) != header.num_samples:
            raise InputError(
                f"{sample} lists {len(samples)} samples, but {bgen} holds {header.num_samples}; give the .sample that "
                "came with it"
            )
        if sample is not None and header.iids is not None:
            _check_order(bgen, sample, list(header.iids), samples)
        variants, places = _read_variants(bgen, walk(file, header))
    paths, notes = (bgen, bgen, sample or bgen), notes_on_ids(bgen, variants)
    return BgenFile(prefix, samples, variants, paths, places, header.compression, notes, stamp)


def _embedded_samples(bgen: Path, header: Header) -> pd.DataFrame:
    if header.iids is None:
        raise InputError(f"{bgen} holds no sample ids; give the .sample file that came with it")
    iid = pd.Series(header.iids, dtype=str)
    return check_samples(bgen, pd.DataFrame({"fid": pd.Series(NO_FID, iid.index, dtype=str), "iid": iid}))


def _check_order(bgen: Path, sample: Path, embedded: list[str], samples: pd.DataFrame) -> None:
    """A .sample whose ids are those in the BGEN has them in its order; a BGEN may as well hold other ids, or none."""
    for column in (samples["iid"], samples["fid"] + "_" + samples["iid"]):
        if column.tolist() != embedded and sorted(column) == sorted(embedded):
            i = int(np.argmax(column.to_numpy() != np.array(embedded, dtype=object)))
            raise InputError(
                f"{sample}: sample {i + 1} is {column[i]}, and {embedded[i]} in {bgen}, which holds the same ids in "
                "another order; give the .sample that came with it, or leave it out"
            )


def _read_sample(path: Path) -> pd.DataFrame:
    """fid, iid of an Oxford .sample: two header lines, then ID_1 and ID_2 (FID and IID), or a single ID."""
    table = read_text_table(path, ".sample", "ID_1 ID_2 missing", min_width=1, sep=WHITESPACE)
    fields = table.fields
    if len(fields) < 2 or fields.iloc[1, 0] != "0":
        raise InputError(f"{path}: expected the two header lines of a .sample (ID_1 ID_2 missing, then 0 0 0)")
    has_fid = _has_two_ids(path, [str(word) for word in fields.iloc[0]], fields.shape[1] > 1 and fields.iloc[1, 1])
    ids = fields.iloc[2:].reset_index(drop=True)
    fid = ids[0] if has_fid else pd.Series(NO_FID, ids.index, dtype=str)
    return check_samples(path, pd.DataFrame({"fid": fid, "iid": ids[1] if has_fid else ids[0]}))


def _has_two_ids(path: Path, names: list[str], second_type: str | bool) -> bool:
    """Whether the first two columns are ids, by their names and the type below the second, which is 0 for an id."""
    keys = [key_of(name, SAMPLE_NAMES) for name in names[:2]]
    if keys in (["fid", "iid"], ["iid", "iid"]):  # these are headed ID_1 ID_2, FID IID, or ID ID_2
        return True
    if keys[:1] in (["iid"], ["fid"]) and (plain(names[0]) != "fid") and (names[1:2] in ([], ["missing"])):
        return False
    if keys[0] == "iid" and keys[1:] == [None] and second_type not in ("0", False):
        return False
    raise InputError(
        f"{path}: columns {' '.join(names[:2])} are not known for ids; begin the first line with ID_1 ID_2 missing, or "
        "with ID missing"
    )


def _read_variants(bgen: Path, found: Iterator[Variant]) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of variants, and where their genotypes are."""
    rows, places = [], []
    for variant in found:
        if len(variant.alleles) != 2:
            raise InputError(
                f"{bgen}: variant {variant.id} at {variant.chrom}:{variant.bp} has {len(variant.alleles)} alleles; "
                "keep the biallelic ones (plink2 --max-alleles 2), or split it (bcftools norm -m-)"
            )
        rows.append((variant.chrom, variant.id, variant.bp, *variant.alleles))
        places.append((variant.start, variant.length))
    if not rows:
        raise InputError(f"{bgen} holds no variant")
    chrom, ids, bp, a2, a1 = zip(*rows, strict=True)
    for words in (chrom, ids, a1, a2):
        check_words(str(bgen), words)
    variants = pd.DataFrame({"chrom": chrom, "id": ids, "cm": 0.0, "bp": np.array(bp, np.int64), "a1": a1, "a2": a2})
    return variants.astype({name: str for name in ("chrom", "id", "a1", "a2")}), np.array(places, np.int64)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the file does not hold, as an error that names it."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:  # text that is not UTF-8 is a ValueError too
        raise InputError(f"{path}: it cannot be read as BGEN ({error}); check it or write it again") from None
