"""Code in the documents runs and says what they claim."""

import ast
import importlib
import re
import runpy
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("pandas")
DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_example_of_an_own_operator_runs_and_finds_what_was_simulated(capsys):
    text = (DOCS / "own_operator.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    namespace = {}
    exec(compile(code, "own_operator.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "operator household: linear, symmetric, positive semidefinite" in printed
    fit = namespace["fit"]
    assert fit.names == ("grm", "household") and fit.converged
    assert (abs(fit.theta - 1) < 4 * fit.se).all() and fit.theta[1] > 4 * fit.se[1]


def run(name, monkeypatch):
    """What an example of docs/examples leaves in its names."""
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    return runpy.run_path(str(DOCS / "examples" / f"{name}.py"))


def test_the_examples_are_short_and_answer_as_dense_reml_does(monkeypatch, capsys):
    import numpy as np

    from gpu_reml.validation import dense, exact_reml

    data = run("data", monkeypatch)
    y, X, K, other = (data[name] for name in ("y", "X", "K", "other"))
    V, theta = K + np.eye(300), np.array([1.0, 2.0])
    one, several, at, own, f = (
        run(name, monkeypatch) for name in ("one_grm", "several_grms", "at_theta", "own_preconditioner", "own_function")
    )
    fits = ((one["result"], exact_reml(y, X, [K])), (several["result"], exact_reml(y, X, [K, other])))
    for found, expected in fits:
        assert (np.abs(found.theta - expected.theta) <= 4 * found.mc_se + 0.02 * found.se).all()
    np.testing.assert_allclose(at["likely"].value, dense.dense_loglik(theta, y, X, [K]), rtol=1e-6)
    np.testing.assert_allclose(at["gradient"].score, dense.dense_score(theta, y, X, [K]), rtol=1e-4, atol=1e-4)
    expected = dense.dense_score(np.ones(2), y, X, [K])
    assert (np.abs(own["gradient"].score - expected) <= 4 * own["gradient"].mc_se).all()
    np.testing.assert_allclose(own["solved"].X, np.linalg.solve(V, y), rtol=1e-5, atol=1e-6)
    assert abs(f["found"].estimate - np.trace(np.linalg.solve(V, K))) < 4 * f["found"].mc_se
    assert run("own_operator", monkeypatch)["result"].names == ("component_000", "household")
    for path in (DOCS / "examples").glob("*.py"):
        code = [line for line in path.read_text().splitlines() if line and not line.startswith(('"', "from", "import"))]
        assert len(code) < 10


def test_functions_are_told_from_covariances_and_need_their_traces():
    import numpy as np

    from gpu_reml.reml import as_covariance

    double = as_covariance([(lambda B: 2 * B, 10.0), np.eye(5)])
    assert double.names == ("component_000", "component_001")
    np.testing.assert_allclose(double.apply([1.0, 3.0], np.ones((5, 1))), 5)
    with pytest.raises(ValueError, match="give \\(function, trace\\)"):
        as_covariance([np.sin, np.eye(5)]).traces.sum()
    with pytest.raises(ValueError, match="do not tell the number of samples"):
        as_covariance([(lambda B: B, 5.0)])


def test_the_components_of_the_file_page_are_read(tmp_path):
    from gpu_reml.io import read_component_spec

    text = re.search(r"```json\n(.*?)```", (DOCS / "files.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "sets.json").write_text(text)
    coding, enhancer = read_component_spec(tmp_path / "sets.json", 10)
    assert coding.name == "coding" and coding.indices.tolist() == [0, 1, 4]
    assert enhancer.ids == ("rs7", "rs9") and enhancer.weights.tolist() == [1.0, 0.5]


def test_the_file_page_names_flags_that_there_are():
    from gpu_reml.cli.gwas import make_gwas_parser
    from gpu_reml.cli.main import make_parser

    known = {*make_parser("0")._option_string_actions, *make_gwas_parser("0")._option_string_actions}
    readme = DOCS.parent / "README.md"
    for page in (DOCS / "files.md", DOCS / "smile.md"):
        assert set(re.findall(r"`(--[a-z][a-z-]+)", page.read_text())) <= known, page
    for target in re.findall(r"\]\(([^)#]+)\)", readme.read_text()):
        assert (readme.parent / target).is_file(), target


def test_the_files_that_the_design_names_are_there():
    named = re.findall(r"`([a-z]+/[a-z_*/.]*)`", (DOCS / "design.md").read_text())
    assert len(set(named)) > 15
    for path in named:
        assert list(DOCS.parent.glob(path)), path


def names_of_the_glossary():
    rows = re.findall(r"^\|[^|]*\|[^|]*\|([^|]*)\|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


def is_there(name):
    """Whether a module below the package, or what a module has, or a field of a class."""
    parts = f"gpu_reml.{name}".split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(value, part):
                return part in getattr(value, "__annotations__", {}) and part == parts[-1]
            value = getattr(value, part)
        return True


def test_the_names_of_the_glossary_are_in_the_code():
    names = names_of_the_glossary()
    assert len(names) > 60 and not [name for name in names if not is_there(name)]
    assert not is_there("reml.Probes.tracer") and not is_there("reml.prob.Probes")


def test_a_class_has_a_name_of_its_own_or_shares_it_for_what_the_glossary_says():
    """Groups of flags are apart: they have the names of their subjects."""
    places, told = defaultdict(set), set(names_of_the_glossary())
    for folder in ("reml", "ops", "io", "cli"):
        for path in (DOCS.parent / folder).rglob("*.py"):
            module = ".".join(path.relative_to(DOCS.parent).with_suffix("").parts)
            if not module.startswith("cli.flags."):
                for node in ast.parse(path.read_text()).body:
                    if isinstance(node, ast.ClassDef):
                        places[node.name].add(f"{module}.{node.name}")
    shared = [names for names in places.values() if len(names) > 1]
    assert len(places) > 200 and not [sorted(names) for names in shared if not names <= told]


def test_the_documents_that_docstrings_cite_are_there():
    root = DOCS.parent
    for folder in ("root", "reml", "ops", "io", "cli", "validation", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            for cited in re.findall(r"docs/[\w./]+\.(?:md|py)\b", path.read_text()):
                assert (root / cited).is_file(), (path, cited)
