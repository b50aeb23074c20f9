"""A PTX module as Python: every basic block becomes a function over NumPy vectors of many threads.

Written from the text of the PTX ISA 9.x.  An instruction that is not here (atomics, shuffles, local memory, calls) is
an error, never a guess.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

SHARED_START = 1024  # of the shared window, so that an offset from zero shows
TYPES = {
    f"{k}{8 * n}": np.dtype(f"{'u' if k in 'ub' else k.replace('s', 'i')}{n}") for k in "usb" for n in (1, 2, 4, 8)
}
TYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype("?")}
U4, U8, F4, F8, BOOL = (np.dtype(t) for t in ("u4", "u8", "f4", "f8", "?"))
STORAGE = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
NO_RESULT = {"st", "bra", "bar", "ret", "exit", "cp"}
ENDINGS = ("bra", "bar", "ret", "exit")
MEMORY = ("ld", "st", "cp", "mma", "div", "rem", "bar")  # whose line reports name
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<="}
COMPARISONS |= {"hi": ">", "hs": ">="}
MMA = "sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"


class PtxError(Exception):
    """PTX that this does not know, or that no device would run."""


@dataclass
class Instruction:
    name: str  # first word, as "ld"
    modifiers: list[str]
    operands: list[str]
    predicate: str | None
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: {'.'.join([self.name, *self.modifiers])}"

    @property
    def kind(self) -> np.dtype:
        return TYPES[self.modifiers[-1]]

    @property
    def bits_kind(self) -> np.dtype:
        """The type without its sign, in which integers wrap around."""
        return STORAGE[self.kind.itemsize] if self.kind.kind in "ui" else self.kind

    def only(self, *allowed: str) -> None:
        """Refuse modifiers other than these between the name and the type."""
        extra = set(self.modifiers[:-1]) - set(allowed)
        if extra:
            raise PtxError(f"{self}: {extra} is not modelled")

    def registers(self) -> tuple[set[str], set[str]]:
        """(read, written)."""
        reads, writes = set(), set()
        for i, operand in enumerate(self.operands):
            result = i == 0 and self.name not in NO_RESULT and not operand.startswith("[")
            (writes if result else reads).update(register_names(operand))
        if self.predicate:
            reads.add(self.predicate.lstrip("!"))
        return reads, writes


class Kernel:
    """The one entry of a PTX module: parameters, shared variables, registers, basic blocks and their functions."""

    def __init__(self, ptx: str, name: str):
        text = ptx.rstrip("\0")
        self.name, self.text = name, text
        entries = re.findall(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", text, re.S)
        if len(entries) != 1:
            raise PtxError(f"{name}: {len(entries)} entries")
        if re.search(r"^\s*\.(local|const|global)\b", text, re.M):
            raise PtxError(f"{name}: local, const and global variables are not modelled")
        symbol, parameters, directives = entries[0]
        self.most_threads = [int(n) for n in re.findall(r"\.maxntid (\d+)", directives)]
        self._read_parameters(parameters)
        self._read_shared(text)
        kinds = re.findall(r"\.reg\s+\.(\w+)\s+%(\w+?)<\d+>;", text)
        self.registers = {prefix: TYPES[kind] for kind, prefix in kinds}
        self.blocks, self.labels = parse(text, text.index("{", text.index(symbol, text.index(".entry")) + len(symbol)))
        live = [live_in(block) for block in self.blocks]
        self.index = {register: i for i, register in enumerate(sorted(set().union(*live)))}
        self.functions = [self._function(i, block, sorted(live[i])) for i, block in enumerate(self.blocks)]

    def _read_parameters(self, text: str) -> None:
        self.parameters, at = {}, 0
        for kind, name in re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s*([\w$]+)", text):
            width = TYPES[kind].itemsize
            at = -(-at // width) * width
            self.parameters[name] = at
            at += width
        self.parameter_bytes = at

    def _read_shared(self, text: str) -> None:
        self.shared, self.shared_bytes = {}, 0
        found = re.findall(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?;", text)
        for align, kind, name, count in found:
            self.shared_bytes = -(-self.shared_bytes // int(align)) * int(align)
            self.shared[name] = SHARED_START + self.shared_bytes
            self.shared_bytes += TYPES[kind].itemsize * int(count or 1)

    def _function(self, number: int, block: list[Instruction], live: list[str]):
        writer = BlockWriter(self, number, block, live)
        names = {"np": np, **writer.constants}
        exec(compile("\n".join(writer.lines), f"<{self.name} block {number}>", "exec"), names)
        return names["run"]


def parse(text: str, start: int) -> tuple[list[list[Instruction]], dict[str, int]]:
    """(basic blocks, label -> block) of the body that opens at ``start``."""
    blocks, labels, statement = [[]], {}, ""
    for number, raw in enumerate(text[start + 1 :].split("\n"), text[: start + 1].count("\n") + 1):
        line = re.sub(r"//.*", "", raw).strip()
        if not line or line == "}" or line.startswith("."):
            continue
        label = re.fullmatch(r"([$\w]+):", line)
        if label:
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
            continue
        statement += " " + line
        if not statement.endswith(";"):
            continue
        for part in filter(None, (s.strip() for s in statement.split(";"))):
            blocks[-1].append(instruction(part, number))
            if blocks[-1][-1].name in ENDINGS:
                blocks.append([])
        statement = ""
    return blocks, labels


def instruction(text: str, line: int) -> Instruction:
    match = re.fullmatch(r"(?:@(!?%\w+)\s+)?([\w.:]+)\s*(.*)", text, re.S)
    name, *modifiers = match[2].replace("::", "@@").split(".")
    rest = re.sub(r"\s*,\s*", ",", match[3].strip())
    operands = [o.strip() for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,]+", rest)]
    return Instruction(name, modifiers, operands, match[1], line)


def live_in(block: list[Instruction]) -> set[str]:
    """Registers that a block reads before it writes them."""
    defined, used = set(), set()
    for each in block:
        reads, writes = each.registers()
        used |= reads - defined
        defined |= writes
    return used


def is_special(name: str) -> bool:
    return "." in name or name in ("%laneid", "%warpid")


def register_names(operand: str) -> list[str]:
    return [n for n in re.findall(r"%\w+(?:\.[xyz])?", operand) if not is_special(n)]


def variable(register: str) -> str:
    return "v_" + register[1:]


def reinterpreted(text: str, kind: np.dtype, wanted: np.dtype) -> str:
    """``text`` of type ``kind`` as the same bits of type ``wanted``, the low ones where that is narrower."""
    if kind == wanted:
        return text
    if kind.itemsize == wanted.itemsize:
        return f"{text}.view('{wanted}')"
    if kind.itemsize > wanted.itemsize and kind.kind == "u":
        low = f"{text}.astype('{STORAGE[wanted.itemsize]}')"
        return low if wanted.kind == "u" else f"{low}.view('{wanted}')"
    raise PtxError(f"{text}: {kind} as {wanted}")


class BlockWriter:
    """The Python source of one basic block, ``run(M, R, idx)``: machine, registers, threads (None for all).

    It returns what comes next: ("go", block), ("if", block, else block, condition), ("bar", block) or ("ret",).
    """

    def __init__(self, kernel: Kernel, number: int, instructions: list[Instruction], live: list[str]):
        self.kernel, self.constants = kernel, {}
        self.versions, self.fragments, self.lazy = Counter(), {}, {}
        self.lines = ["def run(M, R, idx):"]
        self.lines += [f"  {variable(r)} = M.get(R, {kernel.index[r]}, idx, {r!r})" for r in live]
        ending = instructions[-1] if instructions and instructions[-1].name in ENDINGS else None
        defined = {}
        for each in instructions[:-1] if ending else instructions:
            if each.predicate:
                raise PtxError(f"{each}: a predicate is not modelled")
            if each.name in MEMORY:
                self.emit(f"M.line = {each.line}")
            getattr(self, "op_" + each.name, self._unknown)(each)
            defined |= dict.fromkeys(sorted(each.registers()[1]))
        for register in defined:
            if register in kernel.index:
                self.emit(f"M.put(R, {kernel.index[register]}, {self.read(register)}, idx)")
        self.emit(f"M.counted += {len(instructions)}")
        self._end(ending, number + 1)

    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def _end(self, ending: Instruction | None, following: int) -> None:
        if ending is None:
            self.emit(f"return 'go', {following}")
        elif ending.name == "bra":
            target = self.kernel.labels[ending.operands[0]]
            if not ending.predicate:
                self.emit(f"return 'go', {target}")
                return
            negation = "~" if ending.predicate.startswith("!") else ""
            condition = self.read(ending.predicate.lstrip("!"))
            self.emit(f"return 'if', {target}, {following}, {negation}{condition}")
        elif ending.predicate or (ending.name == "bar" and (ending.modifiers, ending.operands) != (["sync"], ["0"])):
            raise PtxError(f"{ending} {ending.operands} is not modelled")
        else:
            self.emit(f"M.line = {ending.line}")
            self.emit(f"return 'bar', {following}" if ending.name == "bar" else "return ('ret',)")

    def _unknown(self, ins: Instruction) -> None:
        raise PtxError(f"{ins} is not modelled")

    # operands

    def kind(self, register: str) -> np.dtype:
        return self.kernel.registers[re.match(r"%([a-z]+)\d", register)[1]]

    def read(self, register: str) -> str:
        if register in self.lazy:  # part of an accumulator that no instruction has looked into yet
            name, registers = self.lazy[register]
            self.emit(f"{', '.join(map(variable, registers))} = M.unpack_d({name})")
            for each in registers:
                del self.lazy[each]
        return variable(register)

    def constant(self, value, dtype: np.dtype) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value if isinstance(value, np.generic) else dtype.type(value)
        return name

    def use(self, operand: str, dtype: np.dtype) -> str:
        """An expression of ``dtype`` for a source operand."""
        if is_special(operand):
            return reinterpreted(f"M.special({operand!r}, idx)", U4, dtype)
        if operand.startswith("%"):
            return reinterpreted(self.read(operand), self.kind(operand), dtype)
        if operand[:2] in ("0f", "0d"):
            bits, kind = (U4, F4) if operand[1] == "f" else (U8, F8)
            return self.constant(np.array([int(operand[2:], 16)], bits).view(kind).astype(dtype)[0], dtype)
        if operand in self.kernel.shared:
            return self.constant(self.kernel.shared[operand], dtype)
        value = int(operand, 0)
        if dtype.kind in "ui":
            value = np.array([value & (2 ** (8 * dtype.itemsize) - 1)], STORAGE[dtype.itemsize]).view(dtype)[0]
        return self.constant(value, dtype)

    def set(self, register: str, expression: str, dtype: np.dtype) -> None:
        """register = expression of ``dtype``, extended to the register's width."""
        kind = self.kind(register)
        if dtype.itemsize < kind.itemsize and dtype.kind in "ui":
            dtype = np.dtype(f"{dtype.kind}{kind.itemsize}")
            expression = f"({expression}).astype('{dtype}')"
        if dtype.itemsize != kind.itemsize:
            raise PtxError(f"{register}: {dtype} into {kind}")
        if dtype != kind:
            expression = f"({expression}).view('{kind}')"
        self.lazy.pop(register, None)
        self.emit(f"{variable(register)} = {expression}")
        self.versions[register] += 1

    def apply(self, ins: Instruction, template: str, dtype: np.dtype | None = None) -> None:
        """result = the template of all sources, taken as ``dtype``."""
        dtype = dtype or ins.kind
        self.set(ins.operands[0], template.format(*(self.use(o, dtype) for o in ins.operands[1:])), dtype)

    # arithmetic

    def op_add(self, ins):
        ins.only("rn")
        self.apply(ins, "{} + {}", ins.bits_kind)

    def op_sub(self, ins):
        ins.only("rn")
        self.apply(ins, "{} - {}", ins.bits_kind)

    def op_mul(self, ins):
        ins.only("rn", "lo", "wide")
        if "wide" in ins.modifiers:
            self._wide(ins)
        else:
            self.apply(ins, "{} * {}", ins.bits_kind)

    def op_mad(self, ins):
        ins.only("lo", "wide")
        if "wide" in ins.modifiers:
            self._wide(ins)
        else:
            self.apply(ins, "{} * {} + {}", ins.bits_kind)

    def _wide(self, ins):
        wide = np.dtype(f"{ins.kind.kind}{2 * ins.kind.itemsize}")
        a, b = (f"({self.use(o, ins.kind)}).astype('{wide}')" for o in ins.operands[1:3])
        added = "".join(f" + {self.use(o, wide)}" for o in ins.operands[3:])
        self.set(ins.operands[0], f"{a} * {b}{added}", wide)

    def op_fma(self, ins):
        ins.only("rn")
        self.apply(ins, "M.fma({}, {}, {})")

    def op_div(self, ins):
        ins.only("rn")
        self.apply(ins, "{} / {}" if ins.kind.kind == "f" else "M.divide({}, {})[0]")

    def op_rem(self, ins):
        self.apply(ins, "M.divide({}, {})[1]")

    def op_rcp(self, ins):
        ins.only("rn")
        self.apply(ins, f"np.{ins.kind}(1) / {{}}")

    def op_sqrt(self, ins):
        ins.only("rn")
        self.apply(ins, "np.sqrt({})")

    def op_neg(self, ins):
        kind = ins.bits_kind
        self.apply(ins, "-{}" if kind.kind == "f" else f"~{{}} + np.{kind}(1)", kind)

    def op_abs(self, ins):
        self.apply(ins, "np.abs({})")

    def op_min(self, ins):
        ins.only()
        self.apply(ins, "np.fmin({}, {})" if ins.kind.kind == "f" else "np.minimum({}, {})")

    def op_max(self, ins):
        ins.only()
        self.apply(ins, "np.fmax({}, {})" if ins.kind.kind == "f" else "np.maximum({}, {})")

    def op_and(self, ins):
        self.apply(ins, "{} & {}")

    def op_or(self, ins):
        self.apply(ins, "{} | {}")

    def op_xor(self, ins):
        self.apply(ins, "{} ^ {}")

    def op_not(self, ins):
        self.apply(ins, "~{}")

    def op_shl(self, ins):
        self._shift(ins, "<<")

    def op_shr(self, ins):
        self._shift(ins, ">>")

    def _shift(self, ins, sign):
        a, by = self.use(ins.operands[1], ins.kind), self.use(ins.operands[2], U4)
        self.set(ins.operands[0], f"M.shift({a}, {by}, {sign!r})", ins.kind)

    def op_bfi(self, ins):
        a, b = (self.use(o, ins.kind) for o in ins.operands[1:3])
        at, length = int(ins.operands[3]), int(ins.operands[4])
        bits = 8 * ins.kind.itemsize
        mask = ((1 << min(length, bits)) - 1) << at & (2**bits - 1)
        m, keep, s = (self.constant(v, ins.kind) for v in (mask, 2**bits - 1 - mask, at))
        self.set(ins.operands[0], f"({b} & {keep}) | (({a} << {s}) & {m})", ins.kind)

    def op_prmt(self, ins):
        ins.only()
        self.apply(ins, "M.prmt({}, {}, {})", U4)

    def op_mov(self, ins):
        target, source = ins.operands
        if "{" in target + source:
            raise PtxError(f"{ins} of vectors is not modelled")
        self.set(target, self.use(source, ins.kind), ins.kind)

    def op_selp(self, ins):
        a, b = (self.use(o, ins.kind) for o in ins.operands[1:3])
        self.set(ins.operands[0], f"np.where({self.read(ins.operands[3])}, {a}, {b})[()]", ins.kind)

    def op_setp(self, ins):
        if len(ins.modifiers) != 2 or len(ins.operands) != 3:
            raise PtxError(f"{ins} is not modelled")
        compare, real = ins.modifiers[0], ins.kind.kind == "f"
        a, b = (self.use(o, ins.kind) for o in ins.operands[1:])
        text = f"({a} {COMPARISONS[compare[:2]]} {b})"
        if real and len(compare) == 3 and compare[-1] == "u":  # true where one is no number
            text = f"({text} | np.isnan({a}) | np.isnan({b}))"
        elif real and compare == "ne":
            text = f"({text} & ~np.isnan({a}) & ~np.isnan({b}))"
        self.set(ins.operands[0], text, BOOL)

    def op_cvt(self, ins):
        *rounding, to, source = ins.modifiers
        to, source = TYPES[to], TYPES[source]
        to_integer = source.kind == "f" and to.kind in "ui"
        widened = source.kind == "f" and to.itemsize > source.itemsize
        expected = ["rzi"] if to_integer else [] if widened else rounding
        if rounding != expected or set(rounding) - {"rn", "rzi"}:
            raise PtxError(f"{ins} is not modelled")
        a = self.use(ins.operands[1], source)
        text = f"np.trunc({a})" if to_integer else f"({a})"
        self.set(ins.operands[0], a if to == source else f"{text}.astype('{to}')", to)

    def op_cvta(self, ins):
        if "global" not in ins.modifiers:
            raise PtxError(f"{ins} is not modelled")
        self.set(ins.operands[0], self.use(ins.operands[1], U8), U8)

    # memory

    def address(self, operand: str, width: np.dtype = U8) -> str:
        match = re.fullmatch(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        text = self.use(match[1], width)
        return f"{text} + {self.use(match[2], width)}" if match[2] else text

    def op_ld(self, ins):
        space, kind = ins.modifiers[0], ins.kind
        if space == "param":
            name = re.fullmatch(r"\[([\w$]+)(?:\+(\d+))?\]", ins.operands[1])
            self.set(ins.operands[0], f"M.parameter({name[1]!r}, {kind.str!r}, {int(name[2] or 0)})", kind)
            return
        ins.only("global", "shared", "v2", "v4", "nc", "L1@@no_allocate", "L2@@128B")
        targets = register_names(ins.operands[0])
        address = self.address(ins.operands[1])
        self.emit(f"loaded = M.load_{space}({address}, {kind.str!r}, {len(targets)}, idx)")
        for i, register in enumerate(targets):
            self.set(register, f"loaded[{i}]", kind)

    def op_st(self, ins):
        ins.only("global", "shared", "v2", "v4")
        sources = [o.strip() for o in ins.operands[1].strip("{}").split(",")]
        values = ", ".join(self.use(o, ins.kind) for o in sources)
        address = self.address(ins.operands[0])
        self.emit(f"M.store_{ins.modifiers[0]}({address}, [{values}], {ins.kind.str!r}, idx)")

    def op_cp(self, ins):
        if ins.modifiers == ["async", "wait_all"]:
            self.emit("M.wait_copies(idx)")
            return
        sizes = {"ca": ["4", "8", "16"], "cg": ["16"]}.get(ins.modifiers[1], [])
        if ins.modifiers[2:4] != ["shared", "global"] or len(ins.operands) != 3 or ins.operands[2] not in sizes:
            raise PtxError(f"{ins} {ins.operands} is not modelled")
        target = self.address(ins.operands[0], self.kind(register_names(ins.operands[0])[0]))
        self.emit(f"M.copy_async({target}, {self.address(ins.operands[1])}, {ins.operands[2]}, idx)")

    def op_mma(self, ins):
        if ".".join(ins.modifiers) != MMA:
            self._unknown(ins)
        d, a, b, c = map(register_names, ins.operands)
        left, right = self._fragment("a", a), self._fragment("b", b)
        held = {self.lazy[r][0] if r in self.lazy and self.lazy[r][1] == c else None for r in c}
        if len(held) == 1 and None not in held:
            start = held.pop()
        else:
            start = f"M.pack_c({', '.join(self.use(r, F4) for r in c)}, idx)"
        name = f"D{len(self.lines)}"
        self.emit(f"{name} = M.mma({left}, {right}, {start}, idx)")
        for register in d:
            if register in self.lazy:
                raise PtxError(f"{ins}: {register} is overwritten")
        for register in d:
            self.versions[register] += 1
            self.lazy[register] = name, d

    def _fragment(self, which: str, registers: list[str]) -> str:
        key = which, tuple((r, self.versions[r]) for r in registers)
        if key not in self.fragments:
            self.fragments[key] = f"F{len(self.fragments)}"
            words = ", ".join(self.use(r, U4) for r in registers)
            self.emit(f"{self.fragments[key]} = M.fragment_{which}({words}, idx)")
        return self.fragments[key]
