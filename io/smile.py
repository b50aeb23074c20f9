"""Weight matrices of variants, W, from files: dense symmetric blocks of consecutive variants, with their sidecars.

A block is .npy (memory-mapped), .npz with one array, .rds of R (pip install 'gpu-reml[rds]'), .csv, or any other name
for text separated by blanks; text also as .gz, and without a header or row names.  Beside ``A.npy`` there may be
``A.json`` or ``A.meta.json``, a JSON object with the block's size, its rank, and the ids of its variants.
"""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ops.weights import numerical_rank
from .archives import load_json, load_npy, load_npz, npy_shape
from .component_sets import AnalysedVariants
from .content import opened, read_content
from .errors import InputError
from .plausible import MOST_WEIGHT
from .rds import read_rds
from .stamps import Stamp, stamp_of_map

SHAPE_KEYS = ("shape", "matrix_shape", "width", "size", "p", "n_snps")
RANK_KEYS = ("effective_rank", "retained_rank", "weight_rank", "rank")
ROWS = 1024  # so many rows of a matrix are compared with its transpose at once
SYMMETRY = 1e-5  # text with six digits may differ by this share of an entry
NOT_NEGATIVE = 1e-6  # an eigenvalue below minus this share of the largest row sum of |W| is not rounding


@dataclass(frozen=True)
class SmileBlock:
    """One block: ``matrix`` (b, b) as in the file; ``rank``: the sidecar's, else None.

    ``ids``: the variants' ids, where the sidecar lists them.  ``stamp``: of a file that
    the matrix is a map of.
    """

    path: str
    matrix: np.ndarray
    rank: float | None = None
    ids: tuple[str, ...] | None = None
    stamp: Stamp | None = None

    @property
    def size(self) -> int:
        return len(self.matrix)


def read_w_list(path: str | Path) -> list[str]:
    """Names of the files of blocks in a list: one per line or separated by commas; blank lines and # comments are left
    out.  A name that is not absolute is taken from where the command runs."""
    with read_content(path, "list of weight files").text() as file:
        lines = [line.split("#", 1)[0] for line in file]
    names = [name.strip() for line in lines for name in line.split(",") if name.strip()]
    if not names:
        raise InputError(f"{path}: lists no weight file; write one per line")
    return names


def parse_w_files(text: str, argument: str = "w_files") -> list[str]:
    """The files of ``A.npy,B.npy``."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"`{argument}`: expected files separated by commas, such as A.npy,B.npy; found {text!r}")
    return names


def parse_grm_groups(text: str) -> list[list[str]]:
    """The groups of ``A1.npy,A2.npy;B1.npy``: semicolons separate components, commas the blocks of one."""
    return [parse_w_files(group, "grm_groups") for group in text.removesuffix(";").split(";")]


def stored_bytes(path: str | Path) -> int:
    """Bytes of a block in float32, as far as they can be told without reading it: a .npy's shape, else the file's size.

    Raises:
        InputError: no such file, or a .npy that is none.
    """
    path = Path(path)
    if path.suffix.casefold() == ".npy":
        return 4 * math.prod(npy_shape(path, "weight file"))
    with opened(path, "weight file") as file:
        return file.seek(0, os.SEEK_END)


def read_w(path: str | Path, check_psd: bool = False) -> SmileBlock:
    """Read and check one block; its numbers stay in the file where that is .npy.

    check_psd: by all eigenvalues; else by a Cholesky decomposition of W plus 1e-6 of its largest row sum of |W|, which
    is ten times cheaper.  Either way an eigenvalue below minus that is an error and a smaller one taken for rounding.
    Raises:
        InputError: no such file; not one square, real, finite, symmetric, positive semi-definite matrix; a sidecar that
            is unreadable, contradicts it or has a rank outside (0, b].  The message names the file and the entry.
    """
    path = Path(path)
    stamp = stamp_of_map(path) if path.suffix.casefold() == ".npy" and path.is_file() else None
    W = _read_array(path)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not W.size:
        raise InputError(f"{path}: expected a square matrix of weights, found {W.shape}; give one block a file")
    if not (np.issubdtype(W.dtype, np.integer) or np.issubdtype(W.dtype, np.floating) or W.dtype == bool):
        raise InputError(f"{path}: expected real numbers, found {W.dtype}; save the matrix as float32 or float64")
    if not np.issubdtype(W.dtype, np.floating):
        W = W.astype(np.float64)
    _check_entries(path, W)
    _check_psd(path, W, check_psd)
    rank, ids = _read_sidecar(path, len(W))
    return SmileBlock(str(path), W, rank, ids, stamp)


def _read_array(path: Path) -> np.ndarray:
    """The one array of a file."""
    suffix = path.suffix.casefold()
    if suffix == ".npy":
        return load_npy(path, "weight file", mapped=True)
    if suffix == ".npz":
        arrays = load_npz(path, "weight file")
        if len(arrays) != 1:
            raise InputError(
                f"{path}: expected exactly one array, found {', '.join(arrays) or 'none'}; save the block alone"
            )
        return next(iter(arrays.values()))
    return read_rds(path, "weight file") if suffix == ".rds" else _from_text(path)


def _from_text(path: Path) -> np.ndarray:
    comma = "," if path.name.removesuffix(".gz").casefold().endswith(".csv") else None
    with read_content(path, "weight file").text() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy warns of a file without numbers, whose matrix is refused
        try:
            W = np.loadtxt(file, delimiter=comma, ndmin=2)
        except ValueError as error:
            reason = str(error).split(";")[0].removesuffix(".")
            raise InputError(
                f"{path}: {reason} (rows count from 0); expected numbers only, without header and row names, separated "
                f"by {'commas' if comma else 'blanks; commas only in a file named .csv'}"
            ) from None
    return W


def _check_entries(path: Path, W: np.ndarray) -> None:
    """Finite and symmetric, by slabs of rows."""
    for first in range(0, len(W), ROWS):
        rows = np.asarray(W[first : first + ROWS], np.float64)
        good = np.abs(rows) <= MOST_WEIGHT
        if not good.all():
            i, j = np.argwhere(~good)[0]
            raise InputError(
                f"{path}: row {first + i + 1}, column {j + 1}: expected a finite number, found "
                f"{rows[i, j]}; at most {MOST_WEIGHT:g}"
            )
    largest = max(float(np.abs(W[first : first + ROWS]).max()) for first in range(0, len(W), ROWS))
    for first in range(0, len(W), ROWS):
        rows, columns = (np.asarray(A[first : first + ROWS], np.float64) for A in (W, W.T))
        apart = np.abs(rows - columns) - SYMMETRY * np.maximum(np.abs(rows), np.abs(columns))
        i, j = np.unravel_index(int(np.argmax(apart)), apart.shape)
        if apart[i, j] > 1e-6 * largest:
            raise InputError(
                f"{path}: not symmetric: row {first + i + 1}, column {j + 1} has {rows[i, j]:.8g}, row {j + 1}, column "
                f"{first + i + 1} has {columns[i, j]:.8g}; give the whole symmetric matrix"
            )


def _check_psd(path: Path, W: np.ndarray, all_eigenvalues: bool) -> None:
    """InputError where W has an eigenvalue that is negative beyond rounding."""
    W = np.array(W, np.float64)
    limit = NOT_NEGATIVE * max(float(np.abs(W).sum(axis=1).max()), np.finfo(np.float64).tiny)
    if not all_eigenvalues:
        W[np.diag_indices_from(W)] += limit
        try:
            np.linalg.cholesky(W)
            return
        except np.linalg.LinAlgError:
            W[np.diag_indices_from(W)] -= limit
    smallest = float(np.linalg.eigvalsh(W)[0])
    if smallest < -limit:
        raise InputError(
            f"{path}: not positive semi-definite: its smallest eigenvalue is {smallest:.6g}; a covariance of effects "
            "has none below 0; build W again, or shrink it towards its diagonal"
        )


def _read_sidecar(path: Path, size: int) -> tuple[float | None, tuple[str, ...] | None]:
    """(rank, ids) of the JSON beside a block, None where it does not say."""
    stem = path.with_name(path.name.removesuffix(".gz")).with_suffix("")
    candidates = [stem.with_name(stem.name + ending) for ending in (".json", ".meta.json")]
    sidecar = next((candidate for candidate in candidates if candidate.is_file()), None)
    if sidecar is None:
        return None, None
    record = load_json(sidecar, "sidecar")
    if not isinstance(record, dict):
        raise InputError(f"{sidecar}: expected a JSON object, found {type(record).__name__}; correct or remove it")
    for key in SHAPE_KEYS:
        widths = record.get(key, size)
        if any(width != size for width in (widths if isinstance(widths, list) else [widths])):
            raise InputError(
                f"{sidecar}: {key} is {widths!r}, but {path} is ({size}, {size}); they are not of one block"
            )
    rank_key = next((key for key in RANK_KEYS if key in record), None)
    rank = None if rank_key is None else record[rank_key]
    if rank_key is not None and not (type(rank) in (int, float) and 0 < rank <= size):
        raise InputError(f"{sidecar}: expected a number above 0 and at most {size} for {rank_key}, found {rank!r}")
    ids = record.get("variant_ids")
    if ids is not None and not (isinstance(ids, list) and len(ids) == size):
        found = len(ids) if isinstance(ids, list) else repr(ids)
        raise InputError(f"{sidecar}: expected variant_ids to list {size} ids, found {found}")
    return rank, None if ids is None else tuple(map(str, ids))


def take_analysed(
    groups: Sequence[Sequence[SmileBlock]], names: Sequence[str], variants: AnalysedVariants
) -> tuple[list[list[SmileBlock]], tuple[str, ...]]:
    """The groups' blocks without the rows and columns of variants that filters removed, and notes that count them.

    All blocks together cover the unfiltered variants of the genotype files, in order.  A block that loses variants also
    loses its sidecar's rank; one that loses all of them is left out.
    Raises InputError where sizes do not add up, where a sidecar's ids are not those of the genotypes, or where a group
    is left without variants.
    """
    total = sum(block.size for group in groups for block in group)
    if total != variants.num_source:
        sizes = ", ".join(f"{Path(block.path).name} {block.size}" for group in groups for block in group[:4])
        raise InputError(
            f"weight matrices: expected {variants.num_source} variants in all, those of the genotype files before "
            f"filters, found {total} ({sizes}{', ...' if max(map(len, groups)) > 4 else ''}); give every block, in the "
            "order of the variants"
        )
    kept = np.zeros(total, bool)
    kept[variants.rows] = True
    row_of = np.cumsum(kept) - 1
    found, notes, start, reduced, recount = [], [], 0, 0, 0
    for name, group in zip(names, groups, strict=True):
        left = []
        for block in group:
            inside = np.flatnonzero(kept[start : start + block.size])
            if block.ids is not None:
                _check_ids(block, inside, variants.table["id"].to_numpy()[row_of[start + inside]])
            if len(inside) == block.size:
                left.append(block)
            else:
                reduced += 1
                recount += block.rank is not None
                if len(inside):
                    left.append(SmileBlock(block.path, np.asarray(block.matrix)[np.ix_(inside, inside)]))
            start += block.size
        if not left:
            raise InputError(f"component {name}: filters removed all variants of its weight matrices; remove it")
        found.append(left)
    if reduced:
        lost = total - int(kept.sum())
        again = f"; the rank of {recount} is not the sidecar's any more" if recount else ""
        notes.append(f"weight matrices: {lost} filtered variants left out of {reduced} blocks{again}")
    return found, tuple(notes)


def _check_ids(block: SmileBlock, inside: np.ndarray, ids: np.ndarray) -> None:
    """The sidecar's ids against those of the genotypes, for the variants that are analysed."""
    expected = np.array(block.ids, object)[inside]
    wrong = np.flatnonzero(expected != ids.astype(object))
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"{block.path}: row {inside[first] + 1} is of {expected[first]}, by variant_ids in its sidecar, but the "
            f"genotypes have {ids[first]} there ({len(wrong)} of {len(ids)} ids differ); put the blocks in the order "
            "of the variants"
        )


def total_rank(blocks: Sequence[SmileBlock]) -> float:
    """Sum of the blocks' ranks: the sidecars', else counted (:func:`~gpu_reml.ops.weights.numerical_rank`)."""
    return float(sum(numerical_rank(block.matrix) if block.rank is None else block.rank for block in blocks))
