"""What the library says of its arguments, said in flags: its messages are for callers in Python.

What reads files puts arguments between back quotes; what estimates names a setting by its class and field, or an
argument with its value.  Both are looked up here.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_FLAGS = {
    "FitSettings.max_iterations": "--max-iterations",
    "fit with the bounds (FitSettings.constrain)": "leave --no-constrain out",
    "SparseSettings.rounds": "--outer-max",
    "LassoSettings.candidates": "--candidate-k",
    "LassoSettings.max_pcg": "--max-pcg-iters",
    "PathSettings.gamma": "--lasso-ebic-gamma",
    "PathSettings.max_active": "--max-active",
    "DescentSettings.max_sweeps": "--lasso-cd-max-iter",
    "KktSettings.max_rounds": "--kkt-max-rounds",
    "KktSettings.max_candidates": "--kkt-max-candidate",
    "products in float64": "--dtype float64 (with --device cpu)",
    "check the operator, or use": "use",
    ", or give a sketch of more columns": " (--max-pcg-iters)",
    ", a preconditioner, or a looser tolerance": "",
    " or a looser tolerance": "",
    "device='cuda'": "--device cuda",
    "device='cpu'": "--device cpu",
    "num_devices:": "--num-gpus:",
    "alpha:": "--alpha:",
    "MAF bins:": "--maf-bins:",
    "LD bins:": "--ld-bins:",
    "a lower limit on its memory": "a lower --gpu-budget-gib",
    "the least budget in GiB that can is": "the smallest that can is --gpu-budget-gib",
    "a fit goes on from what its hook saved": "--resume goes on from the last checkpoint",
}
_FLAG_OF = {  # argument of what reads files -> flag
    "ambiguous": "--ambiguous",
    "ancestries": "--admix-q",
    "autosome": "--autosome",
    "categorical": "--covar",
    "chrom": "--chr",
    "environments": "--gxe, --qcovar",
    "exclude": "--exclude",
    "extract": "--extract",
    "fam": "--admix-fam",
    "from_bp": "--from-bp",
    "geno": "--geno",
    "grm_groups": "--grm-groups",
    "hwe": "--hwe",
    "keep": "--keep",
    "maf": "--maf",
    "max_maf": "--max-maf",
    "mind": "--mind",
    "part": "--part",
    "scheduler": "--scheduler",
    "shards": "--shards",
    "workers": "--workers",
    "quantitative": "--qcovar",
    "remove": "--remove",
    "resume": "--resume",
    "to_bp": "--to-bp",
    "uncovered": "--uncovered",
    "w_files": "--w-files",
    "write_model": "gpu-reml --save-model",
}
_ARGUMENT = re.compile(rf"`({'|'.join(_FLAG_OF)})`")


def _alone(text: str) -> str:
    """What matches a text, but not in a flag: alpha: is no name of an argument in --fit-alpha:."""
    return rf"(?<!-)\b{re.escape(text)}" if text[0].isalnum() else re.escape(text)


_ANY = re.compile("|".join(map(_alone, sorted(_FLAGS, key=len, reverse=True))))


def in_flags(message: str) -> str:
    """A message, note or filter of the library in the words of a command's user."""
    message = _ARGUMENT.sub(lambda found: _FLAG_OF[found[1]], message)
    return _ANY.sub(lambda found: _FLAGS[found[0]], message)


def notes_in_flags(notes: Iterable[str]) -> tuple[str, ...]:
    """:func:`in_flags` of each."""
    return tuple(map(in_flags, notes))


def counts_in_flags(counts: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """:func:`in_flags` of what is counted."""
    return tuple((in_flags(what), count) for what, count in counts)


def in_names(message: str, phenotypes: Sequence[str], covariates: Sequence[str]) -> str:
    """A message about columns of y and X with the names that they have in tables."""
    message = re.sub(r"X: column (\d+)|X\[:, (\d+)\]", lambda m: f"covariate {covariates[int(m[1] or m[2])]}", message)
    return re.sub(r"\bY\[:, (\d+)\]|\b[yY](?=:| /)", lambda m: f"phenotype {phenotypes[int(m[1] or 0)]}", message)


def fit_record(result) -> dict[str, Any]:
    """A fit's values for a file that a command writes."""
    return {**result.to_dict(), "message": in_flags(result.status.value)}
