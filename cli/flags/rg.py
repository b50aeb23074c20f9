"""Genetic correlations between traits."""

from dataclasses import dataclass

from ..numbers import positive_int
from .group import Flags, flag

SAMPLES = ("all", "common")


@dataclass(frozen=True)
class Correlations(Flags):
    """Which traits, and whose."""

    rg: bool = flag(
        "--rg", action="store_true", default=False,
        help="genetic and residual covariances and correlations of every two phenotypes (--pheno-name A,B,C; default "
        "all), by REML for every component: OUT.rg.tsv",
    )  # fmt: skip
    rg_samples: str = flag(
        "--rg-samples", choices=SAMPLES, default="all",
        help="all: every phenotype's own people, of any overlap or none; common: people who have all of them, which "
        "is faster for many phenotypes (default all)",
    )  # fmt: skip
    rg_with: str | None = flag(
        "--rg-with", metavar="FILE",
        help="with --rg: only pairs of one of the phenotypes with one that is named in FILE, one name per line",
    )  # fmt: skip
    reml_bivar: tuple[int, ...] | None = flag(
        "--reml-bivar", nargs="*", type=positive_int, metavar="N",
        help="GCTA's words for --rg of two phenotypes by number (default 1 2)",
    )  # fmt: skip
    plots: bool = flag(
        "--plots",
        action="store_true",
        default=False,
        help="with --rg: a heat map of correlations, OUT.rg.svg (needs matplotlib: the extra report)",
    )

    @property
    def wanted(self) -> bool:
        """Whether correlations are asked for."""
        return self.rg or self.reml_bivar is not None
