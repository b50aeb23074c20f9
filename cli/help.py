"""``--help``: one screen to begin with, a section by a word of its title, or everything.

A parser says which flags come first; what is beside them is one line on each, and where to read on.
"""

import re
from argparse import Action, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from copy import copy
from typing import Any

WIDTH = 100
MOST = 72  # characters of a flag's help on the first screen, where it is cut at the end of a clause


class Formatter(RawDescriptionHelpFormatter):
    """Help in which a flag of several names tells once what it takes."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=WIDTH)

    def _format_action_invocation(self, action: Action) -> str:
        takes = (
            "" if action.nargs == 0 else " " + self._format_args(action, self._get_default_metavar_for_optional(action))
        )
        return ", ".join(action.option_strings) + takes


class Help(Action):
    """``--help``, ``--help all`` and ``--help WORD``: prints, and ends with code 0."""

    def __init__(self, option_strings: Sequence[str], dest: str, first: Sequence[str] = (), **_: Any):
        super().__init__(
            option_strings, dest="help", nargs="?", const="", default=None, metavar="SECTION",
            help="show the first screen; with all, every flag; with a word of a section's title, that section",
        )  # fmt: skip
        self.first = first

    def __call__(self, parser: ArgumentParser, _values: object, value: Any, _flag: str | None = None) -> None:
        if value == "all":
            text = parser.format_help()
        else:
            text = section_help(parser, value) if value else first_screen(parser, self.first)
        print(text, end="")
        parser.exit(0)


def sections_of(parser: ArgumentParser) -> list[Any]:
    """Groups of flags, without those that argparse makes and that are empty."""
    return [group for group in parser._action_groups[2:] if group._group_actions]


def first_screen(parser: ArgumentParser, first: Sequence[str]) -> str:
    """What the command is for, its first flags, examples, and the sections."""
    formatter = Formatter(parser.prog)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    formatter.add_text(parser.description)
    formatter.start_section("flags to begin with")
    formatter.add_arguments([shortened(parser._option_string_actions[name]) for name in first])
    formatter.end_section()
    titles = [f"  {word_of(group):<12} {group.title}" for group in sections_of(parser)]
    number = sum(len(group._group_actions) for group in sections_of(parser))
    examples = re.match(r"examples?:\n(?:  .*\n)+", parser.epilog or "")
    shown = examples[0] if examples else ""
    more = f"--help all has all {number} flags; --help SECTION has one of:"
    return "\n".join([formatter.format_help().rstrip(), "", *shown.splitlines(), "", more, *titles]) + "\n"


def section_help(parser: ArgumentParser, word: str) -> str:
    """The sections with a word in their titles, or the one that has the flag; else, which there are."""
    found = [group for group in sections_of(parser) if word.lower() in group.title.lower()]
    found = found or [group for group in sections_of(parser) if word == word_of(group)]
    flag = parser._option_string_actions.get(word if word.startswith("-") else f"--{word}")
    if not found and flag is not None:
        found = [group for group in sections_of(parser) if flag in group._group_actions]
    if not found:
        words = ", ".join(map(word_of, sections_of(parser)))
        return f"{parser.prog}: no section {word}; there are {words}, and all\n"
    formatter = Formatter(parser.prog)
    for group in found:
        formatter.start_section(group.title)
        formatter.add_arguments(group._group_actions)
        formatter.end_section()
    return formatter.format_help()


def word_of(group: Any) -> str:
    """The word by which a section is asked for: the first long one of its title."""
    return next(word.lower() for word in re.findall(r"\w+", group.title) if len(word) > 3)


def shortened(action: Action) -> Action:
    """A flag with the first clause of its help, under the name that is typed."""
    short = copy(action)
    text = re.split(r"; |\. |: ", action.help or "")[0]
    if text.count("(") > text.count(")"):
        text = text[: text.rindex(" (")]
    text = text if len(text) <= MOST else re.split(r", | \(", text)[0]
    short.help, short.option_strings = text, action.option_strings[:1]
    return short
