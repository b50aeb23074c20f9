"""Genotype-defined covariance components as weights in variant space: K_g = Z diag(w_g) Z' / c_g."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from scipy import sparse

from .arguments import as_number, as_sparse_numbers
from .base import Covariance
from .cpu import CpuProducts
from .genotypes import PackedGenotypes
from .relationship import relationship_matrices


class Products(Protocol):
    """What a backend offers: products with the standardised Z (n, m) of its genotypes.  See :class:`CpuProducts`.

    ``block`` puts an array (n, k) where the backend computes; blocks (n, k) and features (m, k) stay there.  ``home``:
    where that is; blocks of the same home need no copy.
    """

    name: str
    dtype: type
    genotypes: PackedGenotypes
    num_samples: int
    num_variants: int
    arithmetic: str
    home: Any

    def block(self, array: np.ndarray) -> Any: ...
    def zt(self, B) -> Any: ...
    def z(self, U, w: np.ndarray | None = None) -> Any: ...
    def weighted(self, B, w: np.ndarray) -> Any: ...
    def mixed(self, weights: sparse.spmatrix, theta: np.ndarray) -> Any: ...
    def grouped(self, U, weights: sparse.spmatrix) -> Any: ...
    def inner(self, FA, FB, weights: sparse.spmatrix) -> np.ndarray: ...
    def core(self, B, weights: sparse.spmatrix) -> np.ndarray: ...
    def gram(self, FA, FB, weights: sparse.spmatrix) -> np.ndarray: ...
    def grams(self, pieces, F, weights: sparse.spmatrix) -> np.ndarray: ...
    def squared_norms_by_sample(self, weights: sparse.spmatrix) -> np.ndarray: ...


class OnGenotypes(Covariance):
    """What all components over one standardised genotype matrix Z (n, m) share: their ``products`` and ``names``."""

    products: Products
    names: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        return self.products.num_samples

    @property
    def num_components(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> type:
        return self.products.dtype

    @property
    def backend(self) -> str:
        return self.products.name

    @property
    def home(self) -> Any:
        return self.products.home

    def block(self, array: np.ndarray) -> np.ndarray:
        """An array (n, k) where the products are computed, in their type."""
        return self.products.block(array)

    def features(self, B: np.ndarray) -> np.ndarray:
        """Z' B (m, k), from which every a'K_g b follows without a further pass; half a pass."""
        return self.products.zt(B)


@dataclass(frozen=True)
class GenotypeCovariance(OnGenotypes):
    """G components over one standardised genotype matrix Z (n, m); build it with :func:`make_covariance`.

    ``weights``: (m, G) sparse, already divided by c_g and zero for variants that do not vary.
    A *pass* is one read of the packed genotypes for both directions of a product; its cost does not depend on G.
    """

    products: Products = field()  # without the default that any covariance has
    weights: sparse.csr_array = field()
    names: tuple[str, ...]
    num_variants: tuple[int, ...]

    def only(self, g: int) -> "GenotypeCovariance":
        """Component g alone, on the same products."""
        return GenotypeCovariance(self.products, self.weights[:, [g]], (self.names[g],), (self.num_variants[g],))

    @property
    def identity(self) -> tuple[np.ndarray, ...]:
        """Arrays that tell these components from others of the same genotypes."""
        return self.weights.indptr, self.weights.indices, self.weights.data

    @cached_property
    def overlap(self) -> float:
        """Components a variant belongs to, on average: the cost of :meth:`apply_each` relative to one component."""
        return max(1.0, self.weights.nnz / max(1, len(np.unique(self.weights.nonzero()[0]))))

    @property
    def traces(self) -> np.ndarray:
        """(G,) tr(K_g) = sum_j w_jg z_j'z_j, exact: the norms come with the standardisation."""
        return self.weights.T @ self.products.genotypes.squared_norm

    def apply(self, theta: np.ndarray, B: np.ndarray) -> np.ndarray:
        """sum_g theta_g K_g B, (n, k) -> (n, k), in one pass for any number of components."""
        theta = np.asarray(theta, np.float64)
        if theta.shape != (self.num_components,):
            raise ValueError(f"theta: expected ({self.num_components},), one for each component, found {theta.shape}")
        return self.products.weighted(B, self.products.mixed(self.weights, theta))

    def inner(self, FA: np.ndarray, FB: np.ndarray) -> np.ndarray:
        """(G, k) a_k' K_g b_k, column by column, from features of A and B; no pass."""
        return self.products.inner(FA, FB, self.weights)

    def gram(self, FA: np.ndarray, FB: np.ndarray | None = None) -> np.ndarray:
        """(G, a, b) A' K_g B from features of A and B (None: A); no pass."""
        return self.products.gram(FA, FB, self.weights)

    def grams(self, pieces, F):
        """(G, d + k, k) [A_1 .. A_p, B]' K_g B from features of A_i and B; no pass."""
        return self.products.grams(pieces, F, self.weights)

    def core(self, B: np.ndarray) -> np.ndarray:
        """(G, k, k) B' K_g B, with the features of a block of variants at a time; half a pass."""
        return self.products.core(B, self.weights)

    def apply_each(self, F: np.ndarray) -> np.ndarray:
        """(G, n, k) K_g B for every g from features of B; half a pass with ``overlap`` k columns."""
        return self.products.grouped(F, self.weights)

    def apply_features(self, theta: np.ndarray, F: np.ndarray) -> np.ndarray:
        """sum_g theta_g K_g B (n, k) from features of B; half a pass."""
        return self.products.z(F, self.products.mixed(self.weights, theta))

    def matrices(self) -> Iterator[np.ndarray] | None:
        """Every K_g (n, n) float64 by its upper triangle, on CPUs; None for products elsewhere."""
        if isinstance(self.products, CpuProducts):
            return relationship_matrices(self.products, self.weights)
        made = getattr(self.products, "matrices", None)
        return None if made is None else made(self.weights)

    def diagonals(self) -> np.ndarray:
        """(n, G) the diagonal of every K_g; half a pass."""
        return self.products.squared_norms_by_sample(self.weights)

    def variant_effects(self, theta: np.ndarray, F: np.ndarray) -> np.ndarray:
        """(m, G) float64 theta_g W_g Z'Py / c_g: effects per standardised genotype, from features F (m, 1) of P y."""
        return self.weights.multiply(np.asarray(F, np.float64)).toarray() * np.asarray(theta, np.float64)


def make_covariance(
    products: Products,
    weights: np.ndarray | sparse.sparray | None = None,
    names: Sequence[str] | None = None,
    normalise: Literal["weights", "trace"] = "weights",
) -> GenotypeCovariance:
    """Components from non-negative variant weights (m, G); ``None`` is one GRM of all variants, weight 1.

    normalise: "weights" divides by c_g = sum of the weights of the variants that vary (a GRM's usual m);
    "trace" makes tr(K_g) = n exactly.  Variants that do not vary are left out of c_g and of every product.
    Raises ValueError that names the component when its weights are negative, not finite, or all on variants that do
    not vary.

    >>> import numpy as np
    >>> from gpu_reml.ops import make_covariance, make_products, pack, standardise
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.binomial(2, 0.3, (200, 400)).astype(np.int8)
    >>> genotypes = standardise([pack(counts)], 200)
    >>> halves = np.repeat(np.eye(2), 200, axis=0)  # weights of two components
    >>> covariance = make_covariance(make_products(genotypes, "cpu"), halves, ["first", "second"])
    >>> covariance.names, covariance.num_variants, covariance.traces.round(9).tolist()
    (('first', 'second'), (200, 200), [200.0, 200.0])
    """
    if not hasattr(products, "genotypes"):
        raise ValueError(f"products: expected those of make_products, found {type(products).__name__}")
    m = products.num_variants
    weights = as_sparse_numbers(np.ones((m, 1)) if weights is None else weights, "weights")
    names = tuple(names) if names is not None else tuple(f"component_{g:03d}" for g in range(weights.shape[1]))
    if weights.shape != (m, len(names)):
        raise ValueError(
            f"weights: expected ({m}, {len(names)}) for {m} variants and {len(names)} names, found {weights.shape}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"names: expected different ones, found {', '.join(names)}")
    bad = ~np.isfinite(weights.data) | (weights.data < 0)
    if bad.any():
        name = names[weights.indices[np.argmax(bad)]]
        raise ValueError(f"component {name}: weights must be finite and not negative")
    varies = products.genotypes.inv_sd > 0
    weights = sparse.csr_array(sparse.diags_array(varies.astype(np.float64)) @ weights)
    weights.eliminate_zeros()
    counts = np.diff(weights.tocsc().indptr)
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            raise ValueError(
                f"component {name}: none of its variants varies among the {products.num_samples} analysed samples; "
                "remove it or give it polymorphic variants"
            )
    if normalise == "trace":
        scale = (weights.T @ products.genotypes.squared_norm) / products.num_samples
    elif normalise == "weights":
        scale = weights.sum(axis=0)
    else:
        raise ValueError(f"normalise: expected 'weights' or 'trace', found {normalise!r}")
    scaled = sparse.csr_array(weights @ sparse.diags_array(1.0 / np.asarray(scale)))
    return GenotypeCovariance(products, scaled, names, tuple(int(count) for count in counts))


def alpha_weights(genotypes: PackedGenotypes, alpha: float) -> np.ndarray:
    """(m,) weights [2p(1-p)]^(1 + alpha), p = mean / 2: an effect on a count has variance in proportion to
    [2p(1-p)]^alpha.

    alpha = -1 weighs all variants alike (a GRM), 0 by their variance.  Exactly so with :func:`with_binomial_sd`, to
    Hardy-Weinberg equilibrium otherwise.  0 where a variant does not vary.  Speed et al. 2017, Nat Genet 49:986.
    """
    alpha = as_number(alpha, "alpha")
    varies = genotypes.inv_sd > 0
    p = genotypes.mean[varies] / 2
    weights = np.zeros(genotypes.num_variants)
    with np.errstate(over="ignore", under="ignore"):
        weights[varies] = (2 * p * (1 - p)) ** (1 + alpha)
    if not np.isfinite(weights.sum()) or not (weights[varies] > 0).all():
        raise ValueError(f"alpha: [2p(1-p)]^(1 + {alpha:g}) is 0 or too large for some variants; give one nearer to -1")
    return weights
