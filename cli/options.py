"""The command line of gpu-reml: PLINK and GCTA spelling first, the reference system's flags as aliases."""

import argparse
from collections.abc import Sequence

from .effects_options import add_effects
from .merge_options import add_export, add_merge
from .model_options import add_model_parts
from .numbers import (
    count,
    fraction,
    gibibytes,
    not_negative,
    number,
    numbers,
    positive_float,
    positive_int,
    share,
    threads,
    wholes,
)
from .parser import EXIT_CODES, Need, Options, Parser
from .smile_options import add_smile
from .wording import in_flags

# Methods that match moments: they have no likelihood, no bounds and no iterations.
HE_PROBES = 64  # that they take
MOMENTS = {"he": "Haseman-Elston regression", "pcgc": "phenotype-correlation genotype-correlation regression"}

EPILOG = """\
examples:
  gpu-reml --bfile data --pheno pheno.txt --pheno-name height --qcovar age.txt --covar sex.txt --out height
  gpu-reml --bfile common,rare --pheno pheno.txt --out two_components
  gpu-reml --bfile data --component-spec sets.json --pheno pheno.txt --out partitioned
"""


EXAMPLE = "--bfile data --pheno pheno.txt --out height"
GENOTYPES = ("--bfile", "--pfile", "--bgen", "--mbfile", "--pfile-list", "--rare-bfile", "--rare-pfile")
GENOTYPES_HELP = "genotypes (--bfile PREFIX, --pfile PREFIX, --bgen FILE, --mbfile FILE or --pfile-list FILE"
NEEDS = (Need(f"{GENOTYPES_HELP})", GENOTYPES), Need("--pheno FILE", ("--pheno",)))  # of the commands beside gpu-reml


IGNORED = {
    "--call-width": ({"type": count, "metavar": "N"}, "variants worked on at once follow from the memory there is"),
    "--slq-samples": ({"type": positive_int, "metavar": "N"}, "log-determinants take all probes"),
    "--slq-m": ({"type": positive_int, "metavar": "N"}, "and as many steps as they need"),
    "--slq-mode": (
        {"choices": ("raw", "projected_core_residual")},
        "within the basis of a fit, and checked",
    ),
    "--precond-refresh-reldp": (
        {"type": not_negative, "metavar": "X"},
        "a basis that follows the variances takes its place",
    ),
    "--precond-type": ({"choices": ("projected_core",)}, "there is one"),
}


class ListDevices(argparse.Action):
    """``--devices``: print what can be seen, or what is missing, and exit."""

    def __call__(self, parser, namespace, values, option_string=None):
        from gpu_reml.ops.cuda.driver import list_devices

        try:
            found = list_devices()
        except ValueError as error:
            parser.exit(2, f"gpu-reml: error: {in_flags(str(error))}\n")
        for device in found:
            major, minor = device.compute_capability
            memory = f"{device.free / 2**30:.1f} of {device.total / 2**30:.1f} GiB free"
            print(f"{device.index}  {device.name}  compute capability {major}.{minor}  {memory}")
        parser.exit(0)


def make_parser(version: str) -> Parser:
    """The parser of gpu-reml."""
    parser = Parser(
        prog="gpu-reml",
        description="REML variance components and SNP heritability from packed genotypes, matrix-free.\n"
        "--bfile, --pheno and --out are enough to begin; --qcovar and --covar take covariates.",
        epilog=EPILOG + EXIT_CODES,
        example=EXAMPLE,
        needs=(
            Need(f"{GENOTYPES_HELP}, or --grm PREFIX)", (*GENOTYPES, "--grm")),
            Need("--pheno FILE", ("--pheno",), unless="--make-grm"),
        ),
    )
    parser.add_argument("--version", action="version", version=f"gpu-reml {version}")
    add_data(parser.add_argument_group("data"))
    add_filters(parser.add_argument_group("variants and samples, with PLINK's meaning and order"))
    add_components(parser.add_argument_group("variance components; several kinds may be combined"))
    add_smile(parser.add_argument_group("SMILE: dense blocks of weights between variants"))
    add_model_parts(parser.add_argument_group("relationship matrices, ancestry, environments, residuals"))
    add_merge(parser.add_argument_group("merging weak components"))
    model = parser.add_argument_group("model and accuracy")
    add_model(model)
    add_tests(model)
    add_compute(parser.add_argument_group("compute"))
    add_effects(parser.add_argument_group("effects, prediction, cross-validation"))
    add_output(parser.add_argument_group("output"))
    add_ignored(parser.add_argument_group("accepted from the reference system, without effect: chosen here by need"))
    return parser


def with_defaults(parser: Parser, argv: Sequence[str] | None) -> Options:
    """Options of a command, and gpu-reml's defaults for what it does not ask."""
    given = parser.parse_args(argv)
    return Options({**make_parser("").defaults(), **vars(given)}, given.typed, given.replaced)


def add_data(group) -> None:
    group.add_argument(
        "--bfile", "--bed-prefix", dest="bfile", metavar="PREFIX[,PREFIX...]",
        help="PLINK 1 filesets; several, separated by commas, are one variance component each",
    )  # fmt: skip
    group.add_argument(
        "--pfile", "--pgen-prefix", dest="pfile", metavar="PREFIX[,PREFIX...]",
        help="PLINK 2 filesets (.pgen, .pvar or .pvar.zst, .psam), likewise",
    )  # fmt: skip
    group.add_argument("--bgen", metavar="FILE", help="BGEN 1.2 or 1.3")
    group.add_argument("--sample", metavar="FILE", help="samples of --bgen, where the file does not hold them")
    group.add_argument(
        "--rare-bfile", "--rare-bed-prefix", dest="rare_bfile", metavar="PREFIX[,PREFIX...]",
        help="further PLINK 1 filesets of rare variants, one component each",
    )  # fmt: skip
    group.add_argument(
        "--rare-pfile", "--rare-pgen-prefix", dest="rare_pfile", metavar="PREFIX[,PREFIX...]",
        help="further PLINK 2 filesets of rare variants, one component each",
    )  # fmt: skip
    group.add_argument("--mbfile", metavar="FILE", help="list of PLINK 1 prefixes that together are one genome")
    group.add_argument("--pfile-list", metavar="FILE", help="list of PLINK 2 prefixes that together are one genome")
    group.add_argument("--dosage", action="store_true", help="take dosages of .pgen and .bgen, not calls")
    group.add_argument(
        "--cache",
        metavar="DIR",
        help="keep packed copies of what is converted or subset here, for the next run (default: none are kept)",
    )
    group.add_argument(
        "--pheno", "--pheno-txt", dest="pheno", metavar="FILE",
        help="phenotypes: FID IID value..., with or without a header; NA, nan, -9 and empty are missing",
    )  # fmt: skip
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--pheno-name", metavar="NAME[,NAME...]",
        help="phenotype columns by name, or all; several share one run and give OUT.NAME.json and so on",
    )  # fmt: skip
    which.add_argument("--mpheno", type=positive_int, metavar="N", help="phenotype column by number (default 1)")
    numeric = group.add_mutually_exclusive_group()
    numeric.add_argument("--qcovar", metavar="FILE", help="quantitative covariates: FID IID value...")
    numeric.add_argument("--covar-txt", dest="qcovar", metavar="FILE", help="the same (the reference system's name)")
    group.add_argument("--covar", metavar="FILE", help="categorical covariates: FID IID level...")
    group.add_argument("--keep", "--keep-path", dest="keep", metavar="FILE", help="analyse only these samples")
    group.add_argument("--remove", metavar="FILE", help="leave these samples out")


def add_filters(group) -> None:
    several = {"nargs": "+", "action": "extend", "metavar": "FILE", "default": []}
    group.add_argument("--extract", help="analyse only variants with these ids", **several)
    group.add_argument("--exclude", help="leave variants with these ids out", **several)
    group.add_argument("--chr", metavar="N[,N-N...]", help="chromosomes, such as 1-4,22,X")
    group.add_argument("--autosome", action="store_true", help="chromosomes 1 to 22")
    group.add_argument(
        "--from-bp",
        type=not_negative,
        metavar="BP",
        help="first position in base pairs, on the one chromosome of --chr",
    )
    group.add_argument("--to-bp", type=not_negative, metavar="BP", help="last position in base pairs")
    group.add_argument(
        "--mind", type=fraction, metavar="X", help="largest share of a sample's calls that may be missing, 0 to 1"
    )
    group.add_argument(
        "--geno", type=fraction, metavar="X", help="largest share of a variant's calls that may be missing, 0 to 1"
    )
    group.add_argument("--hwe", type=fraction, metavar="P", help="least p-value of the exact Hardy-Weinberg test")
    group.add_argument("--maf", type=fraction, metavar="X", help="least frequency of the rarer allele, 0 to 0.5")
    group.add_argument("--max-maf", type=fraction, metavar="X", help="largest frequency of the rarer allele, 0 to 0.5")


def add_components(group) -> None:
    group.add_argument(
        "--component-spec", metavar="FILE", action="append", default=[],
        help="sets of variants of the genotype files, one after another: .json or .npz with zero-based indices or ids",
    )  # fmt: skip
    group.add_argument(
        "--component-indices-npz", dest="component_spec", metavar="FILE", action="append",
        help="the same (the reference system's name)",
    )  # fmt: skip
    group.add_argument(
        "--vc-block-sizes", type=wholes, metavar="N,N...", help="contiguous blocks of variants, a component each"
    )
    group.add_argument(
        "--snp-lists",
        nargs="+",
        action="extend",
        metavar="FILE",
        default=[],
        help="files of variant ids, a component each",
    )
    group.add_argument(
        "--component-table", metavar="FILE", action="append", default=[], help="table: variant id, component[, weight]"
    )
    group.add_argument(
        "--annot", nargs="+", action="extend", metavar="FILE", default=[],
        help="annotations as LDSC has them, .annot or .annot.gz; @ stands for chromosomes; a component for each column",
    )  # fmt: skip
    group.add_argument(
        "--intervals",
        nargs="+",
        action="extend",
        metavar="FILE",
        default=[],
        help="BED intervals, a component for each name",
    )
    group.add_argument("--by-chromosome", action="store_true", help="a component for each chromosome")
    group.add_argument(
        "--maf-bins", type=numbers, metavar="X,X...", help="edges of bins of allele frequency, such as 0.01,0.05"
    )
    group.add_argument(
        "--ld-bins", type=positive_int, metavar="K",
        help="quantile bins of LD scores, within --maf-bins where they are given (GREML-LDMS)",
    )  # fmt: skip
    group.add_argument("--ld-scores", metavar="FILE", help="LD scores for --ld-bins; by default they are computed")
    group.add_argument(
        "--uncovered", choices=("drop", "background"), default="drop",
        help="variants in no component: left out, or a component of their own (default drop)",
    )  # fmt: skip
    group.add_argument(
        "--empty-components", choices=("error", "drop"), default="error",
        help="components without a variant that varies (default error)",
    )  # fmt: skip


def add_model(group) -> None:
    group.add_argument(
        "--method", choices=("auto", "stochastic", "exact", *MOMENTS), default="auto",
        help="exact: dense REML without Monte-Carlo error, for small cohorts; stochastic: matrix-free REML; "
        "he: Haseman-Elston regression; pcgc: the like for a disease's liability, right where cases were chosen (needs "
        "--prevalence); auto (default): exact where it is cheap (to 3,000 or 4,000 samples), else stochastic",
    )  # fmt: skip
    group.add_argument(
        "--normalise", choices=("weights", "trace"), default="weights",
        help="scale of K: divided by the sum of weights (default; a GRM's usual m), or so that tr(K) = n",
    )  # fmt: skip
    group.add_argument(
        "--standardize", choices=("sample", "binomial"), default="sample",
        help="divide counts by their SD in the sample, or by sqrt(2p(1-p)) (default sample)",
    )  # fmt: skip
    group.add_argument(
        "--alpha",
        type=number,
        metavar="A",
        help="weigh variants by [2p(1-p)]^(1 + A); -1 is the usual GRM (default: all alike)",
    )
    group.add_argument(
        "--max-probes", "--n-rand-vec", dest="max_probes", type=positive_int, default=256, metavar="N",
        help="most probes to use for the traces (default 256)",
    )  # fmt: skip
    group.add_argument(
        "--first-probes", type=positive_int, default=32, metavar="N", help="probes to start with (default 32)"
    )
    group.add_argument(
        "--mc-target", type=positive_float, default=0.1, metavar="X",
        help="add probes until every Monte-Carlo error is at most X standard errors (default 0.1)",
    )  # fmt: skip
    group.add_argument(
        "--max-iterations",
        "--minq-iter",
        dest="max_iterations",
        type=positive_int,
        default=50,
        metavar="N",
        help="most iterations of a fit (default 50)",
    )
    group.add_argument(
        "--no-constrain", "--reml-no-constrain", dest="constrain", action="store_false",
        help="let variances of components be negative, so that small ones have no bias (default: none is below 0)",
    )  # fmt: skip
    group.add_argument("--seed", type=count, default=0, metavar="N", help="seed of all random numbers (default 0)")


def add_tests(group) -> None:
    group.add_argument(
        "--prevalence", type=share, metavar="K",
        help="of a disease in the population: h2 of its liability too; cases are the larger of the two values",
    )  # fmt: skip
    group.add_argument(
        "--joint-test", action="append", default=[], metavar="NAME,NAME...",
        help="Wald test that these components are all zero, in OUT.tests.tsv beside each alone and all together",
    )  # fmt: skip
    group.add_argument(
        "--lrt", "--reml-lrt", dest="lrt", nargs="*", metavar="COMPONENT",
        help="likelihood-ratio tests against the model without each component and, where some are given (by number, or "
        "by name), without these together; in OUT.tests.tsv",
    )  # fmt: skip
    group.add_argument(
        "--profile", action="store_true",
        help="profile likelihoods of every component and of h2 with their 95 %% intervals, in OUT.profile.tsv",
    )  # fmt: skip


def add_compute(group) -> None:
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "gpu"), default="auto",
        help="auto (default) takes a CUDA device when there is one; gpu is another name of cuda",
    )  # fmt: skip
    group.add_argument(
        "--threads", "--cpu-threads", "--thread-num", dest="threads", type=threads, default=0, metavar="N",
        help="CPU threads (default 0: all that this process may use)",
    )  # fmt: skip
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="precision of the genotype products (default float32)",
    )
    group.add_argument(
        "--precond-rank",
        type=count,
        metavar="R",
        help="rank of the preconditioner of solves after a fit, for effects, predictions and --reliability (default "
        "none; for --reliability 3 sqrt(n), at most n / 4), and of those of gpu-reml-sparse; fits need none",
    )
    group.add_argument(
        "--gpu-budget-gib", "--gpu-budget-gb", dest="gpu_budget_gib", type=gibibytes, default=0.0, metavar="GIB",
        help="memory to stay within on every CUDA device (default 0: nine tenths of what is free); genotypes that do "
        "not fit are streamed, and what else is large is worked on in smaller parts",
    )  # fmt: skip
    group.add_argument(
        "--ring-depth", type=count, default=0, metavar="N",
        help="page-locked host buffers through which genotypes that do not fit on a device are streamed (default 0: 3)",
    )  # fmt: skip
    group.add_argument(
        "--num-gpus", type=positive_int, default=1, metavar="N",
        help="CUDA devices among which the variants are shared (default 1; CUDA_VISIBLE_DEVICES says which)",
    )  # fmt: skip
    group.add_argument(
        "--plan", action="store_true",
        help="print the memory plan and stop; with --gpu-budget-gib a plan for a CUDA device needs none",
    )  # fmt: skip
    group.add_argument("--devices", action=ListDevices, nargs=0, help="list the CUDA devices and exit")


def add_ignored(group) -> None:
    """Flags of the reference system: values are checked, and :mod:`gpu_reml.cli.unused` says that they do nothing."""
    for flag, (takes, why) in IGNORED.items():
        group.add_argument(flag, **takes, help=why)


def add_output(group) -> None:
    group.add_argument(
        "--out", "--out-prefix", dest="out", metavar="PREFIX", default="gpu_reml",
        help="results go to PREFIX.json, .hsq, .log and .history.tsv (default gpu_reml)",
    )  # fmt: skip
    group.add_argument("--keep-out", metavar="FILE", help="write the analysed samples")
    group.add_argument("--dropped-out", metavar="FILE", help="write the samples left out, with the reason")
    add_export(group)
    group.add_argument(
        "--make-grm", action="store_true",
        help="write every component's relationship matrix in GCTA's format, OUT.grm.bin, .grm.N.bin, .grm.id, and stop "
        "(needs no --pheno)",
    )  # fmt: skip
    group.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of an interrupted run with the same flags"
    )
    group.add_argument(
        "--checkpoint-seconds", type=not_negative, default=2.0, metavar="S",
        help="least seconds between two checkpoints of a stochastic fit (default 2)",
    )  # fmt: skip
    group.add_argument("--verbose", action="store_true", help="print every iteration")
    group.add_argument("--non-verbose", "--quiet", dest="quiet", action="store_true", help="print only the results")
