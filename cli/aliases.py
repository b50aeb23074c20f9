"""Flags of GCTA, BOLT-LMM, regenie and PLINK that mean what a flag here does: read as that one.

A line has a flag here, perhaps with a value, and under it the words of other programs that are read so where a command
has that flag.  Lines under NOTHING are words that ask for what is done anyway: they are taken with as many values as
stand before the colon, and a note says why they change nothing.
Sources: the programs' manuals.
"""

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

_ALIASES = """
--bfile
    --bed
--pfile
    --pgen --mbpfile
--pheno
    --phenoFile --pheno-file
--pheno-name
    --phenoCol --phenoColList --pheno-col
--qcovar
    --covarFile --covar-file
--qcovar-name
    --qCovarCol --covarColList
--covar-name
    --covarCol --catCovarList
--keep
    --keep-indvs
--chr
    --chrList
--geno
    --maxMissingPerSnp
--mind
    --maxMissingPerIndiv
--threads
    --nthreads --numThreads --num-threads --max-threads
--max-iterations
    --reml-maxit
--compute-effects
    --reml-pred-rand
--method he
    --HEreg
--make-grm
    --make-grm-bin
--model loco
    --mlma-loco --lmm --lmmInfOnly --lmmForceNonInf
--model lmm
    --mlma
--model ols
    --linear --glm --assoc --qassoc
--model-extract
    --modelSnps
--rint before
    --apply-rint
"""
_NOTHING = """
0: REML is what is fitted
    --reml --bolt-reml --fast-reml
0: fixed effects are always in OUT.json
    --reml-est-fix
0: the likelihood-ratio test of all components is always there
    --reml-no-lrt
0: traits are quantitative
    --qt
0: what is held in memory follows from what there is
    --lowmem --loocv --force-step1
1: what is held in memory follows from what there is
    --bsize --nb --lowmem-prefix
0: the counted allele is A1, which tables name, whatever the order in files
    --ref-first
1: there is one algorithm, AI-REML
    --reml-alg
1: test statistics are calibrated on random variants, and no genetic map is used
    --LDscoresFile --geneticMapFile --numCalibSnps
1: covariates may have any number of levels
    --covarMaxLevels --maxCatLevels
"""
LISTS = ("--pheno-name", "--qcovar-name", "--covar-name")  # aliases of these may be repeated: their values add up
CATEGORIES, QUANTITIES = {"--covarCol"}, {"--qCovarCol", "--covarColList"}


class Nothing(NamedTuple):
    """Of a word that changes nothing: how many values it takes, and why it has no effect."""

    values: int
    why: str


class Translated(NamedTuple):
    """The words of a command line in flags here, and notes on those that were read as others or left out."""

    words: list[str]
    notes: tuple[str, ...]


def _entries(table: str) -> Iterator[tuple[str, str]]:
    """Each indented word with the line above it."""
    head = ""
    for line in table.strip().splitlines():
        if line.startswith(" "):
            yield from ((word, head) for word in line.split())
        else:
            head = line


ALIASES = dict(_entries(_ALIASES))
NOTHING = {word: Nothing(int(head[0]), head[3:]) for word, head in _entries(_NOTHING)}


def translated(words: Sequence[str], known: Container[str]) -> Translated:
    """Words of other programs as flags here; ``known``: the command's own flags, which stay as they are."""
    out: list[str] = []
    notes: list[str] = []
    lists: dict[str, int] = {}
    names = {word.partition("=")[0] for word in words}
    skipped = 0
    for at, word in enumerate(words):
        if skipped:
            skipped -= 1
            continue
        name, equals, value = word.partition("=")
        meant = _meant(name, names)
        if not name.startswith("-") or name in known:
            out.append(word)
        elif name == "--phenoUseFam" and "--pheno" in known:
            out += ["--pheno", _fam_of(words)]
        elif name in NOTHING:
            skipped = 0 if equals else min(NOTHING[name].values, len(words) - at - 1)
            notes.append(f"{name}: no effect, since {NOTHING[name].why}")
        elif meant is None or meant.split()[0] not in known:
            out.append(word)
        elif meant in LISTS and at + 1 < len(words) and (equals or meant in lists):
            value = value if equals else words[at + 1]
            skipped = 0 if equals else 1
            if meant in lists:
                out[lists[meant]] += f",{value}"
            else:
                lists[meant] = len(out) + 1
                out += [meant, value]
        else:
            if meant in LISTS:
                lists[meant] = len(out) + 1
            out += meant.split()
            out += [value] if equals else []
    return Translated(out, tuple(notes))


def _meant(name: str, names: Container[str]) -> str | None:
    """The flag here; BOLT's file of covariates is that of categories where only these are named."""
    if name == "--covarFile" and CATEGORIES & set(names) and not QUANTITIES & set(names):
        return "--covar"
    return ALIASES.get(name)


def _fam_of(words: Sequence[str]) -> str:
    """The .fam of --bfile."""
    prefixes = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--bfile", "--bed-prefix", "--bed")]
    return f"{prefixes[-1].removesuffix('.bed')}.fam" if prefixes else "DATA.fam"
