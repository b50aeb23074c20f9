"""The examples in the docstrings of public functions."""

import doctest
import inspect
import sys

import pytest

import gpu_reml
from gpu_reml import reml


def public_functions():
    """{name: function} that scripts call."""
    named = {name: getattr(package, name) for package in (reml, gpu_reml) for name in package.__all__}
    return {name: value for name, value in named.items() if inspect.isfunction(value)}


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_a_public_function_has_an_example_that_is_answered_as_it_says(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    function = public_functions()[name]
    if function.__module__.startswith(("gpu_reml.figures", "gpu_reml.reports")):
        pytest.importorskip("matplotlib")
        pytest.importorskip("jinja2")
    tests = doctest.DocTestFinder(recurse=False).find(function, name, sys.modules[function.__module__], globs={})
    runner = doctest.DocTestRunner()
    assert sum(runner.run(test).attempted for test in tests) and not runner.summarize(verbose=False).failed
