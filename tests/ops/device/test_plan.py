"""The device plan: arithmetic of what is kept where."""

import pytest

from gpu_reml.ops.device.plan import BudgetError, Choice, Shape, make_plan
from gpu_reml.ops.device.pool import size_class
from gpu_reml.ops.device.store import rows_at_once

MIB = 2**20
# 8,000 samples: rows of 2,048 bytes, 128 KiB for 64 variants; 100 MiB and 20 MiB of genotypes
SHAPE = Shape(8000, (51200, 10240), 64, 64, 3 * MIB)


CHOICES = [Choice(200, None), Choice(50, None), Choice(50, 50), Choice(50, 25)]


def workspace(columns, basis, piece_bytes):
    return {"solves": (columns or 100) * MIB // 10, "basis": basis * MIB // 10}


def plan(budget, choices=CHOICES, ring_depth=0):
    return make_plan(SHAPE, workspace, choices, int(budget * MIB), ring_depth)


def test_everything_is_resident_when_it_fits():
    found = plan(200)
    assert (found.genotypes, found.ring, found.basis, found.columns) == (120 * MIB, 0, 200, None)
    assert found.peak == 120 * MIB + 3 * MIB + 20 * MIB
    assert found.residency.resident_bytes is None


def test_the_peak_counts_the_largest_phase_only():
    assert plan(200).phases == {"solves": 10 * MIB, "basis": 20 * MIB}
    assert plan(200).peak == plan(143).peak


@pytest.mark.parametrize("budget", [142, 130, 120, 100])
def test_what_does_not_fit_streams_and_the_rest_stays(budget):
    found = plan(budget)
    assert found.basis == 200 and found.columns is None and found.ring > 0
    assert found.residency.resident_bytes == found.genotypes < 120 * MIB
    assert found.peak <= budget * MIB
    assert (
        found.peak + found.residency.piece_bytes > budget * MIB
        or found.genotypes + found.residency.piece_bytes >= 120 * MIB
    )


def test_no_plan_passes_its_budget_and_less_room_never_means_a_larger_basis():
    bases = []
    for budget in range(200, 4, -1):
        try:
            found = plan(budget)
        except BudgetError:
            break
        assert found.peak <= budget * MIB
        bases.append(found.basis)
    assert bases == sorted(bases, reverse=True) and set(bases) == {200, 50}


def test_the_choices_are_taken_in_their_order():
    found = [plan(budget) for budget in (200, 24, 17, 13)]
    assert [(p.columns, p.basis) for p in found] == [(None, 200), (None, 50), (50, 50), (50, 50)]


def test_the_smallest_budget_is_named_and_is_enough():
    with pytest.raises(BudgetError, match="cannot hold this analysis in any way") as refused:
        plan(2)
    least = float(str(refused.value).split("the least budget in GiB that can is ")[1].split(";")[0])
    assert plan(least * 1024).peak <= least * 2**30
    with pytest.raises(BudgetError):
        plan(least * 1024 - 0.01)


def test_a_ring_depth_that_is_asked_for_is_taken():
    assert plan(100, ring_depth=7).residency.ring_depth == 7
    assert plan(100).residency.ring_depth == 3


def test_pieces_are_counted_as_they_are_allocated():
    sizes = SHAPE.pieces(16 * MIB)
    assert sizes == [(16 * MIB, 6), (4 * MIB, 1), (16 * MIB, 1), (4 * MIB, 1)]
    assert Shape(8000, (1,), 64, 64, 0).pieces(MIB) == [(size_class(64 * 2048), 1)]


def test_the_plan_reads_as_a_table():
    text = "\n".join(plan(100).lines())
    assert text.startswith("device memory at most ") and "streamed in part, ring of 3" in text
    assert "phase basis" in text and "genotypes resident" in text
    assert "resident" in plan(200).lines()[0]


@pytest.mark.parametrize(("piece_bytes", "rows"), [(1, 64), (64 * 63, 64), (64 * 200, 192), (64 * 9000, 8192)])
def test_pieces_hold_whole_chunks_where_they_have_room_for_one(piece_bytes, rows):
    """So that sums do not depend on the size of pieces."""
    assert rows_at_once(piece_bytes, 64, 64) == rows
    (size, _), *_ = Shape(256, (20_000,), 64, 64, 0).pieces(piece_bytes)
    assert size == size_class(64 * rows)
