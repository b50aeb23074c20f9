"""``python -m benchmarks.smile``: products with dense blocks of weights against ordinary ones, in one run.

Z W Z'B with blocks of W beside Z diag(w) Z'B, both made to decode tiles (``ratio``) and both as they would be done
(``as run``: few columns go straight from packed bytes); two groups beside one; the exact traces once; and the memory
that products allocate, which is never a copy of Z.
"""

import argparse
import json
import time
import tracemalloc

import numpy as np

from gpu_reml.ops import CpuProducts, standardise
from gpu_reml.ops.block_covariance import make_block_covariance
from gpu_reml.ops.weights import BlockWeights

from .kernels import alternate, random_packed


def covariances(m: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A few symmetric positive semi-definite blocks (b, b), repeated to make m variants."""
    roots = [rng.standard_normal((size, 2 * size)).astype(np.float32) for _ in range(min(8, m // size))]
    made = [root @ root.T / (2 * size) for root in roots]
    return [made[i % len(made)] for i in range(m // size)]


def product_rows(genotypes, size: int, ks: list[int], repeats: int) -> list[dict]:
    """The ratio of a product with blocks to an ordinary one, for every number of columns."""
    m, rng = genotypes.num_variants, np.random.default_rng(0)
    weights, w = BlockWeights(covariances(m, size, rng)), np.full(m, 1 / m)
    identity = BlockWeights([m])
    decoding, products = CpuProducts(genotypes, fused_columns=0), CpuProducts(genotypes)
    rows = []
    for k in ks:
        B = rng.standard_normal((genotypes.num_samples, k)).astype(np.float32)
        seconds = alternate(
            {
                "ordinary": lambda B=B: decoding.weighted(B, w),
                "blocks": lambda B=B: decoding.weighted(B, weights),
                "identity": lambda B=B: decoding.weighted(B, identity),
                "ordinary as run": lambda B=B: products.weighted(B, w),
                "blocks as run": lambda B=B: products.weighted(B, weights),
            },
            repeats,
        )
        row = {
            "block": size, "k": k, **seconds,
            "ratio": seconds["blocks"] / seconds["ordinary"],
            "ratio_as_run": seconds["blocks as run"] / seconds["ordinary as run"],
            "ratio_identity": seconds["identity"] / seconds["ordinary"],
        }  # fmt: skip
        rows.append(row)
        print(
            f"blocks of {size:5d}  k={k:4d}  ordinary {seconds['ordinary']:.3f} s  blocks {seconds['blocks']:.3f} s  "
            f"ratio {row['ratio']:.2f}  as run {row['ratio_as_run']:.2f}  W = I {row['ratio_identity']:.2f}",
            flush=True,
        )
    return rows


def group_row(genotypes, size: int, k: int, repeats: int) -> dict:
    """One pass whatever the number of groups: four groups beside one."""
    m, rng = genotypes.num_variants, np.random.default_rng(0)
    matrices = covariances(m, size, rng)
    products = CpuProducts(genotypes)
    start = time.perf_counter()
    one = make_block_covariance(products, [matrices])
    traces = time.perf_counter() - start
    quarter = len(matrices) // 4
    four = make_block_covariance(
        products, [matrices[g * quarter : (g + 1) * quarter if g < 3 else None] for g in range(4)]
    )
    B = rng.standard_normal((genotypes.num_samples, k)).astype(np.float32)
    functions = {"one": lambda: one.apply([1.0], B), "four": lambda: four.apply(np.ones(4), B)}
    seconds = alternate(functions, repeats)
    row = {"k": k, **seconds, "ratio": seconds["four"] / seconds["one"], "traces": traces}
    print(
        f"4 groups / 1 group: {row['ratio']:.2f}; exact diagonals and traces, once: {traces:.2f} s, "
        f"{traces / seconds['one']:.1f} products of {k} columns"
    )
    return row


def memory_row(genotypes, size: int, k: int) -> dict:
    """Most bytes that making a covariance and a product allocate, beside those of Z as float32."""
    m, n, rng = genotypes.num_variants, genotypes.num_samples, np.random.default_rng(0)
    matrices = covariances(m, size, rng)
    B = rng.standard_normal((n, k)).astype(np.float32)
    products = CpuProducts(genotypes)
    tracemalloc.start()
    covariance = make_block_covariance(products, [matrices])
    covariance.apply([1.0], B)
    covariance.core(B)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row = {"block": size, "blocks": len(matrices), "peak": peak, "z": 4 * n * m, "packed": genotypes.num_bytes}
    print(
        f"{len(matrices)} blocks of {size}: covariance, product and core of {k} columns allocate at most "
        f"{peak / 2**20:.0f} MiB; Z as float32 is {row['z'] / 2**20:.0f} MiB, packed {row['packed'] / 2**20:.0f} MiB"
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("-m", type=int, default=20000)
    parser.add_argument("-b", type=int, nargs="+", default=[50, 500, 1000], help="sizes of blocks")
    parser.add_argument("-k", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--memory-m", type=int, default=40_000, help="variants for the memory, in blocks of 1,000")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    genotypes = standardise([random_packed(options.n, options.m)], options.n)
    found = {"n": options.n, "m": options.m}
    found["products"] = [row for b in options.b for row in product_rows(genotypes, b, options.k, options.repeats)]
    found["groups"] = group_row(genotypes, 500, 32, options.repeats)
    large = standardise([random_packed(options.n, options.memory_m)], options.n)
    found["memory"] = memory_row(large, 1000, 32)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
