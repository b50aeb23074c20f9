"""Single-step relationships H: those of a pedigree, with genotypes for some of its animals.

With animals 1 without genotypes and 2 with them, C' = [A_21 of A_22^-1, I], and G the relationships of the genotypes,

    H = C G C' + diag((A^11)^-1, 0),      C_1 = A_12 A_22^-1 = -(A^11)^-1 A^12,

where A^11 and A^12 are blocks of the sparse A^-1: one sparse factorisation, and no matrix of the size of A_22.
Sources: Legarra, Aguilar & Misztal 2009, J. Dairy Sci. 92:4656; Aguilar et al. 2010, J. Dairy Sci. 93:743; Christensen
& Lund 2010, Genet. Sel. Evol. 42:2.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from gpu_reml.ops.arguments import as_number, as_vector
from gpu_reml.ops.pedigree import Pedigree, PedigreeCovariance, inverse_relationship

from .conversion import as_covariance
from .functions import FunctionCovariance
from .wrapped import genetic

ROWS = 128  # columns of the identity that diagonals are made of at once


def single_step(
    pedigree: Pedigree,
    genotyped: Any,
    G: Any,
    *,
    blend: float = 0.05,
    tune: bool = True,
    name: str = "single_step",
) -> FunctionCovariance:
    """The component H (q, q) of all animals of a pedigree.

    genotyped (p,): rows of the animals with genotypes, in the order of G; G: a covariance of one component, a matrix
    (p, p) or what else :func:`~gpu_reml.reml.as_covariance` takes.
    tune: G becomes a + b G with the mean diagonal and the mean of all entries of A_22 (Christensen et al. 2012, Animal
    6:1565), which puts genotypes and pedigree on one base; b G with the mean diagonal where a would be negative.
    blend: G becomes (1 - blend) G + blend A_22, for what markers miss.
    Cost: a sparse factorisation of A^11 once; a product takes a pass of G and two solves.  The trace takes q columns of
    products once, so this is for herds of some ten thousands.
    ValueError for animals that are there twice or not at all.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_pedigree
    >>> from gpu_reml.reml import single_step
    >>> parents_and_child = make_pedigree([-1, -1, 0], [-1, -1, 1])
    >>> G = np.array([[1.0, 0.2], [0.2, 1.0]])  # the parents, who are related by their genotypes
    >>> H = single_step(parents_and_child, [0, 1], G, blend=0, tune=False)
    >>> H.apply([1.0], np.eye(3)).round(3).tolist()
    [[1.0, 0.2, 0.6], [0.2, 1.0, 0.6], [0.6, 0.6, 1.1]]
    """
    G = genetic(as_covariance(G))
    if G.num_components != 1:
        raise ValueError(f"G: expected one component, found {G.num_components}; add them up before")
    rows = as_vector(genotyped, "genotyped", G.num_samples).astype(np.int64)
    if len(np.unique(rows)) < len(rows) or rows.min() < 0 or rows.max() >= pedigree.num_animals:
        raise ValueError(f"genotyped: expected different rows of {pedigree.num_animals} animals")
    blend = as_number(blend, "blend")
    if not 0 <= blend <= 1:
        raise ValueError(f"blend: expected a share from 0 to 1, found {blend:g}")
    H = _SingleStep(pedigree, rows, G, blend)
    if tune:
        H.tune()
    q = pedigree.num_animals
    starts = range(0, q, ROWS)
    diagonal = np.concatenate([H(np.eye(q, min(ROWS, q - i), -i))[i : i + ROWS].diagonal() for i in starts])
    return FunctionCovariance([H], [float(diagonal.sum())], q, [name], diagonal[:, None])


class _SingleStep:
    """B -> H B."""

    def __init__(self, pedigree: Pedigree, rows: np.ndarray, G: Any, blend: float):
        self.A, self.rows, self.G, self.blend = PedigreeCovariance(pedigree), rows, G, blend
        self.shift, self.scale = 0.0, 1.0
        is_other = np.ones(pedigree.num_animals, bool)
        is_other[rows] = False
        self.others = np.flatnonzero(is_other)
        inverse = inverse_relationship(pedigree)
        self.cross = sparse.csr_array(inverse[self.others][:, rows])
        block = sparse.csc_matrix(inverse[self.others][:, self.others])
        options = {"SymmetricMode": True}
        symmetric = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": options}
        self.factor = splu(block, **symmetric) if len(self.others) else None

    def tune(self) -> None:
        """Bring G to the mean diagonal and the mean entry of A_22."""
        p = len(self.rows)
        ones = np.ones((p, 1))
        means = [float((ones * image(ones)).sum()) / p**2 for image in (self._apply_g, self._among_genotyped)]
        diagonals = [float(self.G.diagonals().mean()), float(self.A.diagonals()[self.rows].mean())]
        if not diagonals[0] > means[0]:
            raise ValueError("G: all its entries are alike, so it cannot be brought to the pedigree's; tune=False")
        self.scale = (diagonals[1] - means[1]) / (diagonals[0] - means[0])
        self.shift = means[1] - self.scale * means[0]
        if self.shift < 0:  # a negative constant would take definiteness away; the diagonal is what is kept
            self.shift, self.scale = 0.0, diagonals[1] / diagonals[0]

    def _apply_g(self, B: np.ndarray) -> np.ndarray:
        return np.asarray(self.G.apply(np.ones(1), self.G.block(B)), np.float64)

    def _among_genotyped(self, B: np.ndarray) -> np.ndarray:
        whole = np.zeros((self.A.num_samples, B.shape[1]))
        whole[self.rows] = B
        return self.A.apply(np.ones(1), whole)[self.rows]

    def _genomic(self, B: np.ndarray) -> np.ndarray:
        image = self.scale * self._apply_g(B) + self.shift * B.sum(axis=0)
        if not self.blend:
            return image
        return (1 - self.blend) * image + self.blend * self._among_genotyped(B)

    def __call__(self, B: np.ndarray) -> np.ndarray:
        B = np.asarray(B, np.float64)
        out = np.empty_like(B)
        if self.factor is None:
            out[self.rows] = self._genomic(B[self.rows])
            return out
        own = self.factor.solve(np.ascontiguousarray(B[self.others]))
        image = self._genomic(B[self.rows] - self.cross.T @ own)
        out[self.rows] = image
        out[self.others] = own - self.factor.solve(self.cross @ image)
        return out
