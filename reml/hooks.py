"""How a fit talks to its caller between iterations."""

from collections.abc import Callable
from typing import Any, NamedTuple


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
