"""Relationship matrices in GCTA's formats: dense ones for a few thousand samples, read and written, and sparse ones.

PREFIX.grm.id lists FID IID; PREFIX.grm.bin has the lower triangle with its diagonal, row by row, in little-endian
float32; PREFIX.grm.N.bin has the number of variants behind each entry, laid out alike; PREFIX.grm.gz has both as text,
PREFIX.grm.sp the entries that are not zero.
Source: Yang et al. 2011, Am. J. Hum. Genet. 88:76; GCTA's manual, --make-grm-bin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import linalg, sparse
from scipy.sparse import csgraph

from ..ops.covariance import GenotypeCovariance
from .errors import InputError
from .headings import family_first
from .ids import first_ids, repeated
from .stamps import Stamp, check_unchanged, stamp_of_map
from .text import WHITESPACE, read_text_table
from .writers import write_all

ENTRY = np.dtype("<f4")
KINDS = ("bin", "gz", "sp")  # of files of entries
ROWS = 128  # so many rows of a matrix are formed at once
# As shares of the mean diagonal: rounding, and what missing calls that differ between samples do to GCTA's matrices.
ROUNDING, INDEFINITE = 1e-4, 0.05
APART = 100.0  # neither inbreeding nor few variants make a diagonal so many times the median
MOST_FAMILY = 1000  # people of a sparse matrix whose eigenvalues are looked at together
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
    suffix: str = ".grm.bin"
    is_sparse: ClassVar[bool] = False

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def path(self) -> str:
        """The file with the entries."""
        return f"{self.prefix}{self.suffix}"

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
                f"{self.path}: the entry of {first_ids(self.samples.iloc[pair])} is not a finite number; "
                "make the matrix again without these samples or without missing genotypes"
            )
        self._check_entries(out, rows)
        return out

    def _check_entries(self, matrix: np.ndarray, rows: np.ndarray) -> None:
        diagonal = matrix.diagonal()
        if not (diagonal > 0).all():
            i = int(np.argmin(diagonal))
            raise InputError(
                f"{self.path}: the relationship of {first_ids(self.samples.iloc[rows[[i]]])} with "
                f"itself is {diagonal[i]:g}; a variance is positive: is this a GRM in GCTA's float32?"
            )
        usual = np.median(diagonal)
        i = int(np.argmax(np.abs(np.log(diagonal / usual))))
        if not 1 / APART < diagonal[i] / usual < APART:
            raise InputError(
                f"{self.path}: the relationship of {first_ids(self.samples.iloc[rows[[i]]])} with itself is "
                f"{diagonal[i]:g}, where the median is {usual:g}; is this a GRM in GCTA's float32?"
            )
        sd = np.sqrt(diagonal)
        for i, row in enumerate(matrix):
            j = int(np.argmax(np.abs(row) / sd))
            if j != i and abs(row[j]) > CORRELATED * sd[i] * sd[j]:
                raise InputError(
                    f"{self.path}: the relationship of {first_ids(self.samples.iloc[rows[[i, j]]])} is "
                    f"{row[j]:g}, more than their own ({diagonal[i]:g}, {diagonal[j]:g}) allow; is this a GRM in "
                    "GCTA's float32?"
                )


@dataclass(frozen=True)
class SparseGrmFile(GrmFile):
    """A sparse relationship matrix: ``lower`` has its stored entries, ``rows`` and ``columns`` where they are."""

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    columns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    is_sparse: ClassVar[bool] = True

    def matrix(self, rows: Sequence[int] | np.ndarray | None = None) -> sparse.csr_array:
        """(n, n) sparse, symmetric, of the samples in ``rows``; memory and cost are those of the entries.

        Raises InputError as the dense one does.
        """
        n = self.num_samples
        own = self.rows == self.columns
        for mask, what in (
            (~np.isfinite(self.lower), "not a finite number"),
            (own & (self.lower <= 0), "not positive"),
        ):
            if mask.any():
                pair = [self.rows[np.argmax(mask)], self.columns[np.argmax(mask)]]
                raise InputError(f"{self.path}: the entry of {first_ids(self.samples.iloc[pair])} is {what}")
        lower = sparse.csr_array((self.lower, (self.rows, self.columns)), shape=(n, n))
        lower.sum_duplicates()
        diagonal = lower.diagonal()
        if not (diagonal > 0).all():
            i = int(np.argmin(diagonal))
            raise InputError(
                f"{self.path}: {first_ids(self.samples.iloc[[i]])} has no diagonal entry; a variance is positive"
            )
        bound = CORRELATED * np.sqrt(diagonal[self.rows] * diagonal[self.columns])
        beyond = ~own & (np.abs(self.lower) > bound)
        if beyond.any():
            pair = [self.rows[np.argmax(beyond)], self.columns[np.argmax(beyond)]]
            raise InputError(
                f"{self.path}: the relationship of {first_ids(self.samples.iloc[pair])} is "
                f"{self.lower[np.argmax(beyond)]:g}, more than their own allow"
            )
        whole = sparse.csr_array(lower + lower.T - sparse.diags_array(diagonal))
        return whole if rows is None else whole[np.asarray(rows)][:, np.asarray(rows)]


def definite_notes(where: str, matrix: np.ndarray | sparse.sparray) -> tuple[str, ...]:
    """Nothing for a positive semidefinite matrix, a note for one that is nearly so.

    Of a sparse matrix, groups of relatives who are related to nobody else are looked at, up to a thousand people each.

    V = theta_g K + theta_e I has a likelihood where it is positive definite.  Rounding to float32, and pairs of samples
    that lack different calls, leave eigenvalues a little below zero, of at most the share of missing calls.  Cost: a
    Cholesky factor, made in the matrix's own memory, which is then restored.

    Raises:
        InputError: an eigenvalue below -0.05 of the mean diagonal, which is named.
    """
    scale = float(np.mean(matrix.diagonal()))
    if sparse.issparse(matrix):
        least = _least_of_families(matrix)
        if least >= -ROUNDING * scale:
            return ()
    elif _has_cholesky(matrix, ROUNDING * scale):
        return ()
    else:
        least = float(linalg.eigvalsh(matrix, subset_by_index=[0, 0], check_finite=False)[0])
    told = f"{where}: the smallest eigenvalue is {least:.4g}, with a mean diagonal of {scale:.4g}"
    if least < -INDEFINITE * scale:
        raise InputError(
            f"{told}; this is not a covariance matrix: make it again, of all samples at once, and set no entry to zero"
        )
    return (
        f"{told}, as when pairs of samples lack different calls; impute them before the matrix is made if h2 is near 1",
    )


def _least_of_families(matrix: sparse.sparray) -> float:
    """The least eigenvalue of the blocks of a sparse matrix that are no larger than ``MOST_FAMILY``."""
    _, family = csgraph.connected_components(matrix, directed=False)
    order = np.argsort(family, kind="stable")
    least = float(matrix.diagonal().min())
    for members in np.split(order, np.flatnonzero(np.diff(family[order])) + 1):
        if 1 < len(members) <= MOST_FAMILY:
            least = min(least, float(linalg.eigvalsh(matrix[members][:, members].toarray())[0]))
    return least


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
    """Open PREFIX.grm.bin, .grm.gz or .grm.sp with .grm.id; .grm.N.bin is read where it is there.

    ``prefix`` may end in one of these, which is then the one that is read; else it is the first that exists, but not
    where there is a sparse matrix beside a dense one, as these differ.
    .grm.gz has lines i j N value, from 1 on; .grm.sp lines i j value, from 0 on, of the entries that are not zero.

    Raises:
        InputError: a missing file, two that differ, a sample twice (its ids), or a size that does not fit the number of
            samples.
    """
    prefix = str(prefix)
    kinds = [kind for kind in KINDS if prefix.endswith(f".grm.{kind}")] or list(KINDS)
    prefix = prefix.removesuffix(f".{kinds[0]}").removesuffix(".grm")
    paths = {suffix: Path(f"{prefix}.grm.{suffix}") for suffix in ("id", "N.bin", *KINDS)}
    there = [kind for kind in kinds if paths[kind].is_file()]
    if len(there) > 1 and "sp" in there:
        both = " and ".join(str(paths[kind]) for kind in there)
        raise InputError(f"relationship matrix {prefix!r}: there are {both}; name the one to read in full")
    kind = there[0] if there else kinds[0]
    absent = [str(paths[suffix]) for suffix in ("id", kind) if not paths[suffix].is_file()]
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
    if kind != "bin":
        return _of_text(prefix, samples, kind)
    counts = _lower_triangle(paths["N.bin"], len(samples)) if paths["N.bin"].is_file() else None
    mean = None if counts is None else _mean_count(paths["N.bin"], counts)
    stamp = stamp_of_map(paths["bin"])
    return GrmFile(prefix, samples, _lower_triangle(paths["bin"], len(samples)), mean, stamp)


def _of_text(prefix: str, samples: pd.DataFrame, kind: str) -> GrmFile:
    """A matrix of lines of text: every pair of the lower triangle, or of those that are not zero."""
    path, n = f"{prefix}.grm.{kind}", len(samples)
    layout, width, first = ("i j N value", 4, 1) if kind == "gz" else ("i j value", 3, 0)
    table = read_text_table(path, "relationship", layout, min_width=width, sep=WHITESPACE)
    numbers = table.fields.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    places = numbers[:, :2] - first
    wrong = ~((places >= 0) & (places < n) & (places == np.floor(places))).all(axis=1)
    if wrong.any():
        raise InputError(
            f"{table.where(int(np.argmax(wrong)))}: expected {layout} with numbers of samples from {first} to "
            f"{n - 1 + first}, as {prefix}.grm.id has {n}"
        )
    rows, columns = places.max(axis=1).astype(np.int64), places.min(axis=1).astype(np.int64)
    entry = rows * (rows + 1) // 2 + columns
    if len(np.unique(entry)) < len(entry):
        raise InputError(f"{path}: a pair of samples is there twice; make the file again")
    values = numbers[:, width - 1]
    if kind == "sp":
        return SparseGrmFile(prefix, samples, values, None, None, ".grm.sp", rows, columns)
    if len(values) != n * (n + 1) // 2:
        raise InputError(
            f"{path}: expected {n * (n + 1) // 2} lines, the lower triangle of {n} samples, found {len(values)}"
        )
    lower = np.empty(len(values))
    lower[entry] = values
    return GrmFile(prefix, samples, lower, float(numbers[:, 2].mean()), None, ".grm.gz")


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
    write_all({Path(f"{prefix}.grm.{suffix}"): chunks for suffix, chunks in contents.items()})


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
