"""Groups of flags are plain values, and what is parsed without a flag is what is made without an argument."""

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from gpu_reml import cli
from gpu_reml.cli import gwas, main, predict, relax, sparse
from gpu_reml.cli.flags import estimation
from gpu_reml.cli.flags.analysis import Analysis
from gpu_reml.cli.flags.components import Components
from gpu_reml.cli.flags.data import Genotypes
from gpu_reml.cli.flags.group import Flags

DATA = ["--bfile", "data", "--pheno", "pheno.txt"]
PARSERS = {
    "gpu-reml": (main.make_parser, DATA),
    "gpu-reml-gwas": (gwas.make_gwas_parser, DATA),
    "gpu-reml-sparse": (sparse.make_sparse_parser, DATA),
    "gpu-reml-relax": (relax.make_relax_parser, [*DATA, "--n-groups", "2"]),
    "gpu-reml-predict": (predict.make_predict_parser, ["--model", "m.npz", "--bfile", "data"]),
}


def groups():
    """Every group of flags that there is."""
    found, left = [], [Flags]
    while left:
        each = left.pop()
        left += each.__subclasses__()
        found += [each] if fields(each) else []
    return found


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.__name__)
def test_a_group_that_is_made_is_one_that_is_parsed_without_its_flags(group):
    parser = main.Parser("x", "", "", "", ())
    parser.add_flags("group", group)
    assert group.of(parser.read([]).values) == group()


@pytest.mark.parametrize("name", PARSERS)
def test_every_value_of_a_command_is_of_one_kind_that_cannot_be_changed(name):
    make, words = PARSERS[name]
    values = make("0").read(words).values
    analysis = Analysis.of(values)
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        analysis.genotypes.bfile = "other"
    assert all(hash(group) is not None for group in analysis)


def test_flags_are_read_into_their_groups():
    words = [
        *DATA,
        "--maf-bins",
        "0.1,0.2",
        "--lrt",
        "--extract",
        "a",
        "b",
        "--max-probes",
        "8",
        "--gpu-budget-gb",
        "2",
    ]
    analysis = Analysis.of(main.make_parser("0").read(words).values)
    assert analysis.components == Components(maf_bins=(0.1, 0.2)) and analysis.components.given
    assert analysis.tests == estimation.Tests(lrt=()) and analysis.tests.compares
    assert analysis.filters.extract == ("a", "b") and analysis.compute.gpu_budget_gib == 2
    assert analysis.estimation == estimation.Estimation(max_probes=8) and analysis.estimation.starting_probes == 8
    assert analysis.genotypes == Genotypes(bfile="data") and not Genotypes().given


def test_no_function_of_the_commands_takes_all_flags_as_a_namespace():
    taking = []
    for path in sorted(Path(cli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                each = [*node.args.args, *node.args.kwonlyargs]
                hints = [ast.unparse(a.annotation) for a in each if a.annotation is not None]
                taking += [path.name for a in each if a.arg == "options"] + [
                    path.name for h in hints if "Namespace" in h
                ]
    assert not taking
