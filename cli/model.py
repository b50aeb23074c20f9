"""What is fitted: the genotypes' components, scaled by ancestry or environment, beside relationship matrices, and the
residuals.  Every kind is a value that the estimators take as they take any other."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import sparse

from gpu_reml import io, ops
from gpu_reml.io.model import Scale
from gpu_reml.reml import (
    Covariance,
    MixedCovariance,
    ScaledCovariance,
    with_residuals,
)
from gpu_reml.reml.tables import Sum

from .flags.model import Terms
from .levels import level_pieces, matrix_piece, with_records
from .parts import Parts
from .pieces import ADDITIVE, DOMINANCE, ENVIRONMENT, GROUP, OneKind

RESIDUAL = "residual"


class Assembled(NamedTuple):
    """The covariance to fit, what each of its components is, and how many variants it has (None where it has none).

    ``kinds``: additive, dominance or environment (its interaction with genotypes), for each component.

    ``ancestries``: name -> its components, and their mean ``proportions``.  ``values``: arrays that went into it beside
    the genotypes, which tell one model from another.  ``of_variants``: the components made of the genotypes' own, which
    come first, as they are before whitening; ``scales``: what multiplies each of those, None where nothing does.
    ``notes``: what was noticed in relationship matrices.  ``matrices``: dense ones by their component's name, with the
    rows of the samples.
    """

    covariance: Covariance
    descriptions: tuple[str, ...]
    num_variants: tuple[int | None, ...]
    ancestries: dict[str, tuple[str, ...]]
    proportions: np.ndarray
    values: tuple[np.ndarray, ...]
    kinds: tuple[str, ...]
    of_variants: Covariance | None = None
    scales: tuple[Scale | None, ...] = ()
    notes: tuple[str, ...] = ()
    matrices: Mapping[str, tuple[io.GrmFile, np.ndarray]] = MappingProxyType({})


LABELS = {
    ADDITIVE: ("h2", "additive, narrow sense"),
    DOMINANCE: ("d2", "dominance"),
    ENVIRONMENT: ("gxe", "genotype by environment, beside h2"),
    GROUP: ("groups", "effects of groups, beside h2"),
}


def sums_of(kinds: Sequence[str]) -> tuple[Sum, ...]:
    """What is reported of components of several kinds: a sum of each, and of all; nothing where there is one kind."""
    if len(set(kinds)) < 2 and GROUP not in kinds:
        return ()
    members = {kind: tuple(g for g, own in enumerate(kinds) if own == kind) for kind in LABELS}
    found = [Sum(*LABELS[kind], own) for kind, own in members.items() if own]
    if members[DOMINANCE] and members[ADDITIVE]:
        found.append(Sum("H2", "additive + dominance, broad sense", members[ADDITIVE] + members[DOMINANCE]))
    if members[ENVIRONMENT]:
        found.append(Sum("genetic", "all together", tuple(g for g, kind in enumerate(kinds) if kind != GROUP)))
    return tuple(found)


def plain_model(genetic) -> Assembled:
    """Sets of variants and one residual."""
    counts = tuple(genetic.num_variants)
    described = tuple(f"{count} variants" for count in counts)
    kinds = (ADDITIVE,) * len(counts)
    return Assembled(genetic, described, counts, {}, np.zeros(0), (), kinds, genetic, (None,) * len(counts))


def assemble(base, genotypes: ops.PackedGenotypes | None, parts: Parts, alignment, place, terms: Terms) -> Assembled:
    """The model of the analysed samples.

    base: components of the genotypes, or None for relationship matrices alone.  ``place(genotypes)`` makes products.
    """
    samples, pieces, ancestries, values = alignment.samples, [], {}, []
    proportions, of_variants, scales, notes, matrices = np.zeros(0), None, (), (), {}
    if base is not None:
        pieces, ancestries, proportions, values = genotype_pieces(base, parts, alignment, terms.gxe_scale)
        of_variants, scales = joined(pieces), tuple(piece.scale for piece in pieces for _ in piece.num_variants)
        if terms.dominance:
            pieces.append(dominance_piece(genotypes, base, place, alignment))
    for grm, rows in zip(parts.grms, alignment.indices[len(alignment.indices) - len(parts.grms) :], strict=True):
        piece, matrix, said = matrix_piece(grm, rows)
        notes += said
        values.append(matrix.data if sparse.issparse(matrix) else matrix)
        if not grm.is_sparse:
            matrices[piece.covariance.names[0]] = (grm, rows)
        pieces.append(piece)
    further = level_pieces(parts, samples, records=terms.has_records)
    values += [piece.covariance.Z.indices for piece in further]
    pieces += further
    covariance = joined(pieces)
    diagonals, names = residual_diagonals(parts, samples, terms)
    if names != (RESIDUAL,) or np.ptp(diagonals):
        covariance = with_residuals(covariance, diagonals, names)
        values.append(diagonals)
    return Assembled(
        covariance,
        tuple(text for piece in pieces for text in piece.descriptions),
        tuple(count for piece in pieces for count in piece.num_variants),
        ancestries,
        proportions,
        tuple(values),
        tuple(piece.kind for piece in pieces for _ in piece.num_variants),
        of_variants,
        scales,
        notes,
        matrices,
    )


def joined(pieces: list[OneKind]) -> Covariance:
    """The components of all pieces in their order."""
    if len(pieces) == 1:
        return pieces[0].covariance
    return MixedCovariance([piece.covariance for piece in pieces])


def genotype_pieces(base, parts: Parts, alignment, gxe_scale: str):
    """The genotypes' components as they are or by ancestry, and those by environment."""
    counts, samples = tuple(base.num_variants), alignment.samples
    base = with_records(base, samples)
    told = tuple(f"{count} variants" for count in counts)
    pieces, ancestries, proportions, values = [], {}, np.zeros(0), []
    if parts.admixture is None:
        pieces.append(OneKind(base, told, counts))
    else:
        Q = io.values_of(parts.admixture, samples)
        proportions = Q.mean(axis=0)
        for name, q in zip(parts.admixture.values.columns, Q.T, strict=True):
            if not q.any():
                raise io.InputError(
                    f"{parts.admixture.path}: no analysed sample has any of ancestry {name}; leave its column out"
                )
            names = (name,) if len(counts) == 1 else tuple(f"{name}.{g}" for g in base.names)
            ancestries[name] = names
            scaled = tuple(f"{text}, scaled by the root of ancestry {name} (mean {q.mean():.3f})" for text in told)
            scale = Scale("ancestry", name, root=True)
            pieces.append(OneKind(ScaledCovariance(base, scale.of(q), names), scaled, counts, scale))
            values.append(q)
    if parts.environments is not None:
        E = environments_of(parts, samples, gxe_scale)
        for scale, e in zip(environment_scales(parts, samples, gxe_scale), E.T, strict=True):
            names = tuple(f"{g}_x_{scale.name}" for g in base.names)
            scaled = tuple(f"{text}, scaled by environment {scale.name}" for text in told)
            pieces.append(OneKind(ScaledCovariance(base, e, names), scaled, counts, scale, ENVIRONMENT))
            values.append(e)
    return pieces, ancestries, proportions, values


def dominance_piece(genotypes: ops.PackedGenotypes, base, place, alignment) -> OneKind:
    """One component of all variants in dominance coding."""
    if base.backend != "cpu":
        raise io.InputError("--dominance: is computed on the CPU only; add --device cpu")
    if genotypes.bits != ops.CALL_BITS:
        raise io.InputError("--dominance: deviations are made of calls; leave --dosage out")
    deviations = ops.dominance(genotypes)
    covariance = ops.make_covariance(place(deviations), None, ["dominance"])
    count = covariance.num_variants[0]
    covariance = with_records(covariance, alignment.samples)
    return OneKind(covariance, (f"{count} variants, dominance deviations",), (count,), kind=DOMINANCE)


def environment_scales(parts: Parts, samples, gxe_scale: str) -> tuple[Scale, ...]:
    """How each environment is centred and divided."""
    E, names = io.values_of(parts.environments, samples), parts.environments.values.columns
    flat = np.ptp(E, axis=0) == 0
    if flat.any():
        name = names[int(np.argmax(flat))]
        raise io.InputError(f"{parts.environments.path}: environment {name} is the same for all analysed samples")
    if gxe_scale == "none":
        return tuple(Scale("environment", name) for name in names)
    numbers = zip(names, E.mean(axis=0), E.std(axis=0), strict=True)
    return tuple(Scale("environment", name, float(centre), float(sd)) for name, centre, sd in numbers)


def environments_of(parts: Parts, samples, gxe_scale: str) -> np.ndarray:
    """(n, E) environments of the analysed samples, as they scale components."""
    E = io.values_of(parts.environments, samples)
    scales = environment_scales(parts, samples, gxe_scale)
    return np.column_stack([scale.of(e) for scale, e in zip(scales, E.T, strict=True)])


def residual_diagonals(parts: Parts, samples, terms: Terms) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, J) diagonals of the residuals, and their names."""
    n = len(samples)
    if terms.residual_by_ancestry:
        diagonals = io.values_of(parts.admixture, samples)
        names = [f"residual_{name}" for name in parts.admixture.values.columns]
    elif parts.residual_groups is not None:
        groups = io.values_of(parts.residual_groups, samples)[:, 0]
        levels = sorted(set(groups))
        if 2 * len(levels) > len(groups):
            raise io.InputError(
                f"{terms.residual_groups}: {len(levels)} groups for {len(groups)} samples, so that most have one "
                "sample and no variance of their own; give numbers by --residual-weights, or merge groups"
            )
        diagonals = (groups[:, None] == np.array(levels, dtype=object)).astype(np.float64)
        names = [f"residual_{level}" for level in levels]
    elif parts.residual_weights is not None:
        table = parts.residual_weights
        diagonals = io.values_of(table, samples)
        bad = np.argwhere(diagonals < 0)
        if len(bad):
            row, column = bad[0]
            raise io.InputError(
                f"{table.path}: weight {table.values.columns[column]} of FID {samples['fid'].iloc[row]} IID "
                f"{samples['iid'].iloc[row]} is negative, and a variance cannot be; correct it, or leave the sample out"
            )
        several = diagonals.shape[1] > 1
        names = [f"residual_{name}" for name in table.values.columns] if several else [RESIDUAL]
        if not several and not (diagonals > 0).all():
            raise io.InputError(f"{table.path}: weights of a single residual must be positive; drop the samples at 0")
    else:
        diagonals, names = np.ones((n, 1)), [RESIDUAL]
    if terms.gxe_noise:
        E = environments_of(parts, samples, terms.gxe_scale)
        diagonals = np.column_stack([E**2, diagonals])
        names = [f"noise_{name}" for name in parts.environments.values.columns] + names
    return diagonals, tuple(names)


def ancestry_residuals(model: Assembled, own: bool) -> dict[str, str]:
    """The residual that belongs to each ancestry; ``own``: whether each has its own."""
    return {name: f"residual_{name}" if own else RESIDUAL for name in model.ancestries}


def planned_parts(num_components: int, parts: Parts, terms: Terms) -> tuple[int, int]:
    """(components, diagonals in sample space) of the model made of the genotypes' components.

    Residual diagonals are components but for a single one; each is kept beside those that scale and one that whitens.
    """
    extra = parts.environments.values.shape[1] if terms.gxe_noise else 0
    if terms.residual_by_ancestry:
        extra += parts.admixture.values.shape[1]
    elif parts.residual_groups is not None:
        extra += parts.residual_groups.values.iloc[:, 0].nunique()
    elif parts.residual_weights is not None and parts.residual_weights.values.shape[1] > 1:
        extra += parts.residual_weights.values.shape[1]
    total = num_components * parts.num_scales + len(parts.grms) + terms.dominance + extra
    total += (parts.pedigree is not None) + sum(table.values.shape[1] for table in parts.groups) + terms.has_records
    plain = parts.num_scales == 1 and not extra and parts.admixture is None and parts.residual_weights is None
    return total, 0 if plain else parts.num_scales + 1 + extra
