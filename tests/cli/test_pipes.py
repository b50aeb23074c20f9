"""Files that come through pipes: every flag reads all of them, however often a command looks at one."""

import os
import threading

import numpy as np
import pytest

from gpu_reml.cli.main import main
from gpu_reml.validation import simulate_cohort, write_plink

N, M = 60, 40


@pytest.fixture
def cohort(tmp_path):
    people = simulate_cohort(N, M, 5)
    write_plink(people, tmp_path / "data")
    y, age = np.random.default_rng(1).standard_normal((2, N))
    rows = [f"{fid} {iid} {y[i]} {age[i]}" for i, (fid, iid) in enumerate(people.samples[["fid", "iid"]].to_numpy())]
    return tmp_path, rows, people.variants["id"].tolist()


@pytest.fixture
def pipe(tmp_path):
    """pipe(name, text) -> a FIFO through which the text comes once."""
    threads = []

    def make(name, text):
        path = tmp_path / name
        os.mkfifo(path)
        threads.append(threading.Thread(target=path.write_text, args=(text,), daemon=True))
        threads[-1].start()
        return str(path)

    yield make
    for thread in threads:
        thread.join(1)


def test_a_run_with_every_table_from_a_pipe_is_that_of_the_files(cohort, pipe, capsys):
    folder, rows, ids = cohort
    tables = {
        "pheno": "FID IID y age\n" + "\n".join(rows) + "\n",
        "remove": "\n".join(" ".join(row.split()[:2]) for row in rows[:7]) + "\n",
        "component-table": "".join(f"{name} {'ab'[j % 2]}\n" for j, name in enumerate(ids)),
        "exclude": "\n".join(ids[:3]) + "\n",
    }
    files = {}
    for flag, text in tables.items():
        files[flag] = str(folder / f"{flag}.txt")
        (folder / f"{flag}.txt").write_text(text)
    pipes = {flag: pipe(flag, text) for flag, text in tables.items()}
    shown = []
    for chosen in (files, pipes):
        arguments = ["--bfile", str(folder / "data"), "--pheno-name", "y", "--keep", chosen["pheno"]]
        arguments += ["--out", str(folder / "out"), "--method", "he", "--device", "cpu"]
        arguments += [word for flag, path in chosen.items() for word in (f"--{flag}", path)]
        assert main(arguments) == 0
        shown.append((folder / "out.hsq").read_text())
        assert f"{N - 7} samples analysed" in capsys.readouterr().out
    assert shown[0] == shown[1]
