"""Innermost loops of :mod:`gpu_reml.ops.cpu_amx`, written as LLVM IR that numba inlines into its kernels.

A tile register holds 16 rows of 64 bytes.  One instruction adds the products of a tile's rows (64 bytes of each) and
another tile's 16 rows of 16 groups of four bytes to 16 rows of 16 sums.  Registers are named by number: 0 to 3 are
sums, 4 and 5 of the left factor, 6 and 7 of the right one, so none is ever moved to memory and back.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .compile import compiled

ROW = 64  # bytes of a tile's row: samples, or variants, that one instruction sums
TILE = 16 * ROW
PAIR = 32  # rows, or columns, of two tiles of sums
STEPS = 16  # instructions in a row for the same sums: the digits that they take, 32 KiB, stay in level-1 cache
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def configuration() -> np.ndarray:
    """(64,) uint8, palette 1: eight tiles of 16 rows of 64 bytes."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32].view(np.uint16)[:] = ROW
    config[48:56] = 16
    return config


@intrinsic
def configure(typing, config):
    """Load this thread's configuration of tiles; nothing for None."""

    def codegen(context, builder, signature, args):
        if config != types.none:
            _call(builder, "ldtilecfg", _address(context, builder, signature, args, 0))
        return context.get_dummy_value()

    return types.void(config), codegen


@intrinsic
def release(typing, config):
    """Give this thread's tiles back, so that the system need not save them when it changes threads."""

    def codegen(context, builder, signature, args):
        if config != types.none:
            _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(config), codegen


@intrinsic(prefer_literal=True)
def add_products(typing, left, left_place, right, right_place, sums, sums_place, count, rows, columns):  # noqa: PLR0913 - scalars stay registers
    """``rows`` x ``columns`` tiles of sums += ``count`` tiles of the left factor times as many of the right one.

    One factor is digits, (steps, vectors, 16, 64) int8: tiles as they lie.  The other is counts, uint32 of four bytes:
    as the left factor (rows, words), as the right one (words, ...), 16 rows of it a tile.  Places are bytes from the
    start of each array; ``rows`` and ``columns``, 1 or 2, are literal numbers.
    """
    height, width = rows.literal_value, columns.literal_value
    instruction = "tdpbsud" if left.dtype == types.int8 else "tdpbusd"

    def codegen(context, builder, signature, args):
        def number(value):
            return value if isinstance(value, ir.Value) else ir.Constant(_I64, value)

        def at(pointer, offset):
            return builder.gep(pointer, [number(offset)])

        def factor(position, counts_next, counts_step):
            """Tiles of a step: the first one's address, bytes between its rows, to the next tile, to the next step."""
            view = context.make_array(signature.args[position])(context, builder, args[position])
            stride = builder.extract_value(view.strides, 0)
            start = at(builder.bitcast(view.data, _I8.as_pointer()), args[position + 1])
            if signature.args[position].dtype == types.int8:
                return start, number(ROW), number(TILE), stride
            sixteen = builder.shl(stride, number(4))
            return start, stride, counts_next or sixteen, counts_step or sixteen

        first, first_row, first_next, first_step = factor(0, None, number(ROW))
        second, second_row, second_next, second_step = factor(2, number(ROW), None)
        totals, totals_row, totals_next, _ = factor(4, None, number(ROW))
        places = [
            (2 * r + c, at(at(totals, builder.mul(totals_next, number(r))), ROW * c))
            for r in range(height)
            for c in range(width)
        ]
        lefts = [at(first, builder.mul(first_next, number(r))) for r in range(height)]
        rights = [at(second, builder.mul(second_next, number(c))) for c in range(width)]
        for register, place in places:
            _call(builder, "tileloadd64", _tile(register), place, totals_row)
        with cgutils.for_range_slice(builder, number(0), args[6], number(1)) as (step, _):
            for r, start in enumerate(lefts):
                _call(builder, "tileloadd64", _tile(4 + r), at(start, builder.mul(step, first_step)), first_row)
            for c, start in enumerate(rights):
                _call(builder, "tileloadd64", _tile(6 + c), at(start, builder.mul(step, second_step)), second_row)
            for register, _ in places:
                r, c = divmod(register, 2)
                _call(builder, instruction, _tile(register), _tile(4 + r), _tile(6 + c))
        for register, place in places:
            _call(builder, "tilestored64", _tile(register), place, totals_row)
        return context.get_dummy_value()

    return types.void(left, left_place, right, right_place, sums, sums_place, count, rows, columns), codegen


@compiled
def multiply_rows(calls, digits, first_step, steps, sums):
    """sums (rows, 16 vectors) += the rows' bytes times the digits of ``steps`` steps; rows: a multiple of PAIR."""
    height, vectors, row = len(calls), digits.shape[1], 4 * sums.shape[1]
    for step in range(0, steps, STEPS):
        count = min(STEPS, steps - step)
        for v in range(0, vectors, 2):
            right = ((first_step + step) * vectors + v) * TILE
            for r in range(0, height, PAIR):
                left, to = r * 4 * calls.shape[1] + step * ROW, r * row + v * ROW
                if v + 1 < vectors:
                    add_products(calls, left, digits, right, sums, to, count, 2, 2)
                else:
                    add_products(calls, left, digits, right, sums, to, count, 2, 1)


@compiled
def multiply_columns(calls, digits, first_step, steps, sums):
    """sums (16 vectors, samples and more) += digits times calls (words, ...): columns in rows, samples across them.

    The samples are a multiple of PAIR.  ``steps`` at most STEPS.
    """
    vectors, row, samples = digits.shape[1], 4 * sums.shape[1], calls.shape[1] * calls.shape[2]
    for v in range(0, vectors, 2):
        left = (first_step * vectors + v) * TILE
        for s in range(0, samples, PAIR):
            to = v * 16 * row + 4 * s
            if v + 1 < vectors:
                add_products(digits, left, calls, 4 * s, sums, to, steps, 2, 2)
            else:
                add_products(digits, left, calls, 4 * s, sums, to, steps, 1, 2)


@compiled
def turn(across, out):
    """out (rows, columns) = the first rows of the transpose of ``across`` (columns, rows and more); multiples of 16."""
    for c in range(0, out.shape[1], 16):
        for r in range(0, out.shape[0], 16):
            _turn_block(across, 4 * (c * across.shape[1] + r), out, 4 * (r * out.shape[1] + c))


@intrinsic
def _turn_block(typing, source, place, out, target):
    """16 x 16 numbers of ``out`` at byte ``target`` = those of ``source`` at byte ``place``, transposed."""

    def codegen(context, builder, signature, args):
        wide = ir.VectorType(_I32, 16)

        def rows(position):
            view = context.make_array(signature.args[position])(context, builder, args[position])
            start = builder.gep(builder.bitcast(view.data, _I8.as_pointer()), [args[position + 1]])
            stride = builder.extract_value(view.strides, 0)
            offsets = [builder.mul(stride, ir.Constant(_I64, r)) for r in range(16)]
            return [builder.bitcast(builder.gep(start, [offset]), wide.as_pointer()) for offset in offsets]

        def mixed(a, b, order):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, 16), order))

        values = [builder.load(place, align=4) for place in rows(0)]
        for d in (1, 2, 4, 8):  # exchanges the blocks of d x d off the diagonal of every 2 d x 2 d
            upper = [j + 16 - d if j & d else j for j in range(16)]
            lower = [j + 16 if j & d else j + d for j in range(16)]
            for i in range(16):
                if not i & d:
                    a, b = values[i], values[i + d]
                    values[i], values[i + d] = mixed(a, b, upper), mixed(a, b, lower)
        for place, value in zip(rows(2), values, strict=True):
            builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(source, place, out, target), codegen


def _tile(number: int) -> ir.Constant:
    return ir.Constant(_I8, number)


def _address(context, builder, signature, args, position):
    view = context.make_array(signature.args[position])(context, builder, args[position])
    return builder.bitcast(view.data, _I8.as_pointer())


def _call(builder, name, *args):
    kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), args)
