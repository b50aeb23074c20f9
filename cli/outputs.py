"""What a run will write, known before it works: no two files at one place, and none over a file that is read."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from gpu_reml import io

from .flags.output import Output, RemlOutput
from .parser import CommandLine

IDS = {"fid": "FID", "iid": "IID"}
MOST_NAME_BYTES = 160  # file names have 255 bytes, of which a prefix, a suffix and ".tmp" need some
FIT_FILES = ("json", "hsq", "log", "history.tsv", "tests.tsv", "enrichment.tsv")
EXPORTED = ("theta.npy", "ai.npy", "grad.npy", "ai_stats.json")
EFFECTS = ("fixed_effects", "random_effect", "random_effect_components", "snp_effects", "snp_effects.component_000")
SCAN_FILES = ("scan.tsv", "scan.svg")
FURTHER = {  # a flag of gpu-reml -> the suffixes of the files that it adds
    "export_ai": EXPORTED,
    "merge": (*EXPORTED, "component_spec.json"),
    "profile": ("profile.tsv",),
    "report": ("report.html",),
    "compute_effects": (*(f"{name}.tsv" for name in EFFECTS), "effect_metadata.json"),
    "cv": ("cv.tsv", "cv.json"),
    "fit_alpha": ("alpha.tsv", "alpha.json"),
    "scan": SCAN_FILES,
    "scan_genes": SCAN_FILES,
    "scan_windows": SCAN_FILES,
    "prediction_bfile": ("prediction.tsv", "prediction_metadata.json"),
    "prediction_pfile": ("prediction.tsv", "prediction_metadata.json"),
}
GRM_FILES = ("grm.bin", "grm.N.bin", "grm.id")
GWAS_FILES = (
    "gwas.tsv",
    "gwas.tsv.gz",
    "gwas_metadata.json",
    "gwas.log",
    "manhattan.svg",
    "qq.svg",
    "gwas.report.html",
)
SPARSE_FILES = (
    *("summary.json", "history.json", "selected_snps.tsv", "path.tsv", "path.svg", "sparse.log"),
    "sparse.report.html",
)
RELAX_FILES = (
    "theta.npy",
    "var_components.npy",
    "theta_grad.npy",
    "history.json",
    "meta.json",
    "relax.log",
    "relax.report.html",
)
PREDICTION_FILES = ("prediction.tsv", "prediction_metadata.json", "prediction.log", "prediction.report.html")

WRITTEN = ("out", "keep_out", "dropped_out", "save_model", "merge_out_dir", "cache")
NO_PATHS = (
    "pheno_name",
    "chr",
    "joint_test",
    "lrt",
    "admix_component_names",
    "prediction_admix_component_names",
    "command",
)
OF_PREFIX = (
    *(".bed", ".bim", ".fam", ".pgen", ".pvar", ".pvar.zst", ".psam", ".bgen", ".sample"),
    *(".grm.bin", ".grm.N.bin", ".grm.id", ".npz"),
)  # a flag's value may name a file without these


class Written(NamedTuple):
    """A file that will be written, and what for, as a person says it."""

    path: str
    what: str


def safe_name(name: str) -> str:
    """A trait's name as part of a file name; a very long one, which no file could have, ends with its digest."""
    safe = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name)
    if len(safe.encode()) <= MOST_NAME_BYTES:
        return safe
    return f"{safe[: MOST_NAME_BYTES // 4]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def model_path(text: str, trait: str | None = None) -> str:
    """FILE.npz, or FILE.TRAIT.npz."""
    stem = text.removesuffix(".npz")
    return f"{stem}.{trait}.npz" if trait else f"{stem}.npz"


def named_outputs(output: Output) -> list[Written]:
    """Lists of samples."""
    return [Written(path, flag) for flag, path in output.lists.items()]


def outputs_of(suffixes: Sequence[str], prefixes: Iterable[tuple[str, str]]) -> list[Written]:
    """Files with these suffixes; ``prefixes``: each with what it is for."""
    return [Written(f"{prefix}.{suffix}", what) for prefix, what in prefixes for suffix in suffixes]


def log_text(command: str, lines: Iterable[str]) -> str:
    """A log: the command with its version, and what it printed."""
    return "\n".join([f"{command} {version('gpu-reml')}", *lines]) + "\n"


def trait_prefix(out: str, trait: str, several: bool) -> str:
    """Where the names of a trait's files begin."""
    return f"{out}.{safe_name(trait)}" if several else out


def outputs_of_traits(suffixes: Sequence[str], out: str, traits: Sequence[str]) -> list[Written]:
    """Files with these suffixes for each trait."""
    several = len(traits) > 1
    whats = [f"phenotype {trait!r}" if several else f"--out {out}" for trait in traits]
    prefixes = [trait_prefix(out, trait, several) for trait in traits]
    return outputs_of(suffixes, zip(prefixes, whats, strict=True))


def traits_path(out: str) -> str:
    """Where the table of all traits goes."""
    return f"{out}.traits.tsv"


def reml_outputs(line: CommandLine, output: RemlOutput, save_model: str | None, traits: Sequence[str]) -> list[Written]:
    """What gpu-reml writes."""
    if output.pca:
        return outputs_of(("eigenvec", "eigenval"), [(output.out, f"--out {output.out}")])
    if output.make_grm:
        return [*outputs_of(GRM_FILES, [(output.out, "--make-grm")]), *named_outputs(output)]
    further = [suffix for flag, added in FURTHER.items() if line.get(flag) for suffix in added]
    suffixes = list(dict.fromkeys((*FIT_FILES, *further)))
    outputs = [*outputs_of_traits(suffixes, output.out, traits), *named_outputs(output)]
    if len(traits) > 1:
        outputs.append(Written(traits_path(output.out), "the table of all phenotypes"))
    if save_model:
        several = len(traits) > 1
        paths = [model_path(save_model, safe_name(trait) if several else None) for trait in traits]
        outputs += [
            Written(path, f"--save-model{f' of {trait!r}' if several else ''}")
            for path, trait in zip(paths, traits, strict=True)
        ]
    return outputs


def grm_outputs(output: Output, components: Sequence[str]) -> list[Written]:
    """What --make-grm writes, each component apart where there are several."""
    several = len(components) > 1
    prefixes = [(trait_prefix(output.out, name, several), f"component {name!r}") for name in components]
    return [*outputs_of(GRM_FILES, prefixes), *named_outputs(output)]


def check_outputs(outputs: Iterable[Written], line: CommandLine, read: Iterable[str | Path] = ()) -> None:
    """Raises InputError for two outputs at one place, or one where an input is; ``read``: inputs beside the flags'."""
    places: dict[Path, Written] = {}
    for output in outputs:
        other = places.setdefault(_place(output.path), output)
        if other is not output:
            raise io.InputError(
                f"{output.path}: would be written twice, for {other.what} and for {output.what}; give one of them "
                "another name"
            )
    for path, what in [*_inputs_of(line), *((Path(path), "the genotypes") for path in read)]:
        output = places.get(_place(path))
        if output is not None and path.exists():
            raise io.InputError(
                f"{path}: is read for {what} and would be overwritten for {output.what}; give an output another name"
            )


def _place(path: str | Path) -> Path:
    """The entry of a folder that a rename to ``path`` replaces."""
    path = Path(path)
    return path.parent.resolve() / path.name


def _inputs_of(line: CommandLine) -> Iterator[tuple[Path, str]]:
    """Files that flags name, with the flags: whatever is there under a value of one that is not of outputs."""
    for name, value in line.values.items():
        if name in WRITTEN or name in NO_PATHS:
            continue
        values = value if isinstance(value, list) else [value]
        flag = line.typed.get(name, f"--{name.replace('_', '-')}")
        for text in (each for each in values if isinstance(each, str)):
            for piece in text.replace(";", ",").split(","):
                for suffix in ("", *OF_PREFIX):
                    for path in glob(f"{piece}{suffix}".replace("@", "*")) if "@" in piece else [f"{piece}{suffix}"]:
                        yield Path(path), flag


def write_samples(alignment: io.Alignment, output: Output) -> None:
    """The lists of who was analysed and who was not, where asked for."""
    if output.keep_out:
        io.write_samples(output.keep_out, alignment.samples)
    if output.dropped_out:
        io.write_table(output.dropped_out, alignment.dropped.rename(columns=IDS))
