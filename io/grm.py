"""Relationship matrices in GCTA's binary format: dense components for a few thousand samples, read and written.

PREFIX.grm.id lists FID IID; PREFIX.grm.bin has the lower triangle with its diagonal, row by row, in little-endian
float32; PREFIX.grm.N.bin has the number of variants behind each entry, laid out alike.
Source: Yang et al. 2011, Am. J. Hum. Genet. 88:76; GCTA's manual, --make-grm-bin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import linalg

from ..ops.covariance import GenotypeCovariance
from .errors import InputError
from .headings import family_first
from .ids import first_ids, repeated
from .stamps import Stamp, check_unchanged, stamp_of_map
from .text import WHITESPACE, read_text_table
from .writers import write_streams

ENTRY = np.dtype("<f4")
ROWS = 128  # so many rows of a matrix are formed at once
# As shares of the mean diagonal: rounding, and what missing calls that differ between samples do to GCTA's matrices.
ROUNDING, INDEFINITE = 1e-4, 0.05
APART = 100.0  # neither inbreeding nor few variants make a diagonal so many times the median
CORRELATED = 1.5  # GCTA's first diagonal (Yang et al. 2011) may be too small by this factor


@dataclass(frozen=True)
class GrmFile:
    """A relationship matrix on disk: ``samples`` has fid and iid (strings), ``lower`` maps the lower triangle.

    ``num_variants``: mean number of variants behind an entry, None without a .grm.N.bin.  ``stamp``: the .grm.bin when
    it was mapped.
    """

    prefix: str
    samples: pd.DataFrame
    lower: np.ndarray
    num_variants: float | None = None
    stamp: Stamp | None = None

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def matrix(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """(n, n) float64, symmetric, of the samples in ``rows`` in that order (None: all, in the file's order).

        ``rows`` are :attr:`Alignment.indices <gpu_reml.io.Alignment>` of :attr:`samples`.  Memory: the matrix.
        Raises InputError that names the samples of an entry that is not finite, of a diagonal entry that is not
        positive or a hundred times another, or of an entry that no covariance has beside its diagonal.
        """
        rows = np.arange(self.num_samples) if rows is None else np.asarray(rows, np.int64)
        out = np.empty((len(rows), len(rows)))
        with np.errstate(invalid="ignore"):  # entries that are not numbers are refused below
            for i, row in enumerate(rows):
                low, high = np.minimum(rows[: i + 1], row), np.maximum(rows[: i + 1], row)
                out[i, : i + 1] = self.lower[high * (high + 1) // 2 + low]
                out[: i + 1, i] = out[i, : i + 1]
        if self.stamp is not None:
            check_unchanged([self.stamp])
        if not np.isfinite(out).all():
            pair = rows[np.argwhere(~np.isfinite(out))[0]]
            raise InputError(
                f"{self.prefix}.grm.bin: the entry of {first_ids(self.samples.iloc[pair])} is not a finite number; "
                "make the matrix again without these samples or without missing genotypes"
            )
        self._check_entries(out, rows)
        return out

    def _check_entries(self, matrix: np.ndarray, rows: np.ndarray) -> None:
        diagonal = matrix.diagonal()
        if not (diagonal > 0).all():
            i = int(np.argmin(diagonal))
            raise InputError(
                f"{self.prefix}.grm.bin: the relationship of {first_ids(self.samples.iloc[rows[[i]]])} with "
                f"itself is {diagonal[i]:g}; a variance is positive: is this a GRM in GCTA's float32?"
            )
        usual = np.median(diagonal)
        i = int(np.argmax(np.abs(np.log(diagonal / usual))))
        if not 1 / APART < diagonal[i] / usual < APART:
            raise InputError(
                f"{self.prefix}.grm.bin: the relationship of {first_ids(self.samples.iloc[rows[[i]]])} with itself is "
                f"{diagonal[i]:g}, where the median is {usual:g}; is this a GRM in GCTA's float32?"
            )
        sd = np.sqrt(diagonal)
        for i, row in enumerate(matrix):
            j = int(np.argmax(np.abs(row) / sd))
            if j != i and abs(row[j]) > CORRELATED * sd[i] * sd[j]:
                raise InputError(
                    f"{self.prefix}.grm.bin: the relationship of {first_ids(self.samples.iloc[rows[[i, j]]])} is "
                    f"{row[j]:g}, more than their own ({diagonal[i]:g}, {diagonal[j]:g}) allow; is this a GRM in "
                    "GCTA's float32?"
                )


def definite_notes(where: str, matrix: np.ndarray) -> tuple[str, ...]:
    """Nothing for a positive semidefinite matrix, a note for one that is nearly so.

    V = theta_g K + theta_e I has a likelihood where it is positive definite.  Rounding to float32, and pairs of samples
    that lack different calls, leave eigenvalues a little below zero, of at most the share of missing calls.  Cost: a
    Cholesky factor, made in the matrix's own memory, which is then restored.

    Raises:
        InputError: an eigenvalue below -0.05 of the mean diagonal, which is named.
    """
    scale = float(np.mean(matrix.diagonal()))
    if _has_cholesky(matrix, ROUNDING * scale):
        return ()
    least = float(linalg.eigvalsh(matrix, subset_by_index=[0, 0], check_finite=False)[0])
    told = f"{where}: the smallest eigenvalue is {least:.4g}, with a mean diagonal of {scale:.4g}"
    if least < -INDEFINITE * scale:
        raise InputError(
            f"{told}; this is not a covariance matrix: make it again, of all samples at once, and set no entry to zero"
        )
    return (
        f"{told}, as when pairs of samples lack different calls; impute them before the matrix is made if h2 is near 1",
    )


def _has_cholesky(matrix: np.ndarray, shift: float) -> bool:
    """Whether a symmetric C-ordered matrix plus ``shift`` I is positive definite."""
    diagonal = matrix.diagonal().copy()
    np.fill_diagonal(matrix, diagonal + shift)
    _, info = linalg.lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    np.fill_diagonal(matrix, diagonal)
    for i in range(len(matrix)):  # the factor has taken the place of what is above the diagonal
        matrix[i, i + 1 :] = matrix[i + 1 :, i]
    return info == 0


def read_grm(prefix: str | Path) -> GrmFile:
    """Open PREFIX.grm.bin and .grm.id (``prefix`` may end in .grm.bin); .grm.N.bin is read where it is there.

    Raises:
        InputError: a missing file, a sample twice (its ids), or a size that does not fit the number of samples.
    """
    prefix = str(prefix).removesuffix(".bin").removesuffix(".grm")
    paths = {suffix: Path(f"{prefix}.grm.{suffix}") for suffix in ("id", "bin", "N.bin")}
    absent = [str(paths[suffix]) for suffix in ("id", "bin") if not paths[suffix].is_file()]
    if absent:
        raise InputError(
            f"relationship matrix {prefix!r}: file(s) not found: {', '.join(absent)}; give the path before .grm.bin"
        )
    table = read_text_table(paths["id"], ".grm.id", "FID IID", min_width=2, sep=WHITESPACE)
    if not len(table.fields):
        raise InputError(f"{paths['id']} is empty; expected FID IID, one line for each sample")
    heading = family_first(f"{paths['id']}, line 1", table.fields.iloc[0].tolist())
    if heading is False:
        raise InputError(
            f"{paths['id']}: expected FID IID, found IIDs alone; add the family's id, 0 where there is none"
        )
    samples = pd.DataFrame({"fid": table.fields[0], "iid": table.fields[1]})
    samples = samples.iloc[int(heading is not None) :].reset_index(drop=True)
    twice = repeated(samples)
    if len(twice):
        raise InputError(f"{paths['id']}: {len(twice)} FID + IID occur more than once ({first_ids(twice)})")
    counts = _lower_triangle(paths["N.bin"], len(samples)) if paths["N.bin"].is_file() else None
    mean = None if counts is None else _mean_count(paths["N.bin"], counts)
    stamp = stamp_of_map(paths["bin"])
    return GrmFile(prefix, samples, _lower_triangle(paths["bin"], len(samples)), mean, stamp)


def _mean_count(path: Path, counts: np.ndarray) -> float:
    """Mean number of variants behind an entry."""
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError(f"{path}: expected numbers of variants, found one below 0 or not finite; copy it again")
    return float(np.mean(counts, dtype=np.float64))


def _lower_triangle(path: Path, num_samples: int) -> np.ndarray:
    entries = num_samples * (num_samples + 1) // 2
    found = path.stat().st_size
    if found != ENTRY.itemsize * entries:
        raise InputError(
            f"{path}: expected {ENTRY.itemsize * entries} bytes, the float32 lower triangle of {num_samples} samples, "
            f"found {found}; copy .grm.bin, .grm.N.bin and .grm.id again, together"
        )
    return np.memmap(path, ENTRY, "r", shape=(entries,))


def write_grm(
    prefix: str | Path,
    covariance: GenotypeCovariance | np.ndarray,
    samples: pd.DataFrame,
    num_variants: float | None = None,
) -> None:
    """Write a covariance of one component, or a matrix (n, n), as PREFIX.grm.bin, .grm.N.bin and .grm.id.

    samples: fid, iid in the matrix's order.  num_variants: what .grm.N.bin says of every entry, by default the
    component's; a missing genotype is the mean here, so every pair of samples has all variants, and matrices that
    GCTA adds by these numbers (--mgrm with --make-grm) are those of all their variants.
    The lower triangle is rounded to float32.  Cost: n column-passes.  Memory: n x 128 numbers beside the matrix.

    Raises:
        InputError: several components, or samples that do not fit.
        OutputError: a file cannot be written; none of the three is then in place, unless a rename itself fails.
    """
    if not isinstance(covariance, np.ndarray) and covariance.num_components != 1:
        raise InputError(f"write_grm: expected one component, found {covariance.num_components}; write them one by one")
    n = len(covariance) if isinstance(covariance, np.ndarray) else covariance.num_samples
    if len(samples) != n:
        raise InputError(f"write_grm: expected {n} samples, one for each row of the matrix, found {len(samples)}")
    if num_variants is None:
        num_variants = 1.0 if isinstance(covariance, np.ndarray) else float(covariance.num_variants[0])
    ids = "".join(f"{fid}\t{iid}\n" for fid, iid in samples[["fid", "iid"]].itertuples(index=False))
    stamps = () if isinstance(covariance, np.ndarray) else covariance.products.genotypes.stamps
    rows_of_counts = (np.full(i + 1, num_variants, ENTRY).tobytes() for i in range(n))
    contents = {
        "bin": (row[: i + 1].astype(ENTRY).tobytes() for i, row in enumerate(_matrix_rows(covariance))),
        "N.bin": rows_of_counts,
        "id": _when_unchanged(stamps, ids.encode()),
    }
    write_streams({Path(f"{prefix}.grm.{suffix}"): chunks for suffix, chunks in contents.items()})


def _when_unchanged(stamps: Sequence[Stamp], content: bytes) -> Iterator[bytes]:
    """The content, unless the genotypes changed while the matrix was made."""
    check_unchanged(stamps)
    yield content


def _matrix_rows(covariance: GenotypeCovariance | np.ndarray) -> Iterator[np.ndarray]:
    """Rows of K in order, a block of them formed at a time."""
    if isinstance(covariance, np.ndarray):
        yield from covariance
        return
    n = covariance.num_samples
    for first in range(0, n, ROWS):
        unit = np.zeros((n, min(ROWS, n - first)))
        unit[first + np.arange(unit.shape[1]), np.arange(unit.shape[1])] = 1
        yield from np.asarray(covariance.apply(np.ones(1), covariance.block(unit))).T
