"""Code in the documents runs and says what they claim."""

import re
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


def test_functions_are_told_from_covariances_and_need_their_traces():
    import numpy as np

    from gpu_reml.reml import as_covariance

    double = as_covariance([(lambda B: 2 * B, 10.0), np.eye(5)])
    assert double.names == ("component_000", "component_001")
    np.testing.assert_allclose(double.apply([1.0, 3.0], np.ones((5, 1))), 5)
    with pytest.raises(ValueError, match="give \\(function, trace\\)"):
        as_covariance([np.sin, np.eye(5)])
    with pytest.raises(ValueError, match="do not tell the number of samples"):
        as_covariance([(lambda B: B, 5.0)])
