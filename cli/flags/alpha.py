"""Which exponents of the variants' weights are learned."""

from dataclasses import dataclass

from .group import Flags, flag


@dataclass(frozen=True)
class Learned(Flags):
    """The alpha model's exponent, with the variances."""

    fit_alpha: str | None = flag(
        "--fit-alpha", nargs="?", const="shared", choices=("shared", "each"), metavar="shared|each",
        help="after the fit, estimate alpha of the weights [2p(1-p)]^(1 + alpha) with the variances: one for all "
        "components (default shared) or one for each; OUT.alpha.tsv and .alpha.json have it with its interval",
    )  # fmt: skip
