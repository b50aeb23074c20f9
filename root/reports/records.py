"""Results and files as records: plain mappings, of which a page is made."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]
TESTS = ("CHROM", "GENPOS", "ID", "A1", "A1FREQ", "BETA", "SE", "LOG10P", "METHOD")


def record_of(result: Any) -> Record:
    """A result as a record, with its history; of a path, what is in the file and in the tables beside it."""
    if isinstance(result, str | Path):
        return record_of_file(Path(result))
    if isinstance(result, Mapping):
        return dict(result)
    if hasattr(result, "to_dict"):
        record = result.to_dict()
        history = [each._asdict() for each in getattr(result, "history", ())]
        return {**record, "history": history, **beside_sparse(result)}
    return record_of_tuple(result)


def record_of_tuple(result: Any) -> Record:
    """A scan, whichever model it is of, or an accuracy."""
    from gpu_reml.reml import Accuracy, Scan

    if isinstance(result, Accuracy):
        return {"accuracy": result._asdict()}
    scan = result if isinstance(result, Scan) else getattr(result, "scan", None)
    if not isinstance(scan, Scan):
        raise TypeError(
            "result: expected a fit, genetic correlations, tests of variants, a SparseResult, a RelaxResult, an "
            f"Accuracy, a record or a path, found {type(result).__name__}"
        )
    return {"tests": {"BETA": scan.beta, "SE": scan.se, "LOG10P": scan.log10p}, "dof": scan.dof}


def beside_sparse(result: Any) -> Record:
    """The path and the chosen variants of a sparse REML; nothing of another result."""
    from gpu_reml.reml import SparseResult

    if not isinstance(result, SparseResult):
        return {}
    path, rows = result.path, result.candidates
    curves = {"lambdas": path.lambdas, "coefficients": path.coefficients, "ids": rows.astype(str), "chosen": path.best}
    selected = {
        "snp_id": result.support,
        "beta_gls": result.gls.estimate,
        "se_gls": result.gls.se,
        "beta_debiased": result.debiased.estimate,
        "se_debiased": result.debiased.se,
        "p_debiased": result.debiased.p,
    }
    return {"path": curves, "selected": selected}


def record_of_file(path: Path) -> Record:
    """What a command wrote, by the ends of the files' names."""
    record = json.loads(path.read_text())
    for end, further in BESIDE.items():
        if path.name.endswith(end):
            prefix = path.with_name(path.name.removesuffix(end))
            return {**record, **further(prefix)}
    return record


def columns_of(path: Path, wanted: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Columns of a table that a command wrote."""
    import pandas as pd

    keep = (lambda name: name in wanted) if wanted else None
    names = {name: str for name in ("CHROM", "ID", "A1", "METHOD", "snp_id", "chr")}
    table = pd.read_csv(path, sep="\t", usecols=keep, dtype=names)
    return {str(name): table[name].to_numpy() for name in table}


def tests_beside(prefix: Path) -> Record:
    """The table of tests."""
    for end in (".gwas.tsv", ".gwas.tsv.gz"):
        path = prefix.with_name(prefix.name + end)
        if path.exists():
            return {"tests": columns_of(path, TESTS)}
    return {}


def path_beside(prefix: Path) -> Record:
    """The chosen variants and the path of a sparse REML."""
    found: Record = {}
    selected, path = (prefix.with_name(f"{prefix.name}{end}") for end in (".selected_snps.tsv", ".path.tsv"))
    if selected.exists():
        found["selected"] = columns_of(selected)
    if path.exists():
        found["path"] = path_of(columns_of(path))
    return found


def path_of(rows: Mapping[str, np.ndarray]) -> Record:
    """A path as arrays, of its table in the long format."""
    steps = rows["step"].astype(int)
    ids = list(dict.fromkeys(str(each) for each in rows["snp_id"] if isinstance(each, str)))
    coefficients, lambdas = np.zeros((steps.max(initial=0) + 1, len(ids))), np.ones(steps.max(initial=0) + 1)
    lambdas[steps] = rows["lambda"]
    at = {name: place for place, name in enumerate(ids)}
    for step, name, beta in zip(steps, rows["snp_id"], rows["beta"], strict=True):
        if name in at:
            coefficients[step, at[name]] = beta
    chosen = steps[rows["chosen"] == 1]
    return {"lambdas": lambdas, "coefficients": coefficients, "ids": ids, "chosen": int(chosen[0])}


def search_beside(prefix: Path) -> Record:
    """Outer iterations of a search for groups."""
    path = prefix.with_name(f"{prefix.name}.history.json")
    return {"history": json.loads(path.read_text())["outer_iterations"]} if path.exists() else {}


def predictions_beside(prefix: Path) -> Record:
    """Predicted values."""
    path = prefix.with_name(f"{prefix.name}.prediction.tsv")
    return {"predictions": columns_of(path)} if path.exists() else {}


def history_beside(prefix: Path) -> Record:
    """Iterations of a fit."""
    path = prefix.with_name(f"{prefix.name}.history.tsv")
    if not path.exists():
        return {}
    columns = columns_of(path)
    return {"history": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


BESIDE: dict[str, Callable[[Path], Record]] = {  # the end of a record's name -> what is read beside it
    ".gwas_metadata.json": tests_beside,
    ".summary.json": path_beside,
    ".meta.json": search_beside,
    ".prediction_metadata.json": predictions_beside,
    ".json": history_beside,
}
