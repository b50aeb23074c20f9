"""Kinds of pages: by which key a record is known, its title, what stands at the top, and its sections."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from . import sections as of_fits
from . import studies
from .blocks import Section, shown
from .sections import METHODS, Record

Line = tuple[str, str]  # a number, and what it is
Make = Callable[[Record], Section | None]


class Kind(NamedTuple):
    """A kind of page.  ``keys``: one of them is in the record; ``title`` has the phenotype in it, ``untitled`` not;
    ``headline``: the few numbers at the top; ``makers``: sections between the warnings and how it was computed."""

    keys: tuple[str, ...]
    title: str
    untitled: str
    headline: Callable[[Record], list[Line]]
    makers: tuple[Make, ...]


def kind_of(record: Record) -> Kind:
    """The kind of a record; what has no key of another is a fit."""
    return next((kind for kind in KINDS if any(key in record for key in kind.keys)), FIT)


def title_of(record: Record) -> str:
    """What the page is about."""
    if record.get("title"):
        return str(record["title"])
    kind = kind_of(record)
    if record.get("traits"):
        return f"{kind.untitled} of {len(record['traits'])} phenotypes"
    return f"{kind.title} {record['phenotype']}" if record.get("phenotype") else kind.untitled


def headline_of(record: Record) -> list[Line]:
    """The few numbers that stand at the top: each with what it is."""
    return [*kind_of(record).headline(record), *counts(record), *ended(record)]


def sections_of(record: Record) -> list[Section]:
    """The sections of which the record has something."""
    made = (make(record) for make in (*FIRST, *kind_of(record).makers, *LAST))
    return [section for section in made if section is not None]


def counts(record: Record) -> list[Line]:
    """Samples and variants."""
    samples = record.get("samples") or {}
    people = samples.get("analysed", samples.get("predicted", record.get("n")))
    out = [(shown(people), "samples")] if isinstance(people, int) else []
    variants = of_fits.variants_of(record)
    return [*out, (shown(variants), "variants")] if variants else out


def ended(record: Record) -> list[Line]:
    """Whether it converged, and the method."""
    if record.get("converged") is None:
        return []
    method = str(record.get("method", ""))
    return [("converged" if record["converged"] else "not converged", METHODS.get(method, method))]


def of_heritability(record: Record) -> list[Line]:
    """h2 and its interval."""
    out, h2 = [], record.get("h2")
    if isinstance(h2, Mapping):
        out.append((f"h2 = {h2['estimate']:.3f}", error_text(h2["se"])))
    if record.get("h2_profile"):
        ends = [shown(record["h2_profile"][key]) for key in ("lower", "upper")]
        out.append((" to ".join(ends), "95 % profile-likelihood interval"))
    return out


def error_text(se: Any) -> str:
    """A standard error, or that it is not known."""
    return "SE unknown" if se is None or se != se else f"SE {se:.3f}"


def of_tests(record: Record) -> list[Line]:
    """Inflation, and how many variants pass."""
    told = dict(studies.tested(record))
    hits = told.get("variants with p <= 5e-8")
    out = [(f"{told['lambda GC']:.3f}", "lambda GC")] if told.get("lambda GC") is not None else []
    return out if hits is None else [*out, (shown(hits), "variants with p <= 5e-8")]


def of_chosen(record: Record) -> list[Line]:
    """How many variants, and h2 with them."""
    return [
        (shown(record["support_size"]), "variants chosen"),
        (f"h2 = {record['h2']:.3f}", f"{error_text(record['h2_se'])}, of the chosen and all others"),
    ]


def of_groups(record: Record) -> list[Line]:
    """h2 of all groups, and what the search gained."""
    gain = (shown(record["loglik_gain"]), "log-likelihood gained")
    return [*of_heritability(record["fit"]), (shown(len(record["group_sizes"])), "groups"), gain]


def of_accuracy(record: Record) -> list[Line]:
    """The correlation, where phenotypes are known."""
    found = record.get("accuracy")
    if not found:
        return []
    return [(f"r = {shown(found['correlation'])}", f"{found['level']:.0%} interval {studies.interval_text(found)}")]


def beside_chosen(record: Record) -> Section | None:
    """Variance components of everything but the chosen variants."""
    made = of_fits.components(record.get("fit") or {})
    return None if made is None else replace(made, title="Variance components beside the chosen variants")


def of_last_fit(record: Record) -> Section | None:
    """Variance components of the groups."""
    return of_fits.components(record.get("fit") or {})


FIRST: tuple[Make, ...] = (of_fits.warnings, of_fits.diagnoses)
LAST: tuple[Make, ...] = (of_fits.data, of_fits.fixed, of_fits.asked, of_fits.provenance)
FIT = Kind(
    ("components",), "Heritability of", "Heritability", of_heritability,
    (of_fits.components, of_fits.shares, of_fits.tests, of_fits.profiles, of_fits.convergence, of_fits.cohort),
)  # fmt: skip
KINDS = (
    Kind(
        ("pairs",), "Genetic correlations of", "Genetic correlations", of_heritability,
        (of_fits.components, of_fits.correlations, of_fits.convergence, of_fits.cohort),
    ),
    Kind(
        ("tests", "lambda_gc"), "Association with", "Association", of_tests,
        (studies.association, studies.null_model),
    ),
    Kind(
        ("explained",), "Variants of large effect on", "Variants of large effect", of_chosen,
        (studies.chosen, studies.explained, beside_chosen, studies.rounds),
    ),
    Kind(("group_sizes",), "Groups of variants for", "Groups of variants", of_groups, (studies.groups, of_last_fit)),
    Kind(
        ("accuracy", "predictions"), "Prediction of", "Prediction", of_accuracy,
        (studies.predictions, studies.matched),
    ),
)  # fmt: skip
