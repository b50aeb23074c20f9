"""Which files are read: genotypes, phenotypes, covariates, lists of samples."""

from dataclasses import dataclass

from ..numbers import positive_int
from ..parser import Need
from .group import Flags, flag

SEVERAL = "PREFIX[,PREFIX...]"
EXAMPLE = "--bfile data --pheno pheno.txt --out height"
GENOTYPES = ("--bfile", "--pfile", "--bgen", "--mbfile", "--pfile-list", "--rare-bfile", "--rare-pfile")
GENOTYPES_HELP = "genotypes (--bfile PREFIX, --pfile PREFIX, --bgen FILE, --mbfile FILE or --pfile-list FILE"
PHENOTYPE = Need("--pheno FILE", ("--pheno",))
ONE_FILESET = Need("genotypes (--bfile PREFIX, --pfile PREFIX or --bgen FILE)", GENOTYPES[:3])
NEEDS = (Need(f"{GENOTYPES_HELP})", GENOTYPES), PHENOTYPE)
GENOME = (Need(f"{GENOTYPES_HELP})", GENOTYPES[:5]), PHENOTYPE)


@dataclass(frozen=True)
class Filesets(Flags):
    """Genotype files, and how they are read."""

    bfile: str | None = flag(
        "--bfile", "--bed-prefix", metavar=SEVERAL,
        help="PLINK 1 filesets; each of several, separated by commas, is a variance component",
    )  # fmt: skip
    pfile: str | None = flag(
        "--pfile",
        "--pgen-prefix",
        metavar=SEVERAL,
        help="PLINK 2 filesets (.pgen, .pvar or .pvar.zst, .psam); several are as with --bfile",
    )
    bgen: str | None = flag("--bgen", metavar="FILE", help="BGEN 1.2 or 1.3")
    sample: str | None = flag(
        "--sample", metavar="FILE", help="the .sample file of --bgen, where the BGEN file has no sample ids"
    )
    dosage: bool = flag(
        "--dosage",
        action="store_true",
        default=False,
        help="analyse the dosages of .pgen and .bgen files instead of their calls",
    )
    cache: str | None = flag(
        "--cache", metavar="DIR",
        help="folder for packed copies of converted or subset genotypes, so that the next run starts at once "
        "(default: no copies are kept)",
    )  # fmt: skip


@dataclass(frozen=True)
class Genome(Filesets):
    """Genotype files, or one genome in many of them."""

    mbfile: str | None = flag(
        "--mbfile", metavar="FILE", help="a list of PLINK 1 prefixes, one per line, that together are one genome"
    )
    pfile_list: str | None = flag(
        "--pfile-list", metavar="FILE", help="a list of PLINK 2 prefixes, one per line, that together are one genome"
    )


@dataclass(frozen=True)
class Genotypes(Genome):
    """Genotype files of components, rare variants apart."""

    rare_bfile: str | None = flag(
        "--rare-bfile", "--rare-bed-prefix", metavar=SEVERAL,
        help="further PLINK 1 filesets, of rare variants; each is a component",
    )  # fmt: skip
    rare_pfile: str | None = flag(
        "--rare-pfile", "--rare-pgen-prefix", metavar=SEVERAL,
        help="further PLINK 2 filesets, of rare variants; each is a component",
    )  # fmt: skip

    @property
    def given(self) -> bool:
        """Whether genotypes are named at all."""
        return bool(self.num_filesets)

    @property
    def num_filesets(self) -> int:
        """How many flags name genotypes, those of rare variants too."""
        named = (self.bfile, self.pfile, self.bgen, self.mbfile, self.pfile_list, self.rare_bfile, self.rare_pfile)
        return sum(map(bool, named))


@dataclass(frozen=True)
class Samples(Flags):
    """Phenotypes, covariates, and who is analysed."""

    pheno: str | None = flag(
        "--pheno", "--pheno-txt", metavar="FILE",
        help="phenotypes: FID IID value..., with or without a header; NA, nan, -9 and empty fields are missing values",
    )  # fmt: skip
    pheno_name: str | None = flag(
        "--pheno-name", metavar="NAME[,NAME...]", unless="mpheno",
        help="names of phenotype columns (also y{1:10}, y1-y10, y*), or all; several are fitted in one run and written "
        "to OUT.NAME.json and so on",
    )  # fmt: skip
    mpheno: int | None = flag(
        "--mpheno", type=positive_int, metavar="N", unless="mpheno", help="number of the phenotype column (default 1)"
    )
    qcovar: str | None = flag(
        "--qcovar", other=("--covar-txt",), metavar="FILE", help="quantitative covariates: FID IID value..."
    )
    covar: str | None = flag("--covar", metavar="FILE", help="categorical covariates: FID IID level...")
    qcovar_name: str | None = flag(
        "--qcovar-name", metavar="NAME[,NAME...]",
        help="quantitative covariates by column: names, PC{1:10}, PC1-PC10 or PC*; of --qcovar, else of --covar or of "
        "--pheno (default: all of --qcovar)",
    )  # fmt: skip
    covar_name: str | None = flag(
        "--covar-name", metavar="NAME[,NAME...]",
        help="categorical covariates by column; of --covar, else of --qcovar or of --pheno (default: all of --covar)",
    )  # fmt: skip
    covar_for: tuple[str, ...] = flag(
        "--covar-for", metavar="TRAIT=NAME[,NAME...]", action="append", default=(),
        help="covariates of one phenotype, of those in --qcovar and --covar; others keep all",
    )  # fmt: skip
    pca_covar: int | None = flag(
        "--pca-covar", type=positive_int, metavar="K",
        help="K principal components of the analysed genotypes as further covariates, PC1 to PCK",
    )  # fmt: skip
    rint: str | None = flag(
        "--rint", choices=("before", "after"),
        help="replace each phenotype by the normal quantiles of its ranks, before the covariates or of what these "
        "leave (they stay in the model)",
    )  # fmt: skip
    keep: str | None = flag("--keep", "--keep-path", metavar="FILE", help="analyse only these samples")
    remove: str | None = flag("--remove", metavar="FILE", help="leave out these samples")
