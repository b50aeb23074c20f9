"""The examples in the docstrings of public functions."""

import doctest
import importlib

import pytest

MODULES = ("fit", "lanczos", "likelihood", "pcg", "step")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_are_answered_as_they_say(name):
    found = doctest.testmod(importlib.import_module(f"gpu_reml.reml.{name}"), globs={})
    assert found.attempted and not found.failed
