"""Every reader of this package with small valid files for it, and what is damaged in them."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import bgen
import numpy as np
import pandas as pd
import zstandard
from bed_reader import to_bed
from pgenlib import PgenWriter
from scipy import sparse

from gpu_reml.cli.relax_run import read_memberships
from gpu_reml.cli.sources import listed_prefixes
from gpu_reml.io import (
    AnalysedVariants,
    annotation_files,
    components_from_annotations,
    components_from_intervals,
    components_from_lists,
    components_from_specs,
    components_from_table,
    load_genotypes,
    read_admixture,
    read_bed,
    read_bgen,
    read_checkpoint,
    read_component_spec,
    read_covariates,
    read_grm,
    read_ld_scores,
    read_model,
    read_pgen,
    read_phenotype,
    read_phenotypes,
    read_sample_list,
    read_w,
    read_w_list,
    write_checkpoint,
    write_model,
)
from gpu_reml.io.documents import HEAD, checksum_of
from gpu_reml.io.filters import read_variant_ids
from gpu_reml.io.model import FixedTerms, Model, Scale
from gpu_reml.io.smile import stored_bytes
from gpu_reml.reml import unpack

from . import damage
from .damage import Damage

N, M = 11, 9  # samples and variants
PEOPLE = 150  # of a .pgen, which stores few samples in fewer ways
IDENTITY = {"phenotypes": "ab12", "--seed": 3}


class Reader(NamedTuple):
    """``make(folder)`` writes valid files, of which ``name`` is damaged in one of the ``ways``; ``read(folder)``."""

    make: Callable[[Path], None]
    name: str
    read: Callable[[Path], Any]
    ways: tuple[Damage, ...]


def read_genotypes(file: Any) -> Any:
    """All that an analysis takes from a genotype file."""
    some = np.arange(0, file.num_samples, 2)
    return (
        file.read_packed(),
        file.read_packed(some),
        file.read_dosages(),
        file.read_dosages(some, bits=8),
        file.variants,
    )


def text_reader(name: str, content: str, read: Callable[[Path], Any], *more: Damage) -> Reader:
    """A reader of one text file."""
    return Reader(lambda folder: _write(folder / name, content), name, lambda f: read(f / name), (damage.text, *more))


def compressed_reader(name: str, content: str, read: Callable[[Path], Any]) -> Reader:
    """A reader of one compressed text: the archive is damaged, or what it holds."""
    pack, expand = (
        (gzip.compress, gzip.decompress)
        if name.endswith(".gz")
        else (zstandard.compress, lambda b: zstandard.ZstdDecompressor().decompress(b))
    )

    def make(folder: Path) -> None:
        (folder / name).write_bytes(pack(content.encode()))

    ways = (damage.binary, damage.within(expand, pack, damage.text))
    return Reader(make, name, lambda folder: read(folder / name), ways)


def _write(path: Path, content: str) -> None:
    path.write_text(content)


def _counts() -> np.ndarray:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 3, (N, M)).astype(np.int8)
    counts[rng.random((N, M)) < 0.1] = -127
    return counts


def make_bed(folder: Path) -> None:
    properties = {
        "fid": [f"F{i}" for i in range(N)],
        "iid": [f"s{i}" for i in range(N)],
        "chromosome": [str(1 + j // 4) for j in range(M)],
        "sid": [f"rs{j}" for j in range(M)],
        "cm_position": [0.5 * j for j in range(M)],
        "bp_position": [100 * j for j in range(M)],
        "allele_1": ["A"] * M,
        "allele_2": ["C"] * M,
    }
    to_bed(str(folder / "c.bed"), _counts(), properties=properties)


def _pgen_counts() -> np.ndarray:
    """Calls that a .pgen stores in each of its ways: common, rare, much like the variant before, absent."""
    rng = np.random.default_rng(1)
    counts = rng.binomial(2, np.array([0.5, 0.5, 0.01, 0.02, 0.98, 0.3, 0.3, 0.005, 0.4]), (PEOPLE, M)).astype(np.int8)
    counts[:, 1] = np.where(rng.random(PEOPLE) < 0.02, 0, counts[:, 0])
    counts[:, 6] = np.where(rng.random(PEOPLE) < 0.02, 2, 2 - counts[:, 5])
    counts[rng.random(PEOPLE) < 0.1, 8] = -9
    counts[:, 7] = np.where(rng.random(PEOPLE) < 0.97, -9, counts[:, 7])
    return counts


def make_pgen(folder: Path, kind: str = "calls") -> None:
    """``kind``: calls, dosages of all or of some people, or a variant with several alleles."""
    options = {"variant_ct": M, "dosage_present": "dosages" in kind}
    if kind == "alleles":
        options |= {"allele_ct_limit": 4}
    with PgenWriter(bytes(folder / "c.pgen"), PEOPLE, **options) as writer:
        for j, column in enumerate(_pgen_counts().T):
            if "dosages" in kind:
                some = np.arange(PEOPLE) % 9 == 0 if kind == "some dosages" else True
                writer.append_dosages(np.where(column < 0, -9, np.where(some, column * 0.9, column)).astype(np.float32))
            elif kind == "alleles" and j in (3, 5):
                alleles = np.stack([np.arange(PEOPLE) % 2, np.arange(PEOPLE) % (2 if j == 3 else 4)], axis=1).astype(
                    np.int32
                )
                writer.append_alleles(alleles.ravel(), allele_ct=2 if j == 3 else 4)
            else:
                writer.append_biallelic(np.ascontiguousarray(column))
    alt = ["A,G,T" if kind == "alleles" and j == 5 else "A" for j in range(M)]
    rows = "".join(f"{1 + j // 4}\t{100 * j}\trs{j}\tC\t{alt[j]}\t{0.5 * j}\n" for j in range(M))
    (folder / "c.pvar").write_text("##x\n#CHROM\tPOS\tID\tREF\tALT\tCM\n" + rows)
    (folder / "c.psam").write_text("#FID\tIID\tSEX\n" + "".join(f"F{i}\ts{i}\t1\n" for i in range(PEOPLE)))


def make_zst(folder: Path) -> None:
    make_pgen(folder)
    (folder / "c.pvar.zst").write_bytes(zstandard.compress((folder / "c.pvar").read_bytes()))
    (folder / "c.pvar").unlink()


def bgen_maker(compression: str | None, bits: int, ids: bool = True) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        iids = [f"s{i}" for i in range(N)] if ids else None
        with bgen.BgenWriter(str(folder / "c.bgen"), N, samples=iids, compression=compression) as writer:
            for j, counts in enumerate(_counts().T):
                probabilities = np.eye(3)[np.clip(counts, 0, 2)]
                probabilities[counts < 0] = np.nan
                writer.add_variant(f"v{j}", f"rs{j}", "3", 100 * j, ["C", "A"], probabilities, bit_depth=bits)
        lines = ["ID_1 ID_2 missing sex", "0 0 0 D", *(f"F{i} s{i} 0 1" for i in range(N))]
        (folder / "c.sample").write_text("\n".join(lines) + "\n")

    return make


def bgen_content(rng: np.random.Generator, stored: bytes) -> bytes:
    """A valid BGEN of one variant whose genotypes are damaged before they are compressed."""
    n = int(rng.integers(1, 9))
    fixed = struct.pack("<IHBB", n, 2, 2, 2) + bytes([2] * n) + bytes([0, 8]) + bytes([100, 100] * n)
    block = damage.binary(rng, fixed)
    block = struct.pack("<I", len(block)) + zlib.compress(block)
    ids = b"".join(struct.pack("<H", 1) + bytes([97 + i]) for i in range(n))
    ids = struct.pack("<II", len(ids) + 8, n) + ids
    head = struct.pack("<IIII", 20 + len(ids), 20, 1, n) + b"bgen" + struct.pack("<I", 1 | 2 << 2 | 1 << 31) + ids
    variant = b"\0\0\x01\0r\x01\0001" + struct.pack("<IHIcIc", 5, 2, 1, b"C", 1, b"A")
    return head + variant + struct.pack("<I", len(block)) + block


def make_grm(folder: Path) -> None:
    lower = (np.eye(N) + 0.01)[np.tril_indices(N)].astype("<f4")
    lower.tofile(folder / "k.grm.bin")
    np.full_like(lower, M).tofile(folder / "k.grm.N.bin")
    (folder / "k.grm.id").write_text("".join(f"F{i}\ts{i}\n" for i in range(N)))


def read_matrix(folder: Path) -> Any:
    return read_grm(folder / "k").matrix()


def model() -> Model:
    rng = np.random.default_rng(0)
    variants = pd.DataFrame(
        {"chrom": "1", "id": [f"rs{j}" for j in range(M)], "bp": 100 * np.arange(M), "a1": "A", "a2": "C"}
    )
    samples = pd.DataFrame({"fid": [f"F{i}" for i in range(N)], "iid": [f"s{i}" for i in range(N)]})
    columns = (("age", None), ("sex", "2"))
    fixed = FixedTerms(("intercept", "age", "sex[2]"), rng.random(3), np.eye(3), columns, {"sex": "1"})
    return Model(
        "height",
        ("a", "b"),
        (None, Scale("environment", "age", 1.0, 2.0)),
        ("residual",),
        rng.random(3),
        rng.random(3),
        samples,
        rng.random(N),
        variants,
        rng.random(M),
        rng.random(M),
        sparse.csr_array(rng.random((M, 2))),
        fixed,
        {"mean_proportions": {}},
    )


def read_and_use_model(folder: Path) -> Any:
    found = read_model(folder / "m.npz")
    return found.effects.toarray(), found.intercepts, found.fixed.levels, found.effects @ np.ones(len(found.components))


def signed(change: Damage) -> Damage:
    """A model that was changed by someone who knows how its checksum is made."""

    def resigned(rng: np.random.Generator, stored: bytes) -> bytes:
        arrays = damage.arrays_of(change(rng, stored))
        if HEAD not in arrays:
            return damage.npz_of(arrays)
        try:
            head = json.loads(arrays.pop(HEAD).tobytes())
            head.pop("sha256", None)
            head["sha256"] = checksum_of(head, arrays)
        except (ValueError, AttributeError, TypeError):
            head = None
        arrays[HEAD] = np.frombuffer(json.dumps(head).encode(), np.uint8)
        return damage.npz_of(arrays)

    return resigned


def head_of_model(rng: np.random.Generator, stored: bytes) -> bytes:
    arrays = damage.arrays_of(stored)
    arrays[HEAD] = np.frombuffer(damage.document(rng, arrays[HEAD].tobytes()), np.uint8)
    return damage.npz_of(arrays)


def make_checkpoint(folder: Path) -> None:
    items = [{"array": 0}, 0.3, None, True, {"kind": "tuple", "items": [{"array": 1}]}]
    write_checkpoint(folder / "c.npz", IDENTITY, {"kind": "tuple", "items": items}, [np.arange(5.0), np.ones((2, 3))])


def read_state(folder: Path) -> Any:
    return unpack(*read_checkpoint(folder / "c.npz", IDENTITY))


def variants() -> AnalysedVariants:
    table = pd.DataFrame(
        {"chrom": "1", "id": [f"rs{j}" for j in range(M)], "cm": 0.0, "bp": 100 * np.arange(M), "a1": "A", "a2": "C"}
    )
    return AnalysedVariants.of(table, np.arange(M) != 2)


def read_spec(path: Path) -> Any:
    return components_from_specs(read_component_spec(path, M), variants()).weights.toarray()


def make_npz_spec(folder: Path) -> None:
    named = {"component_names": np.array(["x", "y"]), "component_annotations_json": np.array(["{}", ""])}
    np.savez(folder / "s.npz", a=np.arange(4), b=np.array([5, 7], np.int32), **named)


def w_reader(name: str, *ways: Damage) -> Reader:
    W = np.cov(np.random.default_rng(0).random((5, 9)))

    def make(folder: Path) -> None:
        path = folder / name
        if name.endswith(".npy"):
            np.save(path, W)
        elif name.endswith(".npz"):
            np.savez_compressed(path, W)
        elif name.endswith(".rds"):
            path.write_bytes(gzip.compress(r_matrix(W)))
        else:
            np.savetxt(path, W, delimiter="," if ".csv" in name else " ")

    return Reader(
        make, name, lambda folder: (stored_bytes(folder / name), np.array(read_w(folder / name).matrix)), ways
    )


def r_matrix(W: np.ndarray) -> bytes:
    """What saveRDS writes of a matrix before it is compressed."""
    head = b"X\n" + struct.pack(">iii", 2, 197636, 131840)
    values = struct.pack(">ii", 526, W.size) + W.T.astype(">f8").tobytes()
    size = struct.pack(">iiii", 1026, 1, 262153, 3) + b"dim" + struct.pack(">iiii", 13, 2, *W.shape)
    return head + values + size + struct.pack(">i", 254)


def make_sidecar(folder: Path) -> None:
    np.save(folder / "A.npy", np.eye(3))
    record = {"shape": [3, 3], "rank": 2.5, "variant_ids": ["a", "b", "c"], "other": {"x": [1]}}
    (folder / "A.json").write_text(json.dumps(record))


def make_cache(folder: Path) -> None:
    make_bed(folder)
    read_cached(folder)
    entry = next((folder / "cache").iterdir())
    (folder / "entry.npy").write_bytes(entry.read_bytes())


def read_cached(folder: Path) -> Any:
    """With the entry that is in the cache replaced by the damaged one, where there is one."""
    kept = [np.arange(0, N, 2)]
    for entry in (folder / "cache").glob("*.npy"):
        entry.write_bytes((folder / "entry.npy").read_bytes())
    return np.array(load_genotypes([read_bed(folder / "c")], kept, cache=folder / "cache").parts[0])


def make_q(folder: Path) -> None:
    make_bed(folder)
    (folder / "c.2.Q").write_text("".join(f"{i / N:.6f} {1 - i / N:.6f}\n" for i in range(N)))


def strange_npy(rng: np.random.Generator, stored: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, damage.strange_array(rng, np.load(io.BytesIO(stored))))
    return buffer.getvalue()


PHENO = "FID IID height weight\n" + "".join(f"F{i} s{i} {i / 7:.4f} {-9 if i == 3 else i}\n" for i in range(N))
ANNOT = "CHR BP SNP CM base coding\n" + "".join(f"1 {100 * j} rs{j} 0 1 {j % 2}\n" for j in range(M))
SCORES = "SNP CHR L2\n" + "".join(f"rs{j} 1 {j / 3:.3f}\n" for j in range(M))
THIN = "base coding\n" + "".join(f"1 {j / 3:.3f}\n" for j in range(M))
SPEC = json.dumps(
    {
        "components": [
            {"name": "a", "variant_indices": [0, 1, 4], "weights": [1, 0.5, 2], "annotation": {"x": [1]}},
            {"variant_ids": ["rs7", "rs8"], "provenance": {}},
        ]
    }
)


def annotations(path: Path) -> Any:
    return components_from_annotations(annotation_files(path), variants()).weights.toarray()


READERS: dict[str, Reader] = {
    "bed": Reader(make_bed, "c.bed", lambda f: read_genotypes(read_bed(f / "c")), (damage.binary,)),
    "bim": Reader(make_bed, "c.bim", lambda f: read_genotypes(read_bed(f / "c")), (damage.text,)),
    "fam": Reader(make_bed, "c.fam", lambda f: read_genotypes(read_bed(f / "c")), (damage.text,)),
    **{
        f"pgen {kind}": Reader(
            partial(make_pgen, kind=kind), "c.pgen", lambda f: read_genotypes(read_pgen(f / "c")), (damage.binary,)
        )
        for kind in ("calls", "dosages", "some dosages", "alleles")
    },
    "pvar": Reader(make_pgen, "c.pvar", lambda f: read_genotypes(read_pgen(f / "c")), (damage.text,)),
    "pvar.zst": Reader(
        make_zst,
        "c.pvar.zst",
        lambda f: read_genotypes(read_pgen(f / "c")),
        (damage.binary, damage.within(zstandard.decompress, zstandard.compress, damage.text)),
    ),
    "psam": Reader(make_pgen, "c.psam", lambda f: read_genotypes(read_pgen(f / "c")), (damage.text,)),
    "bgen zlib": Reader(
        bgen_maker("zlib", 8), "c.bgen", lambda f: read_genotypes(read_bgen(f / "c")), (damage.binary,)
    ),
    "bgen zstd": Reader(
        bgen_maker("zstd", 16), "c.bgen", lambda f: read_genotypes(read_bgen(f / "c")), (damage.binary,)
    ),
    "bgen plain": Reader(bgen_maker(None, 5), "c.bgen", lambda f: read_genotypes(read_bgen(f / "c")), (damage.binary,)),
    "bgen ids": Reader(
        lambda f: (bgen_maker("zlib", 8)(f), (f / "c.sample").unlink()),
        "c.bgen",
        lambda f: read_genotypes(read_bgen(f / "c")),
        (damage.binary, bgen_content),
    ),
    "sample": Reader(
        bgen_maker("zlib", 8), "c.sample", lambda f: read_genotypes(read_bgen(f / "c", f / "c.sample")), (damage.text,)
    ),
    "phenotype": text_reader("p.txt", PHENO, lambda p: (read_phenotype(p, number=2), read_phenotypes(p))),
    "phenotype csv": text_reader("p.csv", PHENO.replace(" ", ","), read_phenotypes),
    "phenotype tab": text_reader("p.tsv", PHENO.replace(" ", "\t"), read_phenotypes),
    "phenotype gz": compressed_reader("p.txt.gz", PHENO, read_phenotypes),
    "phenotype zst": compressed_reader("p.txt.zst", PHENO, read_phenotypes),
    "covariates": text_reader("c.txt", PHENO, read_covariates),
    "levels": text_reader("l.txt", PHENO, lambda p: read_covariates(p, "categorical")),
    "sample list": text_reader("k.txt", "".join(f"F{i} s{i}\n" for i in range(N)), read_sample_list),
    "variant ids": text_reader("v.txt", "rs1\nrs2 rs3\n", lambda p: read_variant_ids([p], "`extract`")),
    "prefix list": text_reader("x.txt", "# pieces\na\nb\n", lambda p: listed_prefixes(p, str)),
    "spec json": text_reader("s.json", SPEC, read_spec, damage.document),
    "spec npz": Reader(
        make_npz_spec, "s.npz", lambda f: read_spec(f / "s.npz"), (damage.binary, damage.arrays, damage.members)
    ),
    "component table": text_reader(
        "t.txt", "ID component weight\nrs1 a 1\nrs3 b 0.5\nrs1 b 2\n", lambda p: components_from_table(p, variants())
    ),
    "snp list": text_reader(
        "a.snps", "rs1\nrs3\nrs4 x\n".replace(" x", ""), lambda p: components_from_lists([p], variants())
    ),
    "annot": text_reader("a.annot", ANNOT, annotations),
    "annot gz": compressed_reader("a.annot.gz", ANNOT, annotations),
    "annot zst": compressed_reader("a.annot.zst", ANNOT, annotations),
    "annot thin": text_reader("a.annot", THIN, annotations),
    "intervals": text_reader(
        "i.bed", "track x\nchr1\t0\t300\ta\n1\t250\t500\tb\n", lambda p: components_from_intervals([p], variants())
    ),
    "ld scores": text_reader(
        "l.ld",
        "SNP CHR L2\n" + "".join(f"rs{j} 1 {j / 3:.3f}\n" for j in range(M)),
        lambda p: read_ld_scores(p, variants()),
    ),
    "W npy": w_reader("A.npy", damage.binary, strange_npy),
    "W npz": w_reader("A.npz", damage.binary, damage.arrays, damage.members),
    "W csv": w_reader("A.csv", damage.text),
    "W text gz": w_reader("A.txt.gz", damage.binary, damage.within(gzip.decompress, gzip.compress, damage.text)),
    "W rds": w_reader("A.rds", damage.binary, damage.within(gzip.decompress, gzip.compress, damage.binary)),
    "W sidecar": Reader(make_sidecar, "A.json", lambda f: read_w(f / "A.npy"), (damage.text, damage.document)),
    "W list": text_reader("w.txt", "# blocks\na.npy, b.npy\nc.npy\n", read_w_list),
    "grm bin": Reader(make_grm, "k.grm.bin", read_matrix, (damage.binary,)),
    "grm N": Reader(make_grm, "k.grm.N.bin", read_matrix, (damage.binary,)),
    "grm id": Reader(make_grm, "k.grm.id", read_matrix, (damage.text,)),
    "admixture": Reader(make_q, "c.2.Q", lambda f: read_admixture(f / "c.2.Q"), (damage.text,)),
    "admixture fam": Reader(make_q, "c.fam", lambda f: read_admixture(f / "c.2.Q"), (damage.text,)),
    "model": Reader(
        lambda f: write_model(f / "m.npz", model()),
        "m.npz",
        read_and_use_model,
        (damage.binary, damage.members, signed(damage.arrays), signed(head_of_model)),
    ),
    "checkpoint": Reader(make_checkpoint, "c.npz", read_state, (damage.binary, damage.arrays, damage.members)),
    "memberships": Reader(
        lambda f: np.save(f / "t.npy", np.ones((M, 3))),
        "t.npy",
        lambda f: read_memberships(str(f / "t.npy"), 3),
        (damage.binary, strange_npy),
    ),
    "cache entry": Reader(make_cache, "entry.npy", read_cached, (damage.binary,)),
}
