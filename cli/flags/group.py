"""How a group of flags is declared, added to a parser, and read.

A group is a frozen dataclass.  Each field that a user sets is made by :func:`flag`, which has the flag's names and what
argparse is told of it; the field's default is the flag's.  So a group is a plain value: a test or another command makes
one by naming the fields that differ.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self


class Declaration(NamedTuple):
    """Names of a flag and what argparse is told of it.

    ``other``: further names that set the same value, of which only one may be given; ``unless``: flags of a group that
    have the same word here exclude each other.
    """

    names: tuple[str, ...]
    takes: dict[str, Any]
    other: tuple[str, ...]
    unless: str | None


def flag(*names: str, default: Any = None, other: tuple[str, ...] = (), unless: str | None = None, **takes: Any) -> Any:
    """A field that these flags set.  A default of () is that of a list."""
    return field(default=default, metadata={"flag": Declaration(names, takes, other, unless)})


@dataclass(frozen=True)
class Flags:
    """A group of flags."""

    @classmethod
    def add(cls, group: argparse._ArgumentGroup) -> None:
        """Add the flags to a group of a parser."""
        exclusive: dict[str, Any] = {}
        for each in fields(cls):
            declared: Declaration | None = each.metadata.get("flag")
            if declared is None:  # a command sets this field, and no flag does
                continue
            default = list(each.default) if isinstance(each.default, tuple) else each.default
            takes = {**declared.takes, "dest": each.name, "default": default}
            place = group
            if declared.unless or declared.other:
                word = declared.unless or each.name
                if word not in exclusive:
                    exclusive[word] = group.add_mutually_exclusive_group()
                place = exclusive[word]
            place.add_argument(*declared.names, **takes)
            if declared.other:
                place.add_argument(*declared.other, **{**takes, "help": "the same (GPU_REML's name)"})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The group as parsed; what a command has no flag for keeps its default."""
        given = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
