"""Relatives that are left out, and principal components, of the analysed samples' genotypes."""

from typing import Any

import numpy as np
import pandas as pd

from gpu_reml import io, ops
from gpu_reml.io.ids import first_ids
from gpu_reml.reml import PrincipalComponents, Related, principal_components, relatedness

# So many pairs of duplicates are named in a note.
MOST_PAIRS = 5


def one_component(products: Any) -> Any:
    """K of all variants, whatever sets a model makes of them."""
    return ops.make_covariance(products, None, ["genome"])


def related_among(covariance: Any, samples: pd.DataFrame, cutoff: float) -> tuple[np.ndarray, list[str]]:
    """(n,) bool of who is kept, and what is said of it; samples fid, iid."""
    found = relatedness(covariance, cutoff)
    kept = found.unrelated
    told = f"{len(found.first)} pair(s) of samples have a relationship over {cutoff:g}"
    if len(found.first):
        told += f"; {int((~kept).sum())} sample(s) are left out so that none is left, those with most relatives first"
    return kept, [told, *duplicate_notes(found, samples)]


def duplicate_notes(found: Related, samples: pd.DataFrame) -> list[str]:
    """Who seems to be there twice."""
    pairs = found.duplicates
    if not len(pairs):
        return []
    named = "; ".join(first_ids(samples.iloc[pair]) for pair in pairs[:MOST_PAIRS])
    more = "; ..." if len(pairs) > MOST_PAIRS else ""
    return [f"{len(pairs)} pair(s) of samples are one person twice, or identical twins ({named}{more})"]


def with_pcs(design: io.Design, found: PrincipalComponents) -> io.Design:
    """The fixed effects with principal components as quantitative covariates after the others."""
    names = pc_names(len(found.values))
    taken = [name for name in names if name in design.names]
    if taken:
        raise io.InputError(
            f"--pca-covar: a covariate is called {taken[0]} already; rename it, or leave --pca-covar out"
        )
    X = np.column_stack([design.X, found.vectors])
    if np.linalg.matrix_rank(X / np.linalg.norm(X, axis=0)) < X.shape[1]:
        raise io.InputError("--pca-covar: the principal components follow from the covariates; leave one of them out")
    return io.Design(X, (*design.names, *names), design.reference_levels, design.notes)


def pc_names(k: int) -> tuple[str, ...]:
    return tuple(f"PC{i + 1}" for i in range(k))


def pcs_of(products: Any, k: int, seed: int) -> PrincipalComponents:
    """Principal components of all variants."""
    n = products.num_samples
    if k > n - 1:
        raise io.InputError(f"--pca, --pca-covar: {n} samples have at most {n - 1} principal components")
    return principal_components(one_component(products), k, seed=seed)


def pc_lines(found: PrincipalComponents) -> list[str]:
    """What a person reads."""
    values = ", ".join(f"{value:.4g}" for value in found.values[:10]) + (", ..." if len(found.values) > 10 else "")
    unsettled = "" if found.converged else f"; not converged (largest residual {found.residuals.max():.2g})"
    return [f"eigenvalues {values}; {found.column_passes} matrix-vector products{unsettled}"]


def pc_files(prefix: str, found: PrincipalComponents, samples: pd.DataFrame) -> dict[str, str]:
    """PLINK's .eigenvec and .eigenval."""
    table = samples[["fid", "iid"]].reset_index(drop=True).set_axis(["#FID", "IID"], axis=1)
    table = pd.concat([table, pd.DataFrame(found.vectors, columns=pc_names(len(found.values)))], axis=1)
    return {
        f"{prefix}.eigenvec": io.table_text(table),
        f"{prefix}.eigenval": "".join(f"{value:.9g}\n" for value in found.values),
    }
