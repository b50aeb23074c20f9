"""Innermost loops of :mod:`gpu_reml.ops.cpu_vnni`, written as LLVM IR that numba inlines into its kernels."""

from functools import cache

from llvmlite import ir
from numba.core import cgutils, registry, types
from numba.extending import intrinsic

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


@intrinsic
def decode_words(typing, packed, place, out, target, step, vectors):
    """Counts of ``vectors`` times 16 words of 16 packed genotypes, from byte ``place`` of ``packed`` on.

    Word (t, i) of ``out``, at ``target + t step + i`` words, has the counts of genotypes 16 i + {t, 4 + t, 8 + t,
    12 + t} in its bytes.  Returns what is not 0 where a call is missing.
    """

    def codegen(context, builder, signature, args):
        source = _address(context, builder, signature, args, 0)

        def words(i):
            return _load(builder, source, builder.add(args[1], builder.shl(i, _number(6))), ir.VectorType(_I32, 16))

        return _decode(builder, words, _address(context, builder, signature, args, 2), args[3], args[4], args[5])

    return types.uint32(packed, place, out, target, step, vectors), codegen


@intrinsic
def decode_groups(typing, packed, a, b, c, d, out, target, step, vectors):  # noqa: PLR0913 - scalars stay registers
    """Counts of ``vectors`` times 16 bytes of four variants, whose packed bytes begin at a, b, c and d of ``packed``.

    Word (t, i) of ``out``, at ``target + t step + i`` words, has the four variants' counts of sample 4 i + t in its
    bytes.  Returns what is not 0 where a call is missing.
    """

    def codegen(context, builder, signature, args):
        source = _address(context, builder, signature, args, 0)
        wide = ir.VectorType(_I32, 16)

        def words(i):
            total = None
            for v, begin in enumerate(args[1:5]):
                place = builder.add(begin, builder.shl(i, _number(4)))
                part = builder.zext(_load(builder, source, place, ir.VectorType(_I8, 16)), wide)
                part = builder.shl(part, _splat(8 * v)) if v else part
                total = builder.or_(total, part) if v else part
            return total

        return _decode(builder, words, _address(context, builder, signature, args, 5), args[6], args[7], args[8])

    return types.uint32(packed, a, b, c, d, out, target, step, vectors), codegen


@intrinsic
def word_at(typing, packed, place):
    """The eight bytes of ``packed`` from byte ``place`` on, as one number."""

    def codegen(context, builder, signature, args):
        return _load(builder, _address(context, builder, signature, args, 0), args[1], _I64)

    return types.uint64(packed, place), codegen


@intrinsic
def lowest_bit(typing, word):
    """The place of the lowest bit that is 1 of a number other than 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(word), codegen


def _decode(builder, words, out, target, step, vectors):
    """The loop of both: counts of 16 two-bit codes a lane, two bits of every byte at a time."""
    wide = ir.VectorType(_I32, 16)
    lost = cgutils.alloca_once_value(builder, _splat(0))
    with cgutils.for_range_slice(builder, _number(0), vectors, _number(1)) as (i, _):
        codes = words(i)
        low = builder.and_(codes, _splat(0x55555555))
        high = builder.and_(builder.lshr(codes, _splat(1)), _splat(0x55555555))
        builder.store(builder.or_(builder.load(lost), builder.and_(low, builder.not_(high))), lost)
        two = builder.and_(builder.not_(builder.or_(low, high)), _splat(0x55555555))
        counts = builder.or_(builder.and_(high, builder.not_(low)), builder.shl(two, _splat(1)))
        for t in range(4):
            part = builder.and_(builder.lshr(counts, _splat(2 * t)) if t else counts, _splat(0x03030303))
            place = builder.add(builder.add(target, builder.mul(step, _number(t))), builder.shl(i, _number(4)))
            pointer = builder.gep(out, [builder.shl(place, _number(2))])
            builder.store(part, builder.bitcast(pointer, wide.as_pointer()), align=4)
    total, lanes_left = builder.load(lost), 16
    while lanes_left > 1:
        lanes_left //= 2
        halves = [ir.Constant(ir.VectorType(_I32, lanes_left), list(range(h, h + lanes_left))) for h in (0, lanes_left)]
        undefined = ir.Constant(total.type, ir.Undefined)
        total = builder.or_(*(builder.shuffle_vector(total, undefined, half) for half in halves))
    return builder.extract_element(total, ir.Constant(_I32, 0))


def _number(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _splat(value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, 16), [value] * 16)


def _address(context, builder, signature, args, position):
    view = context.make_array(signature.args[position])(context, builder, args[position])
    return builder.bitcast(view.data, _I8.as_pointer())


def _load(builder, source, place, kind):
    return builder.load(builder.bitcast(builder.gep(source, [place]), kind.as_pointer()), align=1)
