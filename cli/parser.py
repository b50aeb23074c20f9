"""The parser of every command: what is wrong in one line, and the flag that was meant.

Words are looked at before argparse does: flags that there are not come first, then values that are missing or empty,
then what argparse finds, then what is missing.
"""

import re
import sys
from argparse import Action, ArgumentParser, BooleanOptionalAction, _ArgumentGroup
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from .aliases import ALIASES, translated
from .elsewhere import CONVERTED, ELSEWHERE, advice_on, command_for
from .flags.group import Flags
from .help import Formatter, Help
from .moved import MOVED

COMMANDS = {
    "gpu-reml": ("main", "make_parser"),
    "gpu-reml-predict": ("predict", "make_predict_parser"),
    "gpu-reml-gwas": ("gwas", "make_gwas_parser"),
    "gpu-reml-sparse": ("sparse", "make_sparse_parser"),
    "gpu-reml-relax": ("relax", "make_relax_parser"),
}
CHECKPOINTS = ("--resume", "--checkpoint-seconds")  # not every command has them
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # word processors turn two hyphens into one of these
EXIT_CODES = """
exit codes: 0 converged; 2 invalid input or unwritable output; 3 not converged, results are written with the reason;
4 device lost or out of memory; 130 interrupted; 143 ended by TERM.
"""
ANSWERS = {"-h", "--help", "--version", "--devices"}  # these are answered whatever stands beside them


class CommandLine(NamedTuple):
    """What a command was told, flag by flag: what groups of flags are read from, notes on flags and records of a run.

    ``values``: of every flag of the command, by name.  ``typed``: that name -> the flag as it was typed, of those that
    were.  ``replaced``: flags that a later one replaces, as notes.  ``words``: the command as it was typed.
    """

    values: dict[str, Any]
    typed: dict[str, str]
    replaced: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def get(self, name: str) -> Any:
        """A value; None where the command has no such flag."""
        return self.values.get(name)


class Need(NamedTuple):
    """Something that has to be given: by one of ``flags``, unless one of ``unless`` is."""

    what: str
    flags: tuple[str, ...]
    unless: tuple[str, ...] = ()


class Typed(NamedTuple):
    """A flag as it was typed, "" before the first, with its values; ``action``: None where there is no such flag."""

    flag: str
    values: list[str]
    action: Action | None

    @property
    def most(self) -> float:
        """Most values that it takes."""
        if self.action is None:
            return float("inf") if self.flag else 0
        return {None: 1, 0: 0, "?": 1}.get(self.action.nargs, float("inf"))

    @property
    def text(self) -> str:
        """As it was typed."""
        return " ".join([self.flag, *self.values])

    @property
    def meant(self) -> list[str] | bool | None:
        """What the flag says; None where one adds to another, so that both count."""
        if isinstance(self.action, BooleanOptionalAction):
            return self.flag.startswith("--no-")
        return self.values if type(self.action).__name__ == "_StoreAction" else None


class Parser(ArgumentParser):
    """argparse's parser with one short line of usage and one line for an error, exit code 2.

    ``example``: flags of a short command that works; ``needs``: what none may be without; ``first``: the flags on the
    first screen of ``--help``.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str,
        example: str,
        needs: Sequence[Need],
        first: Sequence[str] = (),
    ):
        super().__init__(
            prog=prog,
            usage=f"{prog} {example} [any of the flags below]",
            description=description,
            epilog=epilog,
            formatter_class=Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action=Help, first=first)
        self._example, self._needs, self._typed = example, needs, {}

    def add_flags(self, title: str, *groups: type[Flags]) -> _ArgumentGroup:
        """Add groups of flags under one title; returns the place, for more."""
        place = self.add_argument_group(title)
        for each in groups:
            each.add(place)
        return place

    def reword(self, helps: Mapping[str, str]) -> None:
        """Give flags of groups that several commands have the words that fit this one."""
        for flag, text in helps.items():
            self.flags[flag].help = text

    def read(self, args: Sequence[str] | None = None) -> CommandLine:
        """What the words say; exits with what is wrong with them."""
        given = list(map(str, sys.argv[1:] if args is None else args))
        words, notes = translated(given, self.flags)
        typed = self._flags_of(words)
        if not any(each.flag in ANSWERS for each in typed):
            self._check_known(typed)
            self._check_values(typed)
        self._typed = {each.action.dest: each.flag for each in typed if each.action is not None}
        values = vars(self.parse_args(joined_numbers(words)))
        del values["help"]
        self._check_needs(values)
        return CommandLine(values, self._typed, (*replaced(typed), *notes), (self.prog, *given))

    @property
    def flags(self) -> Mapping[str, Action]:
        """Every flag, under all of its names."""
        return self._option_string_actions

    def error(self, message: str):
        message = re.sub(r"\(choose from (.*?)\)", lambda m: f"(choose from {m[1]})".replace("'", ""), message)
        message = re.sub(r"argument (-[^:\s]*):", lambda m: f"{self._name(m[1])}:", " ".join(message.split()))
        message = re.sub(r"with argument (\S+)", lambda m: f"with {self._name(m[1])}", message)
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help all has all flags\n")

    def _name(self, names: str) -> str:
        """Of a flag's names, that which was typed."""
        each = names.split("/")
        return next((name for name in each if name in self._typed.values()), each[0])

    def _flags_of(self, words: Sequence[str]) -> list[Typed]:
        found = [Typed("", [], None)]
        for word in words:
            if is_flag(word):
                name, equals, value = word.partition("=")
                found.append(Typed(name, [value] if equals else [], self.flags.get(name)))
            else:
                found[-1].values.append(word)
        return found

    def _check_known(self, typed: Sequence[Typed]) -> None:
        """Every word that has no meaning, in one line."""
        wrong = {each.flag: self._unknown(each) for each in typed if each.flag and each.action is None}
        for each in typed:
            if len(each.values) > each.most:
                extra = each.values[int(each.most) :]
                wrong[" ".join([each.flag, *extra])] = self._unexpected(each, extra)
        if wrong:
            self.error("; ".join(wrong.values()))

    def _unknown(self, typed: Typed) -> str:
        path = typed.values[0] if typed.values else "FILE"
        is_file = typed.flag in CONVERTED
        meant = command_for(typed.flag, path) if is_file else meaning(typed.flag, self.prog, self.flags)
        return f"unknown flag {typed.flag}" + (f" ({meant})" if meant else "")

    def _unexpected(self, typed: Typed, extra: Sequence[str]) -> str:
        found = f"unexpected {' '.join(map(repr, extra))}"
        if extra[0][:1] in tuple(DASHES):
            return f"{found} (write its dashes as plain hyphens, --)"
        if not typed.flag:
            return f"{found} (every value has a flag before it)"
        takes = "no value" if typed.most == 0 else "one value"
        commas = typed.action is not None and "," in str(typed.action.metavar)
        return f"{found} after {typed.flag}, which takes {takes}" + (": separate several by commas" if commas else "")

    def _check_values(self, typed: Sequence[Typed]) -> None:
        """No value missing or empty."""
        for each in typed:
            if each.action is None:
                continue
            if each.most and not each.values and each.action.nargs not in ("*", "?"):
                self.error(f"{each.flag}: needs a value, {described(each.action)}")
            for value in each.values:
                if not value.strip():
                    self.error(f"{each.flag}: its value is empty; give {described(each.action)}, or leave the flag out")
                if has_empty_entry(value, each.action):
                    self.error(f"{each.flag}: {value!r} has an empty entry; expected {described(each.action)}")

    def _check_needs(self, values: Mapping[str, Any]) -> None:
        """Everything that has to be there, in one line."""
        missing = [need.what for need in self._needs if not any(map(values.get, map(name_of, need.flags)))]
        given = [need.what for need in self._needs if any(map(values.get, map(name_of, need.unless)))]
        missing = [what for what in missing if what not in given]
        if missing:
            listed = " and ".join([*filter(None, [", ".join(missing[:-1])]), missing[-1]])
            self.error(f"missing {listed}; for example: {self.prog} {self._example}")


def replaced(typed: Sequence[Typed]) -> Iterator[str]:
    """Notes on flags that were given once more with another value: the last one counts."""
    last: dict[str, Typed] = {}
    for each in typed:
        if each.action is not None:
            before = last.get(each.action.dest, each)
            if before.meant != each.meant:
                yield f"{before.text} is replaced by {each.text}, which comes after it"
            last[each.action.dest] = each


def name_of(flag: str) -> str:
    """Of the value that a flag sets under its first name."""
    return flag.removeprefix("--").replace("-", "_")


def is_flag(word: str) -> bool:
    """Whether a word begins a flag, and is not the value of one, as -0.5 and -inf are."""
    return len(word) > 1 and word[0] == "-" and not is_negative(word)


def is_negative(word: str) -> bool:
    """Whether a word is meant as a negative number, or several."""
    return re.match(r"-([0-9.]|inf|nan)", word, re.IGNORECASE) is not None


def joined_numbers(words: Sequence[str]) -> Iterator[str]:
    """The words, with negative numbers joined to their flags: argparse itself takes -1e-3 and -inf for flags."""
    held: list[str] = []
    for word in words:
        if held and is_flag(held[0]) and is_negative(word):
            held = [f"{held[0]}={word}"]
        else:
            yield from held
            held = [word]
    yield from held


def described(action: Action) -> str:
    """What a flag takes, as --help has it."""
    if action.choices is not None:
        return f"one of {', '.join(map(str, action.choices))}"
    return str(action.metavar or action.dest.upper())


def has_empty_entry(value: str, action: Action) -> bool:
    """Whether a list has a blank between two separators, or at an end."""
    separators = "".join(c for c in ",;" if c in str(action.metavar or ""))
    if not separators:
        return False
    return not all(part.strip() for part in re.split(f"[{separators}]", value.removesuffix(";")))


def meaning(flag: str, command: str, known: Mapping[str, Action]) -> str:
    """What to give in place of a flag that ``command`` has not; empty where that cannot be told."""
    if flag in MOVED or flag in ELSEWHERE or flag in ALIASES:
        return MOVED.get(flag) or advice_on(flag) or read_elsewhere(flag, command)
    if flag in CHECKPOINTS and flag not in known:
        return f"{command} keeps no checkpoints: run it again without, from its start"
    spelled = "--" + flag.lstrip("-").replace("_", "-").lower()
    if spelled in known:
        return f"write {spelled}"
    others = [name for name, parser in siblings(command) if flag in parser.flags]
    if others:
        return f"is a flag of {', '.join(others)}"
    near = misspelled(spelled, known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return advice_on(flag) or advice_on(spelled)


def read_elsewhere(flag: str, command: str) -> str:
    """Of another program's word, what it is read as by other commands."""
    others = [name for name, parser in siblings(command) if ALIASES[flag].split()[0] in parser.flags]
    return f"is {ALIASES[flag]} of {', '.join(others)}"


def siblings(command: str) -> Iterator[tuple[str, Parser]]:
    """The other commands with their parsers."""
    for name, (module, make) in COMMANDS.items():
        if name != command:
            yield name, getattr(import_module(f".{module}", __package__), make)("")


def misspelled(flag: str, known: Mapping[str, Action]) -> list[str]:
    """Flags that begin with the same two letters and are a slip or two of the keyboard away, or go on from there."""
    near: dict[str, int] = {}
    for other, action in known.items():
        if len(flag) > 5 and other.startswith(flag):
            slips = 0
        else:
            slips = edit_distance(flag, other)
        if other[:4] == flag[:4] and slips <= (1 if len(flag) < 8 else 2):
            first = action.option_strings[0]
            near[first] = min(slips, near.get(first, slips))
    return [other for other, slips in near.items() if slips == min(near.values())][:3]


def edit_distance(one: str, other: str) -> int:
    """Fewest insertions, deletions, changes and swaps of neighbouring letters (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            least = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
