"""LD scores that another program wrote."""

from pathlib import Path

import numpy as np
import pandas as pd

from .annotations import note_absent
from .component_sets import AnalysedVariants
from .errors import InputError
from .headings import variant_columns
from .plausible import LARGEST
from .text import WHITESPACE, read_text_table

COLUMNS = ("l2", "ldscore_snp", "ldscore", "ld")  # LDSC writes l2, GCTA ldscore_snp or ldscore, and early LDSC ld


def read_ld_scores(path: str | Path, variants: AnalysedVariants) -> tuple[np.ndarray, tuple[str, ...]]:
    """(m,) LD score of every analysed variant, NaN where the file has none, and notes that count these.

    The file has a header with SNP and one of L2 (LDSC's .l2.ldscore(.gz)), ldscore_SNP or ldscore (GCTA's .score.ld);
    the score of a region (ldscore_region) is not read.

    Raises:
        InputError: no such file or columns, a score that is no number, a variant twice, or no variant analysed.
    """
    layout = "a header with SNP and L2, ldscore_SNP or ldscore"
    table = read_text_table(path, "LD score", layout, min_width=2, sep=WHITESPACE)
    heading = [str(word).casefold() for word in table.fields.iloc[0]] if len(table.fields) else []
    column = next((name for name in COLUMNS if name in heading), None)
    _, id_column = variant_columns(f"{path}, header", heading)
    if id_column is None or column is None:
        raise InputError(f"{path}: expected {layout}, found {' '.join(heading) or 'nothing'}")
    rows = table.fields.iloc[1:]
    if not len(rows):
        raise InputError(f"{path} has a header and no variant; expected {layout}")
    ids, text = rows[id_column], rows[heading.index(column)]
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    good = np.abs(values) <= LARGEST
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"{table.where(1 + row)}: variant {ids.iloc[row]}: expected a number for its LD score, "
            f"found {text.iloc[row]!r}"
        )
    located = variants.locate(ids, lambda row: table.where(1 + row))
    again = ids.duplicated().to_numpy() & (located >= 0)
    if again.any():
        row = int(np.argmax(again))
        raise InputError(f"{table.where(1 + row)}: variant {ids.iloc[row]} has an LD score already; give it one")
    notes: list[str] = []
    note_absent(notes, Path(path), located, ids, variants)
    scores = np.full(variants.num_variants, np.nan)
    scores[located[located >= 0]] = values[located >= 0]
    missing = int(np.isnan(scores).sum())
    if missing:
        notes.append(f"{path}: {missing} of {len(scores)} analysed variants have no LD score")
    return scores, tuple(notes)
