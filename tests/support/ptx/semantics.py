"""What PTX instructions do, from the text of the PTX ISA 9.x, over NumPy vectors of many threads.

``step`` makes of an instruction a function of the machine that runs it.  One that is in none of the tables (atomics,
shuffles, local memory, calls) is an error, never a guess.
"""

import re
from collections.abc import Callable
from functools import partial

import numpy as np

SHARED_START = 1024  # of the shared window, so that an offset from zero shows
TYPES = {f"{k}{8 * n}": np.dtype(f"{kind}{n}") for k, kind in ("uu", "bu", "si") for n in (1, 2, 4, 8)}
TYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype("?")}
U1, I1, I4, U4, U8, F4, F8 = (np.dtype(t) for t in ("u1", "i1", "i4", "u4", "u8", "f4", "f8"))
ENDINGS = {"bra": "branch", "bra.uni": "branch", "bar.sync": "barrier", "ret": "end", "exit": "end"}
WIDER = {np.dtype(f"{k}{n}"): np.dtype(f"{k}{2 * n}") for k in "ui" for n in (2, 4)}
SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {"%laneid"}
NIBBLES = np.arange(0, 16, 4, dtype=U4)
SPLITTER = 134217729.0  # 2^27 + 1, Dekker 1971


class PtxError(Exception):
    """PTX that this does not know, or that no device would run."""


# Arithmetic


def fma(a, b, c):
    """a b + c, rounded once (float64: but for the last bit of rare cases)."""
    if a.dtype == F4:
        product, c = a.astype(F8) * b.astype(F8), c.astype(F8)  # the product is exact
        total, error = two_sum(product, c)
        bits = np.asarray(total).view("i8").copy()  # round to odd, so that the second rounding is right
        odd = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
        bits += np.where(odd, np.where((error > 0) == (total > 0), 1, -1), 0)
        return bits.view(F8).astype(F4)
    product = a * b
    a_high, b_high = (x * SPLITTER - (x * SPLITTER - x) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    product_error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    total, error = two_sum(product, c)
    return total + (product_error + error)


def two_sum(a, b):
    """a + b and the error of it."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def quotient(a, b):
    """Toward zero."""
    if (b == 0).any():
        raise PtxError("integer division by zero")
    found = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -found, found).astype(a.dtype)


def shifted(shift, a, by):
    """Shifts by as many bits as there are, or more, leave nothing but a sign."""
    bits = 8 * a.dtype.itemsize
    found = shift(a, np.minimum(by, bits - 1).astype(a.dtype))
    return found if shift is np.right_shift and a.dtype.kind == "i" else np.where(by < bits, found, a.dtype.type(0))


def inserted(a, b, at, length):
    """b with ``length`` bits of a from bit ``at`` on."""
    bits = 8 * a.dtype.itemsize
    mask = ((1 << min(int(length), bits)) - 1) << int(at) & (2**bits - 1)
    kept, taken, at = (a.dtype.type(x) for x in (2**bits - 1 - mask, mask, int(at)))
    return (b & kept) | (a << at & taken)


def permuted(a, b, selector):
    """prmt: a byte of b:a, or its sign, for each of the four low nibbles of the selector."""
    nibbles = (selector[..., None] >> NIBBLES & np.uint32(15)).astype(np.int64)
    table = np.stack(np.broadcast_arrays(a, b, selector)[:2], axis=-1).view("u1")
    nibbles = np.broadcast_to(nibbles, (*table.shape[:-1], 4))
    chosen = np.take_along_axis(table, nibbles % 8, axis=-1)
    if (nibbles >= 8).any():
        chosen = np.where(nibbles < 8, chosen, (chosen.view("i1") >> np.int8(7)).view("u1"))
    return chosen.view(U4)[..., 0]


def wide_product(a, b):
    return a.astype(WIDER[a.dtype]) * b.astype(WIDER[b.dtype])


def same(a):
    return a


def differ(a, b):
    return (a < b) | (a > b)  # and both are numbers


COMPARISONS = {"eq": np.equal, "ne": differ, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARISONS |= {"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
COMPARISONS |= {"neu": np.not_equal, "equ": lambda a, b: ~differ(a, b)}  # true where one is no number
COMPARISONS |= {"ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b)}
COMPARISONS |= {"gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b)}

# Types of result and sources: t the instruction's, w one twice as wide, p a predicate, u uint32.
ARITHMETIC = {
    "t t": {"mov": same, "cvta.to.global": same, "neg": np.negative, "abs": np.abs, "not": np.invert}
    | {"rcp.rn": np.reciprocal, "sqrt.rn": np.sqrt},
    "t tt": {"add": np.add, "add.rn": np.add, "sub": np.subtract, "sub.rn": np.subtract, "mul": np.multiply}
    | {"mul.rn": np.multiply, "mul.lo": np.multiply, "div.rn": np.divide, "div": quotient}
    | {"rem": lambda a, b: a - quotient(a, b) * b, "min": np.fmin, "max": np.fmax}
    | {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    "t ttt": {"fma.rn": fma, "mad.lo": lambda a, b, c: a * b + c, "prmt": permuted},
    "w tt": {"mul.wide": wide_product},
    "w ttw": {"mad.wide": lambda a, b, c: wide_product(a, b) + c},
    "t tu": {"shl": partial(shifted, np.left_shift), "shr": partial(shifted, np.right_shift)},
    "t ttuu": {"bfi": inserted},
    "t ttp": {"selp": lambda a, b, condition: np.where(condition, a, b)},
    "p tt": {f"setp.{name}": function for name, function in COMPARISONS.items()},
}


def arithmetic(signature: str, function: Callable, kernel, ins) -> Callable:
    (kind,) = ins.kinds
    kinds = {"t": kind, "w": WIDER.get(kind), "p": TYPES["pred"], "u": U4}
    result, sources = signature.split()
    pairs = zip(ins.operands[1:], sources, strict=True)
    get = [source(kernel, operand, kinds[letter]) for operand, letter in pairs]
    put = target(kernel, ins.operands[0], kinds[result])
    return lambda m: put(m, function(*[each(m) for each in get]))


def convert(kernel, ins) -> Callable:
    """cvt: to an integer toward zero, to another real number to nearest where it is not exact."""
    to, kind = ins.kinds
    if ins.name == "cvt.rni" and to == kind and kind.kind == "f":
        get, put = source(kernel, ins.operands[1], kind), target(kernel, ins.operands[0], to)
        return lambda m: put(m, np.rint(get(m)))
    exact = kind.kind == "f" and to.itemsize > kind.itemsize
    rounding = ("" if exact else ".rn") if to.kind == "f" else (".rzi" if kind.kind == "f" else "")
    if ins.name != "cvt" + rounding:
        raise PtxError(f"{kind} to {to}")
    get, put = source(kernel, ins.operands[1], kind), target(kernel, ins.operands[0], to)
    return lambda m: put(m, get(m).astype(to))


# Operands


def register_names(operand: str) -> list[str]:
    return [name for name in re.findall(r"%\w+(?:\.[xyz])?", operand) if name not in SPECIAL]


def parts_of(operand: str) -> list[str]:
    return [each.strip() for each in operand.strip("{}").split(",")]


def reinterpretation(have: np.dtype, want: np.dtype) -> Callable:
    """The same bits as another type, the low ones where that is narrower."""
    if have == want:
        return same
    if have.itemsize == want.itemsize:
        return lambda value: value.view(want)
    if have.itemsize > want.itemsize and have.kind == "u" and want.kind in "ui":
        return lambda value: value.astype(f"u{want.itemsize}").view(want)
    raise PtxError(f"{have} as {want}")


def source(kernel, operand: str, kind: np.dtype) -> Callable:
    """The function of a machine that gives the operand as ``kind``."""
    if operand in SPECIAL:
        change = reinterpretation(U4, kind)
        return lambda m: change(m.special(operand))
    if operand.startswith("%"):
        change = reinterpretation(kernel.kind(operand), kind)
        return (lambda m: m.value(operand)) if change is same else (lambda m: change(m.value(operand)))
    value = constant(kernel, operand, kind)
    return lambda m: value


def constant(kernel, operand: str, kind: np.dtype) -> np.generic:
    if operand[:2] in ("0f", "0d"):
        bits, real = (U4, F4) if operand[1] == "f" else (U8, F8)
        return np.array([int(operand[2:], 16)], bits).view(real).astype(kind)[0]
    number = kernel.shared[operand] if operand in kernel.shared else int(operand, 0)
    if kind.kind not in "ui":
        return kind.type(number)
    return np.array([number % 2 ** (8 * kind.itemsize)], f"u{kind.itemsize}").view(kind)[0]


def target(kernel, register: str, kind: np.dtype) -> Callable:
    """The function of a machine and a value of ``kind`` that sets a register, extended to its width."""
    have = kernel.kind(register)
    wide = np.dtype(f"{kind.kind}{have.itemsize}") if kind.kind in "ui" and kind.itemsize < have.itemsize else kind
    if wide.itemsize != have.itemsize:
        raise PtxError(f"{register}: {kind} into {have}")

    def put(m, value):
        value = value if wide is kind else value.astype(wide)
        m.env[register] = value if wide == have else value.view(have)

    return put


def address(kernel, operand: str) -> Callable:
    match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
    if match is None:
        raise PtxError(operand)
    kind = kernel.kind(match[1]) if match[1].startswith("%") else U8
    base, offset = source(kernel, match[1], kind), constant(kernel, match[2] or "0", kind)
    return lambda m: base(m) + offset


# Memory and tensor cores


def load_parameter(kernel, ins) -> Callable:
    match = re.fullmatch(r"\[([\w$]+)(?:\+(\d+))?\]", ins.operands[1])
    put, at = target(kernel, ins.operands[0], ins.kinds[0]), kernel.parameters[match[1]] + int(match[2] or 0)
    return lambda m: put(m, np.frombuffer(m.arguments, ins.kinds[0], 1, at)[0])


def load(space: str, kernel, ins) -> Callable:
    (kind,), where = ins.kinds, address(kernel, ins.operands[1])
    puts = [target(kernel, register, kind) for register in parts_of(ins.operands[0])]

    def run(m):
        for put, value in zip(puts, m.spaces[space].load(where(m), kind, len(puts), m.lanes, m), strict=True):
            put(m, value)

    return run


def store(space: str, kernel, ins) -> Callable:
    (kind,), where = ins.kinds, address(kernel, ins.operands[0])
    get = [source(kernel, operand, kind) for operand in parts_of(ins.operands[1])]
    return lambda m: m.spaces[space].store(where(m), [each(m) for each in get], kind, m.lanes, m)


def copy_async(sizes: tuple[str, ...], kernel, ins) -> Callable:
    to, where, size = address(kernel, ins.operands[0]), address(kernel, ins.operands[1]), ins.operands[2]
    if len(ins.operands) != 3 or size not in sizes:
        raise PtxError(f"copies of {ins.operands[2:]} bytes")
    return lambda m: m.start_copy(to(m), where(m), int(size))


def multiply(kernel, ins) -> Callable:
    """mma: C (16, 8) int32 + A (16, 32) uint8 B (32, 8) int8."""
    if ins.kinds != [I4, U1, I1, I4]:
        raise PtxError(f"types {ins.kinds}")
    results, *operands = map(parts_of, ins.operands)
    a, b, c = ([source(kernel, each, kind) for each in part] for part, kind in zip(operands, (U4, U4, I4), strict=True))
    return lambda m: m.multiply(results, [each(m) for each in a], [each(m) for each in b], (operands[2], c))


STEPS: dict[str, Callable] = {"ld.param": load_parameter, "mma.sync.aligned.m16n8k32.row.col": multiply}
STEPS |= dict.fromkeys(("cvt", "cvt.rn", "cvt.rni", "cvt.rzi"), convert)
STEPS |= {name: partial(arithmetic, s, f) for s, functions in ARITHMETIC.items() for name, f in functions.items()}
STEPS |= {f"ld.{space}{v}": partial(load, space) for space in ("global", "shared") for v in ("", ".v2", ".v4")}
STEPS |= {f"st.{space}{v}": partial(store, space) for space in ("global", "shared") for v in ("", ".v2", ".v4")}
STEPS |= {
    "cp.async.ca.shared.global": partial(copy_async, ("4", "8", "16")),
    "cp.async.cg.shared.global": partial(copy_async, ("16",)),
    "cp.async.wait_all": lambda kernel, ins: lambda m: m.wait_copies(),
}


def step(kernel, ins) -> Callable:
    """The function of a machine that does what the instruction does."""
    try:
        return STEPS[ins.name](kernel, ins)
    except (LookupError, ValueError, PtxError) as error:
        raise PtxError(f"line {ins.line}: {ins.name} {ins.operands} is not modelled: {error!r}") from error
