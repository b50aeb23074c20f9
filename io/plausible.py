"""What numbers and names may be: anything beyond is a missing code, damage, or would be noticed only after the fit."""

import re
from collections.abc import Iterable

from .errors import InputError

LARGEST = 1e100  # larger measurements are codes for missing values, such as 8.99e307, whose squares overflow
MOST_WEIGHT = 1e30  # a larger weight would overflow in float32 products, which end at 3.4e38
MOST_BP = 10**11  # the longest chromosomes known have some 10^10 base pairs
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# These are all control characters but tab, line feed and carriage return.
CONTROL_BYTES = bytes([*range(9), 11, 12, *range(14, 32), 127])


def check_words(where: str, words: Iterable[str]) -> None:
    """InputError, which starts with ``where``, for an id or name that a table could not hold: one with a control
    character (a tab, a line end), or one that is no text.  Cost: one look at the words joined."""
    words = list(words)
    separated = "\0".join(words)
    if len(_CONTROL.findall(separated)) == max(len(words) - 1, 0) and not _is_torn(separated):
        return
    bad = next(word for word in words if _CONTROL.search(word) or _is_torn(word))
    raise InputError(f"{where}: {bad!r} has a character that no name may have (a control character); rename it")


def _is_torn(text: str) -> bool:
    """Whether the text has half a character, that no file could hold; bytes of a file's name that are not UTF-8 are
    none."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return True
    return False
