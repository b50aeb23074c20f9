"""What happens to files: bits flip, copies stop half way, blocks change places, people edit, attackers promise."""

import gzip
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Damage = Callable[[Rng, bytes], bytes]

MAGICS = (
    b"\x6c\x1b\x01",
    b"\x6c\x1b\x10",
    b"PK\x03\x04",
    b"\x93NUMPY",
    b"\x1f\x8b\x08\x00",
    b"\x28\xb5\x2f\xfd",
    b"BZh9",
    b"bgen",
)
NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    1 << 15,
    (1 << 16) - 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"-1e999",
    b"nan",
    b"inf",
    b"NA",
    b"-9",
    b".",
    b"99999999999999999999",
    b"9" * 5000,
    b"1_000",
    b"0x10",
    b"1e-320",
    b"",
    b" ",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"#",
    b'"',
    b"'",
    b",",
    b";",
    b"{",
    b"[",
    b"]",
    b"}",
    b":",
    b"\0",
    b"\xff",
    b"\xc3\xa9",
    "\u2028".encode(),
    b"\xef\xbb\xbf",
    b"x" * 70000,
    b"1 " * 3000,
    b"[" * 2000,
    b"#CHROM",
    b"FID",
    b"IID",
    b"SNP",
    b"true",
    b"null",
    b"-",
    b"1:2",
    "\u0663".encode(),
    b"track",
    b"\x1a",
    b"\x0b",
    b"\x85",
)
STRANGE = (
    None,
    True,
    -1,
    0,
    1,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "a\nb",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
)
# fmt: on


def flip(rng: Rng, stored: bytes) -> bytes:
    changed = bytearray(stored)
    for place in rng.integers(0, max(1, len(stored)), rng.choice([1, 1, 2, 8])):
        if len(changed):
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(rng: Rng, stored: bytes) -> bytes:
    return stored[: int(rng.integers(0, len(stored) + 1))]


def cut_start(rng: Rng, stored: bytes) -> bytes:
    return stored[int(rng.integers(0, len(stored) + 1)) :]


def insert(rng: Rng, stored: bytes) -> bytes:
    place = int(rng.integers(0, len(stored) + 1))
    return stored[:place] + rng.bytes(int(rng.choice([1, 2, 4, 100]))) + stored[place:]


def remove(rng: Rng, stored: bytes) -> bytes:
    a, b = np.sort(rng.integers(0, len(stored) + 1, 2))
    return stored[:a] + stored[min(b, a + int(rng.choice([1, 4, 1000]))) :]


def repeat(rng: Rng, stored: bytes) -> bytes:
    """A block twice or many times."""
    a, b = np.sort(rng.integers(0, len(stored) + 1, 2))
    return stored[:b] + stored[a:b] * int(rng.choice([1, 1, 20])) + stored[b:]


def exchange(rng: Rng, stored: bytes) -> bytes:
    """Two halves, or neighbouring blocks, in the other order."""
    a, b, c = np.sort(rng.integers(0, len(stored) + 1, 3))
    return stored[:a] + stored[b:c] + stored[a:b] + stored[c:]


def number(rng: Rng, stored: bytes) -> bytes:
    """An absurd number where a header may have one; more often near the start."""
    width = int(rng.choice([1, 2, 4, 8]))
    reach = len(stored) if rng.random() < 0.4 else min(len(stored), 200)
    place = int(rng.integers(0, max(1, reach - width + 1)))
    value = int(NUMBERS[rng.integers(len(NUMBERS))]) & ((1 << 8 * width) - 1)
    return stored[:place] + value.to_bytes(width, "little" if rng.random() < 0.8 else "big") + stored[place + width :]


def magic(rng: Rng, stored: bytes) -> bytes:
    chosen = MAGICS[rng.integers(len(MAGICS))]
    return chosen + stored[len(chosen) :] if rng.random() < 0.7 else chosen + stored


def other(rng: Rng, stored: bytes) -> bytes:
    """Something else altogether."""
    empty = (b"", b"\n", b"\0" * 1000, gzip.compress(b""), gzip.compress(stored), rng.bytes(500), stored * 2)
    return empty[rng.integers(len(empty))]


def word(rng: Rng, stored: bytes) -> bytes:
    """A field of text by an absurd one."""
    fields = [*re.finditer(rb"[^\s,:\[\]{}]+", stored)]
    if not fields:
        return insert(rng, stored)
    field = fields[rng.integers(len(fields))]
    chosen = WORDS[rng.integers(len(WORDS))]
    return stored[: field.start()] + chosen + stored[field.start() if rng.random() < 0.3 else field.end() :]


def lines(rng: Rng, stored: bytes) -> bytes:
    """Lines lost, twice, in another order, or cut."""
    found = stored.splitlines(keepends=True)
    if len(found) < 2:
        return repeat(rng, stored)
    a, b = (int(k) for k in rng.integers(0, len(found), 2))
    kind = rng.integers(5)
    if kind == 0:
        del found[a]
    elif kind == 1:
        found.insert(b, found[a])
    elif kind == 2:
        found[a], found[b] = found[b], found[a]
    elif kind == 3:
        found[a] = found[a].rstrip()[: int(rng.integers(0, len(found[a]) + 1))] + b"\n"
    else:
        found[a] = found[a].rstrip(b"\r\n") + [b" more\n", b"\tmore\n", b",more\n", b"\r", b""][rng.integers(5)]
    return b"".join(found)


BINARY: tuple[Damage, ...] = (flip, cut, cut_start, insert, remove, repeat, exchange, number, number, magic, other)
TEXT: tuple[Damage, ...] = (*BINARY, word, word, word, word, lines, lines, lines)


def binary(rng: Rng, stored: bytes) -> bytes:
    return _some(rng, stored, BINARY)


def text(rng: Rng, stored: bytes) -> bytes:
    return _some(rng, stored, TEXT)


def _some(rng: Rng, stored: bytes, kinds: tuple[Damage, ...]) -> bytes:
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        stored = kinds[rng.integers(len(kinds))](rng, stored)
    return stored[: 1 << 20]


def within(unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes], damage: Damage) -> Damage:
    """Damage to what a valid archive holds."""
    return lambda rng, stored: pack(damage(rng, unpack(stored)))


STRANGE = (
    None,
    True,
    -1,
    0,
    1,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "a\nb",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
)


def document(rng: Rng, stored: bytes) -> bytes:
    """JSON with a value, key or list by a strange one."""
    found = json.loads(stored)
    for _ in range(int(rng.choice([1, 1, 2]))):
        found = _strange(rng, found)
    return json.dumps(found).encode()


def _strange(rng: Rng, value):
    if isinstance(value, list | dict) and len(value) and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[rng.integers(len(keys))]
        changed = value.copy()
        kind = rng.integers(5)
        if kind == 0:
            del changed[key]
        elif kind == 1 and isinstance(value, list):
            changed.append(changed[key])
        elif kind == 2 and isinstance(value, dict):
            changed[str(STRANGE[rng.integers(len(STRANGE))])] = changed.pop(key)
        else:
            changed[key] = _strange(rng, changed[key])
        return changed
    return STRANGE[rng.integers(len(STRANGE))]


def arrays_of(stored: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(stored)) as file:
        return {name: file[name] for name in file.files}


def npz_of(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def arrays(rng: Rng, stored: bytes) -> bytes:
    """A valid .npz with an array by a strange one."""
    found = arrays_of(stored)
    for _ in range(int(rng.choice([1, 1, 2]))):
        name = list(found)[rng.integers(len(found))]
        if rng.random() < 0.1:
            found.pop(name)
            found["another"] = np.arange(3)
        else:
            found[name] = strange_array(rng, found[name])
    return npz_of(found)


def strange_array(rng: Rng, array: np.ndarray) -> np.ndarray:
    kind = rng.integers(7)
    if kind == 0:
        kinds = ["U7", "S3"] if array.dtype.kind in "US" else [np.int8, np.float32, np.complex128, "U7", ">i8", bool]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is lost is the point
            return array.astype(kinds[rng.integers(len(kinds))])
    if kind == 1:
        return array[..., None] if rng.random() < 0.5 or not array.size else array.ravel()[:1].reshape(())
    if kind == 2:
        return np.concatenate([array.ravel(), array.ravel()[-1:]])
    if kind == 3:
        return array.ravel()[: int(rng.integers(0, array.size + 1))]
    changed = array.copy()
    if changed.size and changed.dtype.kind in "iuf":
        extreme = [-1, 0, 1, 2**31 - 1, -(2**31), 2**62, np.nan, np.inf, 1e300]
        value = extreme[rng.integers(len(extreme) if changed.dtype.kind == "f" else 6)]
        with np.errstate(over="ignore"):
            changed.ravel()[int(rng.integers(changed.size))] = np.array(value).astype(changed.dtype)
    return changed


def members(rng: Rng, stored: bytes) -> bytes:
    """An .npz whose archive is valid and whose .npy files are damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(stored)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = names[rng.integers(len(names))]
        for name in names:
            new.writestr(name, binary(rng, old.read(name)) if name == chosen else old.read(name))
    return buffer.getvalue()
