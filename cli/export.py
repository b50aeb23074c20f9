"""``--export-ai``: estimates, average information and score as NumPy arrays, with what they are of as JSON."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gpu_reml import io
from gpu_reml.reml import FitResult

from .flags.estimation import Estimation


def check_export(export_ai: bool, estimation: Estimation) -> None:
    """Raises InputError where there will be no average information."""
    if export_ai and estimation.by_moments:
        raise io.InputError(f"--export-ai: --method {estimation.method} has no average information; use another")


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the content of a .npy file, without pickles."""
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def export_files(
    prefix: str | Path, result: FitResult, component_spec: str | None = None, residual_mode: str = "shared"
) -> dict[str, str | bytes]:
    """Path and content of the exported files of a fit.

    ``ai``, ``grad`` and ``loglik`` are divided by n as GPU_REML's are; the inverse of n times ``ai`` is the
    sampling covariance of theta.  theta is per unit of K, in the phenotype's units squared.  The score is that of the
    last iteration, so it is zero to the fit's tolerance, or negative, where theta is at its bound.
    """
    n = result.num_samples
    arrays = {"theta": result.theta, "ai": result.information / n, "grad": result.score / n}
    stats: dict[str, Any] = {
        "n_samples": n,
        "n_covar": result.num_fixed,
        "n_components": len(result.names),
        "n_residual_components": len(result.theta) - len(result.names),
        "admix_residual_mode": residual_mode,
        "heritability": result.heritabilities[0][1].estimate[0],
        "genetic_trace_atoms": result.mean_traces,
        "residual_trace_atoms": result.residual_traces,
        "loglik": result.loglik_gcta / n,
        "component_names": result.names,
        "residual_names": result.residual_names,
        "status": result.status.name.lower(),
        "units": "theta: phenotype units squared per unit of K; ai, grad and loglik: per sample",
        **{f"{name}_npy": f"{Path(prefix).name}.{name}.npy" for name in arrays},
        "component_spec": component_spec,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    files: dict[str, str | bytes] = {f"{prefix}.{name}.npy": npy_bytes(array) for name, array in arrays.items()}
    return {**files, f"{prefix}.ai_stats.json": io.json_text(stats)}
