"""Genotype counts from packed calls in vectors, written as LLVM IR that numba inlines into its kernels."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

COUNTS, NOTES, MASKS = range(3)  # what is decoded: counts, counts with notes of missing calls, or what is missing

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


@intrinsic
def decode_words(typing, packed, place, out, where, vectors, lost, noted, what):  # noqa: PLR0913 - scalars stay registers
    """Counts of ``vectors`` times 16 words of 16 packed genotypes, from byte ``place`` of ``packed`` on.

    Word (t, i) of ``out``, at ``where``'s first + t second + i words, has the counts of genotypes 16 i + {t, 4 + t,
    8 + t, 12 + t} in its bytes, 1 where the call is missing.  ``what`` is COUNTS; MASKS: whether calls are missing,
    in place of counts; or NOTES: words that miss calls are noted, too, in ``lost`` (uint32) from place ``noted`` on: in
    the upper half i and ``where``'s third, in the lower one bit 2 g of genotype g < 8, or 2 g - 15 of g from 8 on.
    Returns the next place.
    """

    def codegen(context, builder, signature, args):
        source = _address(context, builder, signature, args, 0)

        def words(i):
            return _load(builder, source, builder.add(args[1], builder.shl(i, _number(6))), ir.VectorType(_I32, 16))

        out, notes = (_address(context, builder, signature, args, position) for position in (2, 5))
        return _decode(builder, words, out, cgutils.unpack_tuple(builder, args[3]), args[4], notes, args[6:8])

    return types.int64(packed, place, out, where, vectors, lost, noted, what), codegen


@intrinsic
def decode_groups(typing, packed, places, out, where, vectors, lost, noted, what):  # noqa: PLR0913 - scalars stay registers
    """Counts of ``vectors`` times 16 bytes of four variants, whose packed bytes begin at ``places`` of ``packed``.

    As :func:`decode_words`, with the four variants' counts of sample 4 i + t in the bytes of word (t, i), and sample
    4 i + t of variant v as genotype 4 v + t.
    """

    def codegen(context, builder, signature, args):
        source = _address(context, builder, signature, args, 0)
        wide = ir.VectorType(_I32, 16)

        def words(i):
            total = None
            for v, begin in enumerate(cgutils.unpack_tuple(builder, args[1])):
                place = builder.add(begin, builder.shl(i, _number(4)))
                part = builder.zext(_load(builder, source, place, ir.VectorType(_I8, 16)), wide)
                part = builder.shl(part, _splat(8 * v)) if v else part
                total = builder.or_(total, part) if v else part
            return total

        out, notes = (_address(context, builder, signature, args, position) for position in (2, 5))
        return _decode(builder, words, out, cgutils.unpack_tuple(builder, args[3]), args[4], notes, args[6:8])

    return types.int64(packed, places, out, where, vectors, lost, noted, what), codegen


@intrinsic(prefer_literal=True)
def add_rows(typing, values, start, rows, place, count, out, target, vectors):  # noqa: PLR0913 - scalars stay registers
    """out[target : target + 16 vectors] += sum of ``count`` rows of ``values`` (rows, k) int32, from column ``start``.

    Which rows: ``rows`` (uint16) from ``place`` on, counted from the row that ``start`` is in.  ``out`` is int64;
    ``vectors`` is a literal number.
    """
    width = vectors.literal_value

    def codegen(context, builder, signature, args):
        wide, long = ir.VectorType(_I32, 16), ir.VectorType(_I64, 16)

        def part(pointer, size, v):
            return builder.gep(pointer, [_number(size * v)])

        view = context.make_array(signature.args[0])(context, builder, args[0])
        step = builder.extract_value(view.strides, 0)
        source = builder.gep(builder.bitcast(view.data, _I8.as_pointer()), [builder.shl(args[1], _number(2))])
        places = builder.gep(_address(context, builder, signature, args, 2), [builder.shl(args[3], _number(1))])
        total = builder.gep(_address(context, builder, signature, args, 5), [builder.shl(args[6], _number(3))])
        sums = [builder.bitcast(part(total, 128, v), long.as_pointer()) for v in range(width)]
        slots = [cgutils.alloca_once_value(builder, builder.load(pointer, align=8)) for pointer in sums]
        with cgutils.for_range_slice(builder, _number(0), args[4], _number(1)) as (i, _):
            place = builder.gep(places, [builder.shl(i, _number(1))])
            row = builder.zext(builder.load(builder.bitcast(place, _I16.as_pointer())), _I64)
            row = builder.gep(source, [builder.mul(row, step)])
            for v, slot in enumerate(slots):
                numbers = builder.load(builder.bitcast(part(row, 64, v), wide.as_pointer()), align=4)
                builder.store(builder.add(builder.load(slot), builder.sext(numbers, long)), slot)
        for pointer, slot in zip(sums, slots, strict=True):
            builder.store(builder.load(slot), pointer, align=8)
        return context.get_dummy_value()

    return types.void(values, start, rows, place, count, out, target, vectors), codegen


@intrinsic
def lowest_bit(typing, word):
    """The place of the lowest bit that is 1 of a number; 64 for 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(word), codegen


def _decode(builder, words, out, where, vectors, notes, how):
    """The loop of both: what 16 two-bit codes a lane stand for, two bits of every byte at a time."""
    wide = ir.VectorType(_I32, 16)
    target, step, first = where
    noted, what = how
    masks = _spread(builder, builder.sext(builder.icmp_signed("==", what, _number(MASKS)), _I32))
    next_note = cgutils.alloca_once_value(builder, noted)
    with cgutils.for_range_slice(builder, _number(0), vectors, _number(1)) as (i, _):
        codes = builder.not_(words(i))
        low = builder.and_(codes, _splat(0x55555555))
        high = builder.and_(builder.lshr(codes, _splat(1)), _splat(0x55555555))
        missing = builder.and_(high, builder.not_(low))
        counts = builder.add(low, high)  # code 00 is two copies, 01 missing, 10 one copy, 11 none
        values = builder.or_(builder.and_(masks, missing), builder.and_(builder.not_(masks), counts))
        for t in range(4):
            part = builder.and_(builder.lshr(values, _splat(2 * t)) if t else values, _splat(0x03030303))
            place = builder.add(builder.add(target, builder.mul(step, _number(t))), builder.shl(i, _number(4)))
            pointer = builder.gep(out, [builder.shl(place, _number(2))])
            builder.store(part, builder.bitcast(pointer, wide.as_pointer()), align=4)
        with builder.if_then(builder.icmp_signed("==", what, _number(NOTES))):
            bits = builder.and_(builder.or_(missing, builder.lshr(missing, _splat(15))), _splat(0xFFFF))
            start = builder.trunc(builder.shl(builder.add(first, builder.shl(i, _number(4))), _number(16)), _I32)
            lanes = builder.add(ir.Constant(wide, [lane << 16 for lane in range(16)]), _spread(builder, start))
            is_lost = builder.icmp_unsigned("!=", missing, _splat(0))
            entries = _compress(builder, builder.or_(bits, lanes), is_lost)
            place = builder.gep(notes, [builder.shl(builder.load(next_note), _number(2))])
            builder.store(entries, builder.bitcast(place, wide.as_pointer()), align=4)
            more = builder.zext(builder.ctpop(builder.bitcast(is_lost, _I16)), _I64)
            builder.store(builder.add(builder.load(next_note), more), next_note)
    return builder.load(next_note)


def _compress(builder, values, mask):
    """The lanes of ``values`` whose ``mask`` is set, one after another."""
    kind = ir.FunctionType(values.type, [values.type, mask.type, values.type])
    name = "llvm.experimental.vector.compress.v16i32"
    call = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(call, [values, mask, ir.Constant(values.type, ir.Undefined)])


def _spread(builder, number):
    """A number in every lane."""
    wide = ir.VectorType(_I32, 16)
    undefined = ir.Constant(wide, ir.Undefined)
    single = builder.insert_element(undefined, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(wide, [0] * 16))


def _number(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _splat(value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, 16), [value] * 16)


def _address(context, builder, signature, args, position):
    view = context.make_array(signature.args[position])(context, builder, args[position])
    return builder.bitcast(view.data, _I8.as_pointer())


def _load(builder, source, place, kind):
    return builder.load(builder.bitcast(builder.gep(source, [place]), kind.as_pointer()), align=1)
