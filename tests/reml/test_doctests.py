"""The examples in the docstrings of public functions."""

import doctest
import importlib
import inspect
import pkgutil
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


def examples_of_members():
    """{name: example} of what no script calls by a public name: members of classes, functions of ops and io."""
    finder, found = doctest.DocTestFinder(), {}
    for package in ("gpu_reml.reml", "gpu_reml.io", "gpu_reml.ops"):
        for each in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
            if not each.name.startswith(("gpu_reml.ops.cuda", "gpu_reml.ops.cluster")):
                module = importlib.import_module(each.name)
                tests = finder.find(module, each.name, extraglobs={})
                found.update({test.name: test for test in tests if test.examples})
    functions = {f"{function.__module__}.{function.__name__}" for function in public_functions().values()}
    return {name: test for name, test in found.items() if name not in functions}


def test_other_examples_are_answered_as_they_say():
    runner, examples = doctest.DocTestRunner(), examples_of_members()
    attempted = sum(runner.run(test).attempted for test in examples.values())
    assert attempted > 10 and not runner.summarize(verbose=False).failed
