"""Genotype counts from packed calls in vectors, written as LLVM IR that numba inlines into its kernels."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


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
