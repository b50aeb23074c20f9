"""Reading: every file that is named, once; genotypes only by their samples and variants."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gpu_reml import io

from .flags.analysis import Analysis
from .flags.data import Samples
from .parts import Parts, read_parts
from .smile import check_beside_smile, check_smile
from .sources import Sources, read_sources


class Tables(NamedTuple):
    """The files of an analysis: genotypes by their samples and variants, what a model has beside them, and tables."""

    sources: Sources
    parts: Parts
    phenotypes: list[io.Phenotype]
    quantitative: io.Covariates | None
    categorical: io.Covariates | None
    covariates_for: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def covariates(self) -> list[io.Covariates]:
        return [table for table in (self.quantitative, self.categorical) if table is not None]

    def with_covariates(self, names: tuple[str, ...] | None) -> "Tables":
        """The tables with only these covariates; None for all."""
        if names is None:
            return self
        chosen = {table.kind: only_covariates(table, names) for table in self.covariates}
        return self._replace(**dict.fromkeys(("quantitative", "categorical")) | chosen)


def only_covariates(table: io.Covariates, names: tuple[str, ...]) -> io.Covariates | None:
    """A table with some of its columns, in its order; None without any."""
    kept = [name for name in table.values.columns if name in names]
    return replace(table, values=table.values[kept]) if kept else None


def read_tables(analysis: Analysis) -> Tables:
    """Read and check the files; raises ValueError with one line for what is wrong."""
    genotypes, components, terms = analysis.genotypes, analysis.components, analysis.terms
    check_smile(analysis.smile)
    if analysis.smile.wanted:
        check_beside_smile(genotypes, components, analysis.scaling.alpha)
    sources, parts = read_sources(genotypes, analysis.filters), read_parts(terms)
    if not sources.files and not terms.beside_genotypes:
        raise io.InputError(
            "no genotypes: give --bfile, --pfile, --bgen, --mbfile or --pfile-list, or --grm, --pedigree or --random"
        )
    if not sources.files and (components.given or parts.num_scales > 1 or terms.dominance):
        raise io.InputError(
            "no genotypes: components of variants, ancestries and environments need them, beside --grm or without"
        )
    if terms.single_step:
        check_single_step(analysis, has_genotypes=bool(sources.files))
    tables = Tables(sources, parts, *read_samples(analysis.samples, sources, records=terms.has_records))
    check_records(tables, terms.has_records)
    return tables._replace(covariates_for=covariates_for(analysis.samples.covar_for, tables))


def covariates_for(given: Sequence[str], tables: Tables) -> dict[str, tuple[str, ...]]:
    """Phenotype -> its covariates, from ``--covar-for``; raises InputError for names that are not there."""
    if given and not tables.covariates:
        raise io.InputError("--covar-for: names covariates that are in none of the files; give --qcovar or --covar")
    there = {
        "phenotype": [phenotype.name for phenotype in tables.phenotypes],
        "covariate": [name for table in tables.covariates for name in table.values.columns],
    }
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        trait, separator, listed = text.rpartition("=")
        names = tuple(name for name in listed.split(",") if name)
        if not separator:
            raise io.InputError(f"--covar-for {text}: expected TRAIT=NAME,NAME..., or TRAIT= for none")
        for what, name in [("phenotype", trait), *(("covariate", name) for name in names)]:
            if name not in there[what]:
                raise io.InputError(f"--covar-for {text}: no {what} {name!r}; there are {', '.join(there[what])}")
        if trait in found:
            raise io.InputError(f"--covar-for {text}: {trait} is given twice; name all of its covariates at once")
        found[trait] = names
    return found


def check_single_step(analysis: Analysis, *, has_genotypes: bool) -> None:
    """Raises InputError for what ``--single-step`` cannot be used with."""
    others = {
        "sets of variants": analysis.components.given or analysis.smile.wanted,
        "--gxe": analysis.terms.gxe,
        "--grm-cutoff": analysis.filters.grm_cutoff is not None,
        "--pca-covar": analysis.samples.pca_covar,
    }
    given = [name for name, wanted in others.items() if wanted]
    if not has_genotypes or given:
        lacking = "give --bfile, --pfile or --bgen" if not has_genotypes else f"leave {', '.join(given)} out"
        raise io.InputError(f"--single-step: takes the genotypes of some animals as one component; {lacking}")


def check_records(tables: Tables, wanted: bool) -> None:
    """Raises InputError where ``--random iid`` finds nobody with several records."""
    single = [phenotype for phenotype in tables.phenotypes if wanted and not phenotype.has_records]
    if single:
        raise io.InputError(
            f"--random iid: nobody has several rows in {single[0].path}, so effects of people are those of --pheno's "
            "residual; leave it out"
        )


def read_samples(
    samples: Samples, sources: Sources, *, records: bool = False
) -> tuple[list[io.Phenotype], io.Covariates | None, io.Covariates | None]:
    """The phenotypes asked for, quantitative covariates and categorical ones; without a phenotype all are analysed."""
    traits = read_traits(samples, records=records) if samples.pheno else [no_trait(sources)]
    quantitative = samples.qcovar or (samples.qcovar_name and (samples.covar or samples.pheno))
    categorical = samples.covar or (samples.covar_name and (samples.qcovar or samples.pheno))
    check_columns(samples, traits, quantitative, categorical)
    names = tuple(trait.name for trait in traits) if samples.pheno else ()
    others = {"quantitative": (categorical, samples.covar_name), "categorical": (quantitative, samples.qcovar_name)}

    def read(path: str | None, kind: str, named: str | None) -> io.Covariates | None:
        if not path:
            return None
        other, of_other = others[kind]
        taken = of_other.split(",") if of_other and same_file(path, other) else ()
        return io.read_covariates(path, kind, names=named, without=(*names, *taken), records=records)

    return (
        traits,
        read(quantitative, "quantitative", samples.qcovar_name),
        read(categorical, "categorical", samples.covar_name),
    )


def same_file(path: str, other: str | None) -> bool:
    """Whether two paths lead to one file."""
    return other is not None and Path(path).resolve() == Path(other).resolve()


def check_columns(
    samples: Samples, traits: Sequence[io.Phenotype], quantitative: str | None, categorical: str | None
) -> None:
    """Raises InputError where a phenotype might become a covariate."""
    for path, named, flag in (
        (quantitative, samples.qcovar_name, "--qcovar"),
        (categorical, samples.covar_name, "--covar"),
    ):
        if not path and named:
            raise io.InputError(f"{flag}-name: there is no table of covariates; give {flag} or --pheno")
        if path and not named and same_file(path, samples.pheno):
            raise io.InputError(
                f"{flag} {path}: is the file of --pheno, whose other columns may be phenotypes too; name the "
                f"covariates by {flag}-name"
            )
        both = [trait.name for trait in traits if named and trait.name in named.split(",")]
        if both and same_file(path, samples.pheno):
            raise io.InputError(f"{flag}-name: {', '.join(both)} is the phenotype; leave it out")


def read_traits(samples: Samples, *, records: bool = False) -> list[io.Phenotype]:
    """The phenotypes asked for."""
    if samples.pheno_name is None:
        return [io.read_phenotype(samples.pheno, number=samples.mpheno, records=records)]
    return io.read_phenotypes(samples.pheno, samples.pheno_name, records=records)


def no_trait(sources: Sources) -> io.Phenotype:
    """In place of a phenotype where a relationship matrix is all that is asked for: everyone has a value."""
    file = sources.files[0]
    values = np.arange(file.num_samples, dtype=np.float64)
    return io.Phenotype(path=str(file.prefix), samples=file.samples, has_fid=True, name="none", values=values)
