"""Flags of SMILE; nothing heavy is imported here."""

from .numbers import fraction, positive_float, positive_int

NORMALISATIONS = ("kernel_trace", "effective_rank")
KINDS = ("inverse", "correlation")
BLOCK_SIZE = 500
SHRINKAGE = 0.1


def add_smile(group) -> None:
    """The flags, for a group of a parser."""
    group.add_argument(
        "--smile", action="store_true",
        help="blocks of weights W between the genotypes, K = sum Z_b W_b Z_b' / c; implied by the flags that say which",
    )  # fmt: skip
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--w-files", metavar="FILE[,FILE...]",
        help="the blocks of one component, in the order of the variants before filters: .npy, .npz, .rds, .csv or text",
    )  # fmt: skip
    which.add_argument("--w-files-list", metavar="FILE", help="a list of such files, one a line; # starts a comment")
    which.add_argument(
        "--grm-groups", metavar="FILE[,FILE...][;FILE...]",
        help="blocks of several components, 'A1.npy,A2.npy;B1.npy'; together they cover the variants in order",
    )  # fmt: skip
    which.add_argument("--identity-w", action="store_true", help="W = I, the ordinary GRM, without a matrix")
    which.add_argument(
        "--smile-ld", choices=KINDS,
        help="make W from the LD of the analysed samples: its shrunk inverse, or the shrunk correlations themselves",
    )  # fmt: skip
    group.add_argument(
        "--smile-block-size", type=positive_int, metavar="N",
        help=f"most variants of a block of --smile-ld, none across chromosomes (default {BLOCK_SIZE})",
    )  # fmt: skip
    group.add_argument(
        "--smile-shrinkage", type=fraction, metavar="X",
        help=f"of the correlations towards the identity, 0 to 1 (default {SHRINKAGE})",
    )  # fmt: skip
    group.add_argument(
        "--w-normalization", choices=NORMALISATIONS, default=NORMALISATIONS[0],
        help="scale of K: so that tr(K) = n (default), or divided by the sum of the blocks' ranks, of a block's .json "
        "or counted",
    )  # fmt: skip
    group.add_argument(
        "--check-psd", action="store_true",
        help="check W by all eigenvalues, not by a Cholesky decomposition; both refuse a W that is not a covariance",
    )  # fmt: skip
    group.add_argument(
        "--smile-optimizer", choices=("strict", "smile_scoring"),
        help="accepted; there is one optimiser, which converges by the score and never steps downhill",
    )  # fmt: skip
    group.add_argument("--smile-scoring-step-tol", type=positive_float, metavar="X", help="accepted, without effect")
