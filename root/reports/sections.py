"""The sections of a report, each a pure function of a run's record; a section of which the record has nothing is None.

A record is OUT.json as a command writes it, or what ``to_dict`` of a result gives; ``history`` (by iteration),
``spectrum`` (nodes and weights), ``residuals`` (n,) and ``diagnoses`` are taken where they are there too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_reml import figures
from gpu_reml.figures.canvas import inline_svg

from .blocks import Block, Code, Lines, Picture, Section, Words, shown, table

Record = Mapping[str, Any]
SUMS = {"h2": "heritability", "d2": "dominance", "H2": "broad-sense heritability", "gxe": "environments"}
MOST_PROFILES = 6  # that of h2 comes first
METHODS = {
    "krylov": "REML by one Lanczos run", "reduced": "AI-REML in a reduced model", "exact": "dense REML",
    "he": "Haseman-Elston regression", "pcgc": "PCGC regression", "reml": "REML",
}  # fmt: skip
USUAL = (None, False, [], (), "")  # a flag of such a value was not given


def picture(figure: Any, caption: str, *, wide: bool = False) -> Picture:
    """A figure as a block of the page."""
    return Picture(inline_svg(figure, caption), caption, wide)


def asked(record: Record) -> Section | None:
    """What was asked: the command as it was typed, and the settings that were not typed, folded."""
    run, settings = record.get("run") or {}, record.get("settings") or {}
    blocks: list[Block] = []
    if run.get("command"):
        blocks.append(Code(run["command"]))
    typed = run.get("typed") or ()
    named = [
        (f"--{name.replace('_', '-')}", shown(value))
        for name, value in settings.items()
        if value not in USUAL and name not in typed
    ]
    if named:
        told = table(("set without being asked", "value"), named)
        blocks.append(replace(told, most=0, fold=f"{len(named)} settings that nobody typed"))
    return Section("What was asked", tuple(blocks)) if blocks else None


def data(record: Record) -> Section | None:
    """Samples and variants that were kept, and those that were dropped, by reason."""
    samples, rows = record.get("samples") or {}, []
    if samples:
        done = "predicted" if "predicted" in samples else "analysed"
        rows.append(("samples", done, samples[done]))
        rows += [("samples", f"dropped: {reason}", count) for reason, count in samples["dropped"].items()]
    elif np.ndim(record.get("n")) == 0 and record.get("n") is not None:
        rows.append(("samples", "analysed", record["n"]))
    if variants_of(record) is not None:
        rows.append(("variants", "analysed", variants_of(record)))
    rows += [("variants", f"removed by {each['filter']}", each["removed"]) for each in record.get("filters") or ()]
    if record.get("num_variants_dropped"):
        rows.append(("variants", "dropped: they do not vary, or were never called", record["num_variants_dropped"]))
    blocks: list[Block] = [table(("what", "how", "number"), rows)] if rows else []
    if record.get("standardisation"):
        blocks.append(Words(f"Genotypes are standardised by {record['standardisation']}."))
    if record.get("covariates"):
        blocks.append(Words(f"Fixed effects: {', '.join(record['covariates'])}."))
    return Section("Samples and variants", tuple(blocks)) if blocks else None


def variants_of(record: Record) -> int | None:
    """How many variants were analysed."""
    return record.get("num_variants", record.get("m"))


def components(record: Record) -> Section | None:
    """Variance components as a forest plot and a table, and the sums of them."""
    if "components" not in record or not record["components"] or "h2" not in record["components"][0]:
        return None
    sums = [name for name in SUMS if name in record]
    blocks: list[Block] = [
        picture(figures.plot_components(record), "share of the phenotypic variance, by component"),
        table(
            ("", "estimate", "SE", "Monte-Carlo error"),
            [(f"{name}, {SUMS[name]}", *(record[name][key] for key in ("estimate", "se", "mc_se"))) for name in sums],
        ),
    ]
    titles = {
        "name": "component", "variance": "variance", "se": "SE", "mc_se": "Monte-Carlo error", "h2": "share of Vp",
        "h2_se": "SE", "share": "share of genetic", "num_variants": "variants",
    }  # fmt: skip
    parts = [*record["components"], *(record.get("residuals") or ())]
    keys = [key for key in titles if any(key in each for each in parts)]
    blocks.append(table([titles[key] for key in keys], [[each.get(key, "") for key in keys] for each in parts]))
    if record.get("units"):
        blocks.append(Words(f"Variances are in {record['units']}."))
    return Section("Variance components", tuple(blocks))


def shares(record: Record) -> Section | None:
    """Shares of heritability against shares of variants."""
    found = record.get("enrichment")
    if not found:
        return None
    columns = tuple(found[0])
    return Section(
        "Enrichment", (table([name.replace("_", " ") for name in columns], [row.values() for row in found]),)
    )


def tests(record: Record) -> Section | None:
    """Likelihood ratios and Wald tests."""
    rows = []
    if record.get("lrt") is not None:
        rows.append(("all components (likelihood ratio)", record["lrt"], record["lrt_df"], record["lrt_p"]))
    for each in record.get("lrt_without") or ():
        rows.append((f"{', '.join(each['components'])} (likelihood ratio)", each["statistic"], each["df"], each["p"]))
    for each in record.get("joint_tests") or ():
        rows.append((f"{each['test']} (Wald)", each["statistic"], each["df"], each["p"]))
    return Section("Tests", (table(("model without", "statistic", "df", "p"), rows),)) if rows else None


def profiles(record: Record) -> Section | None:
    """Profile likelihoods."""
    names = [curve["quantity"] for curve in record.get("profiles") or ()]
    if not names and record.get("h2_profile"):
        names = ["h2"]
    drawn = [
        picture(figures.plot_profile(record, name), f"profile likelihood of {name}")
        for name in names[::-1][:MOST_PROFILES]
    ]
    return Section("Likelihood profile", tuple(drawn)) if drawn else None


def convergence(record: Record) -> Section | None:
    """How the fit ended, its Monte-Carlo error, and its rounds."""
    if "status" not in record or isinstance(record["status"], list):
        return None
    rows = [("status", record.get("message") or record["status"])]
    named = {
        "method": "method", "iterations": "iterations", "num_probes": "random probes",
        "mc_se_over_se": "largest Monte-Carlo error in standard errors", "mc_target": "target of it",
        "loglik": "log-likelihood", "loglik_mc_se": "its Monte-Carlo error",
    }  # fmt: skip
    told = {**record, "method": METHODS.get(str(record.get("method")), record.get("method"))}
    rows += [(text, told[key]) for key, text in named.items() if told.get(key) is not None]
    blocks: list[Block] = [table(("", ""), rows)]
    history = record.get("history") or ()
    if history:
        blocks.append(picture(figures.plot_convergence(history), "step of every iteration"))
        keys = [key for key in ("iteration", "decrement", "num_probes", "basis", "column_passes") if key in history[0]]
        blocks.append(table([key.replace("_", " ") for key in keys], [[row[key] for key in keys] for row in history]))
    return Section("Convergence and Monte-Carlo error", tuple(blocks))


def correlations(record: Record) -> Section | None:
    """Genetic correlations as a heat map and a table."""
    pairs = record.get("pairs")
    if not pairs:
        return None
    columns = {
        "trait_1": "trait", "trait_2": "with", "component": "component", "rg": "correlation", "rg_se": "SE",
        "rg_mc_se": "Monte-Carlo error", "p_rg0": "p of no correlation", "p_rg1": "p of 1 or -1", 
        "n_common": "people of both",
    }  # fmt: skip
    drawn = picture(figures.plot_correlations(dict(record)), "genetic and residual correlations", wide=True)
    return Section(
        "Genetic correlations", (drawn, table(columns.values(), [[row.get(key) for key in columns] for row in pairs]))
    )


def cohort(record: Record) -> Section | None:
    """Eigenvalues of the relationship matrix, and residuals."""
    blocks: list[Block] = []
    if record.get("spectrum"):
        nodes, weights = (np.asarray(record["spectrum"][key], np.float64) for key in ("nodes", "weights"))
        blocks.append(picture(figures.plot_spectrum(nodes, weights), "eigenvalues of the relationship matrix"))
        blocks.append(
            Words(
                "Unrelated people of one population have eigenvalues near 1. Few large ones are populations; many that "
                "are somewhat larger are relatives, or variants in linkage disequilibrium."
            )
        )
    if record.get("residuals_of_y") is not None:
        residuals = np.asarray(record["residuals_of_y"], np.float64)
        blocks.append(picture(figures.plot_residuals(residuals), "phenotype without its fixed effects"))
        scaled = (residuals - residuals.mean()) / residuals.std()
        skewness, kurtosis = (scaled**3).mean(), (scaled**4).mean() - 3
        blocks.append(Words(f"Skewness {skewness:.3g}, excess kurtosis {kurtosis:.3g}; both are 0 for normal values."))
    return Section("Spectrum and residuals", tuple(blocks)) if blocks else None


def fixed(record: Record) -> Section | None:
    """Fixed effects."""
    found = record.get("fixed_effects")
    if not found:
        return None
    return Section("Fixed effects", (table(("covariate", "effect", "SE"), [row.values() for row in found]),))


def warnings(record: Record) -> Section | None:
    """What to be careful about, each with its remedy."""
    lines = [*(record.get("cautions") or ()), *(record.get("notes") or ())]
    if record.get("caution") and record.get("support_size") != 0:  # of chosen variants, where there are some
        lines.insert(0, record["caution"])
    if record.get("converged") is False and record.get("message"):
        message = record["message"]
        lines[:0] = message if isinstance(message, list) else [str(message)]
    if record.get("mc_target_met") is False:
        lines.append(
            f"the Monte-Carlo error is {shown(record.get('mc_se_over_se'))} standard errors, more than the target "
            f"{shown(record.get('mc_target'))}: raise --max-probes"
        )
    return Section("Warnings", (Lines(tuple(lines), "caution"),)) if lines else None


def diagnoses(record: Record) -> Section | None:
    """What may be odd about h2, with a number of this run and a remedy."""
    found = record.get("diagnoses")
    if found is None:
        return None
    if not found:
        return Section("Why is my h2 odd?", (Words("Nothing that was looked at is out of the ordinary."),))
    rows = [(each["problem"], each["evidence"], each["remedy"]) for each in found]
    return Section("Why is my h2 odd?", (table(("what", "seen in this run", "what to do"), rows),))


def provenance(record: Record) -> Section | None:
    """Versions, host, passes, memory and time."""
    run, rows = record.get("run") or {}, []
    rows += [(f"version of {name}", value) for name, value in (run.get("versions") or {}).items()]
    if not run.get("versions") and record.get("version"):
        rows.append(("version of gpu-reml", record["version"]))
    rows += [(f"host: {name}", value) for name, value in (run.get("host") or {}).items()]
    if run.get("folder"):
        rows.append(("folder", run["folder"]))
    if record.get("backend"):
        rows.append(("computed on", f"{record['backend']}, {record.get('arithmetic', '')}".rstrip(", ")))
    if record.get("seed") is not None:
        rows.append(("seed", str(record["seed"])))
    passes = record.get("passes", record.get("column_passes"))
    if passes is not None:
        rows.append(("products with one vector", float(passes)))
    if run.get("peak_memory_bytes"):
        rows.append(("most memory of the process", f"{run['peak_memory_bytes'] / 2**20:,.0f} MiB"))
    if record.get("seconds") is not None:
        rows.append(("time", f"{record['seconds']:.1f} s"))
    return Section("How it was computed", (table(("", ""), rows),)) if rows else None
