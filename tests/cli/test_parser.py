"""What a mistyped command says: one line, the flag that was meant, exit code 2."""

import re

import pytest

from gpu_reml.cli.gwas import make_gwas_parser
from gpu_reml.cli.options import make_parser
from gpu_reml.cli.parser import ELSEWHERE
from gpu_reml.cli.predict import make_predict_parser
from gpu_reml.cli.relax import make_relax_parser
from gpu_reml.cli.sparse import make_sparse_parser

PARSERS = {
    "gpu-reml": make_parser,
    "gpu-reml-gwas": make_gwas_parser,
    "gpu-reml-predict": make_predict_parser,
    "gpu-reml-relax": make_relax_parser,
    "gpu-reml-sparse": make_sparse_parser,
}
DATA = ["--bfile", "data", "--pheno", "pheno.txt"]


def refusal(name, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        PARSERS[name]("1.0").parse_args(arguments)
    return capsys.readouterr().err


@pytest.mark.parametrize("name", PARSERS)
def test_an_error_is_one_line_and_help_begins_with_a_short_usage(name, capsys):
    error = refusal(name, ["--nothing-like-it"], capsys)
    assert re.fullmatch(rf"{name}: error: .*; {name} --help has all flags\n", error)
    usage = PARSERS[name]("1.0").format_help().split("\n\n")[0]
    assert usage.startswith(f"usage: {name} --") and usage.count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--thread", "2"], "did you mean --threads?"),
        (["--phenoname=height"], "did you mean --pheno-name?"),
        (["--reml"], ELSEWHERE["--reml"]),
        (["--phenoFile=x"], "give --pheno"),
        (["--threads", "two"], "expected a whole number, found two"),
        (["--threads", "1.5"], "expected a whole number, found 1.5"),
        (["--maf", "low"], "expected a number, found 'low'"),
        (["--mc-target", "low"], "expected a number, found low"),
    ],
)
def test_what_was_meant_is_named(arguments, meant, capsys):
    assert meant in refusal("gpu-reml", [*DATA, *arguments], capsys)


def test_a_flag_that_resembles_none_has_no_suggestion(capsys):
    assert "(" not in refusal("gpu-reml", [*DATA, "--zzzz"], capsys)


def test_no_flag_of_another_program_hides_one_of_these(capsys):
    for make in PARSERS.values():
        assert not set(make("1.0")._option_string_actions) & set(ELSEWHERE)
