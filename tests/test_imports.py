"""Imports between the folders point one way, so that what is below can be read, tested and used without the rest."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = {"reml.__init__", "reml.fit"}  # what a caller imports: a fit chooses its engine, the package names all of it
ALLOWED = {  # a layer, and those that it may import beside itself
    "ops": {"ops.device", "ops.cuda"},  # chosen by name when a device is asked for
    "ops.cluster": {"ops"},
    "ops.device": {"ops"},
    "ops.cuda": {"ops", "ops.device"},
    "io": {"ops"},
    "reml core": {"ops", "figures"},  # a result draws itself
    "reml.engines": {"reml core", "ops"},
    "reml entries": {"reml core", "reml.engines", "reml.studies", "ops"},
    "reml.studies": {"reml entries", "reml core", "reml.engines", "ops", "figures"},
}


def layer_of(module: str) -> str:
    """The layer of a module, given below the package: ``reml.engines.exact``."""
    parts = module.split(".")
    folder = ".".join(parts[:2])
    if folder in ALLOWED:
        return folder
    if parts[0] == "reml":
        return "reml entries" if module in ENTRIES else "reml core"
    return parts[0]


def is_module(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, given below it; a package as its ``__init__``."""
    package = list(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        elif (node.module or "").split(".")[0] == "gpu_reml":
            base = node.module.split(".")[1:]
        else:
            continue
        for alias in node.names:
            module = ".".join([*base, alias.name])
            module = module if is_module(module) else ".".join(base)
            found.add(f"{module}.__init__" if (ROOT.joinpath(*module.split(".")) / "__init__.py").exists() else module)
    return found


def modules_below(*folders: str) -> list[str]:
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_only_those_below_it(layer):
    modules = [module for module in modules_below("ops", "io", "reml") if layer_of(module) == layer]
    wrong = [
        f"{module} imports {other}"
        for module in modules
        for other in sorted(imports_of(ROOT.joinpath(*module.split(".")).with_suffix(".py")))
        if layer_of(other) not in {layer, *ALLOWED[layer]}
    ]
    assert modules and not wrong


def test_figures_know_nothing_of_the_rest():
    paths = sorted((ROOT / "root/figures").glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        modules = [
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not [name for name in modules if name.startswith("gpu_reml")], path


def test_a_fit_knows_no_study():
    assert not [other for other in imports_of(ROOT / "reml" / "fit.py") if layer_of(other) == "reml.studies"]


def test_groups_of_flags_know_no_command_and_commands_not_each_other():
    paths = {folder: sorted((ROOT / folder).glob("*.py")) for folder in ("cli/flags", "cli")}
    known = {other for path in paths["cli/flags"] for other in imports_of(path) if not other.startswith("cli.flags.")}
    assert known <= {"cli.numbers", "cli.parser", "cli.wording", "ops.cuda.driver"}
    commands = {"cli.reml", "cli.gwas_run", "cli.sparse_run", "cli.relax_run"}
    assert not [path.name for path in paths["cli"] if path.stem.endswith("_run") and imports_of(path) & commands]


@pytest.mark.parametrize("folder", ["reml", "io", "cli"])
def test_modules_of_a_folder_do_not_import_each_other_in_a_circle(folder):
    left = {
        module: imports_of(ROOT.joinpath(*module.split(".")).with_suffix(".py"))
        for module in modules_below(folder)
        if module != f"{folder}.__init__"
    }
    while leaves := [module for module, others in left.items() if not others & left.keys()]:
        left = {module: others for module, others in left.items() if module not in leaves}
    assert not left
