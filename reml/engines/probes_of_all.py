"""Everybody's probes, and what they say of the traces among some people (coupled.py): the runs that all sets share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..lanczos import Tridiagonal, lanczos_start
from ..linalg import column_dots, project
from ..monte_carlo import LEAST_PROBES
from ..settings import FitSettings
from .calibration import ProbeSpectra
from .coupled import (
    Added,
    Coupled,
    SpectraOfAll,
    control_weights,
    coupled,
    second_moments,
)
from .crowds import Crowd, Gathering
from .krylov import (
    MARGIN,
    MOST_ROUNDS,
    LanczosRun,
    probes_wanted,
)

# Everybody's probes take up to this share of the squared Monte-Carlo error that is allowed.
OF_ALL = 0.6
# The second moment is looked at with so many probes for each that takes all steps.
SHALLOW = 4


class Watched(NamedTuple):
    """The ``run`` of probes Z (n, s) of all, projected, and for every step z'E q (P, s) with its vectors q over the
    people outside of every crowd."""

    run: LanczosRun
    Z: np.ndarray
    outside: tuple[np.ndarray, ...]

    def stepped(self, run: LanczosRun, crowds: Sequence[Crowd]) -> "Watched":
        """After one more step of the run."""
        q = run.state.previous
        dots = [column_dots(self.Z[~crowd.inside], q[~crowd.inside]) for crowd in crowds]
        return Watched(run, self.Z, (*self.outside, np.stack(dots)))

    def take(self, which: slice) -> "Watched":
        """Only these probes go on."""
        return Watched(self.run.take(which), self.Z[:, which], tuple(dots[:, which] for dots in self.outside))

    def quadratures(self, steps: int, count: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:func:`.coupled.control_weights` of the first ``count`` probes after the first ``steps``."""
        alpha, beta, norms2 = self.run.state.tridiagonal
        first = Tridiagonal(alpha[:steps, :count], beta[:steps, :count], norms2[:count])
        return control_weights(first, np.stack(self.outside[:steps], axis=1)[..., :count], self.run.rounding)

    def spectra(self, moments: np.ndarray) -> SpectraOfAll:
        """What the probes say after the steps so far; moments (5 + 2 P, s): of these and of shallow ones."""
        nodes, weights, controls = self.quadratures(self.run.num_steps)
        return SpectraOfAll(ProbeSpectra(nodes, weights, moments), controls)


def looked_at(whole: Gathering, Z: np.ndarray, run: LanczosRun) -> np.ndarray:
    """(5 + 2 P, s) of projected probes Z (n, s) after two steps: z'A^b z for b = 0 to 4, and
    :func:`.coupled.second_moments` of every crowd."""
    state, dtype = run.state, Z.dtype
    (a1, a2), (b1, b2) = state.alphas, state.betas
    U = Z * a1.astype(dtype) + state.previous * (b1 * np.sqrt(state.norms2)).astype(dtype)
    square, cross = a1**2 + b1**2, b1 * (a1 + a2)  # A q1 = a1 q1 + b1 q2, A^2 q1 = square q1 + cross q2 + b1 b2 q3
    powers = np.stack([np.ones_like(a1), a1, square, a1 * square + b1 * cross, square**2 + cross**2 + (b1 * b2) ** 2])
    among = [np.stack(second_moments(Z, U, crowd.inside)) for crowd in whole.crowds]
    return np.concatenate([state.norms2 * powers, *among])


def calibrated(whole: Gathering, spectra: SpectraOfAll, added: Sequence[Added | None] | None = None) -> list[Coupled]:
    """The measure of every crowd's trace; ``added``: what restricted probes add to each."""
    scale, moments = whole.reference.trace / whole.reference.dimension, spectra.spectra.moments
    return [
        coupled(spectra, i, scale, crowd.known, moments[5 + 2 * i : 7 + 2 * i], added[i] if added else None)
        for i, crowd in enumerate(whole.crowds)
    ]


def spectra_of_all(
    whole: Gathering, Z: np.ndarray, first: Watched, moments: np.ndarray, estimates, settings: FitSettings
) -> SpectraOfAll:
    """Spectra of as many probes of all (n, s) as leave room for the errors of those that are restricted.

    first: those that have taken all steps, and their ``moments`` (5 + 2 P, s).
    """
    steps, available = first.run.num_steps, Z.shape[1]
    everybody = first.spectra(moments)
    known = everybody.spectra.num_probes
    more = min(SHALLOW * known, available) - known
    if more >= LEAST_PROBES:  # pairs of so few as there are to begin with say little of the second moment
        everybody = everybody.joined(spectra_of_some(whole, Z[:, known : known + more], 0, steps))
    for _ in range(MOST_ROUNDS):
        known = everybody.spectra
        found = [each for own in estimates(calibrated(whole, everybody)) for each in own]
        target = settings.probes.mc_target * np.sqrt(OF_ALL * MARGIN)  # restricted probes make up for a miss
        wanted = probes_wanted(found, steps / 2, known, available, target)  # the others take two steps
        left = available - known.num_probes
        deep = min(max(wanted[0] - known.num_deep, 0), left)
        every = min(max(wanted[1] - known.num_probes, deep, LEAST_PROBES), left)
        if wanted == (known.num_deep, known.num_probes) or every < LEAST_PROBES:
            break
        start = known.num_probes
        for batch in np.array_split(np.arange(start, start + every), -(-every // (4 * settings.probes.first))):
            going = int(np.clip(start + deep - batch[0], 0, len(batch)))
            everybody = everybody.joined(spectra_of_some(whole, Z[:, batch], going, steps))
    return everybody


def spectra_of_some(whole: Gathering, probes: np.ndarray, deep: int, steps: int) -> SpectraOfAll:
    """Spectra of probes (n, s) after two steps, and of the first ``deep`` of them after ``steps``."""
    reference = whole.reference
    Z = project(reference.Q, reference.covariance.block(probes))
    (run,) = whole.advanced([reference], [LanczosRun(lanczos_start(Z), ())])
    watched = Watched(run, Z, ()).stepped(run, whole.crowds)
    (run,) = whole.advanced([reference], [run])
    moments = looked_at(whole, Z, run)
    if not deep:
        none = np.zeros((0, steps))
        return SpectraOfAll(ProbeSpectra(none, none, moments), np.zeros((len(whole.crowds), 0, steps)))
    watched = watched.stepped(run, whole.crowds).take(slice(deep))
    while watched.run.num_steps < steps:
        (run,) = whole.advanced([reference], [watched.run])
        watched = watched.stepped(run, whole.crowds)
    return watched.spectra(moments)
