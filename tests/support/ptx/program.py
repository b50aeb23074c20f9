"""Reads a PTX module: the parameters, shared variables, registers and basic blocks of its one kernel."""

import re
from dataclasses import dataclass

import numpy as np

from .semantics import ENDINGS, SHARED_START, TYPES, PtxError, register_names, source, step

NO_RESULT = ("st", "cp", "bra", "bar", "ret", "exit")
HINTS = ("nc", "L1::no_allocate", "L2::128B")  # to caches, which change no result


@dataclass(frozen=True)
class Instruction:
    """``name`` is all words but hints and the types at the end: "ld.global.v4"."""

    name: str
    kinds: list[np.dtype]
    operands: list[str]
    predicate: str | None
    line: int

    def registers(self) -> tuple[set[str], set[str]]:
        """(read, written)."""
        named = [set(register_names(operand)) for operand in self.operands]
        results = 0 if self.name.split(".")[0] in NO_RESULT else 1
        predicate = {self.predicate.lstrip("!")} if self.predicate else set()
        return predicate.union(*named[results:]), set().union(*named[:results])


class Block:
    """A basic block: registers that it reads first, steps, registers that others read, and what ends it."""

    def __init__(self, kernel: "Kernel", instructions: list[Instruction]):
        self.live, written = set(), {}
        for each in instructions:
            reads, writes = each.registers()
            self.live |= reads - written.keys()
            written |= dict.fromkeys(sorted(writes))
        self.written = list(written)
        ending = instructions[-1] if instructions and instructions[-1].name in ENDINGS else None
        plain = instructions[:-1] if ending else instructions
        if any(each.predicate for each in plain):
            raise PtxError(f"line {plain[0].line} and after: a predicate of what is no branch")
        self.steps = [(each.line, step(kernel, each)) for each in plain]
        self.ending, self.target, self.condition = "branch", None, lambda m: np.False_
        if ending:
            self._read_ending(kernel, ending)

    def _read_ending(self, kernel: "Kernel", ending: Instruction) -> None:
        self.ending = ENDINGS[ending.name]
        if self.ending == "branch":
            self.target = kernel.labels[ending.operands[0]]
            taken = source(kernel, ending.predicate.lstrip("!"), TYPES["pred"]) if ending.predicate else always
            self.condition = (lambda m: ~taken(m)) if (ending.predicate or "").startswith("!") else taken
        elif ending.predicate or ending.operands != (["0"] if self.ending == "barrier" else []):
            raise PtxError(f"line {ending.line}: {ending.name} {ending.operands} is not modelled")


class Kernel:
    """The one entry of a PTX module; ``shared`` and ``parameters`` give the places of names."""

    def __init__(self, ptx: str, name: str):
        self.name, self.text = name, ptx.rstrip("\0")
        entries = list(re.finditer(r"\.entry\s+[\w$]+\s*\((.*?)\)(.*?)\{", self.text, re.S))
        if len(entries) != 1 or re.search(r"^\s*\.(local|const|global)\b", self.text, re.M):
            raise PtxError(f"{name}: one entry and no local, const or global variables are modelled")
        parameters, directives = entries[0].groups()
        self.most_threads = min([1024, *map(int, re.findall(r"\.maxntid (\d+)", directives))])
        found = re.findall(r"\.param()\s+\.(\w+)\s+([\w$]+)()", parameters)
        self.parameters, self.parameter_bytes = placed(found)
        found = re.findall(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?;", self.text)
        shared, self.shared_bytes = placed(found)
        self.shared = {variable: SHARED_START + at for variable, at in shared.items()}
        prefixes = re.findall(r"\.reg\s+\.(\w+)\s+%(\w+?)<\d+>;", self.text)
        self.kinds = {prefix: TYPES[kind] for kind, prefix in prefixes}
        blocks, self.labels = parsed(self.text, entries[0].end())
        self.blocks = [Block(self, block) for block in blocks]
        live = set().union(*(block.live for block in self.blocks))
        for block in self.blocks:
            block.kept = [register for register in block.written if register in live]

    def kind(self, register: str) -> np.dtype:
        return self.kinds[re.match(r"%([a-z]+)", register)[1]]


def always(machine) -> np.bool_:
    return np.True_


def placed(variables) -> tuple[dict[str, int], int]:
    """({name: where it begins}, bytes of all) of variables (alignment, type, name, length), one after the other."""
    places, end = {}, 0
    for align, kind, name, length in variables:
        width = TYPES[kind].itemsize
        places[name] = -(-end // int(align or width)) * int(align or width)
        end = places[name] + width * int(length or 1)
    return places, end


def parsed(text: str, start: int) -> tuple[list[list[Instruction]], dict[str, int]]:
    """(basic blocks, label -> block) of the body that begins at ``start``."""
    blocks, labels = [[]], {}
    first_line = text.count("\n", 0, start) + 1
    for line, raw in enumerate(text[start:].split("\n"), first_line):
        content = raw.split("//")[0].strip()
        label = re.fullmatch(r"([$\w]+):", content)
        if label:
            blocks += [[]] if blocks[-1] else []
            labels[label[1]] = len(blocks) - 1
        elif content and content != "}" and not content.startswith("."):
            if not content.endswith(";"):
                raise PtxError(f"line {line}: a statement on several lines")
            for statement in filter(None, map(str.strip, content.split(";"))):
                blocks[-1].append(instruction(statement, line))
                blocks += [[]] if blocks[-1][-1].name in ENDINGS else []
    return blocks, labels


def instruction(text: str, line: int) -> Instruction:
    match = re.fullmatch(r"(?:@(!?%\w+)\s+)?([\w.:]+)\s*(.*)", text)
    words = [word for word in match[2].split(".") if word not in HINTS]
    kinds = []
    while words[-1] in TYPES:
        kinds.insert(0, TYPES[words.pop()])
    operands = [each.strip() for each in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", match[3])]
    return Instruction(".".join(words), kinds, operands, match[1], line)
