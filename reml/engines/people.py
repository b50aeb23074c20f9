"""Traits of different people: which samples each has, and their fits from one covariance of all."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..covariance import Covariance
from ..covariance.subset import SubsetCovariance
from ..linalg import orthonormal_basis
from ..probes import Probes
from ..result import FitResult
from ..traits import Traits, make_traits, trait_names

Engine = Callable[[Traits, Covariance, Probes], list[FitResult]]


class People(NamedTuple):
    """The samples ``rows`` (n_t,) that the traits ``which`` (t,) are measured in, and nobody else."""

    rows: np.ndarray
    which: np.ndarray

    @property
    def num_samples(self) -> int:
        return len(self.rows)


def peoples_of(measured: np.ndarray) -> list[People]:
    """Traits with the same samples together, in the order of the first of each; measured (n, t) bool."""
    members: dict[bytes, list[int]] = {}
    for which, column in enumerate(measured.T):
        members.setdefault(np.ascontiguousarray(column).tobytes(), []).append(which)
    return [People(np.flatnonzero(measured[:, which[0]]), np.array(which)) for which in members.values()]


def traits_of(people: People, Y: np.ndarray, X: np.ndarray) -> Traits:
    """Their phenotypes and fixed effects, scaled; a ValueError that names the trait where something is wrong with it.

    Y (n, t) and X (n, c) are of all samples.
    """
    names = [trait_names(Y)[which] for which in people.which]
    if not people.num_samples:
        raise ValueError(f"{names[0]}: is measured in no sample")
    among = X[people.rows]
    try:
        orthonormal_basis(among)
    except ValueError as error:
        raise ValueError(f"{error} (among the {people.num_samples} samples of {', '.join(names)})") from None
    return make_traits(Y[people.rows][:, people.which], among, names)


def restricted_to(probes: Probes, people: People) -> Probes:
    """Probes of everybody among some people."""
    return Probes(probes.trace[people.rows], probes.sketch[people.rows])


def one_by_one(
    peoples: Sequence[People], traits: Sequence[Traits], covariance: Covariance, probes: Probes, engine: Engine
) -> list[FitResult]:
    """Fits of all traits by an engine for those of the same people, in the order in which they were given.

    Cost: that of the engine for each set of people, and half a pass for the diagonals of the covariance.
    """
    diagonals = covariance.diagonals()
    results: dict[int, FitResult] = {}
    for people, theirs in zip(peoples, traits, strict=True):
        among = SubsetCovariance(covariance, people.rows, diagonals)
        found = engine(theirs, among, restricted_to(probes, people))
        results.update(zip(people.which.tolist(), found, strict=True))
    return [results[which] for which in sorted(results)]
