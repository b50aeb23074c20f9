"""``report``: a result as one HTML file that needs nothing else."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .blocks import is_number
from .kinds import headline_of, sections_of, title_of
from .records import record_of

NEEDED = ("jinja2", "matplotlib")


def report(result: Any, path: str | Path, **further: Any) -> Path:
    """Write a page about a result: one HTML file, which is read without a network and holds no script.

    Args:
        result: a fit (FitResult, HEResult, GeneticCorrelations, ...) of n samples; tests of variants (Scan, Refined,
            ...), a SparseResult, a RelaxResult or an Accuracy; the record of one; or the path of the JSON file that a
            command wrote (OUT.json, OUT.gwas_metadata.json, OUT.summary.json, OUT.meta.json,
            OUT.prediction_metadata.json), whose tables are read from beside it.
        path: where the page goes.
        further: what the page shows beside, as keys of the record: ``title``; of a fit ``diagnoses``
            (:func:`gpu_reml.diagnose`), ``spectrum`` (nodes and weights (q,)) and ``residuals_of_y`` (n,); of tests
            ``trait``, which of several, and ``variants``, columns ``chrom``, ``bp`` and ``id`` (m,); of an accuracy
            ``predictions``, columns ``y_pred`` and ``y`` (n,).

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is not installed; the message has the command that brings them.
        OSError, ValueError: the record cannot be read, or the page not be written.
        TypeError: there is no page for such a result.

    >>> import tempfile
    >>> import numpy as np
    >>> import gpu_reml
    >>> y, X, K = np.array([1.0, -1.0, 2.0, 0.5]), np.ones((4, 1)), np.diag([0.5, 1.0, 1.5, 2.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = gpu_reml.report(gpu_reml.fit_exact(y, X, K), f"{folder}/height.html", title="Height").read_text()
    >>> "<title>Height</title>" in page
    True
    """
    text = page_text({**record_of(result), **further})
    path = Path(path)
    from gpu_reml.io import write_text

    write_text(path, text)
    return path


def missing_packages() -> list[str]:
    """What a page needs and is not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def page_text(record: Mapping[str, Any]) -> str:
    """The page as text."""
    missing = missing_packages()
    if missing:
        raise ImportError(f"a report needs {' and '.join(missing)}, not installed here: pip install 'gpu-reml[report]'")
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=title_of(record), headline=headline_of(record), sections=sections_of(record), is_number=is_number
    )
