"""Bytes of dosages in vectors, laid out as :mod:`gpu_reml.ops.cpu_decode` lays out calls, for the same products."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

VECTOR = 64  # dosages that are decoded at once
_I8, _I64 = ir.IntType(8), ir.IntType(64)
_WORDS = [16 * i + 4 * b + t for t in range(4) for i in range(4) for b in range(4)]


@intrinsic
def dosage_words(typing, items, place, out, where, vectors, fill, kind, masks):  # noqa: PLR0913 - scalars stay registers
    """Bytes of ``vectors`` times 64 dosages from item ``place`` on, in the order of ``decode_words``.

    Word (t, i) of ``out``, at ``where``'s first + t second + i words, has samples 16 i + {t, 4 + t, 8 + t, 12 + t}.
    ``kind``: (shift, missing), of the codes' bits the lowest that is taken and the code of a missing dosage, which is
    taken as ``fill``.  ``masks``: whether dosages are missing, in place of them.
    """

    def codegen(context, builder, signature, args):
        emit = _DosageEmitter(context, builder, signature, args, kind=args[6], masks=args[7])
        target, step = cgutils.unpack_tuple(builder, args[3])
        with cgutils.for_range_slice(builder, _number(0), args[4], _number(1)) as (v, _):
            place = builder.add(args[1], builder.shl(v, _number(6)))
            ordered = _shuffle(builder, emit.bytes(place, args[5]), _WORDS)
            for t in range(4):
                word = builder.add(builder.add(target, builder.mul(step, _number(t))), builder.shl(v, _number(2)))
                part = _shuffle(builder, ordered, list(range(16 * t, 16 * t + 16)))
                emit.store(part, word)
        return context.get_dummy_value()

    return types.void(items, place, out, where, vectors, fill, kind, masks), codegen


@intrinsic
def dosage_groups(typing, items, places, out, where, vectors, fills, kind, masks):  # noqa: PLR0913 - scalars stay registers
    """Bytes of ``vectors`` times 64 dosages of four variants, which begin at ``places`` of ``items``.

    Word i of ``out`` from ``where`` on has the four variants' bytes of sample i; the rest as :func:`dosage_words`.
    """

    def codegen(context, builder, signature, args):
        emit = _DosageEmitter(context, builder, signature, args, kind=args[6], masks=args[7])
        begins, filled = (cgutils.unpack_tuple(builder, args[position]) for position in (1, 5))
        with cgutils.for_range_slice(builder, _number(0), args[4], _number(1)) as (v, _):
            offset = builder.shl(v, _number(6))
            rows = [emit.bytes(builder.add(begin, offset), fill) for begin, fill in zip(begins, filled, strict=True)]
            pairs = [_interleaved(builder, *rows[:2]), _interleaved(builder, *rows[2:])]
            halves = [builder.bitcast(pair, ir.VectorType(ir.IntType(16), VECTOR)) for pair in pairs]
            emit.store(_interleaved(builder, *halves), builder.add(args[3], offset))
        return context.get_dummy_value()

    return types.void(items, places, out, where, vectors, fills, kind, masks), codegen


class _DosageEmitter:
    """Loads of 64 dosages and stores of words."""

    def __init__(self, context, builder, signature, args, kind, masks):
        self.builder, self.masks = builder, builder.icmp_unsigned("!=", masks, ir.Constant(masks.type, 0))
        self.source, self.target = (
            builder.bitcast(context.make_array(signature.args[i])(context, builder, args[i]).data, _I8.as_pointer())
            for i in (0, 2)
        )
        self.bits = signature.args[0].dtype.bitwidth
        shift, missing = cgutils.unpack_tuple(builder, kind)
        self.shift, self.missing = self._all(shift, self.bits), self._all(missing, self.bits)

    def bytes(self, place, fill):
        """(64 bytes) of the dosages from item ``place`` on."""
        builder = self.builder
        pointer = builder.gep(self.source, [builder.mul(place, _number(self.bits // 8))])
        wide = ir.VectorType(ir.IntType(self.bits), VECTOR)
        codes = builder.load(builder.bitcast(pointer, wide.as_pointer()), align=1)
        is_missing = builder.icmp_unsigned("==", codes, self.missing)
        found = codes if self.bits == 8 else builder.trunc(builder.lshr(codes, self.shift), ir.VectorType(_I8, VECTOR))
        values = builder.select(is_missing, self._all(fill, 8), found)
        return builder.select(self.masks, builder.zext(is_missing, ir.VectorType(_I8, VECTOR)), values)

    def store(self, value, word):
        pointer = self.builder.gep(self.target, [self.builder.shl(word, _number(2))])
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=4)

    def _all(self, number, bits):
        """A number in every lane."""
        kind = ir.VectorType(ir.IntType(bits), VECTOR)
        small = self.builder.trunc(number, ir.IntType(bits))
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), small, ir.Constant(ir.IntType(32), 0))
        return _shuffle(self.builder, single, [0] * VECTOR)


def _shuffle(builder, vector, lanes):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _interleaved(builder, a, b):
    lanes = [lane + VECTOR * second for lane in range(VECTOR) for second in (0, 1)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _number(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)
