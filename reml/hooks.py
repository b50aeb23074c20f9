"""How long computations talk to their caller: a fit between iterations, others between steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

Keep = Callable[[str, Callable[[], tuple]], tuple]
"""Gives what a step, named, makes: arrays, numbers and tuples of these; or what is kept of it from a run before, to
the bit."""


def made_anew(_name: str, make: Callable[[], tuple]) -> tuple:
    """The :data:`Keep` that keeps nothing."""
    return make()


class Hooks(NamedTuple):
    """``callback`` gets the record of every iteration; ``checkpoint`` a value to go on from, which is ``resume`` of a
    later fit of the same data and settings."""

    callback: Callable[[Any], None] | None = None
    checkpoint: Callable[[Any], None] | None = None
    resume: Any = None

    def report(self, record: Any) -> None:
        if self.callback is not None:
            self.callback(record)

    def save(self, value: Any) -> None:
        if self.checkpoint is not None:
            self.checkpoint(value)
