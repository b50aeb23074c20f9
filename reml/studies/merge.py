"""One-shot merge of weak variance components: those whose z = theta / SE is under a cutoff become one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from scipy import sparse

from gpu_reml.ops.arguments import as_numbers

# A variance that is zero exceeds this z in 5 % of samples.
Z_CUTOFF = 1.6448536269514722
MERGED_NAME = "zmerge_block_{:04d}"

KEPT, SINGLETON, MERGED = "kept_significant", "weak_singleton", "merged"


@dataclass(frozen=True)
class MergePlan:
    """What becomes of G components: ``keep`` and ``weak`` are their positions, z >= and < ``z_cutoff``, in order.

    ``z``, ``se`` (G,).  Two or more weak components become one; a single weak one stays as it is.
    """

    names: tuple[str, ...]
    keep: np.ndarray
    weak: np.ndarray
    z: np.ndarray
    se: np.ndarray
    z_cutoff: float

    @property
    def pooled(self) -> np.ndarray:
        """Positions of the components that become one; none when fewer than two are weak."""
        return self.weak if len(self.weak) > 1 else self.weak[:0]

    @property
    def unchanged(self) -> np.ndarray:
        """Positions of the components of the next fit that are as they were, in order."""
        return np.setdiff1d(np.arange(len(self.names)), self.pooled)

    @property
    def merges(self) -> bool:
        return len(self.pooled) > 0

    @property
    def merged_name(self) -> str:
        """Name of the pooled component: the first of the series that no unchanged component has."""
        taken = {self.names[g] for g in self.unchanged}
        return next(name for name in map(MERGED_NAME.format, count()) if name not in taken)

    @property
    def next_names(self) -> tuple[str, ...]:
        """Names of the next fit's components, the pooled one last."""
        pooled = (self.merged_name,) if self.merges else ()
        return tuple(self.names[g] for g in self.unchanged) + pooled

    @property
    def statuses(self) -> tuple[str, ...]:
        """(G,) what becomes of every component."""
        weak = MERGED if self.merges else SINGLETON
        return tuple(weak if g in set(self.weak.tolist()) else KEPT for g in range(len(self.names)))


def merge_plan(
    theta: np.ndarray, covariance_of_theta: np.ndarray, names: Sequence[str], z_cutoff: float = Z_CUTOFF
) -> MergePlan:
    """Which components are weak: z_g = theta_g / SE_g under the cutoff.

    theta (G + 1,) with the residual last; covariance_of_theta (G + 1, G + 1): the inverse of the whole average
    information, so that the residual and the other components are nuisances.  A component held at zero has z = 0 and
    is weak for any positive cutoff; it stays a nuisance of the others, which makes their errors a little larger than
    with it taken out.  z after a merge is that of components chosen by their z: it overstates.
    Raises ValueError when sizes do not match, or a variance has no positive sampling error.
    """
    theta, covariance_of_theta = as_numbers(theta, "theta"), as_numbers(covariance_of_theta, "covariance_of_theta")
    G = len(names)
    if theta.shape != (G + 1,) or np.shape(covariance_of_theta) != (G + 1, G + 1):
        raise ValueError(
            f"expected theta ({G + 1},) and covariance_of_theta ({G + 1}, {G + 1}) for {G} names and the residual, "
            f"found {theta.shape} and {np.shape(covariance_of_theta)}"
        )
    variances = np.diag(covariance_of_theta)[:G]
    usable = np.isfinite(theta[:G]) & np.isfinite(variances) & (variances > 0)
    if not usable.all():
        name = names[int(np.argmin(usable))]
        raise ValueError(
            f"component {name}: theta and covariance_of_theta give it no positive sampling error; leave it out"
        )
    se = np.sqrt(variances)
    z = theta[:G] / se
    strong = z >= z_cutoff
    return MergePlan(tuple(names), np.flatnonzero(strong), np.flatnonzero(~strong), z, se, float(z_cutoff))


def merged_weights(weights, plan: MergePlan) -> sparse.csr_array:
    """(m, G') weights of the next fit's components from unnormalised weights (m, G), sparse or dense.

    Pooled sets of variants, where a variant's weight is the same in every weak component that has it (0/1, or any
    w_j): their union, each variant once, so that K stays the GRM of the union.  Other weights (continuous annotations)
    add up: W = sum of the W_g, the components with one variance per unit of weight for all.  Without overlap both are
    the same, and the merged model is nested in the one before.
    """
    columns = sparse.csc_array(weights, dtype=np.float64)
    if not plan.merges:
        return sparse.csr_array(columns)
    weak = sparse.coo_array(columns[:, plan.pooled])
    weak.eliminate_zeros()
    largest = np.zeros(columns.shape[0])
    np.maximum.at(largest, weak.coords[0], weak.data)
    if (weak.data == largest[weak.coords[0]]).all():
        pooled = largest
    else:
        pooled = np.asarray(weak.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.hstack([columns[:, plan.unchanged], sparse.csc_array(pooled[:, None])]))
