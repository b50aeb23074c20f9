"""Whether an operator B -> K B keeps the contract of a covariance component, told in words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_reml.ops.arguments import as_count
from gpu_reml.reml.contract import (
    CHANGES_INPUT,
    NOT_DEFINITE,
    NOT_FINITE,
    NOT_SYMMETRIC,
    WRONG_SHAPE,
    WRONG_TRACE,
)

Apply = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class OperatorReport:
    """``problems``: one sentence for each rule that is broken, with the number that shows it; empty when none is.

    ``trace``, ``trace_se``: tr(K) as the probes see it, for operators that state none.
    """

    name: str
    problems: tuple[str, ...]
    trace: float
    trace_se: float

    @property
    def ok(self) -> bool:
        return not self.problems

    def raise_for_problems(self) -> None:
        """ValueError with all problems, when there are any."""
        if self.problems:
            raise ValueError(f"operator {self.name}: " + "; ".join(self.problems))

    def __str__(self) -> str:
        if self.ok:
            return (
                f"operator {self.name}: linear, symmetric, positive semidefinite, with its trace, as far as probes see"
            )
        return f"operator {self.name}:\n" + "\n".join(f"  - {problem}" for problem in self.problems)


def check_operator(
    op: Any,
    num_samples: int | None = None,
    trace: float | None = None,
    *,
    num_probes: int = 64,
    rtol: float = 1e-4,
    seed: int = 0,
) -> OperatorReport | list[OperatorReport]:
    """Check a function B (n, k) -> K B, or every component of a covariance, with random probes.

    op: a function, with ``num_samples`` and the ``trace`` it is said to have (None: the report tells it), or an object
    with ``apply(theta, B)``, ``num_samples``, ``num_components``, ``traces`` and ``names``, which gives one report for
    each component.  rtol: relative error that is put down to rounding; 1e-4 for float32 products, 1e-10 for float64.
    Checked: shape and finiteness; input left as it was; the same answer twice; linear; symmetric; no probe with
    z'Kz < 0, nor any combination of them; tr(K) within 5 standard errors of the probes.  A probe cannot prove a rule:
    an operator that fails only on a few directions passes; up to n = 2 num_probes the whole of K is seen.  Cost: about
    2.5 columns for each of the probes (num_probes >= 2, or n), for each component.
    """
    as_count(num_probes, "num_probes", 2)
    if hasattr(op, "apply") and hasattr(op, "traces"):
        return [
            _check(str(name), _component(op, g), op.num_samples, float(op.traces[g]), num_probes, rtol, seed)
            for g, name in enumerate(op.names)
        ]
    if not callable(op) or num_samples is None:
        raise ValueError("op: expected a function B -> K B with num_samples, or an object with apply and traces")
    as_count(num_samples, "num_samples")
    return _check(getattr(op, "__name__", type(op).__name__), op, num_samples, trace, num_probes, rtol, seed)


def _component(covariance: Any, g: int) -> Apply:
    theta = np.eye(covariance.num_components)[g]
    return lambda B: np.asarray(covariance.apply(theta, covariance.block(B)), np.float64)


def _check(name, apply_k, n, trace, num_probes, rtol, seed) -> OperatorReport:
    rng = np.random.default_rng(seed)
    Z = _probes(n, num_probes, rng)
    before = Z.copy()
    problems: list[str] = []
    KZ = np.asarray(apply_k(Z))
    if KZ.shape != Z.shape:
        return OperatorReport(name, (WRONG_SHAPE.format(found=KZ.shape, shape=Z.shape),), np.nan, np.nan)
    if not np.isfinite(KZ).all():
        return OperatorReport(name, (NOT_FINITE,), np.nan, np.nan)
    if not np.array_equal(Z, before):
        problems.append(CHANGES_INPUT)
        Z = before
        KZ = np.asarray(apply_k(Z.copy()))
    KZ = KZ.astype(np.float64).copy()
    size = np.abs(KZ).max() or 1.0
    if np.abs(apply_k(Z.copy()) - KZ).max() > rtol * size:
        problems.append("gives another answer for the same block; an operator must not depend on what was asked before")
    problems += _linearity(apply_k, Z, KZ, rtol, rng)
    small = Z.T @ KZ
    skew = np.abs(small - small.T).max() / (np.abs(small).max() or 1.0)
    if skew > rtol:
        problems.append(NOT_SYMMETRIC.format(skew=skew))
    problems += _definite(small, Z, rtol)
    values = np.diag(small)
    se = 0.0 if Z.shape[1] == n else float(values.std(ddof=1) / np.sqrt(len(values)))
    found = float(values.mean())
    if trace is not None and not abs(found - trace) <= 5 * se + rtol * abs(trace):
        problems.append(WRONG_TRACE.format(found=found, se=se, stated=trace))
    return OperatorReport(name, tuple(problems), found, se)


def _probes(n: int, num_probes: int, rng: np.random.Generator) -> np.ndarray:
    """(n, num_probes) Rademacher probes, or for n up to twice as many a random basis (n, n) of length sqrt(n), which
    sees everything: Z'Z is well-conditioned in either case."""
    if n > 2 * num_probes:
        return rng.choice([-1.0, 1.0], (n, num_probes))
    return np.sqrt(n) * np.linalg.qr(rng.standard_normal((n, n)))[0]


def _linearity(apply_k: Apply, Z, KZ, rtol, rng) -> list[str]:
    """K (2 a - 3 b) = 2 K a - 3 K b, columns on their own, and K 0 = 0."""
    problems = []
    size = np.abs(KZ).max() or 1.0
    if np.abs(apply_k(np.zeros_like(Z[:, :1]))).max() > rtol * size:
        problems.append("is not linear: K 0 is not 0; leave offsets to the fixed effects")
    mixed = 2 * Z[:, :1] - 3 * Z[:, 1:2] if Z.shape[1] > 1 else 2 * Z
    expected = 2 * KZ[:, :1] - 3 * KZ[:, 1:2] if Z.shape[1] > 1 else 2 * KZ
    gap = np.abs(apply_k(mixed) - expected).max() / size
    if gap > 10 * rtol:
        problems.append(f"is not linear: K (2a - 3b) differs from 2 K a - 3 K b by {gap:.2g} of the largest value")
    order = rng.permutation(Z.shape[1])[: max(1, Z.shape[1] // 2)]
    apart = np.abs(apply_k(np.ascontiguousarray(Z[:, order])) - KZ[:, order]).max() / size
    if apart > 10 * rtol:
        problems.append(f"mixes columns: some of a block alone differ by {apart:.2g}; treat every column on its own")
    return problems


def _definite(small: np.ndarray, Z: np.ndarray, rtol: float) -> list[str]:
    """z'Kz >= 0 for every z in the span of the probes: the smallest eigenvalue of the compressed K."""
    symmetric = (small + small.T) / 2
    L = np.linalg.cholesky(Z.T @ Z)
    inner = np.linalg.solve(L, np.linalg.solve(L, symmetric).T)
    values = np.linalg.eigvalsh((inner + inner.T) / 2)
    if values[0] < -rtol * max(abs(values[-1]), 1e-300):
        return [
            NOT_DEFINITE.format(direction=f"a direction with z'Kz / z'z = {values[0]:.3g}", largest=float(values[-1]))
        ]
    return []
