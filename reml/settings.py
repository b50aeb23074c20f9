"""What a user may set of a fit; frozen values with checked ranges."""

from dataclasses import dataclass, field
from typing import Literal

from gpu_reml.ops.arguments import as_count, as_number


@dataclass(frozen=True)
class SolverSettings:
    """When linear solves stop, by what they are for.

    ``y``, ``probes``: relative errors in the norm of V at which they leave the block; y's is 0.02 / sqrt(n) where that
    is tighter, since quadratic forms grow with n and their sampling errors with its root.  Relative residuals of the
    last solves, of at most ``max_iterations`` steps: ``information``, loose because the average information errs by its
    square, to 1e-3, and ``final`` for y.
    ``quadrature``: change of a log-determinant between two Lanczos steps, per sample.  ``most_basis``: vectors of the
    reduced model, of 4 (n + m) bytes each, beyond which it is started again from the present solutions, and at least
    six for each trait and probe; None: 1,024, or as many as 512 MiB of its matrices have room for.  Likelihood ratios
    and profiles that would need more are not known.
    """

    y: float = 1e-4
    probes: float = 1e-2
    information: float = 0.03
    final: float = 1e-5
    quadrature: float = 1e-6
    most_basis: int | None = None
    max_iterations: int = 400

    def __post_init__(self):
        for name in ("y", "probes", "information", "final", "quadrature"):
            as_number(getattr(self, name), name, above=0, below=1)
        as_count(self.max_iterations, "max_iterations")
        if self.most_basis is not None:
            as_count(self.most_basis, "most_basis")


@dataclass(frozen=True)
class ProbeSettings:
    """How many probes: ``first`` at the start, more until mc_se <= ``mc_target`` se everywhere or none are left.

    ``columns``: most columns that are worked on at once, where memory is short; None for all.  More reads of the
    genotypes, and the same results to rounding.
    """

    first: int = 32
    mc_target: float = 0.1
    columns: int | None = None

    def __post_init__(self):
        as_count(self.first, "first")
        as_number(self.mc_target, "mc_target", above=0)
        if self.columns is not None:
            as_count(self.columns, "columns")


@dataclass(frozen=True)
class FitSettings:
    """``tol``: the Newton decrement (squared step in standard errors) that ends a fit, after that step is taken.

    ``engine``: "krylov" answers one component with an identity residual from a single Lanczos run, "reduced" moves
    theta of any number in a basis that answers for all of them; "auto" is the first where it applies, else the second.
    ``max_iterations``: moves of theta in the reduced model.
    ``lrt``: likelihood-ratio tests, True of every component, or sets of components by name, each tested together.
    ``profile``: profile likelihoods of every component's variance and of h2, with their intervals.
    ``constrain``: whether components are kept from being negative; without, V still is positive definite.
    """

    max_iterations: int = 50
    tol: float = 1e-4
    residual_floor: float = 1e-6  # smallest residual variance, as a share of y's
    engine: Literal["auto", "krylov", "reduced"] = "auto"
    solver: SolverSettings = field(default_factory=SolverSettings)
    probes: ProbeSettings = field(default_factory=ProbeSettings)
    lrt: bool | tuple[tuple[str, ...], ...] = False
    profile: bool = False
    constrain: bool = True

    def __post_init__(self):
        for name, kind in (("solver", SolverSettings), ("probes", ProbeSettings)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name}: expected {kind.__name__}, found {type(getattr(self, name)).__name__}")
        as_count(self.max_iterations, "max_iterations")
        as_number(self.tol, "tol", above=0)
        as_number(self.residual_floor, "residual_floor", above=0, below=1)
        if self.engine not in ("auto", "krylov", "reduced"):
            raise ValueError(f"engine: expected auto, krylov or reduced, found {self.engine!r}")
