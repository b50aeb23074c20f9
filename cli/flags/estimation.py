"""Which estimator runs and how accurate it is to be, and what is tested."""

from dataclasses import dataclass

from ..numbers import count, positive_float, positive_int, share
from .group import Flags, flag

# Methods that match moments: they have no likelihood, no bounds and no iterations.
HE_PROBES = 64  # they take so many random probes
FIRST_PROBES = 32  # a fit by likelihood begins with so many
MOMENTS = {"he": "Haseman-Elston regression", "pcgc": "phenotype-correlation genotype-correlation regression"}


@dataclass(frozen=True)
class Estimation(Flags):
    """The method, its probes, its limits, and the seed; no flag sets the number of probes that a fit begins with."""

    method: str = flag(
        "--method", choices=("auto", "stochastic", "exact", *MOMENTS), default="auto",
        help="exact: dense REML without Monte-Carlo error, for small cohorts; stochastic: matrix-free REML; "
        "he: Haseman-Elston regression; pcgc: the same on a disease's liability, correct also where cases were "
        "oversampled (needs --prevalence); auto (default): exact where it is cheap (up to about 4,000 samples), else "
        "stochastic",
    )  # fmt: skip
    max_probes: int = flag(
        "--max-probes", "--n-rand-vec", type=positive_int, default=256, metavar="N",
        help="largest number of random probes for the traces (default 256)",
    )  # fmt: skip
    mc_target: float = flag(
        "--mc-target", type=positive_float, default=0.1, metavar="X",
        help="add probes until every Monte-Carlo error is at most X standard errors (default 0.1)",
    )  # fmt: skip
    max_iterations: int = flag(
        "--max-iterations", "--minq-iter", type=positive_int, default=50, metavar="N",
        help="largest number of iterations of a fit (default 50)",
    )  # fmt: skip
    constrain: bool = flag(
        "--no-constrain", "--reml-no-constrain", action="store_false", default=True,
        help="allow negative variances of components, so that small ones are unbiased (default: none is below 0)",
    )  # fmt: skip
    seed: int = flag("--seed", type=count, default=0, metavar="N", help="seed of all random numbers (default 0)")
    first_probes: int = FIRST_PROBES

    @property
    def by_moments(self) -> bool:
        """Whether the method asked for matches moments, without a likelihood."""
        return self.method in MOMENTS

    @property
    def starting_probes(self) -> int:
        """Probes that a fit begins with."""
        return min(self.first_probes, self.max_probes)


@dataclass(frozen=True)
class Tests(Flags):
    """What is tested and reported of a fit beside its estimates."""

    prevalence: float | None = flag(
        "--prevalence", type=share, metavar="K",
        help="prevalence of a disease in the population: reports h2 of liability too; cases have the larger of the "
        "two values",
    )  # fmt: skip
    joint_test: tuple[str, ...] = flag(
        "--joint-test", action="append", default=(), metavar="NAME,NAME...",
        help="test that these components are all zero (Wald), in OUT.tests.tsv beside the tests of each and of all",
    )  # fmt: skip
    lrt: tuple[str, ...] | None = flag(
        "--lrt", "--reml-lrt", nargs="*", metavar="COMPONENT",
        help="likelihood-ratio tests of each component and, where some are given by number or name, of these "
        "together; in OUT.tests.tsv",
    )  # fmt: skip
    profile: bool = flag(
        "--profile", action="store_true", default=False,
        help="profile likelihoods of every component and of h2, with 95 %% intervals, in OUT.profile.tsv",
    )  # fmt: skip

    @property
    def compares(self) -> bool:
        """Whether further models are fitted beside the full one."""
        return self.lrt is not None or self.profile
