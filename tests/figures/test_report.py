"""The report: one page that holds everything, and is read without a network."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import gpu_reml
from gpu_reml.cli.gwas import main as gwas
from gpu_reml.cli.main import main
from gpu_reml.cli.predict import main as predict
from gpu_reml.cli.relax import main as relax
from gpu_reml.cli.sparse import main as sparse
from gpu_reml.reml import Scan
from gpu_reml.reports import page
from gpu_reml.reports.blocks import is_number, shown
from gpu_reml.reports.studies import leads
from gpu_reml.validation import simulate_bed

MOST_BYTES = 3 << 20
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())

    @property
    def text(self):
        return " ".join(filter(None, self.words))

    def values(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Prefix of a run of two components with a report, and what it printed."""
    folder = tmp_path_factory.mktemp("report")
    simulate_bed(folder / "data", 200, 300, 3, missing_rate=0.05)
    people = [line.split()[:2] for line in (folder / "data.fam").read_text().splitlines()]
    y = np.random.default_rng(1).standard_normal(200)
    rows = [f"{fid} {iid} {value:.4f}" for (fid, iid), value in zip(people, y, strict=True)]
    (folder / "pheno.txt").write_text("FID IID <b>&height\n" + "\n".join(rows[3:]) + "\n")
    out = str(folder / "out")
    flags = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--maf-bins", "0.2", "--maf", "0.05"]
    code = main([*map(str, flags), "--method", "stochastic", "--profile", "--device", "cpu", "--report", "--out", out])
    assert code == 0
    return out


@pytest.fixture(scope="module")
def others(made, tmp_path_factory):
    """Pages of the other commands, by command."""
    folder = os.path.dirname(made)
    fileset, out = ["--bfile", f"{folder}/data", "--device", "cpu"], str(tmp_path_factory.mktemp("others") / "y")
    asked = [*fileset, "--pheno", f"{folder}/pheno.txt", "--report", "--quiet", "--out", out]
    assert gwas([*asked, "--model", "loco", "--method", "score"]) == 0
    assert sparse([*asked, "--max-active", "5", "--candidate-k", "20", "--lasso-n-lambda", "10"]) in (0, 3)
    assert relax([*asked, "--n-groups", "2", "--outer-iters", "3"]) == 0
    assert main([*fileset, "--pheno", f"{folder}/pheno.txt", "--save-model", f"{out}.m", "--quiet", "--out", out]) == 0
    assert predict([*asked, "--model", f"{out}.m.npz"]) == 0
    return {kind: f"{out}.{kind}.report.html" for kind in ("gwas", "sparse", "relax", "prediction")}


@pytest.fixture(scope="module")
def text(made):
    return open(f"{made}.report.html").read()


def test_the_page_loads_nothing_and_runs_nothing(text):
    read = Page(text)
    assert len(text) < MOST_BYTES
    assert "script" not in {tag for tag, _ in read.tags} and not re.search(r"\son\w+=", text)
    sources = [*read.values("src"), *read.values("href"), *read.values("xlink:href")]
    assert sources and all(source.startswith(("#", "data:")) for source in sources)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text


def test_links_lead_somewhere_and_names_are_unique(text):
    ids = Page(text).values("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in Page(text).values("href") if href.startswith("#")} <= set(ids)


def test_the_page_says_what_the_record_says(made, text):
    record, read = json.loads(open(f"{made}.json").read()), Page(text)
    assert f"h2 = {record['h2']['estimate']:.3f}" in read.text and "Heritability of <b>&height" in read.text
    for component in record["components"]:
        assert component["name"] in read.text and shown(component["variance"]) in read.text
    assert "samples analysed 197" in read.text and "--maf 0.05" in read.text
    assert "settings that nobody typed" in read.text and "--max-probes 256" in read.text
    for reason, count in record["samples"]["dropped"].items():
        assert f"dropped: {reason} {count}" in read.text
    assert record["run"]["command"] in read.text and "gpu-reml --bfile" in record["run"]["command"]
    assert record["run"]["versions"]["numpy"] == np.__version__ and record["run"]["peak_memory_bytes"] > 1 << 24
    titles = "Variance components|Enrichment|Tests|Likelihood profile|Convergence|residuals|How it was computed"
    assert all(title in read.text for title in titles.split("|"))


def test_every_figure_has_a_caption_and_a_label(text):
    read = Page(text)
    figures = [tag for tag, _ in read.tags if tag == "figure"]
    labels = [attrs.get("aria-label") for tag, attrs in read.tags if tag == "svg" and "role" in attrs]
    assert len(figures) == len(labels) >= 5 and all(labels)


def test_a_page_is_made_of_a_result_a_record_and_a_file(made, tmp_path):
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((60, 100))
    result = gpu_reml.fit_exact(rng.standard_normal(60), np.ones((60, 1)), Z @ Z.T / 100)
    path = gpu_reml.report(result, tmp_path / "a.html", title="A <title>")
    read = Page(path.read_text())
    assert "A <title>" in read.text and f"h2 = {result.h2.estimate[-1]:.3f}" in read.text
    assert "step of every iteration" in read.text
    again = gpu_reml.report({**result.to_dict(), "title": "x"}, tmp_path / "b.html").read_text()
    assert f"h2 = {result.h2.estimate[-1]:.3f}" in again
    of_file = Page(gpu_reml.report(f"{made}.json", tmp_path / "c.html").read_text()).text
    assert "step of every iteration" in of_file and "Heritability of <b>&height" in of_file


def test_correlations_have_a_page_of_their_own(tmp_path):
    rows = [("total", 0.5), ("residual", -0.2)]
    pairs = [
        {"trait_1": "a", "trait_2": "b", "component": name, "rg": rg, "rg_se": 0.1, "p_rg0": None} for name, rg in rows
    ]
    read = Page(gpu_reml.report({"traits": ["a", "b"], "pairs": pairs}, tmp_path / "p.html").read_text())
    assert "Genetic correlations of 2 phenotypes" in read.text and "a b total 0.5 0.1 NA" in read.text


RECORDS = {"gwas": "gwas_metadata", "sparse": "summary", "relax": "meta", "prediction": "prediction_metadata"}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_page_of_another_command_is_whole_and_can_be_made_again_of_its_files(others, tmp_path, kind):
    text = open(others[kind]).read()
    ids = Page(text).values("id")
    assert len(ids) == len(set(ids)) and "script" not in {tag for tag, _ in Page(text).tags}
    record = others[kind].replace(f"{kind}.report.html", f"{RECORDS[kind]}.json")
    command = json.loads(open(record).read())["run"]["command"]
    assert command.startswith("gpu-reml-") and command in Page(text).text
    again = Page(gpu_reml.report(record, tmp_path / "again.html").read_text())
    assert again.text == Page(text).text and len(again.tags) == len(Page(text).tags)


def test_the_page_of_tests_shows_the_strongest_of_each_place_and_the_null_model(others):
    read, prefix = Page(open(others["gwas"]).read()), others["gwas"].removesuffix(".gwas.report.html")
    table = pd.read_csv(f"{prefix}.gwas.tsv", sep="\t")
    best = table.loc[table["LOG10P"].idxmax()]
    assert f"{best['ID']} {best['CHROM']} {best['GENPOS']:,} {best['A1']}" in read.text
    record = json.loads(open(f"{prefix}.gwas_metadata.json").read())
    assert f"lambda GC {record['lambda_gc']:.4g}" in read.text and "variants tested 300" in read.text
    assert f"h2, heritability {shown(record['fit']['h2']['estimate'])}" in read.text and "calibrate" in read.text


def test_leading_variants_are_apart_and_strong_or_else_the_strongest():
    tests = {"CHROM": np.array(["1", "1", "1", "2"]), "GENPOS": np.array([1, 400_000, 900_000, 5])}
    assert leads({**tests, "LOG10P": np.array([9.0, 12.0, 6.0, np.inf])}).tolist() == [3, 1]
    assert leads({**tests, "LOG10P": np.array([9.0, 5.5, 8.0, np.nan])}).tolist() == [0, 2]
    assert leads({**tests, "LOG10P": np.array([1.0, 4.9, 2.0, np.nan])}).tolist() == [1]
    assert leads({"LOG10P": np.full(3, np.nan)}).size == 0


def test_tests_of_variants_in_python_have_a_page_with_and_without_places(tmp_path):
    rng = np.random.default_rng(2)
    found = Scan(rng.standard_normal((50, 2)), np.ones((50, 2)), rng.random((50, 2)) * 3, 47)
    bare = Page(gpu_reml.report(found, tmp_path / "a.html", title="Two traits").read_text()).text
    strongest = int(np.argmax(found.log10p[:, 0]))
    assert "Two traits" in bare and "variants tested 50" in bare and f"SE -log10 p {strongest} " in bare
    variants = {"chrom": np.repeat(["1", "2"], 25), "bp": np.arange(50), "id": [f"rs{j}" for j in range(50)]}
    placed = Page(gpu_reml.report(found, tmp_path / "b.html", trait=1, variants=variants).read_text())
    assert f"rs{np.argmax(found.log10p[:, 1])}" in placed.text and "p-values along the genome" in placed.text
    with pytest.raises(TypeError, match=r"result: expected a fit, .* found int"):
        gpu_reml.report(3, tmp_path / "c.html")


def test_warnings_come_first_each_with_its_remedy(tmp_path):
    record = {
        "converged": False, "message": "raise --max-iterations", "status": "max_iterations", "notes": ["impute them"],
        "cautions": ["at a bound"], "mc_target_met": False, "mc_se_over_se": 0.31, "mc_target": 0.1,
    }  # fmt: skip
    text = Page(gpu_reml.report(record, tmp_path / "p.html").read_text()).text
    words = ["raise --max-iterations", "at a bound", "impute them", "is 0.31 standard errors, more than the target 0.1"]
    places = [text.index(word) for word in words]
    assert places == sorted(places) and text.index("Warnings") < text.index("Convergence and")


def test_many_rows_are_folded_and_none_is_lost(tmp_path):
    rows = [{"name": f"set_{g:03d}", "h2": 0.001, "h2_se": 0.01, "h2_mc_se": None} for g in range(200)]
    record = {"components": rows, "h2": {"estimate": 0.2, "se": None, "mc_se": None}}
    text = gpu_reml.report(record, tmp_path / "p.html").read_text()
    assert "160 more rows" in text and all(f">set_{g:03d}<" in text for g in range(200))


@pytest.mark.parametrize(
    "cell, number", [("1,234", True), ("-3.1e-08", True), ("NA", True), ("2-3", False), ("", False)]
)
def test_numbers_are_told_from_words(cell, number):
    assert is_number(cell) == number


def test_without_jinja2_the_error_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "jinja2" else True)
    with pytest.raises(ImportError, match=r"a report needs jinja2, .* pip install 'gpu-reml\[report\]'"):
        gpu_reml.report({}, tmp_path / "p.html")
    assert main(["--bfile", "none", "--pheno", "none", "--report", "--out", str(tmp_path / "o")]) == 2
    assert "--report: needs jinja2, not installed here" in capsys.readouterr().err


def in_a_browser(pages, width, folder):
    """Of each page in a frame as wide as the screen, since a headless window is not narrower than 500 pixels: how wide
    its content is, how much room there is, its drawings, and its smallest letters; and what the console said."""
    size = f"width={width} height=900 style='border:0'"
    frames = "".join(f"<iframe {size} src='file://{each}'></iframe>" for each in pages)
    (folder / "frame.html").write_text(
        f"{frames}<script>onload=()=>{{document.title=[...document.querySelectorAll('iframe')].map(f=>{{"
        "const d=f.contentDocument,e=d.documentElement;return [e.scrollWidth,e.clientWidth,"
        "d.querySelectorAll('figure svg').length,"
        "Math.min(...[...d.querySelectorAll('p,td,h1')].map(e=>parseFloat(getComputedStyle(e).fontSize)))].join(' ')"
        "}).join(';');document.body.append(document.title)}</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr"]
    own = [f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * 0.0.0.0", "--dump-dom"]
    command = [CHROMIUM, *flags, *own, "--virtual-time-budget=4000", f"file://{folder}/frame.html"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, "HOME": str(folder)})
    found = re.search(r"<title>([\d. ;]+)</title>", ran.stdout)[1].split(";")
    return [tuple(map(float, each.split())) for each in found], ran.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, in which the pages would be opened")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_the_pages_without_an_error_and_without_sideways_scrolling(made, others, tmp_path, width):
    pages = [f"{made}.report.html", *others.values()]
    found, console = in_a_browser(pages, width, tmp_path)
    assert "CONSOLE" not in console, console
    for (across, room, svgs, size), of, least in zip(found, pages, [5, 3, 2, 2, 1], strict=True):
        assert svgs >= least and across <= room and width - 20 <= room <= width and size >= 14, of


def test_a_report_says_what_is_odd_in_the_page_the_record_and_the_log(made, tmp_path):
    record, log = json.loads(open(f"{made}.json").read()), open(f"{made}.log").read()
    read = Page(open(f"{made}.report.html").read())
    assert record["diagnoses"] and "Why is my h2 odd?" in read.text
    for each in record["diagnoses"]:
        assert each["evidence"] in read.text
        assert f"odd: {each['problem']} ({each['evidence']}). What to do: {each['remedy']}" in log
    assert "eigenvalues of the relationship matrix" in read.text
    nothing = Page(gpu_reml.report({"diagnoses": []}, tmp_path / "p.html").read_text())
    assert "Nothing that was looked at is out of the ordinary" in nothing.text


def test_a_plan_says_what_standard_error_to_expect(made, capsys):
    folder, record = os.path.dirname(made), json.loads(open(f"{made}.json").read())
    flags = ["--bfile", f"{folder}/data", "--pheno", f"{folder}/pheno.txt", "--device", "cpu", "--plan"]
    assert main([*flags, "--out", f"{folder}/plan"]) == 0
    expected = re.search(
        r"SE of h2 to expect: about ([\d.]+) if h2 is 0.5, by the relationships of 197 of 197", capsys.readouterr().out
    )
    assert float(expected[1]) == pytest.approx(record["h2"]["se"], rel=0.35)


def test_remedies_of_a_command_name_flags_that_there_are():
    from gpu_reml.cli.diagnoses import FLAGS, remedy_in_flags
    from gpu_reml.cli.main import make_parser
    from gpu_reml.reml.studies import diagnosis

    library = re.sub(r'"\s*\n\s*f?"', "", open(diagnosis.__file__).read())
    assert all(words in library for words in FLAGS)
    named = {flag for flags in FLAGS.values() for flag in re.findall(r"--[a-z-]+", flags)}
    assert len(named) > 10 and named <= set(make_parser("").flags)
    assert remedy_in_flags("impute them, or not") == "impute them (--dosage takes what imputation gives), or not"
