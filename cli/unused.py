"""Flags that were typed and change nothing: said in a note, with the reason, and never passed over.

What a flag does depends on the others and on what the data turn out to be, so every command asks here when both are
known.  A rule has the names of some flags' values, when they change nothing, and why.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .flags.components import Components
from .flags.data import Genotypes
from .flags.estimation import HE_PROBES, MOMENTS
from .flags.rg import Correlations
from .flags.smile import Smile
from .inputs import Inputs
from .parser import CommandLine

SCANS = ("scan", "scan_genes", "scan_windows")


class Decided(NamedTuple):
    """What an analysis turned out to be; None where that is not decided, as in a plan.

    ``num_components``: of the covariance that is fitted, with the residual ones beside a first.  ``null``: the method
    of the fit that tests of variants start from.
    """

    method: str | None = None
    num_components: int | None = None
    backend: str | None = None
    null: str | None = None


class Rule(NamedTuple):
    """``names``: of values, separated by blanks."""

    names: str
    holds: Callable[[CommandLine, Decided], object]
    why: str


def notes_on_flags(line: CommandLine, rules: Sequence[Rule], decided: Decided) -> list[str]:
    """A note for each reason with the flags, as they were typed, that change nothing; and those typed twice."""
    found: dict[str, list[str]] = {}
    told: set[str] = set()
    for rule in rules:
        names = [name for name in rule.names.split() if name in line.typed and name not in told]
        if names and rule.holds(line, decided):
            told.update(names)
            found.setdefault(rule.why, []).extend(line.typed[name] for name in names)
    return [*line.replaced, *(f"{', '.join(flags)}: no effect, since {why}" for why, flags in found.items())]


def noted(inputs: Inputs, line: CommandLine, rules: Sequence[Rule], decided: Decided) -> Inputs:
    """The inputs with these notes among theirs."""
    return inputs._replace(notes=(*inputs.notes, *notes_on_flags(line, rules, decided)))


def plan_notes(line: CommandLine, rules: Sequence[Rule], backend: str) -> list[str]:
    """Lines for a plan, before which nothing but the backend is decided."""
    return [f"note: {note}" for note in notes_on_flags(line, rules, Decided(backend=backend))]


def always(line: CommandLine, decided: Decided) -> bool:
    return True


def without(*names: str) -> Callable[[CommandLine, Decided], bool]:
    """Holds where none of these is given."""
    return lambda line, decided: not any(line.get(name) for name in names)


def by(*methods: str) -> Callable[[CommandLine, Decided], bool]:
    """Holds for these methods."""
    return lambda line, decided: decided.method in methods


def no_intervals(line: CommandLine, decided: Decided) -> bool:
    """Whether what is scanned has no genes and no intervals."""
    return not line.get("scan_genes") and not any(path.endswith(".bed") for path in line.get("scan") or ())


def draws_after_the_fit(line: CommandLine) -> bool:
    """Whether the seed matters beside the fit."""
    return any(map(line.get, ("cv", "reliability", *SCANS, "fit_alpha")))


def only_matrices(line: CommandLine, decided: Decided) -> bool:
    """Whether relationship matrices are all there is."""
    return not Genotypes.of(line.values).given


def correlates(line: CommandLine, decided: Decided | None = None) -> bool:
    """Whether genetic correlations are asked for."""
    return Correlations.of(line.values).wanted


def smile(line: CommandLine, decided: Decided) -> bool:
    """Whether components are blocks of weights."""
    return Smile.of(line.values).wanted


def no_sets(line: CommandLine, decided: Decided) -> bool:
    """Whether no sets of variants are asked for."""
    return not Components.of(line.values).given


WIDTH = Rule("call_width", always, "how many variants are worked on at once follows from the memory there is")
DETERMINANT = Rule(
    "slq_samples slq_m slq_mode", always, "log-determinants take all probes, and steps until they settle"
)
ACCEPTED = (
    WIDTH,
    DETERMINANT,
    Rule("precond_refresh_reldp precond_type", always, "the basis of a fit takes the place of its preconditioner"),
)
DATA = (
    Rule("sample", without("bgen"), "it names the samples of --bgen"),
    Rule(
        "dosage",
        without("pfile", "bgen", "pfile_list", "rare_pfile", "prediction_pfile"),
        "PLINK 1 files have no dosages",
    ),
)
DEVICE = (
    Rule("gpu_budget_gib ring_depth num_gpus", lambda line, decided: decided.backend == "cpu", "this runs on the CPU"),
)
WORKERS = (
    Rule("shards", without("workers", "scheduler"), "there are no workers"),
    Rule("worker_memory_gib", without("workers"), "it is of workers that are started here"),
)
COMPONENTS = (
    Rule("ld_scores", without("ld_bins"), "they are for --ld-bins"),
    Rule("uncovered empty_components", smile, "blocks of weights cover all variants"),
    Rule("uncovered", no_sets, "the components cover all variants"),
)
PROBES = "dense REML takes no random probes"
OF_FITS = (
    "method max_probes mc_target max_iterations constrain seed prevalence joint_test lrt profile "
    "resume checkpoint_seconds compute_effects reliability save_model cv merge export_ai verbose "
    "prediction_bfile prediction_pfile fit_alpha scan scan_genes scan_windows scan_refit scan_replicates"
)
REML = (
    *ACCEPTED,
    *DATA,
    Rule(OF_FITS, lambda line, decided: line.get("make_grm"), "--make-grm writes matrices and fits nothing"),
    Rule(
        "extract exclude chr autosome from_bp to_bp mind geno hwe maf max_maf dosage cache standardize alpha "
        "uncovered empty_components w_normalization ld_scores",
        only_matrices,
        "there are no genotypes",
    ),
    *COMPONENTS,
    Rule(
        "smile_optimizer",
        lambda line, decided: line.get("smile_optimizer") != "strict",
        "there is one optimiser, which never steps downhill",
    ),
    Rule("smile_scoring_step_tol", always, "a fit stops by its score, in standard errors"),
    Rule("merge_out_dir merge_mode z_cutoff merge_ai_scale_mode merge_n_eff", without("merge"), "they are for --merge"),
    Rule("rg_samples rg_with plots", lambda line, decided: not correlates(line), "they are for --rg"),
    Rule("checkpoint_seconds verbose max_iterations", correlates, "--rg keeps no checkpoints and prints no iterations"),
    Rule("gxe_scale", without("gxe"), "it is of the environments of --gxe"),
    Rule("admix_residual_mode", without("admix_q"), "it is of the ancestries of --admix-q"),
    *DEVICE,
    *WORKERS,
    Rule("scan_replicates", without(*SCANS), "nothing is scanned"),
    Rule("scan_flank", no_intervals, "it is for genes and intervals"),
    Rule(
        "max_probes mc_target",
        lambda line, decided: decided.method == "exact" and not line.get("fit_alpha"),
        PROBES,
    ),
    Rule("seed", lambda line, decided: decided.method == "exact" and not draws_after_the_fit(line), PROBES),
    Rule("mc_target", by(*MOMENTS), "he and pcgc take all of their probes at once"),
    Rule(
        "max_probes",
        lambda line, decided: decided.method in MOMENTS and line.get("max_probes") > HE_PROBES,
        f"he and pcgc take {HE_PROBES} probes",
    ),
    Rule("max_iterations verbose", by(*MOMENTS), "he and pcgc have no iterations"),
    Rule(
        "max_iterations",
        lambda line, decided: (
            decided.method == "stochastic" and decided.num_components == 1 and not line.get("fit_alpha")
        ),
        "one component is answered by a Lanczos run, which goes on until it settles",
    ),
    Rule("resume checkpoint_seconds", by("exact", *MOMENTS), "only stochastic fits keep checkpoints"),
    Rule(
        "joint_test",
        lambda line, decided: decided.method in MOMENTS or decided.num_components == 1,
        "there is a Wald test of REML with several components only",
    ),
    Rule("lrt profile", by(*MOMENTS), "he and pcgc have no likelihood"),
    Rule("constrain", by(*MOMENTS), "he and pcgc have no bounds"),
    Rule(
        "lrt", lambda line, decided: decided.num_components == 1, "the one component's likelihood ratio is always there"
    ),
)
GWAS = (
    WIDTH,
    *DATA,
    *DEVICE,
    *WORKERS,
    Rule("verbose", always, "there is nothing more to print"),
    Rule("solver max_probes seed", by("ols"), "least squares fits no variance"),
    Rule("max_probes seed", by("exact"), PROBES),
    Rule("max_probes", lambda line, decided: decided.null == "exact", "the null model is fitted by dense REML"),
)
SPARSE = (
    *ACCEPTED,
    Rule("pcg_ridge lasso_ridge proj_ridge", always, "no ridge is added anywhere"),
    *DATA,
    *COMPONENTS,
    *DEVICE,
    Rule("max_probes mc_target", by("exact"), PROBES),
    Rule(
        "kkt_tol kkt_rel_tol kkt_add_topk kkt_max_rounds kkt_max_candidate",
        without("kkt_check"),
        "--no-kkt-check checks nothing",
    ),
    Rule("lasso_ebic_es_min_delta", without("lasso_ebic_early_stop"), "the path does not end early"),
    Rule(
        "screen_topk",
        lambda line, decided: line.get("screen_topk") >= line.get("candidate_k"),
        "it limits --candidate-k, which is no larger",
    ),
)
RELAX = (
    WIDTH,
    DETERMINANT,
    *DATA,
    *DEVICE,
    Rule("verbose", always, "it is the default"),
    Rule(
        "theta_random_low theta_random_high",
        lambda line, decided: line.get("theta_init_npy"),
        "memberships are from a file",
    ),
)
PREDICT = DATA
