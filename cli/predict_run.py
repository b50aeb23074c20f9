"""The work of ``gpu-reml-predict``, and of a prediction at the end of gpu-reml: read, match, score, write."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gpu_reml import io, ops
from gpu_reml.io.harmonise import Matching, harmonise
from gpu_reml.io.ids import SampleTable, locate, sample_keys
from gpu_reml.io.model import Model, read_model
from gpu_reml.io.samples import listed_out, sample_notes
from gpu_reml.io.scoring import complete_samples, complete_scales, fixed_columns, genetic_values, scale_columns
from gpu_reml.reml.studies.accuracy import Accuracy, accuracy

from .effects_files import scale_record
from .flags.compute import Device
from .flags.effects import Matching as MatchingFlags
from .flags.predict import NewTables, Pieces, Predicted, PredictOutput
from .outputs import PREDICTION_FILES, check_outputs, log_text, outputs_of
from .parser import CommandLine
from .sources import joined_variants, prefixes_of
from .unused import PREDICT, Decided, notes_on_flags
from .wording import counts_in_flags, notes_in_flags


class NewFiles(NamedTuple):
    """What is known of the predicted samples beside genotypes.

    ``ancestries``: a column for each of the model's, by name.  An environment is looked for in ``environments`` before
    the covariates, a covariate the other way round, as in the fit.
    """

    covariates: tuple[io.Covariates, ...] = ()
    ancestries: io.Covariates | None = None
    environments: io.Covariates | None = None

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
        return [note for table in (*self.all_covariates, *_given(self.ancestries)) for note in table.notes]


def _given(table: SampleTable | None) -> tuple:
    return () if table is None else (table,)


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
    """``fixed`` (n,) and ``y`` (n,) may be None; y has NaN where it is missing.  ``dropped``: fid, iid, reason."""

    samples: pd.DataFrame
    fixed: np.ndarray | None
    random: np.ndarray
    y: np.ndarray | None
    dropped: pd.DataFrame
    matching: Matching
    accuracy: Accuracy | None
    notes: tuple[str, ...]

    @property
    def predicted(self) -> np.ndarray:
        """(n,) fixed and genetic part together."""
        return self.fixed + self.random.sum(axis=1)


def model_file(path: str) -> str:
    """The file that ``--save-model path`` wrote: it may have added .npz."""
    return f"{path}.npz" if not Path(path).exists() and Path(f"{path}.npz").exists() else path


def predict_command(line: CommandLine) -> bool:
    """Predict and write two files; True, as there is nothing to converge."""
    asked, tables, output = (kind.of(line.values) for kind in (Predicted, NewTables, PredictOutput))
    pieces, device = Pieces.of(line.values), Device.of(line.values)
    io.check_writable(output.out)
    check_asked(asked, tables)
    model = read_model(model_file(asked.model))
    data = read_new_data(model, pieces, tables, asked)
    written = outputs_of(PREDICTION_FILES, [(output.out, f"--out {output.out}")])
    check_outputs(written, line, [path for file in data.files for path in file.paths])
    scoring = Scoring(
        pieces.dosage,
        MatchingFlags.of(line.values).ambiguous,
        asked.genetic_only,
        ops.resolve_backend(device.named_device),
        np.dtype(device.dtype).type,
    )
    found = predict(model, data, scoring)
    found = found._replace(notes=(*found.notes, *notes_on_flags(line, PREDICT, Decided())))
    files = prediction_files(output.out, model, found, {"model_file": asked.model, "settings": line.values})
    told = prediction_lines(model, found)
    files[f"{output.out}.prediction.log"] = log_text("gpu-reml-predict", told)
    io.write_all(files)
    if not output.quiet:
        print("\n".join([f"gpu-reml-predict {version('gpu-reml')}", *told]))
        print(f"written: {output.out}{{{','.join(path.removeprefix(output.out) for path in files)}}}", flush=True)
    return True


def check_asked(asked: Predicted, tables: NewTables) -> None:
    """Raises InputError for flags that contradict each other."""
    if asked.genetic_only and (tables.qcovar or tables.covar):
        raise io.InputError(
            "--genetic-only: takes no covariates; leave out --qcovar and --covar (environments are given by --gxe)"
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
    if not files:
        raise io.InputError("--bfile, --pfile: name at least one prefix")
    if tables.gxe and not model.environments:
        raise io.InputError("--gxe: no component of the model is scaled by an environment; leave it out")
    return NewData(
        tuple(files),
        read_new_files(tables, model.ancestries),
        read_new_phenotype(model, asked) if asked.pheno else None,
        io.read_sample_list(asked.keep) if asked.keep else None,
        io.read_sample_list(asked.remove) if asked.remove else None,
    )


def read_new_files(named: NewTables, ancestries: tuple[str, ...]) -> NewFiles:
    """The tables that are named; ``ancestries``: the model's."""
    if not named.admix_q and (named.admix_fam or named.admix_component_names):
        raise io.InputError("--admix-fam, --admix-component-names: have no meaning without --admix-q")
    given = ((named.qcovar, "quantitative"), (named.covar, "categorical"))
    return NewFiles(
        tuple(io.read_covariates(path, kind) for path, kind in given if path),
        read_ancestries(named.admix_q, named.admix_fam, named.admix_component_names, ancestries),
        io.read_covariates(named.gxe, "quantitative") if named.gxe else None,
    )


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
    samples, rows, dropped = choose_samples(model, data, scoring.genetic_only)
    matching = harmonise(model.variants, joined_variants(data.files), scoring.ambiguous)
    matching = replace(matching, counts=counts_in_flags(matching.counts), notes=notes_in_flags(matching.notes))
    fixed, X = None, np.ones((len(samples), 1))
    if not scoring.genetic_only:
        X = fixed_columns(model.fixed, tables.all_covariates, samples)
        fixed = X @ model.fixed.estimate
    scale = scale_columns(model.scales, tables.ancestries, tables.all_environments, samples)
    random = scale * genetic_values(
        model, data.files, rows, matching, dosage=scoring.dosage, backend=scoring.backend, dtype=scoring.dtype
    )
    of_levels, told = level_columns(model, samples)
    random = np.hstack([random, of_levels])
    y, measured = None, None
    genotyped = pd.concat([file.samples for file in data.files])
    tabled = [*tables.all_covariates, *_given(tables.ancestries), *_given(data.phenotype)]
    notes = [*(note for file in data.files for note in file.notes), *tables.notes]
    notes += sample_notes(genotyped, tabled, data.keep, data.remove)
    notes += told
    notes += ancestry_notes(model, tables.ancestries, samples)
    if data.phenotype is not None:
        y, measured, more = measure(model, data.phenotype, samples, fixed, random, X)
        notes += more
    return Prediction(samples, fixed, random, y, dropped, matching, measured, notes_in_flags(notes))


def level_columns(model: Model, samples: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """(n, L) values of samples by their ids, and a note where some are not among the model's people or animals."""
    columns, notes = np.zeros((len(samples), len(model.levels))), []
    for k, level in enumerate(model.levels):
        columns[:, k], absent = level.of(samples)
        if absent:
            who = "animals of its pedigree" if level.by == "animal" else "people of its matrix"
            notes.append(f"{level.name}: {absent} of {len(samples)} samples are not among the {who}, and have 0 of it")
    return columns, notes


def ancestry_notes(model: Model, ancestries: io.Covariates | None, samples: pd.DataFrame) -> list[str]:
    """Mean proportions here and in the fit: a .Q file does not say which column is which ancestry."""
    if ancestries is None:
        return []
    means = ancestries.values.iloc[locate(samples, ancestries)].mean()
    fitted = model.about.get("mean_proportions", {})
    told = [f"{name} {means[name]:.3f} here, {fitted.get(name, np.nan):.3f} in the fit" for name in model.ancestries]
    return [f"mean ancestry {'; '.join(told)}"]


def choose_samples(
    model: Model, data: NewData, genetic_only: bool
) -> tuple[pd.DataFrame, list[np.ndarray], pd.DataFrame]:
    """Samples in the order of the first file, their rows in every file, and who is left out for which reason."""
    first = data.files[0].samples[["fid", "iid"]].reset_index(drop=True)
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


def prediction_table(model: Model, found: Prediction) -> pd.DataFrame:
    """FID, IID, parts and sum, phenotype, and every component's part where there are several."""
    table = found.samples.rename(columns={"fid": "FID", "iid": "IID"})
    if found.fixed is not None:
        table["fixed_effect"] = found.fixed
    table["random_effect"] = found.random.sum(axis=1)
    if found.fixed is not None:
        table["y_pred"] = found.predicted
    if found.y is not None:
        table["y"] = found.y
    if len(model.parts) > 1:
        for g, name in enumerate(model.parts):
            table[f"random_{name}"] = found.random[:, g]
    return table


def prediction_files(prefix: str, model: Model, found: Prediction, context: dict[str, Any]) -> dict[str, str]:
    """Path and content of the two files."""
    record = {
        "version": version("gpu-reml"),
        "phenotype": model.phenotype,
        "n_samples": len(found.samples),
        "n_components": len(model.parts),
        "components": model.parts,
        "multiplied_by": [scale_record(scale) for scale in model.scales],
        "units": "phenotype units",
        "parts": {
            "fixed_effect": "X b, the intercept included",
            "random_effect": "sum of (count of a1 - mean of the fit's samples) times effect; missing genotype = mean; "
            "every component times what multiplies it",
            "y_pred": "fixed_effect + random_effect",
        },
        "samples": {
            "predicted": len(found.samples),
            "dropped": {str(k): int(v) for k, v in found.dropped["reason"].value_counts().items()},
        },
        "variants": {
            "in_model": found.matching.num_model,
            "matched": found.matching.num_matched,
            **dict(found.matching.counts),
        },
        "accuracy": None if found.accuracy is None else found.accuracy._asdict(),
        "notes": [*found.matching.notes, *found.notes],
        "files": {"prediction": f"{prefix}.prediction.tsv"},
        **context,
    }
    return {
        f"{prefix}.prediction.tsv": io.table_text(prediction_table(model, found)),
        f"{prefix}.prediction_metadata.json": io.json_text(record),
    }


def prediction_lines(model: Model, found: Prediction) -> list[str]:
    """What was done, as a person reads it."""
    reasons = "; ".join(f"{count} {reason}" for reason, count in found.dropped["reason"].value_counts().items())
    lines = [
        f"phenotype {model.phenotype}: {len(found.samples)} samples predicted, {len(found.dropped)} dropped"
        + (f" ({reasons})" if reasons else ""),
        *found.matching.lines(),
    ]
    if found.accuracy is not None:
        a = found.accuracy
        lines += [
            f"accuracy in {a.n} samples: correlation {a.correlation:.4f} "
            f"({a.level:.0%} interval {a.lower:.4f} to {a.upper:.4f}), R2 {a.r2:.4f}",
            f"  covariates alone R2 {a.r2_covariates:.4f}, genetic values add {a.r2_incremental:.4f}; "
            f"slope on genetic values {a.slope:.3f}",
        ]
    return [*lines, *(f"note: {note}" for note in found.notes)]
