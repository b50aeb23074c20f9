"""Pages that are made of the code when the site is built: every flag, and every name of the Python interface.

``python docs/generate.py`` prints them; mkdocs calls :func:`on_files`.
"""

import inspect
import re
from importlib import import_module
from textwrap import dedent

from gpu_reml.cli.parser import COMMANDS


def cell(text: str) -> str:
    """Text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def flags_page() -> str:
    """Every flag of every command, as ``--help all`` has it."""
    parts = [
        "# Flags\n\nMade of the commands' own parsers. `--help` prints one screen of them, `--help all` everything.\n"
    ]
    for command, (module, make) in COMMANDS.items():
        parser = getattr(import_module(f"gpu_reml.cli.{module}"), make)("")
        parts.append(f"## {command}\n\n{parser.description}\n")
        for group in parser._action_groups:
            rows = [action for action in group._group_actions if action.option_strings]
            if rows:
                parts.append(f"### {group.title} of {command}\n\n| flag | takes | what it does |\n|---|---|---|")
                parts += [flag_row(action) for action in rows]
                parts.append("")
    return "\n".join(parts)


def flag_row(action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    takes = "" if action.nargs == 0 else cell(str(action.metavar or "/".join(map(str, action.choices or ["value"]))))
    return f"| {names} | {takes} | {cell((action.help or '').replace('%%', '%'))} |"


def api_page() -> str:
    """Names of the package and of ``gpu_reml.reml``, ``io`` and ``ops``: signature and docstring."""
    parts = [
        "# API\n\nMade of the docstrings. Shapes: n samples, m variants, c fixed effects, G components, J residuals.\n"
    ]
    seen = set()
    for package in ("gpu_reml", "gpu_reml.reml", "gpu_reml.ops", "gpu_reml.io", "gpu_reml.figures"):
        module = import_module(package)
        parts.append(f"## {package}\n")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if id(value) not in seen and callable(value):
                seen.add(id(value))
                parts.append(entry(package, name, value))
    return "\n".join(parts)


def entry(package: str, name: str, value) -> str:
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", inspect.getdoc(value) or "")
    return f"### `{package}.{name}`\n\n```text\n{name}{signature(value)}\n```\n\n```text\n{dedent(text)}\n```\n"


def signature(value) -> str:
    try:
        found = str(inspect.signature(value))
    except ValueError:  # some built-in classes have none
        return ""
    return found if len(found) < 400 else "(...)"


def pages() -> dict[str, str]:
    return {"all_flags.md": flags_page(), "api.md": api_page()}


def on_files(files, config):
    """mkdocs's hook: adds the pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


if __name__ == "__main__":
    print("\n".join(pages().values()))
