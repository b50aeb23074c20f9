"""PTX instructions for numba kernels, and a way to write register algorithms.

A register algorithm is a plain Python function ``f(op, *arguments)`` over an instruction set ``op``.  :func:`traced`
makes it a numba intrinsic: the function runs while a kernel is compiled, and ``op`` (:class:`LlvmInstructions`) emits
one instruction a call.  Its loops are therefore unrolled and its tuples live in registers whatever their length, where
a loop over a local array depends on a compiler's heuristic and may end in local memory.

Intrinsics are module-level objects: one held in the closure of a kernel would change the key of numba's disk cache in
every process.  Numba widens uint32 arithmetic to 64 bits, which is why bit manipulation is done here.
"""

import inspect
from math import prod

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F64 = ir.DoubleType()
_MMA = "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"


class LlvmInstructions:
    """The instructions of register algorithms, emitted as LLVM IR.

    A *word* is 32 bits without sign, an index 64 bits and a short one 32; Python ints stand for constants.  Arrays are
    C-contiguous.
    """

    def __init__(self, context, builder):
        self._context, self._builder = context, builder

    # integers -------------------------------------------------------------------------------------------------------

    def shift_right(self, word, bits):
        return self._builder.lshr(word, _constant(_I32, bits))

    def mask(self, word, bits):
        return self._builder.and_(word, _constant(_I32, bits))

    def zero_word(self):
        return ir.Constant(_I32, 0)

    def without(self, word, bits):
        """Those bits of ``word`` that are not in ``bits``."""
        return self._builder.and_(word, self._builder.not_(bits))

    def flip(self, word, bits):
        return self._builder.xor(word, _constant(_I32, bits))

    def minus(self, word, other):
        return self._builder.sub(word, other)

    def permute(self, low, high, selector):
        """Four bytes of the eight of high:low, one for each of the four low nibbles of the selector (prmt)."""
        return self._assembly(_I32, "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, _constant(_I32, selector)])

    def short(self, index):
        """An index that is known to be below 2^31, in one register."""
        return self._builder.trunc(index, _I32)

    def plus(self, index, other):
        return self._builder.add(*self._same_width(index, other))

    def times(self, index, factor):
        return self._builder.mul(*self._same_width(index, factor))

    def smaller(self, a, b):
        """The smaller of two words or of two non-negative indices."""
        a, b = self._same_width(a, b)
        return self._builder.select(self._builder.icmp_unsigned("<", a, b), a, b)

    def below(self, index, limit):
        return self._builder.icmp_signed("<", *self._same_width(index, limit))

    def true(self):
        return ir.Constant(ir.IntType(1), 1)

    def both(self, a, b):
        return self._builder.and_(a, b)

    def select(self, condition, a, b):
        return self._builder.select(condition, a, b)

    # float64, each operation rounded by itself: the compiler would make one of a product and a sum ------------------

    def number(self, value):
        return ir.Constant(_F64, value)

    def number_of(self, word):
        """A word with its sign."""
        return self._builder.sitofp(word, _F64)

    def add(self, a, b):
        return self._arithmetic("add", a, b)

    def subtract(self, a, b):
        return self._arithmetic("sub", a, b)

    def multiply(self, a, b):
        return self._arithmetic("mul", a, b)

    def nearest(self, value):
        """The nearest integer, the even one of two."""
        return self._assembly(_F64, "cvt.rni.f64.f64 $0, $1;", "=d,d", [value])

    def _arithmetic(self, name, a, b):
        return self._assembly(_F64, f"{name}.rn.f64 $0, $1, $2;", "=d,d,d", [a, b])

    # tensor cores ---------------------------------------------------------------------------------------------------

    def mma(self, a, b, c):
        """C (16, 8) int32 + A (16, 32) uint8 B (32, 8) int8 over a warp: 4, 2 and 4 words (PTX ISA, m16n8k32)."""
        struct = ir.LiteralStructType([_I32] * 4)
        constraints = ",".join(["=r"] * 4 + ["r"] * 10)
        return self._unpack(self._assembly(struct, _MMA, constraints, [*a, *b, *c]), 4)

    # memory ---------------------------------------------------------------------------------------------------------

    def load_shared(self, shared, index, offset, count):
        """``count`` (1, 2 or 4) words of a shared array at ``index + offset``, in one instruction."""
        first = self._element(shared, index)
        pointer = self._builder.gep(first, [_constant(_I64, offset)])
        return self._vector_load(pointer, count)

    def stream_words(self, array, row, column, count):
        """``count`` (1, 2 or 4) words of a global array from [row, column] on, in one instruction.

        This kernel reads them once: 128 bytes go to L2, nothing stays in L1.

        A single word is half of what a quad of lanes needs of its 32-byte sector, so L1 keeps that.  Not ``.nc``: ptxas
        would move such a load past barriers, to just before the use that it is meant to be early for.
        """
        address = self._builder.ptrtoint(self._element(array, row, column), _I64)
        if count == 1:
            return [self._assembly(_I32, "ld.global.L2::128B.u32 $0, [$1];", "=r,l", [address], True)]
        names = ", ".join(f"${i}" for i in range(count))
        text = f"ld.global.L1::no_allocate.L2::128B.v{count}.u32 {{{names}}}, [${count}];"
        struct = ir.LiteralStructType([_I32] * count)
        return self._unpack(self._assembly(struct, text, ",".join(["=r"] * count + ["l"]), [address], True), count)

    def load_number(self, array, row, column):
        """An element of float64."""
        return self._builder.load(self._element(array, row, column))

    def load_index(self, array, position):
        """An element of a one-dimensional array of int32 as a short index."""
        return self._builder.load(self._element(array, position))

    def where(self, condition):
        """Threads where the condition holds execute what is emitted within."""
        return self._builder.if_then(condition)

    def store(self, array, row, column, value):
        self._builder.store(value, self._element(array, row, column))

    def copy_async(self, inside, shared, index, source):
        """Start to copy 16 bytes from ``source`` = (array, row, column) to shared[index] (cp.async)."""
        with self._builder.if_then(inside):
            target = self._builder.addrspacecast(self._element(shared, index), _I32.as_pointer(3))
            addresses = [self._builder.ptrtoint(target, _I32), self._builder.ptrtoint(self._element(*source), _I64)]
            text = "cp.async.cg.shared.global.L2::128B [$0], [$1], 16;"
            self._assembly(ir.VoidType(), text, "r,l,~{memory}", addresses, side_effect=True)

    def wait_async(self):
        """Wait until what this thread started to copy has arrived; a barrier then shows it to the other threads."""
        self._assembly(ir.VoidType(), "cp.async.wait_all;", "~{memory}", [], side_effect=True)

    # ----------------------------------------------------------------------------------------------------------------

    def _same_width(self, a, b):
        if isinstance(b, int):
            return a, ir.Constant(a.type, b)
        if isinstance(a, int):
            return ir.Constant(b.type, a), b
        width = max(a.type.width, b.type.width)
        return self._widen(a, width), self._widen(b, width)

    def _widen(self, index, width=64):
        if isinstance(index, int):
            return ir.Constant(_I64, index)
        return index if index.type.width == width else self._builder.sext(index, ir.IntType(width))

    def _assembly(self, result, text, constraints, arguments, side_effect=False):
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        return self._builder.call(ir.InlineAsm(function, text, constraints, side_effect=side_effect), arguments)

    def _unpack(self, struct, count):
        return [self._builder.extract_value(struct, i) for i in range(count)]

    def _element(self, array, *position):
        kind, value = array
        fields = self._context.make_array(kind)(self._context, self._builder, value=value)
        index = self._widen(position[0])
        if len(position) == 2:
            width = self._builder.extract_value(fields.shape, 1)
            index = self._builder.add(self._builder.mul(index, width), self._widen(position[1]))
        return self._builder.gep(fields.data, [index])

    def _vector_load(self, pointer, count):
        vector = ir.VectorType(_I32, count)
        pointer = self._builder.bitcast(pointer, vector.as_pointer(pointer.type.addrspace))
        loaded = self._builder.load(pointer, align=4 * count)
        return [self._builder.extract_element(loaded, _constant(_I32, i)) for i in range(count)]


def _constant(kind, value):
    return ir.Constant(kind, value) if isinstance(value, int) else value


def traced(result):
    """Make a register algorithm a numba intrinsic; ``result`` maps its argument types to the type of its result.

    The algorithm gets a tuple as a list, an array as a handle for ``op``, any integer but a uint32 as an index, and an
    argument annotated ``int``, which a kernel must give as a constant, as a Python int.
    """

    def make_intrinsic(algorithm):
        signature = inspect.signature(algorithm)
        constant = [parameter.annotation is int for parameter in list(signature.parameters.values())[1:]]

        def define(typing_context, *kinds):
            # numba first asks with the general types of constants, then with their values
            if any(c and not isinstance(kind, types.IntegerLiteral) for c, kind in zip(constant, kinds, strict=True)):
                return None
            kinds = tuple(kind if c else _argument_type(kind) for c, kind in zip(constant, kinds, strict=True))
            return result(*kinds)(*kinds), _code_generator(algorithm)

        # numba binds the arguments of a call by this signature
        define.__signature__ = signature
        define.__name__ = define.__qualname__ = algorithm.__name__
        define.__doc__ = algorithm.__doc__
        return intrinsic(define)

    return make_intrinsic


def _argument_type(kind):
    kind = types.unliteral(kind)
    return types.int64 if isinstance(kind, types.Integer) and kind != types.uint32 else kind


def _code_generator(algorithm):
    def generate(context, builder, signature, values):
        arguments = [_argument(builder, *pair) for pair in zip(signature.args, values, strict=True)]
        made = algorithm(LlvmInstructions(context, builder), *arguments)
        if signature.return_type == types.void:
            return context.get_dummy_value()
        if isinstance(signature.return_type, types.UniTuple):
            return context.make_tuple(builder, signature.return_type, list(made))
        return made

    return generate


def _argument(builder, kind, value):
    if isinstance(kind, types.IntegerLiteral):
        return kind.literal_value
    if isinstance(kind, types.BaseTuple):
        return [_argument(builder, each, builder.extract_value(value, i)) for i, each in enumerate(kind)]
    if isinstance(kind, types.Array):
        return kind, value
    return value


def words_result(*lengths):
    """UniTuple of uint32, its length the product of ``lengths``, constants of a kernel or Python ints."""
    return _tuple_of(types.uint32, lengths)


def indices_result(*lengths):
    """UniTuple of short indices."""
    return _tuple_of(types.int32, lengths)


def _tuple_of(kind, lengths):
    return types.UniTuple(kind, prod(getattr(length, "literal_value", length) for length in lengths))


def no_result(*kinds):
    return types.void


@traced(lambda count: words_result(count))
def zeros(op, count: int):
    """``count`` words of zero."""
    return [op.zero_word()] * count


@traced(lambda value: types.float64)
def nearest(op, value):
    """The nearest integer to a float64, the even one of two."""
    return op.nearest(value)


@traced(no_result)
def wait_async(op):
    """Wait for this thread's asynchronous copies."""
    op.wait_async()
