"""Where the parts of an archive end: a file that was cut between two of them looks whole to a decompressor.

Sources: RFC 8878 (Zstandard frames and blocks), RFC 1952 (gzip members), the SAM specification 4.1 (BGZF).
"""

import zlib

_ZSTD_FRAME, _ZSTD_SKIPPED = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
_BGZF_FIELD = b"BC\x02\x00"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_SLICE = 1 << 16
_CUT = "its last part ends in the middle of a line"


def zstd_fault(stored: bytes, ends_line: bool) -> str:
    """What shows that a part of an archive is missing, or nothing.  Only lengths are read; nothing is expanded.

    ``ends_line``: whether its text ends with a line.  Where an archive of several parts does not, it was cut between.
    """
    start = count = 0
    while start < len(stored):
        magic = int.from_bytes(stored[start : start + 4], "little")
        if magic in _ZSTD_SKIPPED:
            start += 8 + int.from_bytes(stored[start + 4 : start + 8], "little")
        elif magic == _ZSTD_FRAME:
            start, count = _end_of_zstd_frame(stored, start), count + 1
        else:
            return f"byte {start} begins no Zstandard frame"
    if start > len(stored):
        return "it ends within a Zstandard frame"
    return _CUT if count > 1 and not ends_line else ""


def _end_of_zstd_frame(stored: bytes, start: int) -> int:
    """Where a frame would end, which may be after the file does."""
    descriptor = stored[start + 4] if start + 4 < len(stored) else 0
    is_single = bool(descriptor & 0x20)
    size_bytes = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
    place = start + 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3] + size_bytes
    is_last = False
    while not is_last and place < len(stored):
        block = int.from_bytes(stored[place : place + 3], "little")
        is_last, is_repeat, size = bool(block & 1), block >> 1 & 3 == 1, block >> 3
        place += 3 + (1 if is_repeat else size)
    if not is_last:  # the file ends before a block that is marked as the last
        return len(stored) + 1
    return place + (4 if descriptor & 4 else 0)


def gzip_fault(stored: bytes, ends_line: bool) -> str:
    """What shows that a part of a valid archive is missing, or nothing, as :func:`zstd_fault`."""
    if stored[12:16] == _BGZF_FIELD:  # bgzip ends its files with an empty block, and without it the file is cut
        return "" if stored.endswith(_BGZF_END) else "bgzip's last block is missing"
    return _CUT if not ends_line and _has_several_members(stored) else ""


def _has_several_members(stored: bytes) -> bool:
    member = zlib.decompressobj(31)
    for start in range(0, len(stored), _SLICE):
        rest = stored[start : start + _SLICE]
        while rest and not member.eof:
            member.decompress(rest, _SLICE)
            rest = member.unconsumed_tail
        if member.eof:
            return bool((member.unused_data + stored[start + _SLICE :]).strip(b"\0"))
    return False
