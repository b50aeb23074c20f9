"""Steps of a scan on disk, so that an ended run goes on where it was: one file for those of every few seconds."""

import time
from collections.abc import Callable
from glob import escape
from itertools import count
from pathlib import Path
from typing import Any

from gpu_reml import io
from gpu_reml.reml import Hooks, pack, unpack

from .flags.output import Checkpoints


class Journal:
    """What is kept of the steps of one computation (:data:`~gpu_reml.reml.hooks.Keep`), in ``STEM.K.checkpoint.npz``.

    ``identity``: makes what must be the same for the files to be of use; it is made once there is one to read or write.
    """

    def __init__(self, stem: str, identity: Callable[[], dict[str, Any]], asked: Checkpoints):
        self.stem, self._make_identity, self._asked = stem, identity, asked
        self._identity: dict[str, Any] | None = None
        self._kept: dict[str, tuple] = {}
        self._pending: dict[str, tuple] = {}
        self._files, self._last = 0, time.monotonic()
        if asked.resume:
            self._read()

    def __call__(self, name: str, make: Callable[[], tuple]) -> tuple:
        """What the step makes, or made in the run before."""
        if name in self._kept:
            return self._kept[name]
        value = self._pending[name] = make()
        self._write()
        return value

    def within(self, prefix: str) -> Callable[[str, Callable[[], tuple]], tuple]:
        """The journal of a part of the computation, whose steps may be named like others'."""
        return lambda name, make: self(f"{prefix}, {name}", make)

    def hooks(self, name: str) -> Hooks:
        """Of a fit that is a step: its state between iterations is kept until it is done."""
        path, identity = f"{self.stem}.{name}.checkpoint.npz", {**self.identity, "fit": name}
        found = io.read_checkpoint(path, identity) if self._asked.resume else None
        last = time.monotonic()

        def save(value: Any) -> None:
            nonlocal last
            if time.monotonic() - last >= self._asked.checkpoint_seconds:
                io.write_checkpoint(path, identity, *pack(value))
                last = time.monotonic()

        return Hooks(checkpoint=save, resume=None if found is None else unpacked(path, found))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this computation from others."""
        if self._identity is None:
            self._identity = self._make_identity()
        return self._identity

    @property
    def resumed(self) -> int:
        """Steps that were read."""
        return len(self._kept)

    def _path(self, number: int) -> Path:
        return Path(f"{self.stem}.{number}.checkpoint.npz")

    def _read(self) -> None:
        for number in count(1):
            path = self._path(number)
            if not path.exists():
                return
            names, values = unpacked(path, io.read_checkpoint(path, self.identity))
            self._kept.update(zip(names, values, strict=True))
            self._files = number

    def _write(self) -> None:
        """Keep what is new, at most every few seconds."""
        if time.monotonic() - self._last < self._asked.checkpoint_seconds:
            return
        if not self._files:
            remove_checkpoints(self.stem)  # what other runs left
        self._files += 1
        names, values = tuple(self._pending), tuple(self._pending.values())
        io.write_checkpoint(self._path(self._files), self.identity, *pack((names, values)))
        self._pending.clear()
        self._last = time.monotonic()


def remove_checkpoints(stem: str) -> None:
    """The files of a computation that is done, or of another one, go."""
    folder, name = Path(stem).parent, Path(stem).name
    for path in folder.glob(f"{escape(name)}.*.checkpoint.npz"):
        path.unlink(missing_ok=True)


def unpacked(path: str | Path, found: tuple) -> Any:
    """The values of a checkpoint; InputError for those of another version."""
    try:
        return unpack(*found)
    except ValueError as error:
        raise io.InputError(f"{path}: {error}; remove it and run without --resume") from None
