"""Variants of large effect by a certified LASSO: gpu-reml-sparse."""

import argparse
from dataclasses import dataclass

from ..numbers import count, not_negative, positive_float, positive_int, share
from .group import Flags, flag
from .output import OUT, Output, report_flag

SWITCH = {"action": argparse.BooleanOptionalAction}


@dataclass(frozen=True)
class Rounds(Flags):
    """Rounds of LASSO and REML, and the candidates of each."""

    outer_max: int = flag(
        "--outer-max",
        type=positive_int,
        default=6,
        metavar="N",
        help="largest number of rounds of LASSO and REML (default 6)",
    )
    support_stable_rounds: int = flag(
        "--support-stable-rounds", type=positive_int, default=1, metavar="N",
        help="number of rounds in a row in which variants and variances must stay the same (default 1)",
    )  # fmt: skip
    vc_rel_tol: float = flag(
        "--vc-rel-tol", type=positive_float, default=1e-2, metavar="X",
        help="largest change of a variance, as a share of the phenotypic variance, that counts as no change (default "
        "0.01)",
    )  # fmt: skip
    candidate_k: int = flag(
        "--candidate-k", type=positive_int, default=256, metavar="N",
        help="number of variants that the LASSO begins with: those of the last round, then those of largest score "
        "|z'Py| (default 256)",
    )  # fmt: skip
    screen_topk: int = flag(
        "--screen-topk", type=positive_int, default=2000, metavar="N",
        help="number of variants that screening keeps; it limits --candidate-k where it is smaller (default 2000)",
    )  # fmt: skip
    max_active: int = flag(
        "--max-active", type=positive_int, default=128, metavar="N",
        help="largest number of variants that may be chosen; a path that needs more ends there, and the run says so "
        "(default 128)",
    )  # fmt: skip
    pcg_tol: float = flag(
        "--pcg-tol", type=share, default=1e-4, metavar="X",
        help="relative residual of the candidates' solves; the LASSO errs by its square (default 1e-4). Those of the "
        "phenotype go to 1e-6, or 1e-10 with --dtype float64",
    )  # fmt: skip
    max_pcg_iters: int = flag(
        "--max-pcg-iters",
        type=positive_int,
        default=400,
        metavar="N",
        help="largest number of PCG steps of a solve (default 400)",
    )

    @property
    def candidates(self) -> int:
        """Variants that a round begins with."""
        return min(self.candidate_k, self.screen_topk)


@dataclass(frozen=True)
class Path(Flags):
    """The LASSO's path of lambda, and the criterion that chooses on it."""

    lasso_n_lambda: int = flag(
        "--lasso-n-lambda",
        type=positive_int,
        default=60,
        metavar="N",
        help="number of values of lambda, in a geometric sequence (default 60)",
    )
    lasso_lam_min_ratio: float = flag(
        "--lasso-lam-min-ratio",
        type=share,
        default=0.05,
        metavar="X",
        help="ratio of the last lambda to the first (default 0.05)",
    )
    lasso_ebic_gamma: float = flag(
        "--lasso-ebic-gamma", type=not_negative, default=1.0, metavar="X",
        help="penalty on the number of models of a size: a variant pays if its squared z is above log n + 2 X log p "
        "or so; 0 is BIC (default 1)",
    )  # fmt: skip
    ebic_p_mode: str = flag(
        "--ebic-p-mode", choices=("candidate", "full"), default="full",
        help="variants that EBIC counts as available: all of them (full, the default), or the candidates, which is "
        "too lenient since the same phenotype chose those",
    )  # fmt: skip
    lasso_ebic_early_stop: bool = flag(
        "--lasso-ebic-early-stop", default=False, **SWITCH,
        help="end the path after 10 values of lambda without a lower EBIC (default off: the whole path takes little "
        "time, and variants that enter together may lower EBIC only later)",
    )  # fmt: skip
    lasso_ebic_es_min_delta: float = flag(
        "--lasso-ebic-es-min-delta",
        type=not_negative,
        default=0.0,
        metavar="X",
        help="smallest decrease of EBIC that counts as one (default 0)",
    )
    lasso_cd_max_iter: int = flag(
        "--lasso-cd-max-iter", type=positive_int, default=2000, metavar="N",
        help="largest number of sweeps of coordinate descent for one lambda (default 2000)",
    )  # fmt: skip
    lasso_cd_tol: float = flag(
        "--lasso-cd-tol", type=positive_float, default=1e-6, metavar="X",
        help="coordinate descent ends when no coefficient changes by more than X of its standard errors (default 1e-6)",
    )  # fmt: skip
    lasso_active_set_period: int = flag(
        "--lasso-active-set-period", type=positive_int, default=5, metavar="N",
        help="number of sweeps over the active variants between two over all (default 5)",
    )  # fmt: skip


@dataclass(frozen=True)
class Certificate(Flags):
    """The check of the solution's conditions over all variants."""

    kkt_check: bool = flag(
        "--kkt-check", default=True, **SWITCH,
        help="check the optimality conditions for all variants, and add those that violate them (default on)",
    )  # fmt: skip
    kkt_tol: float = flag(
        "--kkt-tol", type=not_negative, default=1e-5, metavar="X",
        help="absolute tolerance for a gradient beyond lambda, for a phenotype of unit variance (default 1e-5)",
    )  # fmt: skip
    kkt_rel_tol: float = flag(
        "--kkt-rel-tol", type=not_negative, default=1e-5, metavar="X",
        help="tolerance relative to max(1, lambda); the larger of the two counts (default 1e-5)",
    )  # fmt: skip
    kkt_add_topk: int = flag(
        "--kkt-add-topk",
        type=positive_int,
        default=256,
        metavar="N",
        help="number of violating variants added at a time (default 256)",
    )
    kkt_max_rounds: int = flag(
        "--kkt-max-rounds",
        type=positive_int,
        default=20,
        metavar="N",
        help="largest number of checks of a LASSO (default 20)",
    )
    kkt_max_candidate: int = flag(
        "--kkt-max-candidate",
        type=count,
        default=0,
        metavar="N",
        help="largest number of candidates (default 0: no limit)",
    )


@dataclass(frozen=True)
class SparseOutput(Output):
    """Where the chosen variants go."""

    out: str = flag(
        "--out", "--out-prefix", default="sparse_reml",
        help="results go to PREFIX.summary.json, .history.json, .selected_snps.tsv, .path.tsv and .path.svg "
        "(default sparse_reml)", **OUT,
    )  # fmt: skip
    report: bool = report_flag(
        "sparse.report.html", "the path, the chosen variants, what they explain, and how it was computed"
    )
