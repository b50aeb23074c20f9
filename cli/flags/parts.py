"""Haseman-Elston regression by jobs that each read a share of the variants."""

from dataclasses import dataclass

from .group import Flags, flag


@dataclass(frozen=True)
class ByParts(Flags):
    """Which part a job is, or that the parts are put together."""

    part: str | None = flag(
        "--part", metavar="I/N", unless="parts",
        help="with --method he: read only the I-th of N shares of the variants and write what they contribute, "
        "OUT.part-I-of-N.npz (4 bytes for every sample, component and vector: 64 probes, phenotypes and covariates); "
        "a job array needs no cluster for it",
    )  # fmt: skip
    merge_parts: bool = flag(
        "--merge-parts", action="store_true", default=False, unless="parts",
        help="with --method he: estimate from OUT.part-*-of-N.npz, with the other flags as they were, and read no "
        "genotypes; the estimate is exactly the same for any N",
    )  # fmt: skip

    @property
    def wanted(self) -> bool:
        return bool(self.part) or self.merge_parts
