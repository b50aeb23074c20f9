"""Small files to read: bed-reader writes the genotypes, so its encoder is the oracle for our decoder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bed_reader import to_bed
from pgenlib import PgenWriter

from gpu_reml.io.component_sets import AnalysedVariants
from gpu_reml.ops import MISSING


@pytest.fixture
def write(tmp_path):
    """write(name, text) -> path of a file of that text."""

    def write_file(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


@pytest.fixture
def ids():
    """ids("a", "b") -> samples with FID Fa, Fb and IID a, b."""

    def make_samples(*iids):
        return pd.DataFrame({"fid": [f"F{iid}" for iid in iids], "iid": list(iids)}, dtype=str)

    return make_samples


@pytest.fixture
def make_fileset(tmp_path):
    """make_fileset(counts, name="cohort", iids=None) -> prefix of a fileset; counts (n, m) int8, FID is F + IID."""

    def write_fileset(counts, name="cohort", iids=None):
        counts = np.ascontiguousarray(counts, np.int8)
        n, m = counts.shape
        iids = [f"s{i}" for i in range(n)] if iids is None else list(iids)
        properties = {
            "fid": [f"F{iid}" for iid in iids],
            "iid": iids,
            "chromosome": [str(1 + j % 22) for j in range(m)],
            "sid": [f"rs{j}" for j in range(m)],
            "cm_position": [0.5 * j for j in range(m)],
            "bp_position": [100 * j for j in range(m)],
            "allele_1": ["A"] * m,
            "allele_2": ["C"] * m,
        }
        prefix = tmp_path / name
        to_bed(f"{prefix}.bed", counts, properties=properties)
        return prefix

    return write_fileset


@pytest.fixture
def make_pgen(tmp_path):
    """make_pgen(genotypes, name="cohort", iids=None) -> prefix of a .pgen fileset like that of make_fileset.

    genotypes (n, m): int8 counts of ALT, or float32 dosages (NaN missing), which are stored as such.
    """

    def write_pgen(genotypes, name="cohort", iids=None):
        n, m = genotypes.shape
        iids = [f"s{i}" for i in range(n)] if iids is None else list(iids)
        prefix = tmp_path / name
        has_dosages = genotypes.dtype == np.float32
        with PgenWriter(bytes(Path(f"{prefix}.pgen")), n, variant_ct=m, dosage_present=has_dosages) as writer:
            for column in genotypes.T:
                if has_dosages:
                    writer.append_dosages(np.nan_to_num(np.ascontiguousarray(column), nan=-9))
                else:
                    writer.append_biallelic(np.where(column == MISSING, -9, column).astype(np.int8))
        variants = [f"{1 + 22 * j // m}\t{100 * j}\trs{j}\tC\tA\t{0.5 * j}\n" for j in range(m)]
        Path(f"{prefix}.pvar").write_text("#CHROM\tPOS\tID\tREF\tALT\tCM\n" + "".join(variants))
        Path(f"{prefix}.psam").write_text("#FID\tIID\n" + "".join(f"F{iid}\t{iid}\n" for iid in iids))
        return prefix

    return write_pgen


@pytest.fixture
def random_dosages():
    """random_dosages(n, m, seed=0) -> float32 copies, whole multiples of 2^-14, with about a tenth missing."""

    def draw(n, m, seed=0):
        rng = np.random.default_rng(seed)
        dosages = (rng.integers(0, 32769, (n, m)) / 16384).astype(np.float32)
        dosages[rng.random((n, m)) < 0.1] = np.nan
        return dosages

    return draw


@pytest.fixture
def random_counts():
    """random_counts(n, m, seed=0) -> int8 counts of A1 with about a tenth missing."""

    def draw(n, m, seed=0):
        rng = np.random.default_rng(seed)
        counts = rng.binomial(2, rng.uniform(0.05, 0.95, m), (n, m)).astype(np.int8)
        counts[rng.random((n, m)) < 0.1] = MISSING
        return counts

    return draw


@pytest.fixture
def make_variants():
    """make_variants(ids, mask=None, chrom=None, bp=None) -> AnalysedVariants of a table of these ids."""

    def analysed(ids, mask=None, chrom=None, bp=None):
        m = len(ids)
        positions = np.arange(1, m + 1) if bp is None else bp
        names = ["1"] * m if chrom is None else chrom
        table = pd.DataFrame({"chrom": names, "id": list(ids), "cm": 0.0, "bp": positions, "a1": "A", "a2": "C"})
        return AnalysedVariants.of(table, None if mask is None else np.array(mask))

    return analysed
