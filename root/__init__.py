"""SNP heritability and variance components by REML, from packed genotypes, without an n x n matrix.

The model is y = X b + sum_g u_g + e with u_g ~ N(0, theta_g K_g) and e ~ N(0, theta_e I).  Every K_g = Z W_g Z' / c_g
multiplies vectors straight from genotypes of two bits each, and is never stored.  From files to a result::

    import gpu_reml
    import numpy as np

    bed = gpu_reml.read_bed("data")
    who = gpu_reml.align([bed.samples], gpu_reml.read_phenotype("pheno.txt", "height"))
    genotypes = gpu_reml.load_genotypes([bed], who.indices)
    covariance = gpu_reml.make_covariance(gpu_reml.make_products(genotypes, "cpu"))
    X = np.ones((who.num_samples, 1))
    result = gpu_reml.fit(who.y, X, covariance, gpu_reml.draw_probes(who.num_samples, seed=1))
    print(result.summary())

With a matrix K (n, n), or a list of them, ``gpu_reml.fit(y, X, K)`` is a whole fit.

Files in: ``read_bed``, ``read_phenotype``, ``align``, ``load_genotypes``.  Covariances: ``make_products``,
``make_covariance``, ``standardise`` (of packed genotypes in memory).  Estimators: ``fit``, ``fit_traits`` (several
phenotypes), ``fit_exact`` (dense), ``haseman_elston``; ``scan`` tests further components after one, and
``compare`` sets models side by side.  What ``fit`` is
made of, each a pure function: ``loglik``, ``score``, ``average_information``, ``ai_step``, ``pcg``, ``slq``.
Figures (extra ``report``): ``result.plot()``, ``plot_components``, ``plot_profile``, ``manhattan``, ``qq``, and
``report``, a page about a result.
``diagnose(facts_of(result, y, X, covariance))`` says what is odd about an h2.

More is in the three packages below: :mod:`gpu_reml.io` (files), :mod:`gpu_reml.ops` (genotypes and their products, on
CPUs and CUDA devices) and :mod:`gpu_reml.reml` (estimators, effects, prediction, association, sparse REML).

Import this package before numpy, or set ``OPENBLAS_THREAD_TIMEOUT=4`` in the environment: see :mod:`gpu_reml.threads`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .threads import prefer_sleeping_threads

if TYPE_CHECKING:
    from .figures import manhattan, plot_components, plot_profile, qq
    from .io import align, load_genotypes, read_bed, read_phenotype
    from .ops import make_covariance, make_products, standardise
    from .reml import (
        FitResult,
        FitSettings,
        ai_step,
        average_information,
        compare,
        diagnose,
        draw_probes,
        exact_probes,
        facts_of,
        fit,
        fit_exact,
        fit_traits,
        haseman_elston,
        loglik,
        pcg,
        scan,
        score,
        slq,
    )
    from .reports import report

prefer_sleeping_threads()

__all__ = [
    "FitResult",
    "FitSettings",
    "ai_step",
    "align",
    "average_information",
    "compare",
    "diagnose",
    "draw_probes",
    "exact_probes",
    "facts_of",
    "fit",
    "fit_exact",
    "fit_traits",
    "haseman_elston",
    "load_genotypes",
    "loglik",
    "make_covariance",
    "make_products",
    "manhattan",
    "pcg",
    "plot_components",
    "plot_profile",
    "qq",
    "read_bed",
    "read_phenotype",
    "report",
    "scan",
    "score",
    "slq",
    "standardise",
]
_PACKAGES = ("reml", "io", "ops", "figures", "reports")


if not TYPE_CHECKING:  # a type checker would take any name for one of this package

    def __getattr__(name: str) -> Any:
        """Names are looked up when they are first used: commands set the number of threads before numpy is imported."""
        if name == "__version__":
            return import_module("importlib.metadata").version("gpu-reml")
        if name in _PACKAGES:
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            packages = (import_module(f"{__name__}.{package}") for package in _PACKAGES)
            return next(getattr(package, name) for package in packages if name in package.__all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES, "__version__"})
