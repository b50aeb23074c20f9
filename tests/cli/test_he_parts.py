"""Haseman-Elston regression by parts gives one number, however many parts there are."""

import json

import numpy as np
import pytest
from bed_reader import to_bed

from gpu_reml.cli.main import main

TOLD = ("parts", "run", "seconds", "settings")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Flags of a cohort of 200 people with a phenotype and a covariate far from zero."""
    rng = np.random.default_rng(8)
    counts = rng.binomial(2, rng.uniform(0.1, 0.5, 700), (200, 700)).astype(np.int8)
    folder = tmp_path_factory.mktemp("parts")
    properties = {
        "fid": [f"F{i}" for i in range(200)],
        "iid": [f"s{i}" for i in range(200)],
        "chromosome": [str(1 + 3 * j // 700) for j in range(700)],
        "bp_position": [1000 * j + 1 for j in range(700)],
    }
    to_bed(f"{folder / 'c'}.bed", counts, properties=properties)
    Z = (counts - counts.mean(axis=0)) / counts.std(axis=0)
    year = rng.integers(1930, 1970, 200)
    y = Z @ rng.standard_normal(700) / np.sqrt(700) + rng.standard_normal(200) + 0.1 * (year - 1950)
    for name, values in (("y", y), ("year", year)):
        lines = (f"F{i} s{i} {value}\n" for i, value in enumerate(values))
        (folder / f"c.{name}").write_text(f"FID IID {name}\n" + "".join(lines))
    flags = ["--bfile", folder / "c", "--pheno", folder / "c.y", "--qcovar", folder / "c.year", "--method", "he"]
    return [*map(str, flags), "--by-chromosome", "--maf", "0.12"]


def run(cohort, out, *flags):
    return main([*cohort, "--out", str(out), *flags])


def by_parts(cohort, out, parts):
    for part in range(1, parts + 1):
        assert run(cohort, out, "--part", f"{part}/{parts}") == 0
    assert run(cohort, out, "--merge-parts") == 0
    return json.loads(out.with_suffix(".json").read_text())


def test_any_number_of_parts_gives_the_same_bits_and_the_number_of_one_run(cohort, tmp_path):
    one, three = by_parts(cohort, tmp_path / "one", 1), by_parts(cohort, tmp_path / "three", 3)
    assert {key: one[key] for key in one if key not in TOLD} == {key: three[key] for key in three if key not in TOLD}
    assert run(cohort, tmp_path / "whole") == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    for found, expected in zip(three["components"], whole["components"], strict=True):
        for key in ("theta", "theta_se", "theta_mc_se", "h2"):
            assert abs(found[key] - expected[key]) <= 1e-4 * expected["theta_se"], key
        assert found["num_variants"] == expected["num_variants"]


def test_parts_that_do_not_belong_together_are_refused(cohort, tmp_path, capsys):
    out = tmp_path / "x"
    assert run(cohort, out, "--merge-parts") == 2
    assert "part-1-of-N.npz: no such file; --part 1/N" in capsys.readouterr().err
    assert run(cohort, out, "--part", "1/2") == 0
    assert run(cohort, out, "--merge-parts") == 2
    assert "x.part-2-of-2.npz: missing, of 2 parts; run that one too" in capsys.readouterr().err
    assert run(cohort, out, "--part", "2/2", "--seed", "5") == 0
    assert run(cohort, out, "--merge-parts") == 2
    assert "x.part-2-of-2.npz: is of another analysis (--seed differ); run this part again" in capsys.readouterr().err
    path = tmp_path / "x.part-2-of-2.npz"
    path.write_bytes(path.read_bytes()[:-200])
    assert run(cohort, out, "--merge-parts") == 2
    assert "x.part-2-of-2.npz: not a part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--part", "4/3"), "--part 4/3: expected I/N"),
        (("--part", "1/2", "--method", "stochastic"), "only the moments of --method he are sums over variants"),
        (("--part", "1/2", "--ld-bins", "2"), "cannot be used with --maf-bins, --ld-bins"),
        (("--part", "65/65"), "64 parts at most"),
    ],
)
def test_what_parts_cannot_do_is_said(flags, expected, cohort, tmp_path, capsys):
    assert run(cohort, tmp_path / "x", *flags) == 2
    assert expected in capsys.readouterr().err
