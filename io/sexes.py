"""Sexes of samples, as .fam, .psam and .sample files have them, and which variants of X males have one copy of."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..ops.chromosomes import chromosome_names
from .errors import InputError
from .headings import plain
from .text import WHITESPACE, read_text_table

# Base pairs of X's ends that Y shares, the lesser of builds 37 and 38 at the first, the greater at the last.
PAR1_END, PAR2_START = 2_699_520, 155_701_383
MALE, FEMALE = {"1", "m", "male"}, {"2", "f", "female"}


def read_males(path: str | Path) -> np.ndarray:
    """(rows,) bool of who is male in a .fam (fifth column), or in a .psam or .sample by the column SEX.

    Raises:
        InputError: no such column, or nobody of whom the sex is known.
    """
    path = Path(path)
    text = read_text_table(path, "sample", "FID IID ... sex", min_width=2, sep=WHITESPACE)
    if path.suffix == ".fam":
        words = text.fields[4]
    else:
        names = [plain(word) for word in text.fields.iloc[0]]
        if "sex" not in names:
            raise InputError(f"{path}: has no column SEX, which the sexes are from; add it")
        body = text.fields.iloc[1:]
        words = body[names.index("sex")]
        if path.suffix == ".sample":
            words = words.iloc[1:]  # the second line has the kinds of the columns
    known = words.str.casefold()
    if not known.isin(MALE | FEMALE).any():
        raise InputError(f"{path}: nobody has a sex (1 for male, 2 for female); fill it in")
    return known.isin(MALE).to_numpy()


def haploid_in_males(variants: pd.DataFrame) -> np.ndarray:
    """(m,) bool: variants on X outside its pseudo-autosomal regions, by the chromosome's name and base pairs."""
    on_x = chromosome_names(variants["chrom"]) == "X"
    bp = variants["bp"].to_numpy()
    return on_x & (bp > PAR1_END) & (bp < PAR2_START)
