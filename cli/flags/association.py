"""Tests of single variants: gpu-reml-gwas."""

from dataclasses import dataclass

from ..numbers import count, fraction, number, positive_int
from .group import Flags, flag
from .output import OUT, QUIET, Output, report_flag

SCORE_FLAGS = {
    "loco_refit": "--loco-refit",
    "refine": "--refine",
    "refine_most": "--refine-most",
}
REFINE = 1e-5  # variants with a p-value of the score up to this are refined
REFINE_MOST = 100


@dataclass(frozen=True)
class Association(Flags):
    """The model of the tests, and how they are made."""

    model: str = flag(
        "--model",
        choices=("ols", "loco", "lmm"),
        default="ols",
        help="the model of the test (default ols); described below",
    )
    solver: str = flag(
        "--method", choices=("auto", "score", "exact"), default="auto",
        help="how loco and lmm are tested. score: by a calibrated score; exact: by dense algebra in float64 with h2 "
        "fitted for every chromosome, in n^2 memory and n^3 time for each; auto (default): exact where that costs "
        "little, else score",
    )  # fmt: skip
    refine: float | None = flag(
        "--refine", type=fraction, metavar="P",
        help="test variants with p <= P by score once more by generalised least squares, for 10 to 30 matrix-vector "
        "products each (default 1e-5; 0 for none, 1 for all)",
    )  # fmt: skip
    refine_most: int | None = flag(
        "--refine-most", type=count, metavar="N",
        help="refine at most the N most significant variants of a phenotype (default 100)",
    )  # fmt: skip
    loco_refit: bool = flag(
        "--loco-refit", action="store_true", default=False,
        help="fit the variance components again without each chromosome, not only once on the whole genome",
    )  # fmt: skip

    @property
    def score_flags(self) -> list[str]:
        """Flags that were given and are of the score test alone."""
        return [name for field, name in SCORE_FLAGS.items() if getattr(self, field) not in (None, False)]

    @property
    def refine_limits(self) -> tuple[float, int]:
        """Largest p of the score, and most variants of a trait."""
        p = REFINE if self.refine is None else self.refine
        return p, REFINE_MOST if self.refine_most is None else self.refine_most


@dataclass(frozen=True)
class Steps(Flags):
    """A scan in two parts: null models, and tests of any genotypes."""

    step: int | None = flag(
        "--step", type=positive_int, choices=(1, 2), metavar="N",
        help="1: fit the null models of a mixed model, and write them to PREFIX.null.npz; 2: test the variants of any "
        "genotype files with --null, such as one chromosome in each job (by default a run does both)",
    )  # fmt: skip
    null: str | None = flag("--null", "--pred", metavar="FILE", help="the null models that --step 1 wrote")
    model_extract: tuple[str, ...] = flag(
        "--model-extract", default=(), nargs="+", action="extend", metavar="FILE",
        help="ids of the variants that the null models are made of (default: all that are tested)",
    )  # fmt: skip


@dataclass(frozen=True)
class NullModel(Flags):
    """The REML fit that tests of mixed models start from."""

    alpha: float | None = flag(
        "--alpha", type=number, metavar="A", help="weigh the variants of K by [2p(1-p)]^(1 + A); -1 gives the usual GRM"
    )
    max_probes: int = flag(
        "--max-probes", "--n-rand-vec", type=positive_int, default=256, metavar="N",
        help="largest number of random probes of the REML fit (default 256)",
    )  # fmt: skip
    seed: int = flag(
        "--seed", type=count, default=0, metavar="N", help="seed of the probes and of the calibration (default 0)"
    )


@dataclass(frozen=True)
class GwasOutput(Output):
    """Tables and drawings of the tests."""

    out: str = flag(
        "--out", "--out-prefix", default="gpu_reml",
        help="results go to PREFIX.gwas.tsv and PREFIX.gwas_metadata.json, or PREFIX.TRAIT.gwas.tsv and so on for "
        "several traits (default gpu_reml)", **OUT,
    )  # fmt: skip
    gz: bool = flag("--gz", action="store_true", default=False, help="compress the table: PREFIX.gwas.tsv.gz")
    plots: bool = flag(
        "--plots", action="store_true", default=False,
        help="draw PREFIX.manhattan.svg and PREFIX.qq.svg (needs matplotlib: the extra report)",
    )  # fmt: skip
    report: bool = report_flag(
        "gwas.report.html", "both drawings, the strongest variants, the null model, and how it was computed"
    )
    quiet: bool = flag("--quiet", "--non-verbose", default=False, **QUIET)
