"""Which variants and samples are left out."""

from dataclasses import dataclass

from ..numbers import count, fraction, not_negative
from .group import Flags, flag

LIST = {"nargs": "+", "action": "extend", "metavar": "FILE"}


@dataclass(frozen=True)
class Filters(Flags):
    """Filters with PLINK's meaning and order."""

    extract: tuple[str, ...] = flag("--extract", default=(), help="analyse only variants with these ids", **LIST)
    exclude: tuple[str, ...] = flag("--exclude", default=(), help="leave out variants with these ids", **LIST)
    chr: str | None = flag("--chr", metavar="N[,N-N...]", help="analyse only these chromosomes, such as 1-4,22,X")
    autosome: bool = flag("--autosome", action="store_true", default=False, help="analyse only chromosomes 1 to 22")
    from_bp: float | None = flag(
        "--from-bp", type=not_negative, metavar="BP",
        help="first position in base pairs, on the one chromosome of --chr",
    )  # fmt: skip
    to_bp: float | None = flag("--to-bp", type=not_negative, metavar="BP", help="last position in base pairs")
    xchr_model: int = flag(
        "--xchr-model", type=count, choices=(0, 1, 2), default=2, metavar="N",
        help="X outside its pseudo-autosomal regions: 0 left out, 1 males counted 0 or 1, 2 males counted 0 or 2, as "
        "files have them (default)",
    )  # fmt: skip
    grm_cutoff: float | None = flag(
        "--grm-cutoff", "--rel-cutoff", type=fraction, metavar="X",
        help="leave out samples until no two have a relationship over X, those with most relatives first: of the "
        "genotypes, or of the first --grm without any",
    )  # fmt: skip
    mind: float | None = flag(
        "--mind", type=fraction, metavar="X", help="largest share of a sample's calls that may be missing, 0 to 1"
    )
    geno: float | None = flag(
        "--geno", type=fraction, metavar="X", help="largest share of a variant's calls that may be missing, 0 to 1"
    )
    hwe: float | None = flag(
        "--hwe",
        type=fraction,
        metavar="P",
        help="smallest p-value of the exact Hardy-Weinberg test that a variant may have",
    )
    maf: float | None = flag(
        "--maf", type=fraction, metavar="X", help="smallest frequency of the rarer allele, 0 to 0.5"
    )
    max_maf: float | None = flag(
        "--max-maf", type=fraction, metavar="X", help="largest frequency of the rarer allele, 0 to 0.5"
    )
