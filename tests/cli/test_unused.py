"""Flags that change nothing say so, and why, in every command."""

import json

import numpy as np
import pytest

from gpu_reml.cli import gwas, main, predict, relax, sparse, unused
from gpu_reml.cli.main import make_parser
from gpu_reml.cli.unused import Decided, notes_on_flags
from gpu_reml.validation.simulate import simulate_cohort, write_plink

DATA = ["--bfile", "data", "--pheno", "pheno.txt"]
STOCHASTIC, LANCZOS, EXACT, HE = (
    Decided(*each, "cpu") for each in [("stochastic", 3), ("stochastic", 1), ("exact", 3), ("he", 3)]
)
RULES = {
    gwas.make_gwas_parser: unused.GWAS,
    make_parser: unused.REML,
    predict.make_predict_parser: unused.PREDICT,
    relax.make_relax_parser: unused.RELAX,
    sparse.make_sparse_parser: unused.SPARSE,
}


def notes(words, run, rules=unused.REML):
    return notes_on_flags(make_parser("1.0").read([*DATA, *words.split()]), rules, run)


@pytest.mark.parametrize(
    ("words", "run", "why"),
    [
        ("--max-probes 9", EXACT, "dense REML takes no random probes"),
        ("--n-rand-vec 9", EXACT, "dense REML takes no random probes"),
        ("--mc-target 1", HE, "he and pcgc take all of their probes at once"),
        ("--max-probes 65", HE, "he and pcgc take 64 probes"),
        ("--seed 1", EXACT, "dense REML takes no random probes"),
        ("--max-iterations 5", LANCZOS, "one component is answered by a Lanczos run, which goes on until it settles"),
        ("--resume", EXACT, "only stochastic fits keep checkpoints"),
        ("--checkpoint-seconds 3", HE, "only stochastic fits keep checkpoints"),
        ("--gpu-budget-gb 3", STOCHASTIC, "this runs on the CPU"),
        ("--ring-depth 3", STOCHASTIC, "this runs on the CPU"),
        ("--ld-scores x", STOCHASTIC, "they are for --ld-bins"),
        ("--sample x", STOCHASTIC, "it names the samples of --bgen"),
        ("--dosage", STOCHASTIC, "PLINK 1 files have no dosages"),
        ("--uncovered background", STOCHASTIC, "the components cover all variants"),
        ("--z-cutoff 1", STOCHASTIC, "they are for --merge"),
        ("--gxe-scale none", STOCHASTIC, "it is of the environments of --gxe"),
        ("--joint-test a,b", LANCZOS, "there is a Wald test of REML with several components only"),
        ("--call-width 9", STOCHASTIC, "how many variants are worked on at once follows from the memory there is"),
        ("--slq-mode raw", STOCHASTIC, "log-determinants take all probes, and steps until they settle"),
        ("--smile-scoring-step-tol 0.1", STOCHASTIC, "a fit stops by its score, in standard errors"),
        ("--scan-replicates 64", STOCHASTIC, "nothing is scanned"),
        ("--scan-flank 5kb --scan-windows 1Mb", STOCHASTIC, "it is for genes and intervals"),
        ("--compute-effects --make-grm", Decided(None, None, "cpu"), "--make-grm writes matrices and fits nothing"),
    ],
)
def test_a_flag_without_effect_is_named_with_the_reason(words, run, why):
    assert notes(words, run) == [f"{words.split()[0]}: no effect, since {why}"]


@pytest.mark.parametrize(
    ("words", "run"),
    [
        ("--max-probes 9 --seed 1 --mc-target 1 --resume --max-iterations 3", STOCHASTIC),
        ("--max-probes 9 --seed 1 --mc-target 1 --resume", LANCZOS),
        ("--cv 5 --seed 1", EXACT),
        ("--compute-effects --reliability 5 --seed 1", EXACT),
        ("--gpu-budget-gib 3 --ring-depth 2", Decided("stochastic", 3, "cuda")),
        ("--ld-bins 3 --ld-scores x --uncovered background", STOCHASTIC),
        ("--merge --z-cutoff 1", STOCHASTIC),
        ("--max-probes 9 --seed 1", Decided(None, None, "cpu")),
        ("--smile-optimizer strict --identity-w", STOCHASTIC),
        ("--prediction-pfile x --dosage", STOCHASTIC),
        ("--scan-windows 1Mb --scan-replicates 64 --seed 1", EXACT),
        ("--scan x.bed --scan-flank 5kb", STOCHASTIC),
        ("--fit-alpha --max-probes 9 --max-iterations 9 --seed 1", EXACT),
        ("--fit-alpha --max-iterations 9", LANCZOS),
    ],
)
def test_a_flag_that_does_something_is_not_named(words, run):
    assert notes(words, run) == []


def test_flags_with_the_same_reason_share_a_note_and_each_has_one():
    found = notes("--seed 2 --max-probes 9 --mc-target 1 --sample x --seed 3", EXACT)
    assert found == [
        "--seed 2 is replaced by --seed 3, which comes after it",
        "--sample: no effect, since it names the samples of --bgen",
        "--max-probes, --mc-target, --seed: no effect, since dense REML takes no random probes",
    ]


def test_filters_have_no_effect_on_relationship_matrices_alone():
    options = make_parser("1.0").read("--grm a --pheno p --maf 0.1 --chr 1".split())
    why = "there are no genotypes"
    assert notes_on_flags(options, unused.REML, EXACT) == [f"--chr, --maf: no effect, since {why}"]


def test_every_rule_names_flags_that_its_command_has():
    shared = {name for rule in (*unused.ACCEPTED, *unused.DATA, *unused.COMPONENTS) for name in rule.names.split()}
    for make, rules in RULES.items():
        known = {action.dest for action in make("1.0").flags.values()}
        for rule in rules:
            assert set(rule.names.split()) - shared <= known, rule


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small cohort and a phenotype."""
    made = tmp_path_factory.mktemp("unused")
    people = simulate_cohort(60, 40, 3)
    write_plink(people, made / "data")
    y = 3 + people.counts[:, :5].sum(axis=1) + np.random.default_rng(1).standard_normal(60)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(y=y).to_csv(made / "pheno.txt", sep="\t", index=False)
    return made


@pytest.mark.parametrize(
    ("run", "words", "flag", "record"),
    [
        (main.main, "--max-probes 8 --save-model {}/m", "--max-probes", "json"),
        (gwas.main, "--call-width 8", "--call-width", "gwas_metadata.json"),
        (relax.main, "--n-groups 2 --slq-m 8 --outer-iters 1 --max-probes 4", "--slq-m", "meta.json"),
        (sparse.main, "--pcg-ridge 1e-6 --candidate-k 20", "--pcg-ridge", "summary.json"),
        (predict.main, "--model {}/m.npz --sample x", "--sample", "prediction_metadata.json"),
    ],
    ids=["reml", "gwas", "relax", "sparse", "predict"],
)
def test_every_command_prints_the_note_and_records_it(folder, capsys, run, words, flag, record):
    data = ["--bfile", str(folder / "data"), "--pheno", str(folder / "pheno.txt"), "--out", str(folder / "o")]
    assert run([*data, "--device", "cpu", *words.format(folder).split()]) in (0, 3)
    printed = capsys.readouterr().out
    assert sum(line.startswith(f"note: {flag}: no effect, since ") for line in printed.splitlines()) == 1
    recorded = json.loads((folder / f"o.{record}").read_text())["notes"]
    assert sum(note.startswith(f"{flag}: no effect") for note in recorded) == 1
