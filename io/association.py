"""Tables of association tests: one row for every analysed variant, in the order of the genotypes."""

import gzip
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml.ops import PackedGenotypes

from .component_sets import AnalysedVariants
from .writers import encoded, table_text


class Places(NamedTuple):
    """Where variants are: the file each is of (m,), its name, and its zero-based row there and in all files."""

    file: np.ndarray
    names: tuple[str, ...]
    local: np.ndarray
    overall: np.ndarray


def places_of(variants: AnalysedVariants, names: Sequence[str], sizes: Sequence[int]) -> Places:
    """Places of the analysed variants in files of ``sizes`` variants, one after another."""
    starts = np.cumsum([0, *sizes])
    file = np.searchsorted(starts, variants.rows, side="right") - 1
    return Places(file, tuple(names), variants.rows - starts[file], variants.rows)


def marginal_table(
    variants: AnalysedVariants, places: Places, genotypes: PackedGenotypes, tests: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """The columns of GPU_REML's scan, which a least-squares scan has before those of
    :func:`association_table`.

    tests: beta, se, beta_std, se_std, t, log10p (m,).  ``p`` is 0 where it is under the least float64.
    """
    table = variants.table
    return pd.DataFrame(
        {
            "component_index": places.file,
            "component_name": np.array(places.names, dtype=object)[places.file],
            "variant_index_global": places.overall,
            "variant_index_local": places.local,
            "chrom": table["chrom"],
            "variant_id": table["id"],
            "cm": table["cm"],
            "bp": table["bp"],
            "a1": table["a1"],
            "a2": table["a2"],
            "af": frequency(genotypes),
            "n_obs": genotypes.num_called,
            **{name: tests[name] for name in ("beta", "se", "beta_std", "se_std", "t")},
            "p": 10.0 ** -tests["log10p"],
        }
    )


def association_table(
    variants: AnalysedVariants, genotypes: PackedGenotypes, tests: Mapping[str, np.ndarray], dosages: bool
) -> pd.DataFrame:
    """Columns of every scan, as other programs have them; A1 is the counted allele, A2 the other; P is 10^-LOG10P, and
    0 where that is under the least float64.

    tests: beta, se, chisq, log10p, method (m,).  INFO: variance of the dosages over 2p(1-p) (MaCH's r2); NA for calls.
    """
    table = variants.table
    return pd.DataFrame(
        {
            "CHROM": table["chrom"],
            "GENPOS": table["bp"],
            "ID": table["id"],
            "A1": table["a1"],
            "A2": table["a2"],
            "A1FREQ": frequency(genotypes),
            "N": genotypes.num_called,
            "INFO": dosage_information(genotypes) if dosages else np.full(genotypes.num_variants, np.nan),
            "BETA": tests["beta"],
            "SE": tests["se"],
            "CHISQ": tests["chisq"],
            "LOG10P": tests["log10p"],
            "P": 10.0 ** -tests["log10p"],
            "METHOD": tests["method"],
        }
    )


def frequency(genotypes: PackedGenotypes) -> np.ndarray:
    """(m,) frequency of the counted allele among the called; nan without a call."""
    return np.where(genotypes.num_called > 0, genotypes.mean / 2, np.nan)


def dosage_information(genotypes: PackedGenotypes) -> np.ndarray:
    """(m,) variance of the counts over 2p(1-p), nan where they do not vary."""
    p, inv_sd = genotypes.mean / 2, np.where(genotypes.inv_sd > 0, genotypes.inv_sd, np.nan)
    return genotypes.variance / inv_sd**2 / (2 * p * (1 - p))


def association_text(table: pd.DataFrame) -> str:
    """Tab-separated with a header and nine digits; NA where there is no test."""
    return table_text(table, "NA")


def gzipped(text: str) -> bytes:
    """gzip of UTF-8 text, the same bytes whenever it is made."""
    return gzip.compress(encoded(text), compresslevel=6, mtime=0)
