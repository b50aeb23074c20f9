"""Numbers as flags take them: plain decimal digits, so that what is read is what was meant.

Python's own conversions take more: "1_000", digits of other scripts, "nan", and "1e400" as infinity.
"""

import re
from argparse import ArgumentTypeError
from collections.abc import Callable

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
LARGEST = 2**63 - 1
MOST_THREADS = 4096


def whole(text: str) -> int:
    """A whole number of 64 bits."""
    if not _WHOLE.fullmatch(text):
        raise ArgumentTypeError(f"expected a whole number, found {text}")
    if len(text) > len(str(LARGEST)) + 1 or abs(int(text)) > LARGEST:
        raise ArgumentTypeError(f"expected a whole number of at most {LARGEST}, found {text}")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    if not _NUMBER.fullmatch(text):
        raise ArgumentTypeError(f"expected a number, found {text}")
    value = float(text)
    if abs(value) == float("inf"):
        raise ArgumentTypeError(f"expected a number, found {text}, which is too large")
    return value


def at_least(least: int, what: str) -> Callable[[str], int]:
    """A whole number of so many things or more."""

    def convert(text: str) -> int:
        value = whole(text)
        if value < least:
            raise ArgumentTypeError(f"expected {least} {what} or more, found {text}")
        return value

    return convert


def base_pairs(text: str) -> int:
    """A number of base pairs, also in kb or Mb: 1000000, 1000kb and 1Mb are the same."""
    found = re.fullmatch(r"([0-9.]+)\s*(bp|kb|mb)?", text, re.IGNORECASE)
    if found is None or not _NUMBER.fullmatch(found[1]):
        raise ArgumentTypeError(f"expected base pairs, such as 1Mb, 500kb or 250000, found {text}")
    value = number(found[1]) * {"kb": 1e3, "mb": 1e6}.get((found[2] or "").lower(), 1.0)
    if value != int(value) or value > 1e11:
        raise ArgumentTypeError(f"expected whole base pairs, at most 1e11, found {text}")
    return int(value)


def positive_int(text: str) -> int:
    value = whole(text)
    if value < 1:
        raise ArgumentTypeError(f"expected a positive integer, found {text}")
    return value


def count(text: str) -> int:
    value = whole(text)
    if value < 0:
        raise ArgumentTypeError(f"expected 0 or more, found {text}")
    return value


def threads(text: str) -> int:
    value = count(text)
    if value > MOST_THREADS:
        raise ArgumentTypeError(f"expected at most {MOST_THREADS} threads, found {text}")
    return value


def positive_float(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"expected a positive number, found {text}")
    return value


def gibibytes(text: str) -> float:
    value = number(text)
    if not 0 <= value <= LARGEST / 2**30:
        raise ArgumentTypeError(f"expected 0 or more GiB, found {text}")
    return value


def share(text: str) -> float:
    value = number(text)
    if not 0 < value < 1:
        raise ArgumentTypeError(f"expected a number between 0 and 1, found {text}")
    return value


def fraction(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"expected a number from 0 to 1, found {text}")
    return value


def not_negative(text: str) -> float:
    value = number(text)
    if value < 0:
        raise ArgumentTypeError(f"expected 0 or more, found {text}")
    return value


def numbers(text: str) -> list[float]:
    """Several numbers, separated by commas."""
    return [number(part.strip()) for part in text.split(",")]


def wholes(text: str) -> list[int]:
    """Several whole numbers, separated by commas."""
    return [whole(part.strip()) for part in text.split(",")]
