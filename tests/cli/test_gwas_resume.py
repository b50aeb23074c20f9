"""A scan that was ended at any step goes on where it was: the same tables, bit for bit, and no step made twice."""

import numpy as np
import pytest

from gpu_reml.cli import journal
from gpu_reml.cli.gwas import main
from gpu_reml.reml.studies import association
from gpu_reml.validation.simulate import simulate_cohort, write_plink

N, M = 150, 180


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two traits, three chromosomes, and a second table where one trait lacks some people."""
    folder = tmp_path_factory.mktemp("resume")
    people = simulate_cohort(N, M, 3)
    people.variants["chrom"] = np.repeat(["1", "2", "3"], M // 3)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(2)
    y = people.counts[:, :30] @ rng.standard_normal((30, 2)) / 4 + rng.standard_normal((N, 2))
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    write = {"sep": "\t", "index": False, "na_rep": "NA"}
    ids.assign(a=y[:, 0], b=y[:, 1]).to_csv(folder / "pheno.txt", **write)
    ids.assign(a=y[:, 0], b=np.where(np.arange(N) < 9, np.nan, y[:, 1])).to_csv(folder / "gaps.txt", **write)
    return folder


SCORE = ("--model", "loco", "--method", "score", "--refine", "1e-2", "--refine-most", "12")
SCANS = {
    "least squares": (("--model", "ols"), 3),
    "scores, refined": (SCORE, 6),
    "scores, fitted without each chromosome": ((*SCORE, "--loco-refit"), 9),
    "exact": (("--model", "loco", "--method", "exact"), 3),
    "null models": (("--step", "1"), 3),
    "model variants apart": (("--model-extract", "@half.txt"), 6),
}


class Ended(KeyboardInterrupt):
    """A run that is ended from without."""


@pytest.fixture
def steps(monkeypatch):
    """The names of the steps that are made, and a limit after which the run is ended."""
    found = {"made": [], "most": None}
    ask = journal.Journal.__call__

    def call(self, name, make):
        def counted():
            if len(found["made"]) == found["most"]:
                raise Ended
            value = make()
            found["made"].append((self.stem.rpartition(".")[2], name))
            return value

        return ask(self, name, counted)

    monkeypatch.setattr(journal.Journal, "__call__", call)
    return found


def run(folder, words, out, *more, pheno="pheno.txt"):
    files = ["--bfile", folder / "data", "--pheno", folder / pheno, "--pheno-name", "all", "--device", "cpu", "--quiet"]
    words = [word.replace("@", f"{folder}/") for word in words]
    fixed = ["--checkpoint-seconds", "0", "--threads", "1"]
    return main([str(word) for word in [*files, *words, *fixed, "--out", folder / out, *more]])


def tables(folder, out):
    """What the run left but for what tells of the run itself."""
    found = {path.name.removeprefix(out): path.read_bytes() for path in folder.glob(f"{out}.*.tsv")}
    for path in folder.glob(f"{out}.null.npz"):
        with np.load(path) as file:
            found |= {name: file[name].tobytes() for name in file.files if name != "document.json"}
    return found


def clear(folder, out):
    for path in folder.glob(f"{out}.*"):
        path.unlink()


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_that_was_ended_goes_on_bit_for_bit(cohort, name, steps, monkeypatch):
    monkeypatch.setattr(association, "PIECE", 64)
    ids = (cohort / "data.bim").read_text().split()[1::6]
    (cohort / "half.txt").write_text("\n".join(ids[::2]) + "\n")
    words, least = SCANS[name]
    clear(cohort, "whole")
    assert run(cohort, words, "whole") == 0
    expected, all_steps = tables(cohort, "whole"), list(steps["made"])
    assert len(all_steps) >= least and expected
    for most in (1, len(all_steps) // 2, len(all_steps) - 1):
        steps.update(made=[], most=most)
        assert run(cohort, words, "ended") == 130
        assert not tables(cohort, "ended")
        steps.update(made=[], most=None)
        assert run(cohort, words, "ended", "--resume") == 0
        assert steps["made"] == all_steps[most:], "a step was made twice, or left out"
        assert tables(cohort, "ended") == expected
        assert not list(cohort.glob("*checkpoint*"))
        clear(cohort, "ended")


def test_traits_of_different_people_go_on_from_the_fit_that_they_share(cohort, steps, monkeypatch):
    monkeypatch.setattr("gpu_reml.cli.gwas_run.choose_method", lambda *_: "stochastic")
    clear(cohort, "whole")
    assert run(cohort, SCORE, "whole", pheno="gaps.txt") == 0
    expected, all_steps = tables(cohort, "whole"), list(steps["made"])
    assert all_steps[0] == ("shared-fits", "fit")
    for most in (1, len(all_steps) - 1):
        steps.update(made=[], most=most)
        assert run(cohort, SCORE, "ended", pheno="gaps.txt") == 130
        steps.update(made=[], most=None)
        assert run(cohort, SCORE, "ended", "--resume", pheno="gaps.txt") == 0
        assert steps["made"] == all_steps[most:] and tables(cohort, "ended") == expected
        clear(cohort, "ended")


def test_checkpoints_of_other_flags_or_data_are_refused_and_said_by_what_differs(cohort, steps, capsys):
    steps["most"] = 2
    assert run(cohort, SCORE, "other") == 130
    assert ".tests.1.checkpoint.npz of " in capsys.readouterr().err  # what was saved is said
    steps["most"] = None
    assert run(cohort, (*SCORE, "--loco-refit"), "other", "--resume") == 2
    error = capsys.readouterr().err
    assert "the checkpoint is of another analysis (loco_refit differ)" in error and error.count("\n") == 1
    assert run(cohort, SCORE, "other") == 0  # without --resume they are no hindrance, and go
    assert not list(cohort.glob("*checkpoint*"))


def test_nothing_to_resume_is_a_start_that_is_said(cohort, capsys):
    words = [cohort / "data", cohort / "pheno.txt", cohort / "fresh"]
    flags = ["--bfile", words[0], "--pheno", words[1], "--out", words[2], "--resume", "--device", "cpu"]
    assert main([str(word) for word in flags]) == 0
    assert "resuming tests of a: nothing is there, from the start" in capsys.readouterr().out
