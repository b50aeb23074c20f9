"""The groups of a whole analysis."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from .components import Components
from .compute import Compute
from .data import Genotypes, Samples
from .estimation import Estimation, Tests
from .filters import Filters
from .group import Flags
from .model import Scaling, Terms
from .smile import Smile
from .workers import Workers


class Analysis(NamedTuple):
    """What is read, modelled and estimated, and on what, by every command that fits."""

    genotypes: Genotypes = Genotypes()
    samples: Samples = Samples()
    filters: Filters = Filters()
    components: Components = Components()
    smile: Smile = Smile()
    terms: Terms = Terms()
    scaling: Scaling = Scaling()
    estimation: Estimation = Estimation()
    tests: Tests = Tests()
    compute: Compute = Compute()
    workers: Workers = Workers()

    @classmethod
    def of(cls, values: Mapping[str, Any], **given: Flags) -> Self:
        """The groups as parsed, but those that are ``given`` as they are."""
        usual = {name: group for name, group in cls._field_defaults.items() if name not in given}
        return cls(**{name: group.of(values) for name, group in usual.items()}, **given)
