"""A prediction, of ``gpu-reml-predict`` or at the end of gpu-reml: who, from which tables, with which values."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io
from gpu_reml.io.harmonise import Matching, harmonise
from gpu_reml.io.ids import SampleTable, first_ids, locate, sample_keys
from gpu_reml.io.model import Model
from gpu_reml.io.samples import listed_out, sample_notes
from gpu_reml.io.scoring import complete_samples, complete_scales, fixed_columns, genetic_scores, scale_columns
from gpu_reml.reml import Reliability, reliability_of_values
from gpu_reml.reml.studies.accuracy import Accuracy, accuracy

from .flags.model import groups_among
from .flags.predict import NewTables, Pieces, Predicted
from .sources import joined_variants, prefixes_of
from .wording import counts_in_flags, notes_in_flags


class NewFiles(NamedTuple):
    """What is known of the predicted samples beside genotypes.

    ``ancestries``: a column for each of the model's, by name.  An environment is looked for in ``environments`` before
    the covariates, a covariate the other way round, as in the fit.  ``groups``: categorical, by the model's names.
    """

    covariates: tuple[io.Covariates, ...] = ()
    ancestries: io.Covariates | None = None
    environments: io.Covariates | None = None
    groups: tuple[io.Covariates, ...] = ()

    @property
    def all_environments(self) -> tuple[io.Covariates, ...]:
        """Tables that may have an environment, the first first."""
        return (*_given(self.environments), *self.covariates)

    @property
    def all_covariates(self) -> tuple[io.Covariates, ...]:
        """Tables that may have a covariate, the first first."""
        return (*self.covariates, *_given(self.environments))

    @property
    def notes(self) -> list[str]:
        """Notes of the tables."""
        return [note for table in self.tables for note in table.notes]

    @property
    def tables(self) -> list[io.Covariates]:
        """All of them."""
        return [*self.all_covariates, *_given(self.ancestries), *self.groups]

    def groups_of(self, samples: pd.DataFrame) -> dict[str, np.ndarray]:
        """Column of groups -> (n,) the level of each sample, None where it is not known."""
        found = {}
        for table in self.groups:
            rows = locate(samples, table)
            for name, column in table.values.items():
                found[name] = np.where(rows >= 0, column.to_numpy(object)[rows], None)
        return found


def _given(table: SampleTable | None) -> tuple:
    return () if table is None else (table,)


NOTHING_MATCHED = Matching(*(np.zeros(0, np.int64),) * 2, np.zeros(0, bool), 0, (), ())
SHARE_TOLD = 1e-3  # of the genetic variance: less than this is not worth a note
KNOWN = {"person": "its people", "animal": "the animals of its pedigree", "group": "its levels"}


class NewData(NamedTuple):
    """Who is predicted: genotype files that are pieces of one genome, and tables."""

    files: tuple
    tables: NewFiles = NewFiles()
    phenotype: io.Phenotype | None = None
    keep: SampleTable | None = None
    remove: SampleTable | None = None


class Scoring(NamedTuple):
    """How: dosages or calls, what becomes of ambiguous variants, whether covariates count, where and in what type."""

    dosage: bool = False
    ambiguous: str = "keep"
    genetic_only: bool = False
    backend: str = "cpu"
    dtype: type = np.float32


class Prediction(NamedTuple):
    """``random`` (n, p) values of the ``parts``; ``fixed`` (n,) and ``y`` (n,) may be None, y has NaN where it is
    missing.  ``dropped``: fid, iid, reason.  ``reliabilities``: where the model has them, of all parts together ("")
    and of each by its name, but for components of variants that are one of several with the same scale."""

    samples: pd.DataFrame
    fixed: np.ndarray | None
    random: np.ndarray
    y: np.ndarray | None
    dropped: pd.DataFrame
    matching: Matching
    accuracy: Accuracy | None
    notes: tuple[str, ...]
    parts: tuple[str, ...]
    reliabilities: dict[str, Reliability]

    @property
    def predicted(self) -> np.ndarray:
        """(n,) fixed and genetic part together."""
        return self.fixed + self.random.sum(axis=1)


def check_asked(asked: Predicted, tables: NewTables) -> None:
    """Raises InputError for flags that contradict each other."""
    if asked.genetic_only and (tables.qcovar or tables.covar or tables.random):
        raise io.InputError(
            "--genetic-only: takes no covariates or groups; leave out --qcovar, --covar and --random (environments are "
            "given by --gxe)"
        )
    if (asked.pheno_name or asked.mpheno) and not asked.pheno:
        raise io.InputError("--pheno-name, --mpheno: there is no table of phenotypes; give --pheno")


def read_new_data(model: Model, pieces: Pieces, tables: NewTables, asked: Predicted) -> NewData:
    """The files that are named, checked; genotypes by their samples and variants only."""
    files = [
        *(io.read_bed(prefix) for prefix in prefixes_of(pieces.bfile)),
        *(io.read_pgen(prefix) for prefix in prefixes_of(pieces.pfile)),
        *([io.read_bgen(pieces.bgen, pieces.sample)] if pieces.bgen else []),
    ]
    if not files and len(model.variants):
        raise io.InputError(
            f"genotypes: the model has effects of {len(model.variants)} variants; give the predicted samples by "
            "--bfile, --pfile or --bgen"
        )
    if tables.gxe and not model.environments:
        raise io.InputError("--gxe: no component of the model is scaled by an environment; leave it out")
    return NewData(
        tuple(files),
        read_new_files(tables, model),
        read_new_phenotype(model, asked) if asked.pheno else None,
        io.read_sample_list(asked.keep) if asked.keep else None,
        io.read_sample_list(asked.remove) if asked.remove else None,
    )


def read_new_files(named: NewTables, model: Model | None = None) -> NewFiles:
    """The tables that are named, with what the ``model`` needs; None for one that is still to be fitted."""
    ancestries = () if model is None else model.ancestries
    if not named.admix_q and (named.admix_fam or named.admix_component_names):
        raise io.InputError("--admix-fam, --admix-component-names: have no meaning without --admix-q")
    given = ((named.qcovar, "quantitative"), (named.covar, "categorical"))
    return NewFiles(
        tuple(io.read_covariates(path, kind) for path, kind in given if path),
        read_ancestries(named.admix_q, named.admix_fam, named.admix_component_names, ancestries),
        io.read_covariates(named.gxe, "quantitative") if named.gxe else None,
        read_groups(named.random, () if model is None else model.groups),
    )


def read_groups(text: str | None, known: tuple[str, ...]) -> tuple[io.Covariates, ...]:
    """Tables of groups, with the columns that the model has effects of; InputError for one with none of them."""
    found = []
    for path in groups_among(text):
        table = io.read_covariates(path, "categorical")
        names = [name for name in table.values.columns if name in known]
        if not names:
            there = f"effects of {', '.join(known)}" if known else "no effects of groups"
            raise io.InputError(
                f"{path}: has groups {', '.join(map(str, table.values.columns))}, and the model {there}; name the "
                "columns as in the fit, or leave --random out"
            )
        found.append(replace(table, values=table.values[names]))
    return tuple(found)


def read_ancestries(
    path: str | None, fam: str | None, named: str | None, ancestries: tuple[str, ...]
) -> io.Covariates | None:
    """Proportions of the model's ``ancestries`` in the columns of a .Q file: in their order, or as they are ``named``.

    Raises:
        InputError: besides what is wrong with the file, another number of ancestries or other names than the model's.
    """
    if not path:
        if ancestries:
            listed = ", ".join(ancestries)
            raise io.InputError(f"--admix-q: the model has ancestries {listed}; give those of the predicted samples")
        return None
    if not ancestries:
        raise io.InputError(f"{path}: no component of the model is scaled by an ancestry; leave it out")
    found = io.read_admixture(path, fam)
    K = found.values.shape[1]
    if K != len(ancestries):
        raise io.InputError(
            f"{path}: has {K} ancestries, the model {len(ancestries)} ({', '.join(ancestries)}); give proportions of "
            "the same ancestries as in the fit, as ADMIXTURE's projection (-P) makes them"
        )
    names = tuple(named.split(",")) if named else ancestries
    if sorted(names) != sorted(ancestries):
        raise io.InputError(
            f"{path}: its ancestries are called {', '.join(names)}, those of the model {', '.join(ancestries)}; name "
            "each of the model's once"
        )
    return replace(found, values=found.values.set_axis(list(names), axis=1))


def read_new_phenotype(model: Model, asked: Predicted) -> io.Phenotype:
    """The phenotype asked for; by default the column with the model's name, else the first."""
    if asked.pheno_name or asked.mpheno:
        return io.read_phenotype(asked.pheno, asked.pheno_name, asked.mpheno)
    everything = io.read_phenotypes(asked.pheno)
    named = [phenotype for phenotype in everything if phenotype.name == model.phenotype]
    return (named or everything)[0]


def predict(model: Model, data: NewData, scoring: Scoring) -> Prediction:
    """Fixed and genetic values of the samples that can be predicted; accuracy where phenotypes are given."""
    tables = data.tables
    if scoring.genetic_only:
        if not any(level.genetic for level in model.levels) and not model.components:
            raise io.InputError("--genetic-only: the model has effects of groups alone; leave it out")
        model = model.genetic_only()
    samples, rows, dropped = choose_samples(model, data, scoring.genetic_only)
    matching = NOTHING_MATCHED
    if len(model.variants):
        matching = harmonise(model.variants, joined_variants(data.files), scoring.ambiguous)
        matching = replace(matching, counts=counts_in_flags(matching.counts), notes=notes_in_flags(matching.notes))
    fixed, X = None, np.ones((len(samples), 1))
    if not scoring.genetic_only:
        X = fixed_columns(model.fixed, tables.all_covariates, samples)
        fixed = X @ model.fixed.estimate
    of_variants = values_of_variants(model, data, samples, rows, matching, scoring) if len(model.variants) else []
    of_levels, told = values_of_levels(model, samples, tables)
    parts = [*of_variants, *of_levels]
    random = np.hstack([part.values for part in parts])
    y, measured = None, None
    people = pd.concat([file.samples for file in data.files]) if data.files else samples
    notes = [*(note for file in data.files for note in file.notes), *tables.notes]
    notes += sample_notes(people, [*tables.tables, *_given(data.phenotype)], data.keep, data.remove)
    notes += told
    notes += [*ancestry_notes(model, tables.ancestries, samples), *absent_notes(model, matching)]
    if data.phenotype is not None:
        y, measured, more = measure(model, data.phenotype, samples, fixed, random, X)
        notes += more
    reliable, notes = reliabilities(model, parts), notes_in_flags(notes)
    return Prediction(samples, fixed, random, y, dropped, matching, measured, notes, model.parts, reliable)


class ScoredPart(NamedTuple):
    """Some of what a sample's value is the sum of: ``values`` (n, p) of components ``names``; with reliabilities the
    ``variances`` (n,) of their sum before the data, and ``replicates`` (n, R) of it."""

    names: tuple[str, ...]
    values: np.ndarray
    variances: np.ndarray | None = None
    replicates: np.ndarray | None = None


def values_of_variants(
    model: Model, data: NewData, samples: pd.DataFrame, rows: list[np.ndarray], matching: Matching, scoring: Scoring
) -> list[ScoredPart]:
    """The components of variants: those that samples scale alike together."""
    tables = data.tables
    scale = scale_columns(model.scales, tables.ancestries, tables.all_environments, samples)
    options = {"dosage": scoring.dosage, "backend": scoring.backend, "dtype": scoring.dtype}
    found = genetic_scores(model, data.files, rows, matching, **options)
    parts = []
    for p, each in enumerate(model.distinct_scales):
        own = [g for g, other in enumerate(model.scales) if other == each]
        by, names = scale[:, own[0]], tuple(model.components[g] for g in own)
        part = ScoredPart(names, by[:, None] * found.values[:, own])
        if model.spreads:
            part = part._replace(variances=by**2 * found.variances[p], replicates=by[:, None] * found.replicates[p])
        parts.append(part)
    return parts


def values_of_levels(model: Model, samples: pd.DataFrame, tables: NewFiles) -> tuple[list[ScoredPart], list[str]]:
    """Values by what samples belong to, and a note where the model does not know that of some."""
    parts, notes, groups = [], [], tables.groups_of(samples)
    for level in model.levels:
        rows = level.rows_of(samples, groups)
        part, absent = ScoredPart((level.name,), level.of(rows)[:, None]), int((rows < 0).sum())
        if level.spread is not None:
            part = part._replace(variances=level.variances_at(rows), replicates=level.replicates_at(rows))
        parts.append(part)
        if absent and level.by == "group" and level.name not in groups:
            notes.append(f"{level.name}: no table has it, and all samples have 0 of it; --random FILE names one")
        elif absent:
            known = KNOWN[level.by]
            notes.append(f"{level.name}: {absent} of {len(samples)} samples are not among {known}, and have 0 of it")
    return parts, notes


def reliabilities(model: Model, parts: list[ScoredPart]) -> dict[str, Reliability]:
    """How reliable values are: of all parts together, and of each part that is one component."""
    if not model.has_reliabilities:
        return {}
    complete = model.replicates_are_complete
    total = [sum(each) for each in zip(*((part.replicates, part.variances) for part in parts), strict=True)]
    found = {"": reliability_of_values(*total, complete=complete)}
    if len(parts) > 1:
        for part in parts:
            if len(part.names) == 1:
                found[part.names[0]] = reliability_of_values(part.replicates, part.variances, complete=complete)
    return found


def absent_notes(model: Model, matching: Matching) -> list[str]:
    """What part of the genetic variance reliabilities leave out, as variants are not there."""
    if not model.spreads:
        return []
    variances = sum(spread.variances for spread in model.spreads) / model.inv_sd**2
    share = 1 - variances[matching.model].sum() / variances.sum() if variances.any() else 0.0
    if share < SHARE_TOLD:
        return []
    return [f"variants that are not there have {share:.1%} of the genetic variance, which reliabilities leave out"]


def ancestry_notes(model: Model, ancestries: io.Covariates | None, samples: pd.DataFrame) -> list[str]:
    """Mean proportions here and in the fit: a .Q file does not say which column is which ancestry."""
    if ancestries is None:
        return []
    means = ancestries.values.iloc[locate(samples, ancestries)].mean()
    fitted = model.about.get("mean_proportions", {})
    told = [f"{name} {means[name]:.3f} here, {fitted.get(name, np.nan):.3f} in the fit" for name in model.ancestries]
    return [f"mean ancestry {'; '.join(told)}"]


def people_to_predict(model: Model, data: NewData) -> pd.DataFrame:
    """fid, iid of the first genotype file's samples; without one the people and animals that the model knows, with the
    FIDs that the fit and the tables have for them, else 0; where it knows none, those of the first table of groups."""
    if data.files:
        return data.files[0].samples[["fid", "iid"]].reset_index(drop=True)
    known = pd.concat([level.people for level in model.levels], ignore_index=True)
    if known.empty:
        if not data.tables.groups:
            raise io.InputError(
                f"--random: the model has effects of {', '.join(model.groups)} alone; give their levels"
            )
        return data.tables.groups[0].samples[["fid", "iid"]].drop_duplicates().reset_index(drop=True)
    tables = [*data.tables.tables, *_given(data.phenotype), *_given(data.keep), *_given(data.remove)]
    named = pd.concat([known[known["fid"] != ""], model.samples, *(t.samples for t in tables if t.has_fid)])
    named = named[["fid", "iid"]].drop_duplicates()
    twice = named[named["iid"].isin(known["iid"]) & named["iid"].duplicated(keep=False)]
    alone = known["fid"] == ""
    if alone.any() and len(twice):
        raise io.InputError(f"animals have several FIDs ({first_ids(twice)}); they are matched by IID, so give one FID")
    fid = known["iid"].map(named.drop_duplicates("iid").set_index("iid")["fid"]).fillna("0")
    return known.assign(fid=known["fid"].where(~alone, fid)).drop_duplicates(ignore_index=True)


def choose_samples(
    model: Model, data: NewData, genetic_only: bool
) -> tuple[pd.DataFrame, list[np.ndarray], pd.DataFrame]:
    """Samples in order, their rows in every genotype file, and who is left out for which reason."""
    first = people_to_predict(model, data)
    reason = np.full(len(first), "", dtype=object)

    def mark(mask: np.ndarray, text: str) -> None:
        reason[mask & (reason == "")] = text

    for mask, text in listed_out(first, data.keep, data.remove):
        mark(mask, text)
    keys = sample_keys(first, True)
    rows = [sample_keys(file.samples, True).get_indexer(keys).astype(np.int64) for file in data.files]
    for file, index in zip(data.files, rows, strict=True):
        mark(index < 0, f"not in {file.prefix}")
    tables = data.tables
    reasons = complete_scales(model.scales, tables.ancestries, tables.all_environments, first)
    if not genetic_only:
        reasons |= complete_samples(model.fixed, tables.all_covariates, first)
    for text, mask in reasons.items():
        mark(mask, text)
    taken = reason == ""
    dropped = first[~taken].assign(reason=reason[~taken]).reset_index(drop=True)
    if not taken.any():
        counts = "; ".join(f"{text}: {number}" for text, number in dropped["reason"].value_counts().items())
        raise io.InputError(f"no samples are left to predict ({counts}); loosen the filters or complete the tables")
    return first[taken].reset_index(drop=True), [index[taken] for index in rows], dropped


def measure(
    model: Model,
    phenotype: io.Phenotype,
    samples: pd.DataFrame,
    fixed: np.ndarray | None,
    random: np.ndarray,
    X: np.ndarray,
) -> tuple[np.ndarray, Accuracy, list[str]]:
    """(n,) phenotypes, the accuracy among those that are there, and what is to be said about it.

    Genetic values alone are measured about the mean of these phenotypes.
    """
    at = locate(samples, phenotype)
    y = np.where(at >= 0, phenotype.values[at], np.nan)
    known = np.isfinite(y)
    if not known.any():
        raise io.InputError(
            f"{phenotype.path}: no predicted sample has phenotype {phenotype.name}; check FID and IID, or leave out "
            "--pheno"
        )
    notes = list(phenotype.notes)
    trained = sample_keys(samples[known], True).isin(sample_keys(model.samples, True))
    if trained.any():
        notes.append(
            f"{int(trained.sum())} of the samples with a phenotype were in the fit: accuracy is not of new samples"
        )
    if phenotype.name != model.phenotype:
        notes.append(f"the model is of phenotype {model.phenotype}, the accuracy of {phenotype.name}")
    total = random[known].sum(axis=1)
    part = fixed[known] if fixed is not None else np.full(len(total), y[known].mean() - total.mean())
    return y, accuracy(y[known], part, total, X[known]), notes
