"""Innermost loops of :mod:`gpu_reml.ops.cpu_vnni`, written as LLVM IR that numba inlines into its kernels."""

from functools import cache

from llvmlite import ir
from numba.core import cgutils, registry, types
from numba.extending import intrinsic

from .compile import compiled

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@cache
def lanes() -> int:
    """32-bit lanes of the widest ``vpdpbusd`` of the processor that numba compiles for; 0 where it has none."""
    features = registry.cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    if "+avx512vnni" in features and "+avx512bw" in features:
        return 16
    return 8 if "+avxvnni" in features and "+avx2" in features else 0


# Rows of a register tile by its vectors: accumulators, a row of digits and a broadcast word fill 32 registers, or 16.
ROWS = {1: 24, 2: 12, 3: 8, 4: 6} if lanes() == 16 else {1: 12, 2: 6, 3: 4, 4: 3}
MOST_VECTORS = 4 if lanes() == 16 else 3
STEP = 128  # groups of four products between loads of the accumulators: their digits stay in level-1 cache
ROWS_1, ROWS_2, ROWS_3, ROWS_4 = (ROWS[vectors] for vectors in (1, 2, 3, 4))


@intrinsic(prefer_literal=True)
def dot(  # noqa: PLR0913 - scalars stay registers
    typing, tile, left, row_step, group_step, digits, right, digit_step, sums, target, sums_step, count, rows, vectors
):
    """sums[rows, vectors] += sum over ``count`` groups of a row's word (four bytes) times the digits of each lane.

    All offsets and steps are in bytes: word g of row r is at ``left + r row_step + g group_step`` of ``tile``, the
    vectors of group g at ``right + g digit_step`` of ``digits``, the sums of row r at ``target + r sums_step``.
    ``rows`` and ``vectors`` are literal numbers.
    """
    height, width = rows.literal_value, vectors.literal_value

    def codegen(context, builder, signature, args):
        wide = ir.VectorType(_I32, lanes())
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes()}"
        multiply = cgutils.get_or_insert_function(builder.module, ir.FunctionType(wide, [wide] * 3), name)

        def start(position, offset):
            view = context.make_array(signature.args[position])(context, builder, args[position])
            return builder.gep(builder.bitcast(view.data, _I8.as_pointer()), [args[offset]])

        def at(pointer, offset):
            offset = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
            return builder.gep(pointer, [offset])

        def load(kind, pointer):
            return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4)

        words, numbers, totals = start(0, 1), start(4, 5), start(7, 8)
        row_step, group_step, digit_step, sums_step, count = args[2], args[3], args[6], args[9], args[10]
        row_starts = [at(words, builder.mul(row_step, ir.Constant(_I64, r))) for r in range(height)]
        columns = [ir.Constant(_I64, 4 * lanes() * v) for v in range(width)]
        row_totals = [at(totals, builder.mul(sums_step, ir.Constant(_I64, r))) for r in range(height)]
        places = [[at(row, column) for column in columns] for row in row_totals]
        slots = [[cgutils.alloca_once(builder, wide) for _ in range(width)] for _ in range(height)]
        for r in range(height):
            for v in range(width):
                builder.store(load(wide, places[r][v]), slots[r][v])
        zero = ir.Constant(_I32, 0)
        undefined = ir.Constant(wide, ir.Undefined)
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), count, ir.Constant(_I64, 1)) as (g, _):
            base = at(numbers, builder.mul(g, digit_step))
            right = [load(wide, at(base, 4 * lanes() * v)) for v in range(width)]
            offset = builder.mul(g, group_step)
            for r in range(height):
                word = builder.insert_element(undefined, load(_I32, at(row_starts[r], offset)), zero)
                word = builder.shuffle_vector(word, undefined, ir.Constant(ir.VectorType(_I32, lanes()), [0] * lanes()))
                for v in range(width):
                    total = builder.call(multiply, [builder.load(slots[r][v]), word, right[v]])
                    builder.store(total, slots[r][v])
        for r in range(height):
            for v in range(width):
                builder.store(builder.load(slots[r][v]), builder.bitcast(places[r][v], wide.as_pointer()), align=4)
        return context.get_dummy_value()

    signature = types.void(
        tile, left, row_step, group_step, digits, right, digit_step, sums, target, sums_step, count, rows, vectors
    )
    return signature, codegen


@compiled
def multiply(tile, row_step, group_step, height, digits, first_group, groups, sums):
    """sums (height, vectors lanes) += words of the tile times digits[first_group : first_group + groups].

    Word g of row r is ``row_step`` r + ``group_step`` g bytes from the tile's start.
    """
    vectors, num_lanes = digits.shape[1], digits.shape[2]
    step = 4 * num_lanes * vectors
    blocks = (vectors + MOST_VECTORS - 1) // MOST_VECTORS
    for block in range(blocks):
        v, stop = vectors * block // blocks, vectors * (block + 1) // blocks
        for g in range(0, groups, STEP):
            count, left = min(STEP, groups - g), g * group_step
            right, target = (first_group + g) * step + 4 * num_lanes * v, 4 * num_lanes * v
            if stop - v == 4:
                for r in range(0, height, ROWS_4):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_4, 4)
            elif stop - v == 3:
                for r in range(0, height, ROWS_3):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_3, 3)
            elif stop - v == 2:
                for r in range(0, height, ROWS_2):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_2, 2)
            else:
                for r in range(0, height, ROWS_1):
                    to, of = target + r * step, left + r * row_step
                    dot(tile, of, row_step, group_step, digits, right, step, sums, to, step, count, ROWS_1, 1)
