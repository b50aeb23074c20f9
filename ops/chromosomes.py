"""Chromosomes under one name each, however a file spells them.

``chr7``, ``07`` and ``7`` are 7; PLINK's human codes 23 to 26 are X, Y, XY and MT; ``M`` is MT.  As in PLINK, PAR1,
PAR2 and XY (the pseudo-autosomal regions) are names of their own; :func:`linkage_groups` counts them to X, whose pieces
they are.  Other names (contigs, other species) stay as they are but for a ``chr`` before them.  Where a number above 26
occurs the species is not human, and 23 to 26 are autosomes of that name.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # products on a device need no tables, and machines that test them may lack pandas
    import pandas as pd

AUTOSOMES = tuple(str(k) for k in range(1, 23))
NUMBERED = ("0", *AUTOSOMES, "X", "Y", "XY", "MT")  # by PLINK's number
PSEUDO_AUTOSOMAL = ("PAR1", "PAR2", "XY")
HUMAN = frozenset([*NUMBERED, *PSEUDO_AUTOSOMAL])
Spellings = Sequence[str] | np.ndarray  # or a column of a table
_NAME = {name: name for name in HUMAN} | {"M": "MT"}


def chromosome_name(spelling: str, human: bool = True) -> str:
    """The name of the chromosome that a file or person spells so; ``human``: whether 23 to 26 are X, Y, XY and MT."""
    bare = spelling[3:] if spelling[:3].casefold() == "chr" and len(spelling) > 3 else spelling
    if bare.isascii() and bare.isdecimal():
        digits = bare.lstrip("0") or "0"
        return NUMBERED[int(digits)] if human and _is_plink_code(digits) else digits
    return _NAME.get(bare.upper(), bare)


def are_human(spellings: Iterable[str]) -> bool:
    """Whether numbers among the spellings are PLINK's codes of human chromosomes: none is above 26."""
    names = (chromosome_name(spelling, human=False) for spelling in spellings)
    return not any(name.isdecimal() and not _is_plink_code(name) for name in names)


def _is_plink_code(digits: str) -> bool:
    return len(digits) <= 2 and int(digits) < len(NUMBERED)  # by length first: a damaged file's may be thousands


def chromosome_names(spellings: Spellings, beside: Iterable[str] = ()) -> np.ndarray:
    """(m,) object: the name of each variant's chromosome; ``beside``: further spellings of the same genome."""
    import pandas as pd

    codes, different = pd.factorize(np.asarray(spellings, dtype=object))
    if (codes < 0).any():
        raise ValueError(f"chromosomes: the one of variant {int(np.argmin(codes))} is missing; 0 is an unplaced one")
    different = [str(each) for each in different]
    human = are_human([*different, *beside])
    return np.array([chromosome_name(each, human) for each in different], dtype=object)[codes]


def linkage_groups(spellings: Spellings, beside: Iterable[str] = ()) -> np.ndarray:
    """(m,) object: as :func:`chromosome_names`, with the pseudo-autosomal regions under X, whose pieces they are."""
    names = chromosome_names(spellings, beside)
    return np.where(np.isin(names.astype(str), PSEUDO_AUTOSOMAL), "X", names).astype(object)


def one_spelling(spellings: "pd.Series") -> "pd.Series":
    """Every chromosome as it is spelt first, so that a table of several files has each under one spelling."""
    import pandas as pd

    names = pd.Series(chromosome_names(spellings), index=spellings.index)
    first = ~names.duplicated()
    return names.map(dict(zip(names[first], spellings[first], strict=True)))
