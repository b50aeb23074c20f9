"""Vector code for products straight from packed bytes, written as LLVM IR that numba inlines into its kernels.

Sixteen genotypes are one 32-bit word.  Lane l of a vector shifts the word right by 2 l bits, and its low two bits then
choose among the four values that the variant's codes stand for: two instructions decode sixteen genotypes where the
processor permutes within vectors (AVX-512, AVX2), a few selects elsewhere.  A decoded vector is used at once, by every
column of a tile, and never stored.

The functions at the end are innermost loops; the numba kernels of :mod:`gpu_reml.ops.cpu_fused` call them.
"""

from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.extending import intrinsic

WORD = 16  # genotypes in one 32-bit word

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


class _Emitter:
    """Vector operations for the processor that numba compiles for; its vectors are as wide as the registers."""

    def __init__(self, context, builder):
        features = context.codegen().magic_tuple()[2]
        self.builder = builder
        self.lanes = 16 if "+avx512f" in features else 8 if "+avx2" in features else 4
        self.ints = ir.VectorType(_I32, self.lanes)
        self.floats = ir.VectorType(_F32, self.lanes)
        self.parts = range(WORD // self.lanes)

    def constant(self, value: int) -> ir.Constant:
        return ir.Constant(_I64, value)

    def at(self, pointer, num_bytes):
        """Address ``num_bytes`` (a number or an IR value) past a byte pointer."""
        offset = self.constant(num_bytes) if isinstance(num_bytes, int) else num_bytes
        return self.builder.gep(pointer, [offset], inbounds=True)

    def load(self, kind, pointer):
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=4 if kind != _I32 else 1)

    def store(self, value, pointer):
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=4)

    def shuffle(self, vector, lanes: list[int]):
        mask = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def splat(self, scalar):
        kind = ir.VectorType(scalar.type, self.lanes)
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
        return self.shuffle(single, [0] * self.lanes)

    def table(self, pointer):
        """The four values at ``pointer``, repeated in every group of four lanes."""
        return self.shuffle(self.load(ir.VectorType(_F32, 4), pointer), [lane % 4 for lane in range(self.lanes)])

    def decode(self, word, table, part: int):
        """Values of the ``lanes`` genotypes of a word from ``part * lanes`` on."""
        shifts = ir.Constant(self.ints, [2 * (part * self.lanes + lane) for lane in range(self.lanes)])
        codes = self.builder.lshr(self.splat(word), shifts)
        if self.lanes == 4:
            return self._select(codes, table)
        permute = {16: "llvm.x86.avx512.vpermilvar.ps.512", 8: "llvm.x86.avx.vpermilvar.ps.256"}[self.lanes]
        return self._call(permute, table, codes)

    def _select(self, codes, table):
        def bit(value):
            masked = self.builder.and_(codes, ir.Constant(self.ints, [value] * self.lanes))
            return self.builder.icmp_unsigned("!=", masked, ir.Constant(self.ints, [0] * self.lanes))

        two, missing, one, none = (self.shuffle(table, [code] * self.lanes) for code in range(4))
        select, low = self.builder.select, bit(1)
        return select(bit(2), select(low, none, one), select(low, missing, two))

    def multiply_add(self, a, b, c):
        """a b + c, one instruction where the processor has it."""
        return self._call(f"llvm.fmuladd.v{self.lanes}f32", a, b, c)

    def _call(self, name, *arguments):
        kind = ir.FunctionType(self.floats, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def total(self, vector):
        """Sum of the lanes, by halves."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            halves = self.shuffle(vector, list(range(lanes))), self.shuffle(vector, list(range(lanes, 2 * lanes)))
            vector = self.builder.fadd(*halves)
        return self.builder.extract_element(vector, ir.Constant(_I32, 0))

    def zeros(self, count: int) -> list:
        """Accumulators: stack slots that LLVM turns into registers."""
        zero = ir.Constant(self.floats, [0.0] * self.lanes)
        slots = [cgutils.alloca_once(self.builder, self.floats) for _ in range(count)]
        for slot in slots:
            self.builder.store(zero, slot)
        return slots

    def words(self, rows: list, first, last, num_bytes, use) -> None:
        """``use(s, [a word of each row])`` for words ``first <= s < last`` of rows of ``num_bytes`` >= 4 bytes.

        The last word of a row may be incomplete: it is read from four bytes before the row's end, and zeros shifted in.
        """
        whole = self.builder.lshr(num_bytes, self.constant(2))
        stop = self.builder.select(self.builder.icmp_signed("<", last, whole), last, whole)
        with cgutils.for_range_slice(self.builder, first, stop, self.constant(1)) as (s, _):
            use(s, [self.load(_I32, self.at(row, self.builder.shl(s, self.constant(2)))) for row in rows])
        with self.builder.if_then(self.builder.icmp_signed(">", last, whole)):
            missing = self.builder.sub(self.constant(4), self.builder.and_(num_bytes, self.constant(3)))
            shift = self.builder.trunc(self.builder.shl(missing, self.constant(3)), _I32)
            end = self.builder.sub(num_bytes, self.constant(4))
            use(whole, [self.builder.lshr(self.load(_I32, self.at(row, end)), shift) for row in rows])


def _bytes_of(context, builder, kind, array):
    """(address of the first element, bytes a row) of a C-contiguous array.

    The row's length comes from the shape: the stride of an axis of one element may be anything.
    """
    if kind.layout != "C":
        raise errors.TypingError(f"expected C-contiguous arrays, found {kind}")
    view = context.make_array(kind)(context, builder, array)
    row = ir.Constant(_I64, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    for axis in range(1, kind.ndim):
        row = builder.mul(row, builder.extract_value(view.shape, axis))
    return builder.bitcast(view.data, _I8.as_pointer()), row


@intrinsic
def prefetch(typing, packed, place):
    """Fetch the cache line with byte ``place`` of an array, which may lie past its end, while other work is done."""

    def codegen(context, builder, signature, args):
        pointer, _ = _bytes_of(context, builder, signature.args[0], args[0])
        numbers = [ir.Constant(_I32, value) for value in (0, 3, 1)]  # read, into every cache, of data
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [builder.gep(pointer, [args[1]]), *numbers])
        return context.get_dummy_value()

    return types.void(packed, place), codegen


@intrinsic(prefer_literal=True)
def zt_tile(typing, packed, tables, panels, out, j, c, first, last, variants, columns):  # noqa: PLR0913 - scalars stay registers
    """out[j:j + variants, c:c + columns] += their dot products over words ``first`` to ``last``.

    packed (b, nbytes) uint8; tables (b, 4); panels (k, 16 words), where rows c to c + columns together are one panel
    (words, columns, 16); out (b, k).  ``variants`` and ``columns`` are literal numbers: their product is the number of
    accumulators.
    """
    rows, width = variants.literal_value, columns.literal_value

    def codegen(context, builder, signature, args):
        emit = _Emitter(context, builder)
        (codes, num_bytes), (values, _), (right, right_row), (sums, sums_row) = (
            _bytes_of(context, builder, signature.args[i], args[i]) for i in range(4)
        )
        first_variant, first_column, begin, end = args[4:8]
        panel = emit.at(right, builder.mul(first_column, right_row))
        numbers = [builder.add(first_variant, emit.constant(v)) for v in range(rows)]
        row_pointers = [emit.at(codes, builder.mul(number, num_bytes)) for number in numbers]
        table_vectors = [emit.table(emit.at(values, builder.mul(number, emit.constant(16)))) for number in numbers]
        slots = emit.zeros(rows * width)

        def use(s, words):
            base = emit.at(panel, builder.mul(s, emit.constant(64 * width)))
            for part in emit.parts:
                columns_of_b = [
                    emit.load(emit.floats, emit.at(base, 64 * col + 4 * emit.lanes * part)) for col in range(width)
                ]
                for v in range(rows):
                    value = emit.decode(words[v], table_vectors[v], part)
                    for col, b in enumerate(columns_of_b):
                        slot = slots[v * width + col]
                        builder.store(emit.multiply_add(value, b, builder.load(slot)), slot)

        emit.words(row_pointers, begin, end, num_bytes, use)
        for v, number in enumerate(numbers):
            row = emit.at(sums, builder.add(builder.mul(number, sums_row), builder.shl(first_column, emit.constant(2))))
            for col in range(width):
                target = emit.at(row, 4 * col)
                total = emit.total(builder.load(slots[v * width + col]))
                emit.store(builder.fadd(emit.load(_F32, target), total), target)
        return context.get_dummy_value()

    return types.void(packed, tables, panels, out, j, c, first, last, variants, columns), codegen


@intrinsic(prefer_literal=True)
def z_tile(typing, packed, tables, right, j, c, out, first, last, variants, columns):  # noqa: PLR0913 - scalars stay registers
    """out[s - first, c:c + columns] += values of word s times right[j:j + variants, c:c + columns], for all words.

    packed (b, nbytes) uint8; tables (b, 4); right (b, k); out (words, k, 16), whose row 0 is word ``first``.
    ``variants`` and ``columns`` are literal numbers: their tables and factors stay in registers for all words.
    """
    height, width = variants.literal_value, columns.literal_value

    def codegen(context, builder, signature, args):
        emit = _Emitter(context, builder)
        (codes, num_bytes), (values, _), (factors, factors_row), (sums, sums_row) = (
            _bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 1, 2, 5)
        )
        first_variant, first_column, begin, end = args[3], args[4], args[6], args[7]
        numbers = [builder.add(first_variant, emit.constant(v)) for v in range(height)]
        row_pointers = [emit.at(codes, builder.mul(number, num_bytes)) for number in numbers]
        table_vectors = [emit.table(emit.at(values, builder.mul(number, emit.constant(16)))) for number in numbers]
        factors = emit.at(factors, builder.shl(first_column, emit.constant(2)))
        factor_pointers = [emit.at(factors, builder.mul(number, factors_row)) for number in numbers]
        factor_vectors = [
            [emit.splat(emit.load(_F32, emit.at(pointer, 4 * col))) for col in range(width)]
            for pointer in factor_pointers
        ]
        target = emit.at(sums, builder.shl(first_column, emit.constant(6)))

        def use(s, words):
            base = emit.at(target, builder.mul(builder.sub(s, begin), sums_row))
            for part in emit.parts:
                places = [emit.at(base, 64 * col + 4 * emit.lanes * part) for col in range(width)]
                totals = [emit.load(emit.floats, place) for place in places]
                for word, table, row in zip(words, table_vectors, factor_vectors, strict=True):
                    value = emit.decode(word, table, part)
                    totals = [emit.multiply_add(value, f, total) for f, total in zip(row, totals, strict=True)]
                for total, place in zip(totals, places, strict=True):
                    emit.store(total, place)

        emit.words(row_pointers, begin, end, num_bytes, use)
        return context.get_dummy_value()

    return types.void(packed, tables, right, j, c, out, first, last, variants, columns), codegen
