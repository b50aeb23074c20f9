"""Sections of what other commands than gpu-reml find: tests of variants, chosen variants, groups, predictions."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_reml import figures
from gpu_reml.figures import GENOME_WIDE

from .blocks import Block, Section, Words, table
from .sections import Record, components, picture

MOST_LEADS = 20
APART = 500_000  # base pairs; within so many of a stronger variant another one is not shown
STRONGEST = 20_000  # so many variants are looked at for those that lead
SUGGESTIVE = 5.0  # -log10 p from which a variant is shown at all, where any is so strong


def association(record: Record) -> Section | None:
    """Tests of variants: where they are, whether they are inflated, and the strongest."""
    rows = tested(record)
    tests = tests_of(record)
    if tests is None:
        return section("Association", [facts(rows)] if rows else [])
    log10p = tests["LOG10P"]
    blocks: list[Block] = []
    if "CHROM" in tests:
        drawn = figures.manhattan(tests["CHROM"].tolist(), tests["GENPOS"], log10p)
        blocks.append(picture(drawn, "p-values along the genome; the dashed line is at 5e-8", wide=True))
    blocks.append(picture(figures.qq(log10p), "p-values beside those of no association, with their 95 % band"))
    blocks.append(facts(rows))
    blocks += strongest(tests)
    return Section("Association", tuple(blocks))


def tests_of(record: Record) -> dict[str, np.ndarray] | None:
    """Columns of the tests of one trait (m,); ``trait`` of several, and who the variants are in ``variants``."""
    found = record.get("tests")
    if found is None:
        return None
    trait, names = int(record.get("trait", 0)), {"chrom": "CHROM", "bp": "GENPOS", "id": "ID", "a1": "A1"}
    columns = {name: np.asarray(found[name]) for name in found}
    columns = {name: values[:, trait] if values.ndim == 2 else values for name, values in columns.items()}
    variants = record.get("variants")
    if variants is not None and "CHROM" not in columns:
        columns.update({to: np.asarray(variants[name]) for name, to in names.items() if name in variants})
    return columns


def tested(record: Record) -> list[tuple[str, Any]]:
    """How many tests there are, of what kind, and how they are inflated."""
    from gpu_reml.reml import lambda_gc

    tests, rows = tests_of(record), []
    if tests is not None:
        log10p = tests["LOG10P"]
        rows += [("variants tested", int((~np.isnan(log10p)).sum())), ("lambda GC", float(lambda_gc(log10p)))]
        rows.append(("variants with p <= 5e-8", int((log10p >= GENOME_WIDE).sum())))
    elif "lambda_gc" in record:
        rows += [("variants tested", record.get("num_tested")), ("lambda GC", record["lambda_gc"])]
    rows += [(f"not tested: {reason}", count) for reason, count in (record.get("not_tested") or {}).items()]
    named = {"model": "model", "method": "test", "dof": "degrees of freedom"}
    given = [(text, record[key]) for key, text in named.items() if record.get(key) is not None and rows]
    return rows + [(text, value.replace("_", " ") if isinstance(value, str) else value) for text, value in given]


def strongest(tests: Mapping[str, np.ndarray]) -> list[Block]:
    """A table of the variants that lead."""
    kept = leads(tests)
    if not len(kept):
        return []
    titles = {
        "ID": "variant", "CHROM": "chromosome", "GENPOS": "position", "A1": "allele", "A1FREQ": "frequency",
        "BETA": "effect of a copy", "SE": "SE", "LOG10P": "-log10 p", "METHOD": "test",
    }  # fmt: skip
    if "CHROM" not in tests:
        titles["BETA"] = "effect of one SD"
    columns = [name for name in titles if name in tests]
    rows = [[plain(tests[name][row]) for name in columns] for row in kept]
    if "ID" not in tests:
        columns, rows = (
            ["variant, from 0", *columns],
            [[int(row), *cells] for row, cells in zip(kept, rows, strict=True)],
        )
    near = f", none within {APART // 1000:,} kb of a stronger one" if "CHROM" in tests else ""
    named = [titles.get(name, name) for name in columns]
    return [Words(f"The strongest variants{near}:"), table(named, rows)]


def plain(value: Any) -> Any:
    """An entry of an array as Python has it; a position is no number to round."""
    return value.item() if isinstance(value, np.generic) else value


def leads(tests: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows of the strongest variants, each far from stronger ones: those of p <= 1e-5, or else the strongest of all."""
    log10p = np.nan_to_num(np.asarray(tests["LOG10P"], np.float64), nan=-1.0, posinf=np.finfo(float).max)
    order = np.argsort(-log10p, kind="stable")[:STRONGEST]
    order = order[log10p[order] >= 0]
    some = order[log10p[order] >= SUGGESTIVE]
    kept: list[int] = []
    taken: dict[Any, list[float]] = {}
    for row in some if len(some) else order[:1]:
        chrom, at = (tests["CHROM"][row], float(tests["GENPOS"][row])) if "CHROM" in tests else (row, 0.0)
        if all(abs(at - other) > APART for other in taken.setdefault(chrom, [])):
            taken[chrom].append(at)
            kept.append(int(row))
        if len(kept) == MOST_LEADS:
            break
    return np.array(kept, np.int64)


def null_model(record: Record) -> Section | None:
    """The variances under which variants were tested, and how scores are calibrated."""
    blocks: list[Block] = []
    fit, calibration, refined = (record.get(key) or {} for key in ("fit", "calibration", "refinement"))
    if fit and (made := components(fit)) is not None:
        blocks += made.blocks
    if record.get("h2_by_chromosome"):
        blocks.append(table(("left out", "h2 of the others"), record["h2_by_chromosome"].items()))
    named = {
        "num_variants": "random variants that calibrate the scores",
        "mean_ratio": "mean ratio of exact and approximate variance of a score",
        "relative_sd_of_standard_errors": "relative SD of single standard errors about the calibrated ones",
    }
    rows = [(text, calibration[key]) for key, text in named.items() if calibration.get(key) is not None]
    if refined.get("met") is not None:
        rows.append((f"variants with p <= {refined['p_at_most']:g} by score", refined["met"]))
        rows.append(("of these tested again by generalised least squares", refined["refined"]))
    return section("Null model", [*blocks, *([facts(rows)] if rows else [])])


def chosen(record: Record) -> Section | None:
    """Variants that the LASSO chose, and its path."""
    selected, path, blocks = record.get("selected"), record.get("path"), []
    if path is not None:
        blocks.append(
            picture(figures.plot_path(SimpleNamespace(**path)), "effects along the path of the LASSO", wide=True)
        )
    if record.get("lambda") is not None:
        named = {"support_size": "variants chosen", "num_candidates": "candidates", "lambda": "lambda", "ebic": "EBIC"}
        blocks.append(facts([*((text, record[key]) for key, text in named.items()), *certified(record.get("kkt"))]))
    if selected is not None and len(selected["snp_id"]):
        titles = {
            "snp_id": "variant", "chr": "chromosome", "bp": "position", "a1": "allele", "freq": "frequency",
            "beta_gls": "effect of one SD (beta_gls)", "se_gls": "SE", "beta_debiased": "beta_debiased",
            "se_debiased": "SE", "p_debiased": "p",
        }  # fmt: skip
        names = [name for name in titles if name in selected]
        rows = zip(*(map(plain, selected[name]) for name in names), strict=True)
        blocks.append(table([titles[name] for name in names], rows))
    return section("Chosen variants", blocks)


def certified(kkt: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """How near the LASSO's conditions are over all variants."""
    if kkt is None:
        return []
    return [
        ("optimal over all variants", kkt["certified"]),
        ("variants of which that was checked", kkt["num_variants"]),
        ("largest violation, share of lambda", kkt["violation"]),
        ("tolerance, share of lambda", kkt["tolerance"]),
    ]


def explained(record: Record) -> Section | None:
    """What the chosen variants explain, and all variants with them."""
    found = record.get("explained")
    if not found:
        return None
    names = {"lasso": "effects of the LASSO", "gls": "effects by generalised least squares"}
    columns = ("by", "variance of the chosen", "SE", "their share (h2)", "SE", "h2 of all variants", "SE")
    rows = []
    for which, each in found.items():
        shares = [each[key][part] for key in ("h2_sparse", "h2_total") for part in ("estimate", "se")]
        rows.append((names.get(which, which), each["variance"], each["se"], *shares))
    return Section("What the chosen variants explain", (table(columns, rows),))


def rounds(record: Record) -> Section | None:
    """Rounds of LASSO and REML."""
    found = record.get("history") or ()
    if not found or "kkt_violation" not in found[0]:
        return None
    names = {
        "round": "round", "lambda": "lambda", "lam": "lambda", "support": "variants chosen",
        "num_candidates": "candidates", "ebic": "EBIC", "kkt_violation": "violation", "fit_status": "REML",
        "change": "variances then moved by",
    }  # fmt: skip
    keys = [key for key in names if key in found[0]]
    rows = [[len(row[key]) if key == "support" else row[key] for key in keys] for row in found]
    ended = zip(as_list(record.get("status")), as_list(record.get("message")), strict=True)
    told = "; ".join(f"{name.replace('_', ' ')}: {text}" for name, text in ended)
    return Section("Rounds", (table([names[key] for key in keys], rows), Words(f"The run ended as {told}.")))


def as_list(value: Any) -> list[Any]:
    """A list as it is, and anything else in one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def groups(record: Record) -> Section | None:
    """Groups of variants that were learned, and how the likelihood rose."""
    sizes = record.get("group_sizes")
    if sizes is None:
        return None
    named = record.get("fit", {}).get("components") or ()
    total = float(np.sum(sizes))
    rows = [
        (each["name"], float(size), float(size) / total, each["variance"], each["se"], each["share"])
        for each, size in zip(named, sizes, strict=True)
    ]
    blocks: list[Block] = []
    history = [row for row in record.get("history") or () if "outer" in row]
    if history:
        blocks.append(
            picture(figures.plot_search(history), "how the log-likelihood rose; hollow: steps that were refused")
        )
    names = {
        "num_accepted_updates": "accepted updates of the memberships", "loglik_gain": "log-likelihood gained",
        "loglik_gain_mc_se": "Monte-Carlo error of that",
        "mean_largest_membership": "mean of the largest membership of a variant", "message": "how it ended",
    }  # fmt: skip
    blocks.append(facts([(text, record[key]) for key, text in names.items() if record.get(key) is not None]))
    columns = ("group", "size (sum of memberships)", "share of variants", "variance", "SE", "share of genetic")
    blocks.append(table(columns, rows))
    return Section("Groups of variants", tuple(blocks))


def predictions(record: Record) -> Section | None:
    """Predicted values, how they agree with phenotypes, and which variants were found."""
    found, blocks = record.get("predictions"), []
    if found is not None:
        name = "y_pred" if "y_pred" in found else "random_effect"
        label = "predicted phenotype" if name == "y_pred" else "genetic value"
        values = np.asarray(found[name], np.float64)
        drawn = figures.plot_prediction(values, found.get("y"), label)
        blocks.append(
            picture(drawn, f"{label} of {len(values):,} people" + (", and phenotype" if "y" in found else ""))
        )
    if record.get("accuracy"):
        blocks.append(facts(accuracy_rows(record["accuracy"])))
    return section("Predictions", blocks)


def accuracy_rows(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """An accuracy, with what each number is."""
    return [
        ("people with a phenotype", found["n"]),
        ("correlation of phenotype and prediction", found["correlation"]),
        (f"its {found['level']:.0%} interval", interval_text(found)),
        ("R2 of the predictions as they are", found["r2"]),
        ("R2 of the covariates alone", found["r2_covariates"]),
        ("what the genetic values add to that", found["r2_incremental"]),
        ("slope on the genetic values (1: no bias)", found["slope"]),
    ]


def interval_text(found: Mapping[str, Any]) -> str:
    """The interval of a correlation."""
    known = [found[end] for end in ("lower", "upper")]
    return " to ".join("NA" if value is None or value != value else f"{value:.3f}" for value in known)


def matched(record: Record) -> Section | None:
    """Which variants of the model the genotypes have."""
    found = record.get("variants")
    if not isinstance(found, Mapping) or "in_model" not in found:
        return None
    names = {"in_model": "variants of the model", "matched": "of these found"}
    rows = [(names.get(key, key.replace("_", " ")), value) for key, value in found.items()]
    return Section("Variants of the model", (facts(rows),))


def facts(rows: Sequence[tuple[str, Any]]) -> Block:
    """A table of names and values."""
    return table(("", ""), rows)


def section(title: str, blocks: list[Block]) -> Section | None:
    """A section, or none where there is nothing in it."""
    return Section(title, tuple(blocks)) if blocks else None
