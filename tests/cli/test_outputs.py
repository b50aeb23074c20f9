"""Files of one run at one place, and over what is read: found before the fit."""

import shutil

import numpy as np
import pytest

from gpu_reml import figures
from gpu_reml.cli import gwas, outputs, predict, relax, sparse
from gpu_reml.cli.main import main, make_parser
from gpu_reml.cli.parser import CommandLine
from gpu_reml.io import InputError
from gpu_reml.validation import simulate_bed

PLOTS = ("--plots",) if figures.available() else ()
N, M = 120, 200


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    simulate_bed(folder / "data", N, M, 1)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    values = np.random.default_rng(0).standard_normal((N, 2))
    rows = [f"{fid}\t{iid}\t{a:.5f}\t{b:.5f}\n" for (fid, iid), (a, b) in zip(people, values, strict=True)]
    (folder / "pheno.txt").write_text("".join(["FID\tIID\ta:b\ta_b\n", *rows]))
    return folder


@pytest.fixture
def run(cohort, tmp_path, monkeypatch, capsys):
    """run(command, flags): exit code and what was said, in a folder with the cohort; no genotype may be loaded."""
    for path in cohort.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)

    def refuse(*_, **__):
        pytest.fail("genotypes were loaded")

    def one(command, *flags, loads=False):
        with monkeypatch.context() as patch:
            if not loads:
                patch.setattr("gpu_reml.io.load_genotypes", refuse)
            code = command(["--bfile", "data", "--device", "cpu", *flags])
        return code, capsys.readouterr().err

    return one


FIT = ("--pheno", "pheno.txt", "--pheno-name", "a:b")
BOTH = ("--pheno", "pheno.txt", "--pheno-name", "all")


@pytest.mark.parametrize(
    "flags, named",
    [
        ((*FIT, "--out", "m", "--keep-out", "m.json"), ["m.json", "--out m", "--keep-out"]),
        ((*FIT, "--out", "m", "--keep-out", "./x/../m.json"), ["m.json", "--out m", "--keep-out"]),
        ((*FIT, "--out", "m", "--keep-out", "s", "--dropped-out", "s"), ["s: ", "--keep-out", "--dropped-out"]),
        ((*FIT, "--out", "m", "--save-model", "s", "--keep-out", "s.npz"), ["s.npz", "--keep-out", "--save-model"]),
        ((*FIT, "--out", "m", "--cv", "3", "--dropped-out", "m.cv.tsv"), ["m.cv.tsv", "--out m", "--dropped-out"]),
        ((*BOTH, "--out", "m"), ["m.a_b.json", "phenotype 'a:b'", "phenotype 'a_b'"]),
    ],
)
def test_two_files_of_a_fit_at_one_place_are_found_before_it(run, tmp_path, flags, named):
    (tmp_path / "x").mkdir()
    code, said = run(main, *flags)
    assert code == 2 and "would be written twice" in said and len(said.splitlines()) == 1
    assert all(each in said for each in named)


@pytest.mark.parametrize(
    "name, command, flags",
    [
        ("m.gwas.tsv", gwas.main, FIT),
        ("m.path.svg", sparse.main, FIT),
    ],
)
def test_lists_of_samples_at_the_place_of_a_result_are_found_in_every_command(run, name, command, flags):
    code, said = run(command, *flags, "--out", "m", "--keep-out", name)
    assert code == 2 and f"{name}: would be written twice, for --out m and for --keep-out" in said


def test_traits_with_one_name_in_files_are_found_in_a_scan(run):
    code, said = run(gwas.main, *BOTH, "--out", "m")
    assert code == 2 and "phenotype 'a:b' and for phenotype 'a_b'" in said


@pytest.mark.parametrize(
    "command, flags, read, what",
    [
        (main, (*FIT, "--keep-out", "data.fam"), "data.fam", "--keep-out"),
        (main, (*FIT, "--keep-out", "pheno.txt"), "pheno.txt", "--keep-out"),
        (main, (*FIT, "--component-spec", "m.component_spec.json", "--merge"), "m.component_spec.json", "--out m"),
        (gwas.main, (*FIT, "--keep", "list", "--dropped-out", "list"), "list", "--dropped-out"),
        (sparse.main, (*FIT, "--extract", "m.selected_snps.tsv"), "m.selected_snps.tsv", "--out m"),
        (relax.main, (*FIT, "--n-groups", "2", "--theta-init-npy", "m.theta.npy"), "m.theta.npy", "--out m"),
        (predict.main, ("--model", "model.npz", "--pheno", "m.prediction.tsv"), "m.prediction.tsv", "--out m"),
    ],
)
def test_an_output_over_an_input_is_found_before_the_work(run, tmp_path, command, flags, read, what):
    ids = (tmp_path / "data.fam").read_text()
    if read == "m.component_spec.json":
        (tmp_path / read).write_text('[{"variant_indices": [0, 1]}, {"variant_indices": [2, 3]}]')
    elif read == "m.theta.npy":
        np.save(tmp_path / read, np.full((M, 2), 0.5))
    elif read == "m.selected_snps.tsv":
        (tmp_path / read).write_text("".join(line.split()[1] + "\n" for line in open(tmp_path / "data.bim")))
    elif read == "list":
        (tmp_path / read).write_text(ids)
    elif read == "m.prediction.tsv":
        (tmp_path / read).write_text(
            "FID IID y\n" + "".join(" ".join([*line.split()[:2], "1\n"]) for line in ids.splitlines())
        )
        assert run(main, *FIT, "--out", "fit", "--save-model", "model", loads=True)[0] == 0
    before = (tmp_path / read).read_bytes()
    code, said = run(command, *flags, "--out", "m")
    assert code == 2 and f"{read}: is read for" in said and f"would be overwritten for {what}" in said, said
    assert (tmp_path / read).read_bytes() == before


def test_matrices_of_components_with_one_name_in_files_are_found_before_they_are_made(run, tmp_path):
    sets = [
        {"name": name, "variant_indices": list(range(20 * i, 20 * i + 20))} for i, name in enumerate(("a:b", "a_b"))
    ]
    (tmp_path / "sets.json").write_text(str(sets).replace("'", '"'))
    code, said = run(main, "--component-spec", "sets.json", "--make-grm", "--out", "k", loads=True)
    assert code == 2 and "k.a_b.grm.bin: would be written twice, for component 'a:b' and for component 'a_b'" in said
    assert not list(tmp_path.glob("k*"))


COMMANDS = {
    main: (
        *("--compute-effects", "--cv", "3", "--export-ai", "--save-model", "s", "--keep-out", "k"),
        *("--dropped-out", "d", "--prediction-bed-prefix", "data", "--vc-block-sizes", "100,100"),
    ),
    gwas.main: ("--gz", *PLOTS, "--keep-out", "k", "--dropped-out", "d"),
    sparse.main: ("--keep-out", "k", "--dropped-out", "d", "--outer-max", "1", "--candidate-k", "8"),
    relax.main: ("--n-groups", "2", "--outer-iters", "1"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_known_beforehand_is_what_is_written(run, tmp_path, monkeypatch, command):
    known = []
    real = outputs.check_outputs

    def noted(planned, *rest):
        planned = list(planned)
        known.extend(output.path for output in planned)
        real(planned, *rest)

    for module in ("reml", "gwas_run", "sparse_run", "relax_run"):
        monkeypatch.setattr(f"gpu_reml.cli.{module}.check_outputs", noted)
    before = {path.name for path in tmp_path.iterdir()}
    assert run(command, *FIT, *COMMANDS[command], "--out", "m", loads=True)[0] in (0, 3)
    written = {path.name for path in tmp_path.iterdir()} - before
    assert written and {name.replace("component_001", "component_000") for name in written} <= set(known)


def test_a_word_that_is_no_path_is_not_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "height").touch()
    line = make_parser("").read(["--bfile", "x", "--pheno", "y", "--pheno-name", "height"])
    outputs.check_outputs([outputs.Written("height", "--keep-out")], line)
    with pytest.raises(InputError, match="height: is read for --keep and would be overwritten for --keep-out"):
        outputs.check_outputs([outputs.Written("height", "--keep-out")], CommandLine({"keep": "height"}, {}))
