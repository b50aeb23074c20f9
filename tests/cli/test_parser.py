"""What a mistyped command says: one line, the flag that was meant, exit code 2."""

import inspect
import re
from importlib import import_module

import pytest

from gpu_reml.cli import gwas, main, predict, relax, sparse
from gpu_reml.cli.elsewhere import ELSEWHERE
from gpu_reml.cli.gwas import make_gwas_parser
from gpu_reml.cli.main import make_parser
from gpu_reml.cli.moved import MOVED
from gpu_reml.cli.parser import COMMANDS, edit_distance
from gpu_reml.cli.predict import make_predict_parser
from gpu_reml.cli.relax import make_relax_parser
from gpu_reml.cli.sparse import make_sparse_parser

PARSERS = {
    "gpu-reml": make_parser("1.0"),
    "gpu-reml-gwas": make_gwas_parser("1.0"),
    "gpu-reml-predict": make_predict_parser("1.0"),
    "gpu-reml-relax": make_relax_parser("1.0"),
    "gpu-reml-sparse": make_sparse_parser("1.0"),
}
MAINS = {
    "gpu-reml": main.main,
    "gpu-reml-gwas": gwas.main,
    "gpu-reml-predict": predict.main,
    "gpu-reml-relax": relax.main,
    "gpu-reml-sparse": sparse.main,
}
DATA = ["--bfile", "data", "--pheno", "pheno.txt"]
OTHERS = {name: [*DATA, "--n-groups", "2"] if name == "gpu-reml-relax" else DATA for name in PARSERS}
OTHERS["gpu-reml-predict"] = ["--bfile", "data", "--model", "m.npz"]
VALUES = [
    (name, flag)
    for name, parser in PARSERS.items()
    for flag, action in parser.flags.items()
    if action.nargs in (None, "+")
]
NUMBERS = [
    (name, flag) for name, parser in PARSERS.items() for flag, action in parser.flags.items() if action.type is not None
]


def refusal(name, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        PARSERS[name].read(arguments)
    return capsys.readouterr().err


def others(name, flag):
    """The rest of a command that is whole, without what ``flag`` sets."""
    words, dest = OTHERS[name], PARSERS[name].flags[flag].dest
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs for word in pair if PARSERS[name].flags[pair[0]].dest != dest]


@pytest.mark.parametrize("name", PARSERS)
def test_an_error_is_one_line_and_help_begins_with_a_short_usage(name, capsys):
    error = refusal(name, ["--nothing-like-it"], capsys)
    assert re.fullmatch(rf"{name}: error: .*; {name} --help all has all flags\n", error)
    usage = PARSERS[name].format_help().split("\n\n")[0]
    assert usage.startswith(f"usage: {name} --") and usage.count("\n") == 0


@pytest.mark.parametrize("name", MAINS)
def test_a_command_without_arguments_says_what_it_needs_and_shows_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        MAINS[name]([])
    error = capsys.readouterr().err
    needed = "--model FILE" if name == "gpu-reml-predict" else ".*--bfile PREFIX.*"
    assert re.match(rf"{name}: error: missing {needed}; for example: {name} --", error), error
    example = re.search(r"for example: (\S+) (.*); \S+ --help", error)
    PARSERS[example[1]].read(example[2].split())


@pytest.mark.parametrize(
    ("name", "arguments", "missing"),
    [
        ("gpu-reml", ["--bfile", "x"], "missing --pheno FILE;"),
        (
            "gpu-reml",
            ["--pheno", "x"],
            "missing genotypes (--bfile PREFIX, .*--grm PREFIX, --pedigree FILE or --random FILE);",
        ),
        ("gpu-reml-relax", DATA, "missing --n-groups G;"),
        ("gpu-reml-relax", [], "missing genotypes (.*), --pheno FILE and --n-groups G;"),
        ("gpu-reml-predict", ["--bfile", "x"], "missing --model FILE;"),
    ],
)
def test_what_is_missing_is_named(name, arguments, missing, capsys):
    assert re.search(missing.replace("(", r"\(").replace(")", r"\)"), refusal(name, arguments, capsys))


def test_relationship_matrices_need_no_genotypes_and_writing_them_no_phenotype():
    PARSERS["gpu-reml"].read(["--grm", "x", "--pheno", "p.txt"])
    PARSERS["gpu-reml"].read(["--bfile", "x", "--make-grm"])


@pytest.mark.parametrize("value", ["", "  ", "\t"])
def test_every_flag_refuses_an_empty_value_by_its_name(value, capsys):
    assert len(VALUES) > 250
    for name, flag in VALUES:
        for words in ([flag, value], [f"{flag}={value}"]):
            error = refusal(name, [*others(name, flag), *words], capsys)
            assert error.startswith(f"{name}: error: {flag}: its value is empty"), (name, flag, error)


def test_an_empty_value_is_found_among_others(capsys):
    error = refusal("gpu-reml", [*DATA, "--snp-lists", "a.txt", "", "b.txt"], capsys)
    assert "--snp-lists: its value is empty" in error
    for value in ("a,,b", ",a", "a,", "a, ,b", ","):
        error = refusal("gpu-reml", ["--bfile", value, "--pheno", "p.txt"], capsys)
        assert f"--bfile: {value!r} has an empty entry; expected PREFIX[,PREFIX...]" in error
    for flag, value in (("--grm-groups", "a;;b"), ("--grm-groups", "a,;b"), ("--chr", "1,,3"), ("--joint-test", "a,")):
        assert f"{flag}: {value!r} has an empty entry" in refusal("gpu-reml", [*DATA, flag, value], capsys)
    PARSERS["gpu-reml"].read([*DATA, "--grm-groups", "a;b;"])


@pytest.mark.parametrize("name", PARSERS)
def test_a_value_that_is_not_there_is_asked_for(name, capsys):
    error = refusal(name, [*others(name, "--keep"), "--keep", "--out", "x"], capsys)
    assert error.startswith(f"{name}: error: --keep: needs a value, FILE;")
    assert "--out-prefix: needs a value" in refusal(name, [*OTHERS[name], "--out-prefix"], capsys)


def test_of_a_flag_that_is_given_two_values_the_last_counts_and_a_note_says_so():
    for words, note in [
        (["--keep", "a", "--keep", "b"], "--keep a is replaced by --keep b, which comes after it"),
        (["--keep", "a", "--keep-path=b"], "--keep a is replaced by --keep-path b, which comes after it"),
        (["--seed", "1", "--quiet", "--seed=2"], "--seed 1 is replaced by --seed 2, which comes after it"),
        (["--device", "cpu", "--quiet", "--non-verbose", "--device", "cpu"], None),
    ]:
        options = PARSERS["gpu-reml"].read([*DATA, *words])
        assert options.replaced == ((note,) if note else ())
    options = PARSERS["gpu-reml-sparse"].read([*DATA, "--kkt-check", "--no-kkt-check"])
    assert not options.get("kkt_check")
    assert options.replaced == ("--kkt-check is replaced by --no-kkt-check, which comes after it",)


def test_the_flag_of_ratios_needs_no_component_and_takes_gctas_numbers():
    def parse(words):
        return PARSERS["gpu-reml"].read(words).values["lrt"]

    assert parse(DATA) is None and parse([*DATA, "--lrt"]) == []
    assert parse([*DATA, "--lrt", "--quiet"]) == [] and parse([*DATA, "--reml-lrt", "1", "3"]) == ["1", "3"]


def test_lists_that_are_given_several_times_all_count():
    words = ["--component-spec", "a", "--component-indices-npz", "b", "--extract", "c", "d", "--extract", "e"]
    options = PARSERS["gpu-reml"].read([*DATA, *words])
    assert options.get("component_spec") == ["a", "b"] and options.get("extract") == ["c", "d", "e"]
    assert options.replaced == ()
    assert PARSERS["gpu-reml"].read(DATA).values["extract"] == []
    assert options.typed["component_spec"] == "--component-indices-npz" and "keep" not in options.typed


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--thread", "2"], "did you mean --threads?"),
        (["--thraeds", "2"], "did you mean --threads?"),
        (["--phenoname=height"], "did you mean --pheno-name?"),
        (["--pheno_name=height"], "write --pheno-name"),
        (["--compnent-spec", "x"], "did you mean --component-spec?"),
        (["--covr", "x"], "did you mean --covar?"),
        (["-bfile", "x"], "write --bfile"),
        (["-lmm", "1"], "gpu-reml-gwas --model lmm"),
        (["-gk", "1"], "gpu-reml --make-grm"),
        (["--mlma-loco"], "gpu-reml-gwas --model loco"),
        (["--HEreg-bivar", "1", "2"], "gpu-reml --rg has genetic covariances by REML"),
        (["--reml-bivar-lrt-rg", "0"], "gpu-reml --reml-bivar has both tests"),
        (["--cojo-slct"], "not here: needs each sample's genotypes"),
        (["--pc-loadings", "x"], "gpu-reml --pca K writes principal components"),
        (["--vcf", "x.vcf"], "make a fileset of it by plink2 --vcf"),
        (["--bcf", "dir/x.bcf"], "plink2 --bcf dir/x.bcf --make-pgen --out dir/x, then give --pfile dir/x"),
        (["--n-groups", "3"], "is a flag of gpu-reml-relax"),
        (["\u2013bfile", "x"], "write its dashes as plain hyphens"),
        (["--pheno-name", "a", "b"], "unexpected 'b' after --pheno-name, which takes one value: separate several by"),
        (["--autosome", "yes"], "unexpected 'yes' after --autosome, which takes no value"),
        (["--threads", "two"], "--threads: expected a whole number, found two"),
        (["--cpu-threads", "1.5"], "--cpu-threads: expected a whole number, found 1.5"),
        (["--maf", "low"], "--maf: expected a number, found low"),
        (["--mc-target", "low"], "expected a number, found low"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu' (choose from auto, cpu, cuda, gpu)"),
        (["--slq-mode", "x"], "--slq-mode: invalid choice: 'x' (choose from raw, projected_core_residual)"),
        (["--mpheno", "1", "--pheno-name", "a"], "--pheno-name: not allowed with --mpheno"),
    ],
)
def test_what_was_meant_is_named(arguments, meant, capsys):
    assert meant in refusal("gpu-reml", [*DATA, *arguments], capsys)


def test_unknown_flags_come_before_missing_ones_and_all_at_once(capsys):
    error = refusal("gpu-reml", ["--indep", "10", "--nothing-like-it", "--he", "height"], capsys)
    assert re.search(r"--indep \(.*\); unknown flag --nothing-like-it; unknown flag --he \(.*--method he\); ", error)
    assert "missing" not in error


def test_help_and_the_version_are_given_whatever_is_beside_them(capsys):
    for flag, shown in (("--help", "usage: gpu-reml"), ("--version", "gpu-reml 1.0")):
        with pytest.raises(SystemExit, match="0"):
            PARSERS["gpu-reml"].read(["--nothing-like-it", flag])
        assert capsys.readouterr().out.startswith(shown)


@pytest.mark.parametrize("flag", ["--zzzz", "--remlv", "--cat", "--plum", "--mix", "--geometry"])
def test_a_flag_that_resembles_none_has_no_suggestion(flag, capsys):
    assert f"unknown flag {flag}; " in refusal("gpu-reml", [*DATA, flag], capsys)


def test_distances_are_those_of_single_slips():
    pairs = {
        ("abc", "abc"): 0,
        ("abc", "acb"): 1,
        ("abc", "ab"): 1,
        ("abc", "axbc"): 1,
        ("abc", "xyz"): 3,
        ("", "ab"): 2,
    }
    assert {pair: edit_distance(*pair) for pair in pairs} == pairs


def test_advice_names_flags_that_there_are():
    known = {name: set(parser.flags) for name, parser in PARSERS.items()}
    assert set(known) == set(COMMANDS)
    for flag, advice in ELSEWHERE.items():
        assert not any(flag in flags for flags in known.values()), flag
        program = None
        for word in re.findall(
            r"gpu-reml-?\w*|gcta64|plink2|plink 1.9|bolt|regenie|LDAK|[;,] then|(?<!\w)--?[a-zA-Z][\w-]*", advice
        ):
            if not word.startswith("-"):
                program = None if word.endswith("then") else word
            elif program in known:
                assert word in known[program], (flag, advice)
            elif program is None:
                assert all(word in flags for flags in known.values()), (flag, advice)


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "1e400", "1_000", "0x10", "\u0661", "1,5", "1 2", "--1", "1e", "."]
)
def test_no_number_is_read_that_is_not_written_as_one(value, capsys):
    assert len(NUMBERS) > 100
    for name, flag in NUMBERS:
        if value == "1,5" and flag in ("--maf-bins", "--vc-block-sizes"):
            continue
        error = refusal(name, [*others(name, flag), f"{flag}={value}"], capsys)
        assert error.startswith(f"{name}: error: {flag}: expected "), (name, flag, error)


def test_no_number_is_read_that_is_out_of_range(capsys):
    signed = {"--alpha", "--z-cutoff", "--maf-bins", "--vc-block-sizes"}
    for name, flag in NUMBERS:
        if flag not in signed:
            error = refusal(name, [*others(name, flag), flag, "-1"], capsys)
            assert error.startswith(f"{name}: error: {flag}: expected "), (name, flag, error)
    for flag, value in [
        ("--maf", "1.5"), ("--geno", "2"), ("--prevalence", "1"), ("--threads", "100000"), ("--seed", "9" * 5000),
        ("--gpu-budget-gib", "1e300"), ("--max-probes", "0"), ("--cv", "1"), ("--mc-target", "0"),
    ]:  # fmt: skip
        assert f"{flag}: expected " in refusal("gpu-reml", [*DATA, flag, value], capsys)


def test_negative_numbers_are_values_in_any_spelling():
    for value in ("-1", "-0.5", "-1e-3", "-.5"):
        options = PARSERS["gpu-reml"].read([*DATA, "--alpha", value])
        assert options.values["alpha"] == float(value)


def test_help_explains_every_flag_and_states_every_default():
    for name, parser in PARSERS.items():
        for action in {id(action): action for action in parser.flags.values()}.values():
            assert action.help, (name, action.option_strings)
            if action.default not in (None, False, [], "==SUPPRESS=="):
                assert "default" in action.help or "(0)" in action.help, (name, action.option_strings)
        text = parser.format_help()
        assert "exit codes: 0 " in text and all(re.search(rf"\b{code} ", text) for code in (2, 4, 130, 143))
        assert max(map(len, text.splitlines())) <= 120, name


@pytest.mark.parametrize("name", [name for name in PARSERS if name not in ("gpu-reml", "gpu-reml-gwas")])
@pytest.mark.parametrize("flag", [["--resume"], ["--checkpoint-seconds", "5"]])
def test_a_command_without_checkpoints_says_that_it_has_none(name, flag, capsys):
    said = refusal(name, [*OTHERS[name], *flag], capsys)
    assert f"unknown flag {flag[0]} ({name} keeps no checkpoints: run it again without, from its start)" in said


@pytest.mark.parametrize("flag", MOVED)
def test_a_flag_that_there_was_says_what_sets_it_now(flag, capsys):
    error = refusal("gpu-reml", [*DATA, flag, "5"], capsys)
    assert f"unknown flag {flag} ({MOVED[flag]})" in error
    path = re.search(r"in Python: ([\w.]+)\(.*?(\w+)=", MOVED[flag])
    if path is None:
        known = PARSERS["gpu-reml-predict"].flags
        assert set(re.findall(r"--[a-z-]+", MOVED[flag].partition("gpu-reml-predict")[2])) <= set(known)
    else:
        module, _, name = path[1].rpartition(".")
        assert path[2] in inspect.signature(getattr(import_module(module), name)).parameters


@pytest.mark.parametrize("name", PARSERS)
def test_help_begins_with_one_screen_of_flags_that_there_are_and_examples_that_are_read(name, capsys):
    parser = PARSERS[name]
    with pytest.raises(SystemExit, match="0"):
        parser.read(["--help"])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 115 and out.startswith(f"usage: {name} ")
    shown = re.findall(r"^  (--[\w-]+)", out, re.MULTILINE)
    assert 8 <= len(shown) <= 10 and set(shown) <= set(parser.flags)
    assert all(text.count("(") == text.count(")") for text in lines)
    examples = re.findall(r"^  (gpu-reml[\w-]*) (.*)$", out, re.MULTILINE)
    assert examples
    for command, flags in examples:
        assert PARSERS[command].read(flags.split()).words[0] == command


def test_help_all_has_every_flag_and_help_with_a_word_a_section(capsys):
    def said(*words):
        with pytest.raises(SystemExit, match="0"):
            PARSERS["gpu-reml"].read(words)
        return capsys.readouterr().out

    whole, parser = said("--help", "all"), PARSERS["gpu-reml"]
    assert all(flag in whole for flag in parser.flags) and "exit codes" in whole
    part = said("--help", "genetic")
    assert (
        part.startswith("genetic correlations of several phenotypes:") and "--rg-with" in part and "--maf" not in part
    )
    assert "--hwe" in said("--help", "hwe") and "--maf" in said("--help=variants")
    assert said("-h", "nonsense").startswith("gpu-reml: no section nonsense; there are data, variants, ")


def test_words_of_shared_flags_fit_the_command(capsys):
    for name in ("gpu-reml-gwas", "gpu-reml-relax"):
        for flag in ("--bfile", "--pfile", "--pheno-name"):
            text = PARSERS[name].flags[flag].help
            assert "variance component" not in text and "OUT.NAME.json" not in text, (name, flag)
    assert "variance component" in PARSERS["gpu-reml"].flags["--bfile"].help
