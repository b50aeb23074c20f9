"""Tests of components: Wald's of each, of all and of sets, and likelihood ratios beside them."""

from collections.abc import Sequence
from typing import Any

from gpu_reml import io
from gpu_reml.reml import FitResult, Wald, wald_test

from .flags.estimation import Tests

RATIO = ("lrt", "lrt_mc_se", "lrt_df", "lrt_p_of_zero", "lrt_p")


def sets_of(tests: Tests, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Sets of components that are tested together: those of ``--joint-test``, then that of ``--lrt``.

    Raises InputError for a component that the model has not, or one twice.
    """
    found = [(f"--joint-test {text}", text.split(",")) for text in tests.joint_test]
    if tests.lrt:
        found.append((f"--lrt {' '.join(tests.lrt)}", [named(each, names) for each in tests.lrt]))
    for flag, tested in found:
        unknown = [name for name in tested if name not in names]
        if unknown:
            raise io.InputError(f"{flag}: no component {unknown[0]!r}; there are {', '.join(names)}")
        if len(set(tested)) < len(tested):
            raise io.InputError(f"{flag}: a component is named more than once; name each once")
    return list(dict.fromkeys(tuple(tested) for _, tested in found))


def named(word: str, names: Sequence[str]) -> str:
    """The name of a component that is given by its name or, as GCTA does, by its number from 1."""
    if word in names or not word.isdecimal() or not 1 <= int(word) <= len(names):
        return word
    return names[int(word) - 1]


def ratio_sets(tests: Tests, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """What ``FitSettings.lrt`` is to be; that of all components comes with every fit."""
    if tests.lrt is None:
        return ()
    together = [each for each in sets_of(tests, names) if len(each) < len(names)]
    return tuple(dict.fromkeys([*((name,) for name in names), *together]))


def component_tests(result: FitResult, sets: Sequence[Sequence[str]]) -> list[dict[str, Any]] | None:
    """Tests of each component alone, of all genetic ones together, and of the sets asked for; None for one."""
    if len(result.names) == 1:
        return None
    rows = [(name, (name,)) for name in result.names]
    rows += [("all", result.names), *((",".join(each), tuple(each)) for each in sets)]
    return [
        {
            "test": label,
            "components": ",".join(names),
            **wald_record(wald_test(result, names)),
            **ratio_record(result, names),
        }
        for label, names in rows
    ]


def wald_record(test: Wald) -> dict[str, float]:
    """Numbers of a joint test; ``p``: of the mixture that bounded variances have, ``p_conditional``: of chi-square
    with as many degrees of freedom as components are off their bound."""
    return {"statistic": test.statistic, "df": test.df, "p": test.p_mixture, "p_conditional": test.p}


def ratio_record(result: FitResult, names: Sequence[str]) -> dict[str, float]:
    """Numbers of the likelihood ratio against the model without these components; nothing where none is asked for."""
    if not result.ratio_tests:
        return {}
    if len(names) == len(result.names):
        lrt = result.lrt
        return dict(zip(RATIO, (lrt.statistic, lrt.mc_se, lrt.df, float(lrt.weights[0]), lrt.p), strict=True))
    (test,) = (test for test in result.ratio_tests if test.components == tuple(names))
    return dict(zip(RATIO, test[1:], strict=True))
