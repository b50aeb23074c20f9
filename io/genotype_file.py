"""What a source of genotypes offers, whatever its format."""

from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from .stamps import Stamp


class GenotypeFile(Protocol):
    """One source of genotypes, open for reading; see :class:`BedFile`, :class:`PgenFile` and :class:`BgenFile`.

    ``prefix`` names it.  ``paths``: the files that genotypes, variants and samples come from.  ``samples``: fid, iid
    (strings).  ``variants``: chrom, id, a1, a2 (strings), cm (float64, centimorgan), bp (int64); a1 is counted.
    ``notes``: what was noticed and is no error.  ``stamp``: the file of the genotypes when it was opened.

    The methods take ``samples`` in any order and ``variants`` ascending, None for all, and write to ``out`` where it is
    given; they read blocks, so that nothing but the result is ever held whole.
    """

    prefix: str
    samples: pd.DataFrame
    variants: pd.DataFrame
    notes: tuple[str, ...]
    stamp: Stamp | None

    @property
    def paths(self) -> tuple[Path, Path, Path]: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def num_variants(self) -> int: ...

    def is_mapped(self, samples: np.ndarray | None, variants: np.ndarray | None) -> bool:
        """Whether :meth:`read_packed` gives a view of the file, with nothing to pack."""
        ...

    def read_packed(
        self, samples: np.ndarray | None = None, variants: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """uint8 (m, ceil(n / 4)): calls in .bed coding."""
        ...

    def read_dosages(
        self,
        samples: np.ndarray | None = None,
        variants: np.ndarray | None = None,
        bits: int = 16,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """uint8 or uint16 (m, n): dosages of 8 or 16 bits (:mod:`gpu_reml.ops.dosages`)."""
        ...

    def piece(self, variants: np.ndarray) -> "GenotypeFile":
        """The file with these variants alone and no more of its tables than errors name: for another process."""
        ...
