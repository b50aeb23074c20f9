"""``report``: a result as one HTML file that needs nothing else."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .blocks import is_number, shown
from .sections import ALL, METHODS

NEEDED = ("jinja2", "matplotlib")


def report(result: Any, path: str | Path, **further: Any) -> Path:
    """Write a page about a result: one HTML file, which is read without a network and holds no script.

    Args:
        result: a fit (FitResult, HEResult, GeneticCorrelations, ...) of n samples, the record of one, or the path of
            the OUT.json that a command wrote.
        path: where the page goes.
        further: what the page shows beside, as keys of the record: ``diagnoses`` (:func:`gpu_reml.diagnose`),
            ``spectrum`` (nodes and weights (q,)), ``residuals_of_y`` (n,), ``title``.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 or matplotlib is not installed; the message has the command that brings them.
        OSError, ValueError: the record cannot be read, or the page not be written.

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


def record_of(result: Any) -> dict[str, Any]:
    """A result as a record, with its history; of a path, what is in the file, and its OUT.history.tsv."""
    if isinstance(result, str | Path):
        record = json.loads(Path(result).read_text())
        history = Path(result).with_suffix(".history.tsv")
        if history.exists():
            import pandas as pd

            record["history"] = pd.read_csv(history, sep="\t").to_dict("records")
        return record
    if isinstance(result, Mapping):
        return dict(result)
    record = result.to_dict()
    record["history"] = [each._asdict() for each in getattr(result, "history", ())]
    return record


def page_text(record: Mapping[str, Any]) -> str:
    """The page as text."""
    missing = missing_packages()
    if missing:
        raise ImportError(f"a report needs {' and '.join(missing)}, not installed here: pip install 'gpu-reml[report]'")
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sections = [section for make in ALL if (section := make(record)) is not None]
    return environment.get_template("page.html").render(
        title=title_of(record), headline=headline(record), sections=sections, is_number=is_number
    )


def title_of(record: Mapping[str, Any]) -> str:
    """What the page is about."""
    if record.get("title"):
        return str(record["title"])
    if record.get("traits"):
        return f"Genetic correlations of {len(record['traits'])} phenotypes"
    return f"Heritability of {record['phenotype']}" if record.get("phenotype") else "Heritability"


def headline(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that stand at the top: each with what it is."""
    out = []
    h2 = record.get("h2")
    if isinstance(h2, Mapping):
        se = "SE unknown" if h2["se"] is None or h2["se"] != h2["se"] else f"SE {h2['se']:.3f}"
        out.append((f"h2 = {h2['estimate']:.3f}", se))
    if record.get("h2_profile"):
        ends = [shown(record["h2_profile"][key]) for key in ("lower", "upper")]
        out.append((" to ".join(ends), "95 % profile-likelihood interval"))
    samples = (record.get("samples") or {}).get("analysed", record.get("n"))
    if isinstance(samples, int):
        out.append((shown(samples), "samples"))
    if record.get("num_variants"):
        out.append((shown(record["num_variants"]), "variants"))
    if record.get("converged") is not None:
        method = str(record.get("method", ""))
        out.append(("converged" if record["converged"] else "not converged", METHODS.get(method, method)))
    return out
