"""Numbers as flags take them."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a whole number, found {text}") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a number, found {text}") from None


def at_least(least: int, what: str) -> Callable[[str], int]:
    """A whole number of so many things or more."""

    def convert(text: str) -> int:
        value = whole(text)
        if value < least:
            raise ArgumentTypeError(f"expected {least} {what} or more, found {text}")
        return value

    return convert


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


def positive_float(text: str) -> float:
    value = number(text)
    if not value > 0:
        raise ArgumentTypeError(f"expected a positive number, found {text}")
    return value


def gibibytes(text: str) -> float:
    value = number(text)
    if not 0 <= value < float("inf"):
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


def finite_float(text: str) -> float:
    value = number(text)
    if not math.isfinite(value):
        raise ArgumentTypeError(f"expected a number, found {text}")
    return value


def not_negative(text: str) -> float:
    value = finite_float(text)
    if value < 0:
        raise ArgumentTypeError(f"expected 0 or more, found {text}")
    return value
