"""Pedigrees as breeders and PLINK write them: an animal, its sire and its dam, one per line."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..ops.pedigree import UNKNOWN, Pedigree, make_pedigree
from .errors import InputError
from .headings import PEDIGREE_NAMES, family_first, key_of
from .ids import first_words
from .tables import Covariates
from .text import TextTable, read_text_table

UNKNOWN_WORDS = frozenset(["0", "", ".", "na", "nan", "-9", "unknown"])
SIRE_NAMES = {"sire": "sire sire_id sireid", "dam": "dam dam_id damid"}
ANIMAL = "animal"  # the column that has an animal's row


@dataclass(frozen=True)
class PedigreeFile:
    """``animals`` (q,) ids in the order of ``pedigree``: those of the file, then parents without a line of their own.

    ``table``: the animals by IID, with their rows in the column "animal", as other tables of samples are.
    """

    animals: np.ndarray
    pedigree: Pedigree
    table: Covariates


def read_pedigree(path: str | Path) -> PedigreeFile:
    """Read animal, sire, dam, with or without a header; further columns are ignored.

    A header that begins with FID and IID, or a file named .fam, has FID IID PAT MAT.  Animals are matched by IID alone;
    parents are 0, NA, ``.`` or empty where unknown, and founders where they have no line of their own.

    Raises:
        InputError: an animal twice, one that is its own parent's parent, or the same sire and dam (with the lines).
    """
    text = read_text_table(path, "pedigree", "animal sire dam, or FID IID PAT MAT", min_width=3)
    if not len(text.fields):
        raise InputError(f"{path} is empty; expected animal sire dam, one line for each animal")
    words = [str(word) for word in text.fields.iloc[0]]
    has_fid, header = _layout(text, words)
    columns = [1, 2, 3] if has_fid else [0, 1, 2]
    if text.fields.shape[1] <= columns[-1]:
        raise InputError(f"{text.where(0)}: expected FID IID PAT MAT, found {len(words)} fields")
    lines = text.fields[columns].iloc[int(header) :].reset_index(drop=True)
    ids = lines[columns[0]]
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(f"{path}: {len(twice)} animal(s) have several lines ({first_words(twice)}); keep one each")
    parents = [_parent_ids(lines[column]) for column in columns[1:]]
    animals = pd.Index(ids)
    named = pd.concat(parents).dropna().drop_duplicates()
    founders = named[~named.isin(animals)]
    animals = animals.append(pd.Index(founders))
    blank = np.full(len(founders), UNKNOWN)
    sire, dam = (np.concatenate([animals.get_indexer(parent), blank]) for parent in parents)
    try:
        pedigree = make_pedigree(sire, dam)
    except ValueError as error:
        raise InputError(f"{path}: {_with_ids(str(error), animals)}; correct the pedigree") from None
    notes = ()
    if len(founders):
        shown = first_words(founders)
        notes = (f"{path}: {len(founders)} parent(s) have no line of their own and are founders ({shown})",)
    samples = pd.DataFrame({"fid": "", "iid": animals.astype(str)})
    values = pd.DataFrame({ANIMAL: np.arange(len(animals), dtype=np.float64)})
    table = Covariates(
        path=str(path), samples=samples, has_fid=False, kind="quantitative", values=values, notes=notes, what="pedigree"
    )
    return PedigreeFile(np.asarray(animals), pedigree, table)


def _layout(text: TextTable, words: list[str]) -> tuple[bool, bool]:
    """Whether the family's id comes first, and whether the first line is a header."""
    named = family_first(f"{text.path}, header", words)
    header = named is not None or any(key_of(word, SIRE_NAMES, PEDIGREE_NAMES) for word in words[1:4])
    return named is True or (not header and text.path.suffix == ".fam"), header


def _parent_ids(column: pd.Series) -> pd.Series:
    return column.mask(column.str.casefold().isin(UNKNOWN_WORDS))


def _with_ids(message: str, animals: pd.Index) -> str:
    """A message of :func:`make_pedigree`, in which rows become ids."""
    found = message.partition(": ")[2]
    row = int(found.split()[1])
    said = found.replace(f"animal {row}", f"animal {animals[row]}", 1)
    head, comma, parent = said.rpartition(", ")
    return f"{head}{comma}{animals[int(parent)]}" if comma and parent.isdecimal() else said
