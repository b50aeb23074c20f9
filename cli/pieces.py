"""Pieces of a model: some components of a kind, with what they are."""

from typing import Any, NamedTuple

from gpu_reml.io.model import Scale

ADDITIVE, DOMINANCE, ENVIRONMENT, GROUP = "additive", "dominance", "environment", "group"


class OneKind(NamedTuple):
    """Some components of a kind with what they are, their numbers of variants, and what multiplies all of them."""

    covariance: Any
    descriptions: tuple[str, ...]
    num_variants: tuple[int | None, ...]
    scale: Scale | None = None
    kind: str = ADDITIVE
