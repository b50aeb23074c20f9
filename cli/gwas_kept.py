"""What a scan keeps on disk until it is done, and what must be the same for it to be of use."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_reml.io.documents import digest

from .flags.association import SCORE_FLAGS
from .gwas_asked import Asked
from .inputs import Inputs
from .journal import Journal, remove_checkpoints
from .methods import fingerprint
from .outputs import safe_name

KINDS = NULLS_OF, SHARED, TESTS_OF = "nulls", "shared-fits", "tests"  # in the names of checkpoints


def journal_of(inputs: Inputs, asked: Asked, kind: str = TESTS_OF, rests_on: Sequence[np.ndarray] = ()) -> Journal:
    """What is kept of the scan of some traits; ``rests_on``: what it is made from besides the inputs."""

    def identity() -> dict[str, Any]:
        flags = {name: getattr(asked.association, name) for name in ("model", "solver", *SCORE_FLAGS)}
        return {**fingerprint(inputs, inputs.Y, asked.analysis), **flags, "null models": digest(*rests_on)}

    journal = Journal(journal_stem(asked.output.out, inputs.phenotypes[0], kind), identity, asked.checkpoints)
    if asked.checkpoints.resume:
        found = f"{journal.resumed} steps are there" if journal.resumed else "nothing is there, from the start"
        asked.say(f"resuming {kind} of {', '.join(inputs.phenotypes)}: {found}", flush=True)
    return journal


def journal_stem(out: str, trait: str, kind: str) -> str:
    """Where the names of checkpoints begin."""
    return f"{out}.{safe_name(trait)}.{kind}"


def remove_journals(out: str, traits: Sequence[str]) -> None:
    """The checkpoints of a scan that is done go."""
    for name in traits:
        for kind in KINDS:
            remove_checkpoints(journal_stem(out, name, kind))
