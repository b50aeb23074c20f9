"""Tables of what a model has besides genotypes, as read."""

from dataclasses import dataclass

from gpu_reml import io
from gpu_reml.reml import Covariance

from .flags.model import Terms
from .sources import listed_lines, prefixes_of


@dataclass(frozen=True)
class Parts:
    """Tables of what a model has besides genotypes, as read; None or empty where it has none.

    ``single_step``: whether the pedigree and the genotypes are one; ``relationships``: then those of all animals, once
    they are made.
    """

    admixture: io.Covariates | None = None
    environments: io.Covariates | None = None
    residual_weights: io.Covariates | None = None
    residual_groups: io.Covariates | None = None
    grms: tuple[io.GrmFile, ...] = ()
    pedigree: io.PedigreeFile | None = None
    groups: tuple[io.Covariates, ...] = ()
    single_step: bool = False
    relationships: Covariance | None = None

    @property
    def tables(self) -> list[io.Covariates]:
        """Tables that a sample must be in to be analysed."""
        pedigree = None if self.pedigree is None else self.pedigree.table
        given = (self.admixture, self.environments, self.residual_weights, self.residual_groups, pedigree)
        return [*(table for table in given if table is not None), *self.groups]

    @property
    def num_scales(self) -> int:
        """Copies of the genotypes' components, each scaled by samples in its own way."""
        ancestries = 1 if self.admixture is None else self.admixture.values.shape[1]
        return ancestries + (0 if self.environments is None else self.environments.values.shape[1])


def read_parts(terms: Terms) -> Parts:
    """Read the tables that are named; raises InputError for flags that need another one."""
    for flag, needed in (("admix_fam", "admix_q"), ("admix_component_names", "admix_q"), ("gxe_noise", "gxe")):
        if getattr(terms, flag) and not getattr(terms, needed):
            raise io.InputError(f"--{flag.replace('_', '-')}: has no meaning without --{needed.replace('_', '-')}")
    if terms.residual_by_ancestry:
        if not terms.admix_q:
            raise io.InputError("--admix-residual-mode per-ancestry: needs --admix-q")
        if terms.residual_weights or terms.residual_groups:
            raise io.InputError("--admix-residual-mode per-ancestry: the residuals are given by another flag too")
    if terms.single_step and (not terms.pedigree or terms.grm or terms.mgrm or terms.admix_q or terms.dominance):
        raise io.InputError(
            "--single-step: takes --pedigree and genotypes; leave --grm, --mgrm, --admix-q and --dominance out"
        )
    grms = tuple(map(io.read_grm, [*prefixes_of(terms.grm), *listed_lines(terms.mgrm)]))
    groups = io.read_covariates(terms.residual_groups, "categorical") if terms.residual_groups else None
    if groups is not None and groups.values.shape[1] != 1:
        raise io.InputError(f"{terms.residual_groups}: expected one column of groups, found {groups.values.shape[1]}")
    return Parts(
        io.read_admixture(terms.admix_q, terms.admix_fam, terms.ancestry_names) if terms.admix_q else None,
        io.read_covariates(terms.gxe, "quantitative") if terms.gxe else None,
        io.read_covariates(terms.residual_weights, "quantitative") if terms.residual_weights else None,
        groups,
        grms,
        io.read_pedigree(terms.pedigree) if terms.pedigree else None,
        tuple(io.read_covariates(path, "categorical", records=terms.has_records) for path in terms.groups_of),
        terms.single_step,
    )
