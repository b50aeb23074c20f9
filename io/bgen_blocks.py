"""The layout of a BGEN file: its header, where each variant's genotypes are, and what the bits of them mean.

Every length in the file is compared with what is left of it before memory is taken for what it promises.
Source: Band & Marchini 2018, bioRxiv 308296, and the specification at bgenformat.org, layout 2.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from ..ops.compile import compiled

MOST_TEXT = 1 << 20  # a name or allele has at most so many bytes
MAGICS = (b"bgen", b"\0\0\0\0")
UNCOMPRESSED, ZLIB, ZSTD = range(3)
_COMPRESSION_MASK, _LAYOUT_SHIFT, _LAYOUT_MASK, _HAS_IDS = 3, 2, 15, 1 << 31
_FIXED_BYTES = 10  # a variant's genotypes take so many bytes beside a byte a sample and the probabilities
_MISSING, _PLOIDY = 0x80, 0x3F
_MOST_BITS = 32


class Header(NamedTuple):
    """What the start of the file says."""

    num_variants: int
    num_samples: int
    layout: int
    compression: int
    iids: tuple[str, ...] | None  # it is None where the file holds no ids
    first: int  # the first variant begins at this byte


class Variant(NamedTuple):
    """A variant, and where its block of genotypes is: ``length`` bytes from ``start``."""

    chrom: str
    id: str
    bp: int
    alleles: tuple[str, ...]
    start: int
    length: int


class _Bytes:
    """Bytes of a file in order; ValueError where it has fewer than are asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.place, self.size = file, 0, size

    def take(self, count: int) -> bytes:
        self.skip(count)
        found = self.file.read(count)
        if len(found) != count:
            raise ValueError(f"it changed while it was read, at byte {self.place}")
        return found

    def skip(self, count: int) -> None:
        """Go past bytes that the caller reads or seeks over."""
        if count > self.size - self.place:
            raise ValueError(f"{count} bytes are promised at byte {self.place}, and {self.size - self.place} are left")
        self.place += count

    def seek(self, place: int) -> None:
        self.place = self.file.seek(place)

    def number(self, kind: str) -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self, kind: str) -> str:
        """A string after its length."""
        length = self.number(kind)
        if length > MOST_TEXT:
            raise ValueError(f"a name of {length} bytes at byte {self.place}")
        return readable(self.take(length).decode(), self.place)


def readable(text: str, place: int) -> str:
    """The text; ValueError where it has characters that no name has, as a line break."""
    if not text.isprintable():
        raise ValueError(f"{text[:20]!r} before byte {place} is no name")
    return text


def read_header(file: BinaryIO) -> Header:
    """Header and sample ids; ValueError for what is none."""
    source = _Bytes(file, file.seek(0, io.SEEK_END))
    source.seek(0)
    first = 4 + source.number("I")
    length, num_variants, num_samples = (source.number("I") for _ in range(3))
    if source.take(4) not in MAGICS or length < 20:
        raise ValueError("it does not begin with the header of a BGEN file")
    source.skip(length - 20)
    source.seek(source.place)
    flags = source.number("I")
    iids = _read_iids(source, num_samples) if flags & _HAS_IDS else None
    if not source.place <= first <= source.size:
        raise ValueError(f"its first variant is said to be at byte {first}, and it has {source.size}")
    compression = flags & _COMPRESSION_MASK
    if compression > ZSTD:
        raise ValueError(f"compression {compression}, which BGEN does not have")
    return Header(num_variants, num_samples, flags >> _LAYOUT_SHIFT & _LAYOUT_MASK, compression, iids, first)


def _read_iids(source: _Bytes, num_samples: int) -> tuple[str, ...]:
    length, count = source.number("I"), source.number("I")
    end = source.place + length - 8
    if count != num_samples or 2 * count > length:
        raise ValueError(f"it has {num_samples} samples, and {count} sample ids in {length} bytes")
    iids = tuple(source.text("H") for _ in range(count))
    if source.place != end:
        raise ValueError(f"its sample ids end at byte {source.place}, and should at {end}")
    return iids


def walk(file: BinaryIO, header: Header) -> Iterator[Variant]:
    """The variants of layout 2 in order; their genotypes are skipped.  ValueError where one is not whole."""
    source = _Bytes(file, file.seek(0, io.SEEK_END))
    source.seek(header.first)
    for _ in range(header.num_variants):
        varid, rsid, chrom = (source.text("H") for _ in range(3))
        bp, count = source.number("I"), source.number("H")
        alleles = tuple(source.text("I") for _ in range(count))
        start = source.place + 4
        length = source.number("I")
        source.skip(length)
        source.seek(start + length)
        yield Variant(chrom, rsid or varid, bp, alleles, start, length)
    if source.place != source.size:
        raise ValueError(f"{source.size - source.place} bytes follow its {header.num_variants} variants")


def copies_of_block(block: bytes, compression: int, num_samples: int) -> tuple[np.ndarray, int]:
    """((n,) float32 expected copies of the second allele, NaN where missing; samples that are not diploid).

    The block is of a biallelic variant.  The copies are meaningless where a sample is not diploid.

    Raises:
        ValueError: a block that is damaged, of another number of samples, or with probabilities above 1.
    """
    stored = _expanded(block, compression, num_samples)
    if len(stored) < _FIXED_BYTES + num_samples:
        raise ValueError(f"{len(stored)} bytes of genotypes are too few for {num_samples} samples")
    count, num_alleles = struct.unpack("<IH", stored[:6])
    if (count, num_alleles) != (num_samples, 2):
        raise ValueError(f"its genotypes are of {count} samples and {num_alleles} alleles")
    ploidy = np.frombuffer(stored, np.uint8, num_samples, 8)
    num_odd = int((ploidy & _PLOIDY != 2).sum())
    if num_odd:
        return np.empty(num_samples, np.float32), num_odd
    is_phased, bits = stored[8 + num_samples], stored[9 + num_samples]
    expected = _FIXED_BYTES + num_samples + (2 * num_samples * bits + 7) // 8
    if is_phased > 1 or not 1 <= bits <= _MOST_BITS or len(stored) != expected:
        raise ValueError(f"{len(stored)} bytes of genotypes, phased {is_phased}, of {bits} bits, do not fit together")
    copies = np.empty(num_samples, np.float32)
    if _sum_copies(_numbers(stored[_FIXED_BYTES + num_samples :], bits), bits, bool(is_phased), ploidy, copies):
        raise ValueError("a sample's probabilities add up to more than 1")
    return copies, 0


def _expanded(block: bytes, compression: int, num_samples: int) -> bytes:
    if compression == UNCOMPRESSED:
        return block
    if len(block) < 4:
        raise ValueError(f"{len(block)} bytes of genotypes")
    size = int.from_bytes(block[:4], "little")
    if size > _FIXED_BYTES + num_samples * (1 + 2 * _MOST_BITS // 8):
        raise ValueError(f"{size} bytes of genotypes are too many for {num_samples} samples")
    try:
        if compression == ZLIB:
            stream = zlib.decompressobj()
            found = stream.decompress(block[4:], size + 1)
            is_whole = stream.eof and not stream.unused_data
        else:
            import zstandard

            found = zstandard.ZstdDecompressor().decompress(block[4:], max_output_size=size, allow_extra_data=False)
            is_whole = True
    except Exception as error:  # this is zlib.error or ZstdError, and the latter exists only with its package
        raise ValueError(f"genotypes cannot be expanded ({error})") from None
    if not is_whole or len(found) != size:
        raise ValueError(f"genotypes do not expand to the {size} bytes that are promised")
    return found


def _numbers(packed: bytes, bits: int) -> np.ndarray:
    """The whole numbers of ``bits`` bits that are packed one after another, little-endian."""
    if bits in (8, 16, 32):
        return np.frombuffer(packed, f"<u{bits // 8}")
    numbers = np.empty(8 * len(packed) // bits, np.uint32)
    _unpack(np.frombuffer(packed, np.uint8), bits, numbers)
    return numbers


@compiled
def _sum_copies(numbers, bits, is_phased, ploidy, copies):
    """Copies of the second allele from two probabilities of ``bits`` bits a sample; how many samples' exceed 1."""
    largest = (np.int64(1) << bits) - 1
    exceeding = 0
    for i in range(len(copies)):
        first, second = np.int64(numbers[2 * i]), np.int64(numbers[2 * i + 1])
        if ploidy[i] & _MISSING:
            copies[i] = np.nan
        elif is_phased:  # the probabilities are of the first allele, in either haplotype
            copies[i] = (2 * largest - first - second) / largest
        else:  # the probabilities are of no copy of the second allele, and of one
            exceeding += first + second > largest
            copies[i] = (2 * largest - 2 * first - second) / largest
    return exceeding


@compiled
def _unpack(packed, bits, numbers):
    for k in range(len(numbers)):
        numbers[k] = _bits_at(packed, k * bits, bits)


@compiled
def _bits_at(packed, place, bits):
    """The little-endian number of ``bits`` bits that begins ``place`` bits into the bytes."""
    found = np.int64(0)
    taken = 0
    byte, shift = place >> 3, place & 7
    while taken < bits:
        found |= (np.int64(packed[byte]) >> shift) << taken
        taken += 8 - shift
        byte, shift = byte + 1, 0
    return found & ((np.int64(1) << bits) - 1)
