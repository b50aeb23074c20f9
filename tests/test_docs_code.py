"""Every command and every block of code in README and docs is run; pages and links of the site are whole."""

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_reml
from gpu_reml.cli.parser import COMMANDS
from gpu_reml.validation import simulate_cohort, write_plink

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
WITH_CODE = [page for page in PAGES if "```python" in page.read_text() and page.name != "tutorial.md"]
N, M = 200, 300
SAVED = "gpu-reml --bfile data --pheno pheno.txt --qcovar age.txt --pheno-name height --save-model height --out saved"
OF_OTHER_PROGRAMS = set(
    "--extra --fits --jobs --only --vary --cohorts --dense --traits --first-run --require-gpu --make-references "
    "--samples --variants --inputs --readme --clean --folds --strict".split()
)
NEED = {"--report": "jinja2", "--plots": "matplotlib"}  # flags of commands that need an extra


def blocks(page):
    """Indented blocks of a page as lists of lines, and what stands between fences as (language, text)."""
    text = page.read_text()
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?:^ {4}\S.*\n)+", plain, re.MULTILINE), fenced


def commands_of(page):
    """Command lines of a page, without comments."""
    indented, fenced = blocks(page)
    lines = [line.strip() for block in indented for line in block.splitlines()]
    lines += [line.strip() for language, text in fenced if language in ("sh", "bash") for line in text.splitlines()]
    lines = [line.partition("  #")[0].strip() for line in lines]
    return [line for line in lines if re.match(r"(gpu-reml|python3? |pytest|pip )", line)]


def write_pgen(people, prefix):
    pgenlib = pytest.importorskip("pgenlib")
    counts = np.ascontiguousarray(np.where(people.counts < 0, -9, people.counts).T.astype(np.int8))
    with pgenlib.PgenWriter(
        f"{prefix}.pgen".encode(), len(people.samples), variant_ct=counts.shape[0], nonref_flags=False
    ) as writer:
        writer.append_biallelic_batch(counts)
    names = {"chrom": "#CHROM", "bp": "POS", "id": "ID", "a2": "REF", "a1": "ALT"}
    people.variants[list(names)].rename(columns=names).to_csv(f"{prefix}.pvar", sep="\t", index=False)
    people.samples[["fid", "iid"]].set_axis(["#FID", "IID"], axis=1).to_csv(f"{prefix}.psam", sep="\t", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with every file that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(1)
    for name, seed in (("data", 1), ("other", 1)):
        people = simulate_cohort(N, M, seed)
        if name == "other":
            people.samples["iid"] = [f"{iid}x" for iid in people.samples["iid"]]
        write_plink(people, folder / name)
        ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
        y = np.where(people.counts < 0, 1, people.counts) @ rng.standard_normal(M) / 17 + rng.standard_normal(N)
        prefix = "" if name == "data" else "other_"
        pheno = ids.assign(height=y, weight=y + rng.standard_normal(N))
        pheno.to_csv(folder / f"{prefix}pheno.txt", sep="\t", index=False)
        ids.assign(age=rng.integers(20, 70, N)).to_csv(folder / f"{prefix}age.txt", sep="\t", index=False)
        ids.assign(sex=rng.integers(1, 3, N)).to_csv(folder / f"{prefix}sex.txt", sep="\t", index=False)
        ids.assign(dose=rng.normal(0, 1, N)).to_csv(folder / f"{prefix}env.txt", sep="\t", index=False)
        np.savetxt(folder / f"{name}.4.Q", rng.dirichlet(np.ones(4), N), fmt="%.6f")
        if name == "data":
            write_pgen(people, folder / name)
            pheno.drop(columns="weight").to_csv(folder / "p.txt", sep="\t", index=False)
    animals = [f"a{i}" for i in range(60)]
    parents = ["0\t0"] * 20 + [f"a{i % 10}\ta{10 + i % 10}" for i in range(40)]
    (folder / "herd.txt").write_text("".join(f"{a}\t{p}\n" for a, p in zip(animals, parents, strict=True)))
    cows, herds = rng.integers(20, 60, 90), rng.integers(0, 6, 90)
    milk = (rng.standard_normal(60)[cows] + rng.standard_normal(90)).round(4)
    for name, values in {"milk": milk, "herds": [f"h{h}" for h in herds]}.items():
        lines = "".join(f"0\ta{cow}\t{value}\n" for cow, value in zip(cows, values, strict=True))
        (folder / f"{name}.txt").write_text(f"FID\tIID\t{name}\n{lines}")
    for name in "ABC":  # blocks of weights for SMILE
        root = rng.standard_normal((M // 3, 40))
        np.save(folder / f"{name}.npy", root @ root.T / 40 + 0.1 * np.eye(M // 3))
    (folder / "blocks.txt").write_text("".join(f"{folder / name}.npy\n" for name in "ABC"))
    return folder


def run(line, where, monkeypatch):
    """Exit code of a command line in a folder, in this process."""
    words = shlex.split(line)
    if words[0].startswith("python"):
        words = words[2:]
        main = importlib.import_module(words[0]).main
    else:
        main = importlib.import_module(f"gpu_reml.cli.{COMMANDS[words[0]][0]}").main
        if "--device" not in words:
            words += ["--device", "cpu"]
    monkeypatch.chdir(where)
    return main(words[1:])


def is_runnable(line):
    return line.startswith("gpu-reml") and not re.search(r"\.\.\.|--devices|--device cuda|--workers|--scheduler", line)


RUN = [
    (page.name, line) for page in PAGES if page.name != "tutorial.md" for line in commands_of(page) if is_runnable(line)
]


@pytest.mark.parametrize("page, line", RUN, ids=[f"{page}-{place}" for place, (page, _) in enumerate(RUN)])
def test_every_command_of_the_pages_runs(folder, monkeypatch, page, line):
    for flag, package in NEED.items():
        if flag in line:
            pytest.importorskip(package)
    if "--model height.npz" in line and not (folder / "height.npz").exists():
        assert run(SAVED, folder, monkeypatch) == 0
    for part in range(1, 17) if "--merge-parts" in line else ():  # those of the page's job array
        assert run(line.replace("--merge-parts", f"--part {part}/16"), folder, monkeypatch) == 0
    assert run(line, folder, monkeypatch) == 0


TABLES = [
    "gpu-reml --bfile data --pheno pheno.txt --pheno-name all --vc-block-sizes 150,150 --profile --lrt --cv 3 --out a",
    "gpu-reml --bfile data --pheno pheno.txt --compute-effects --reliability 5 --scan-windows 50Mb --out t",
    "gpu-reml --bfile data --pheno pheno.txt --rg --out pair",
    "gpu-reml-gwas --bfile data --pheno p.txt --out tables",
    "gpu-reml-sparse --bfile data --pheno p.txt --outer-max 1 --candidate-k 8 --out tables",
]


def test_every_column_that_a_command_writes_is_on_the_page_of_columns_or_of_its_subject(folder, monkeypatch):
    page = " ".join((ROOT / "docs" / name).read_text() for name in ("columns.md", "files.md", "scan.md"))
    known, seen = set(re.findall(r"`(\w+)`", page)), set()
    for line in TABLES:
        assert run(line, folder, monkeypatch) in (0, 3)  # a limit of rounds is met
    for path in folder.glob("*.tsv"):
        with path.open() as file:
            columns = file.readline().rstrip("\n").split("\t")
        if path.name.endswith("random_effect_components.tsv"):
            columns = columns[:2]  # the others are called as the components
        named = {re.sub(r"^(variance|random)_.*", r"\1_NAME", name) if name not in known else name for name in columns}
        assert named <= known, (path.name, named - known)
        seen |= named
    assert len(seen) > 90


def test_other_commands_of_the_pages_name_modules_and_flags_that_there_are():
    seen = 0
    for page in PAGES:
        for line in commands_of(page):
            if (page.name, line) in RUN:
                continue
            seen += 1
            words = shlex.split(line)
            if words[:2] == ["python", "-m"]:
                path = words[2].replace("gpu_reml.", "").replace(".", "/")
                places = [f"{path}.py", f"{path}/__main__.py", f"root/{path}.py"]
                assert any((ROOT / place).exists() for place in places), (page.name, line)
            elif words[0].startswith("gpu-reml"):
                module, make = COMMANDS[words[0]]
                known = getattr(importlib.import_module(f"gpu_reml.cli.{module}"), make)("").flags
                assert {word for word in words if word.startswith("--")} <= set(known), (page.name, line)
            elif words[0] == "python3":
                assert f'"{words[2]}": [' in (ROOT / "dev.py").read_text(), (page.name, line)
    assert seen > 15


def printed_as(block, text):
    """Whether a command printed these lines: their words, and their numbers to three digits."""

    number = re.compile(r"\d+(\.\d+)?%?")

    def read(line):
        words = line.split()
        return (
            [word for word in words if not number.fullmatch(word)],
            [float(word.rstrip("%")) for word in words if number.fullmatch(word)],
        )

    printed = [read(line) for line in text.splitlines()]
    wanted = [read(line) for line in block.splitlines() if line]
    return all(
        any(words == have and numbers == pytest.approx(found, rel=1e-3) for have, found in printed)
        for words, numbers in wanted
    )


def test_the_tutorial_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    for package in NEED.values():
        pytest.importorskip(package)
    page = ROOT / "docs" / "tutorial.md"
    for line in commands_of(page):
        assert run(line, tmp_path, monkeypatch) == 0, line
    text = capsys.readouterr().out
    assert "SE of h2 to expect" in text and "the trait's h2 is 0.4975" in text
    for language, code in blocks(page)[1]:
        if language == "python":
            exec(compile(code, page.name, "exec"), {})
        else:
            assert printed_as(code, text)
    made = {"one.hsq", "one.report.html", "ldms.enrichment.tsv", "ldms.tests.tsv", "ldms.svg", "again.html"}
    assert made <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_blocks_of_python_run_one_after_another(folder, monkeypatch, page):
    for package in ("matplotlib", "jinja2") if page.name == "python.md" else ():
        pytest.importorskip(package)
    monkeypatch.chdir(folder)
    namespace = {}
    for language, code in blocks(page)[1]:
        if language == "python":
            exec(compile(code, page.name, "exec"), namespace)
    assert namespace


def test_flags_in_the_pages_are_flags_of_some_command():
    known = set()
    for module, make in COMMANDS.values():
        known |= set(getattr(importlib.import_module(f"gpu_reml.cli.{module}"), make)("").flags)
    elsewhere = set((ROOT / "docs" / "coming_from.md").read_text().replace("`", " ").split())
    for page in PAGES:
        if page.name in ("coming_from.md", "performance.md", "cluster.md"):
            continue
        named = set(re.findall(r"`(--[a-z][\w-]+)", page.read_text()))
        assert named - OF_OTHER_PROGRAMS <= known | elsewhere, (
            page.name,
            named - OF_OTHER_PROGRAMS - known - elsewhere,
        )


def test_every_link_of_the_pages_leads_to_a_file_and_a_heading():
    def anchors(page):
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}

    made = {"all_flags.md", "api.md"}
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"https?:", target):
                continue
            path, _, anchor = target.partition("#")
            place = page.parent / path if path else page
            assert place.is_file() or path in made, (page.name, target)
            assert not anchor or anchor in anchors(place), (page.name, target)


def test_texts_of_the_messages_are_in_the_code():
    code = " ".join(
        path.read_text() for folder in ("cli", "io", "reml", "ops") for path in (ROOT / folder).rglob("*.py")
    )
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    page = (ROOT / "docs" / "messages.md").read_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        for part in message.split(" ... "):
            assert part in code, message


def test_the_site_is_built_without_a_broken_link_and_has_every_flag_and_name(tmp_path):
    pytest.importorskip("material")
    built = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    ran = subprocess.run(
        built, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    flags = (tmp_path / "all_flags" / "index.html").read_text()
    for command, (module, make) in COMMANDS.items():
        parser = getattr(importlib.import_module(f"gpu_reml.cli.{module}"), make)("")
        assert f">{command}<" in flags and all(f"<code>{flag}</code>" in flags for flag in parser.flags)
    api = (tmp_path / "api" / "index.html").read_text()
    assert all(f"gpu_reml.{name}" in api for name in gpu_reml.__all__)


def test_every_public_function_tells_shapes_errors_and_an_example():
    """Classes tell their fields; what they are made by has the example."""
    lacking, seen = [], 0
    for name in gpu_reml.__all__:
        value = getattr(gpu_reml, name)
        text = inspect.getdoc(value) or ""
        of_files = name.startswith(("read_", "load_"))
        wanted = {} if of_files else {"shapes": r"\((\w+ ?[+-] ?)*\w+,( ?\w+\)|\))|\bn samples\b"}
        if inspect.isfunction(value):
            wanted |= {"errors": r"[Rr]aise[sd]|Error", "example": r">>>|Example"}
            seen += 1
        lacking += [(name, what) for what, pattern in wanted.items() if not re.search(pattern, text)]
    assert seen > 25 and not [each for each in lacking if each[1] != "shapes" or each[0][0].islower()], lacking
