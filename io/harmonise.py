"""Variants of a model found among those of other genotypes: by id, then by position, with alleles made to agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..ops.chromosomes import linkage_groups
from .errors import InputError

SAME, SWAPPED, STRAND, STRAND_SWAPPED, MISMATCH = range(5)
KINDS = {
    SAME: "the same alleles",
    SWAPPED: "alleles swapped",
    STRAND: "alleles of the other strand",
    STRAND_SWAPPED: "alleles of the other strand, swapped",
}
AMBIGUOUS = ("keep", "drop")
NO_ID = (".", "")
NO_ALLELE = ("0", ".", "")
_COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}
_MOST_COPIES = 32  # an id or a place that more variants share identifies none of them
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Matching:
    """Model variants ``model`` (k,) are rows ``rows`` (k,), ascending, of the other table; ``swapped`` (k,) where its
    counted allele a1 is the model's a2.

    ``counts``: (what, number of model variants): every variant is in one class; the last two classes divide those that
    were found.  ``notes``: what was noticed, with the first few ids.
    """

    model: np.ndarray
    rows: np.ndarray
    swapped: np.ndarray
    num_model: int
    counts: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]

    @property
    def num_matched(self) -> int:
        return len(self.model)

    def lines(self) -> list[str]:
        """The counts and notes as a person reads them."""
        found = f"variants: {self.num_matched} of the model's {self.num_model} found"
        return [found, *(f"  {what}: {count}" for what, count in self.counts if count), *self.notes]


def harmonise(model: pd.DataFrame, other: pd.DataFrame, ambiguous: Literal["keep", "drop"] = "keep") -> Matching:
    """Find the variants of ``model`` in ``other``; both have chrom, id, bp, a1, a2, with a1 the counted allele.

    A variant is first looked for by its id ("." is none), then at its chromosome and position; either must have the
    model's two alleles: as they are, swapped, or on the other strand (single bases only).  An allele written 0 or . is
    unknown and agrees with any.  Among several that qualify, an entry equal in all five columns is taken first (equal
    ones in order), then by id, then with alleles on the model's strand; what is still a tie is left out and named.

    A/T and C/G variants read the same on both strands.  ``ambiguous``: "keep" takes their alleles as written, "drop"
    leaves them out.

    Raises:
        InputError: no variant is found.
    """
    if ambiguous not in AMBIGUOUS:
        raise InputError(f"`ambiguous`: expected one of {', '.join(AMBIGUOUS)}, found {ambiguous!r}")
    if not len(model) or not len(other):
        raise InputError(f"{'the genotypes have' if len(model) else 'the model has'} no variants; give another file")
    spellings = {*model["chrom"].unique(), *other["chrom"].unique()}
    model, other = (_prepared(table, spellings) for table in (model, other))
    pairs = _candidates(model, other)
    alleles = [
        table[name].to_numpy()[pairs[side]] for side, table in (("model", model), ("other", other)) for name in "12"
    ]
    pairs["kind"] = _kinds(*alleles)
    palindrome = (model["1"].map(_complement) == model["2"]).to_numpy()
    agreeing = pairs[pairs["kind"] != MISMATCH]
    dropped = palindrome if ambiguous == "drop" else np.zeros(len(model), bool)
    chosen, ties = _choose(agreeing[~dropped[agreeing["model"].to_numpy()]], len(model))
    chosen = chosen.sort_values("other")
    rows = {name: chosen[name].to_numpy(np.int64) for name in ("model", "other", "kind", "by")}
    seen = np.zeros(len(model), bool)
    seen[pairs["model"].to_numpy()] = True
    left_out = {
        "alleles that cannot be made to agree, left out": _others(pairs["model"], agreeing["model"], len(model)),
        "A/T or C/G, left out (`ambiguous` drop)": dropped & _among(agreeing["model"], len(model)),
        "several that match equally well, left out": ties,
        "not there (as if all had the model's mean)": ~seen,
    }
    kind = rows["kind"]
    counts = [(KINDS[k], int((kind == k).sum())) for k in KINDS]
    counts += [(what, int(mask.sum())) for what, mask in left_out.items()]
    counts += [
        ("found by position, not by id", int((rows["by"] == 1).sum())),
        ("A/T or C/G, taken as written", int(palindrome[rows["model"]].sum())),
    ]
    if not len(chosen):
        raise InputError(_nothing(model, other, left_out))
    swapped = (kind == SWAPPED) | (kind == STRAND_SWAPPED)
    notes = tuple(_notes(model, left_out, rows, palindrome))
    return Matching(rows["model"], rows["other"], swapped, len(model), tuple(counts), notes)


def _prepared(table: pd.DataFrame, spellings: set[str]) -> pd.DataFrame:
    """Ids, places, and alleles in upper case as columns "1" and "2"."""
    return pd.DataFrame(
        {
            "id": table["id"].to_numpy(),
            "chrom": linkage_groups(table["chrom"], spellings),
            "bp": table["bp"].to_numpy(np.int64),
            "1": table["a1"].str.upper().to_numpy(),
            "2": table["a2"].str.upper().to_numpy(),
        }
    )


def _candidates(model: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Pairs (model, other) to compare; ``by``: -1 equal in all columns and in order, 0 by id, 1 by place."""
    keys = ["id", "chrom", "bp", "1", "2"]
    numbered = []
    for side, table in (("model", model), ("other", other)):
        groups = table.groupby(keys, sort=False)["bp"]
        numbered.append(
            table.assign(**{side: np.arange(len(table)), "nth": groups.cumcount(), "copies": groups.transform("size")})
        )
    left, right = numbered
    equal = left.merge(right, on=[*keys, "nth", "copies"])[["model", "other"]].assign(by=-1)
    left = left[~left["model"].isin(equal["model"])]  # no other match is better than an equal one
    by_id = _joined(left, right, ["id"], ~left["id"].isin(NO_ID), ~right["id"].isin(NO_ID)).assign(by=0)
    by_place = _joined(left, right, ["chrom", "bp"], left["bp"] > 0, right["bp"] > 0).assign(by=1)
    pairs = pd.concat([equal, by_id, by_place], ignore_index=True)
    return pairs.drop_duplicates(["model", "other"]).reset_index(drop=True)  # the best stands first


def _joined(left: pd.DataFrame, right: pd.DataFrame, on: list[str], usable_left, usable_right) -> pd.DataFrame:
    """Pairs of rows that agree in ``on``, where few do: what many share tells nothing apart."""
    parts = []
    for table, usable in ((left, usable_left), (right, usable_right)):
        part = table[usable]
        few = part.groupby(on, sort=False)[on[0]].transform("size") <= _MOST_COPIES
        parts.append(part[few])
    return parts[0].merge(parts[1], on=on)[["model", "other"]]


def _complement(allele: str) -> str:
    """The base on the other strand; an allele of several bases, or none, has no counterpart here."""
    return _COMPLEMENT.get(allele, f"not {allele}")


def _kinds(a1: np.ndarray, a2: np.ndarray, b1: np.ndarray, b2: np.ndarray) -> np.ndarray:
    """(k,) how alleles b1, b2 agree with a1, a2; the first way that holds."""
    unknown = [np.isin(b, NO_ALLELE) for b in (b1, b2)]
    c1, c2 = (pd.Series(a, dtype=object).map(_complement).to_numpy() for a in (a1, a2))

    def agree(x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
        return ((b1 == x1) | unknown[0]) & ((b2 == x2) | unknown[1]) & ~(unknown[0] & unknown[1])

    ways = [agree(a1, a2), agree(a2, a1), agree(c1, c2), agree(c2, c1)]
    return np.select(ways, [SAME, SWAPPED, STRAND, STRAND_SWAPPED], MISMATCH)


def _choose(pairs: pd.DataFrame, num_model: int) -> tuple[pd.DataFrame, np.ndarray]:
    """At most one pair for every variant of both sides, the best; and the model variants left out for a tie."""
    pairs = pairs.assign(rank=pairs["by"] * len(KINDS) + pairs["kind"])
    best = pairs
    for side in ("model", "other"):
        best = best[best["rank"] == best.groupby(side)["rank"].transform("min")]
    alone = ~best["model"].duplicated(keep=False) & ~best["other"].duplicated(keep=False)
    chosen = best[alone]
    return chosen, _others(pairs["model"], chosen["model"], num_model)


def _among(rows: pd.Series, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows.to_numpy(np.int64)] = True
    return mask


def _others(rows: pd.Series, without: pd.Series, size: int) -> np.ndarray:
    """Variants that are among ``rows`` and not among ``without``."""
    return _among(rows, size) & ~_among(without, size)


def _examples(ids: Sequence[str]) -> str:
    return ", ".join(map(str, ids[:_NUM_EXAMPLES])) + (", ..." if len(ids) > _NUM_EXAMPLES else "")


def _nothing(model: pd.DataFrame, other: pd.DataFrame, left_out: dict[str, np.ndarray]) -> str:
    reasons = "; ".join(f"{what}: {int(mask.sum())}" for what, mask in left_out.items() if mask.any())
    mine, theirs = (
        f"{table['id'].iloc[0]} at {table['chrom'].iloc[0]}:{table['bp'].iloc[0]} "
        f"({table['1'].iloc[0]}, {table['2'].iloc[0]})"
        for table in (model, other)
    )
    return (
        f"none of the model's {len(model)} variants can be used ({reasons}); it has {mine}, the genotypes have "
        f"{theirs}: give genotypes with the same ids or positions, of the same genome build"
    )


def _notes(model: pd.DataFrame, left_out: dict[str, np.ndarray], rows: dict[str, np.ndarray], palindrome: np.ndarray):
    ids = model["id"].to_numpy()
    for what, mask in left_out.items():
        if mask.any():
            yield f"{what}: {_examples(ids[np.flatnonzero(mask)])}"
    flipped = int((rows["kind"] >= STRAND).sum())
    doubtful = int(palindrome[rows["model"]].sum())
    if flipped and doubtful:
        yield (
            f"{flipped} variants are on the other strand, so {doubtful} A/T and C/G variants may be too, which nothing "
            "shows; `ambiguous` drop leaves them out"
        )
