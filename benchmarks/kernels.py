"""``python -m benchmarks.kernels``: V(theta) B from packed genotypes against two GEMMs on Z already in RAM, in one run.

The floor is Z'B and Z(Z'B) with Z (m, n) float32 in memory: what a program that could afford 16 times the memory pays.
"Packed" is what programs run; "float32" its float products; "decode" those made to decode tiles for BLAS, whatever the
number of columns; "3 digits" and "2 digits" the products in integers, where the processor has them, and beside AMX
those of VNNI with 3.  Errors are of the worst column, relative to its norm, against float64.
"""

import argparse
import json
import time

import numpy as np

from gpu_reml.ops import CpuProducts, make_covariance, standardise
from gpu_reml.ops.backend import make_cpu_products
from gpu_reml.ops.cpu_integers import KINDS, IntegerProducts, best_kernels
from gpu_reml.ops.cpu_kernels import as_pairs, decode, pair_table
from gpu_reml.ops.genotypes import code_values


def random_packed(n: int, m: int, seed: int = 0, missing: float = 0.01) -> np.ndarray:
    """Packed genotypes with a share of missing calls and a spread of frequencies."""
    rng = np.random.default_rng(seed)
    packed = np.zeros((m, (n + 3) // 4), np.uint8)
    for j in range(m):
        f = rng.uniform(0.05, 0.5)
        p = np.array([f * f, missing / max(1 - missing, 1e-9), 2 * f * (1 - f), (1 - f) ** 2])
        codes = np.searchsorted(np.cumsum(p / p.sum()), rng.random(packed.shape[1] * 4)).astype(np.uint8)
        quads = np.minimum(codes, 3).reshape(-1, 4)
        packed[j] = quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6
    return packed


def alternate(functions: dict, repeats: int) -> dict[str, float]:
    """The best seconds of each function, run in turn so that drift of the machine hits all alike: others only add."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def kinds_of(genotypes) -> dict:
    """The products that are compared, by name."""
    kinds = {
        "packed": make_cpu_products(genotypes),
        "float32": CpuProducts(genotypes),
        "decode": CpuProducts(genotypes, fused_columns=0),
    }
    if best_kernels() is not None:
        kinds |= {f"{d} digits": IntegerProducts(genotypes, fused_columns=0, digits=d) for d in (3, 2)}
        others = [kernels for kernels in KINDS if kernels.available()][1:]
        kinds |= {
            kernels.instruction: IntegerProducts(genotypes, fused_columns=0, kernels=kernels) for kernels in others
        }
    return kinds


def floor_rows(genotypes, ks: list[int], repeats: int) -> list[dict]:
    """Every kind of product against the GEMM floor, for every number of columns."""
    n, m = genotypes.num_samples, genotypes.num_variants
    kinds = kinds_of(genotypes)
    Z = np.empty((m, 4 * ((n + 3) // 4)), np.float32)
    decode(genotypes.parts[0], pair_table(code_values(genotypes).astype(np.float32)), as_pairs(Z))
    Z = Z[:, :n]
    w, rows = np.full(m, 1 / m), []
    print("  k" + "".join(f"{name:>12}" for name in [*kinds, "floor"]) + "   ratios to the floor, and errors")
    for k in ks:
        B = np.random.default_rng(k).standard_normal((n, k)).astype(np.float32)
        functions = {name: lambda B=B, products=products: products.weighted(B, w) for name, products in kinds.items()}
        functions["floor"] = lambda B=B: Z.T @ (Z @ B)
        seconds = alternate(functions, repeats)
        few = min(k, 4)
        exact = CpuProducts(genotypes, np.float64).weighted(B[:, :few], w)
        found = {name: products.weighted(B, w)[:, :few] for name, products in kinds.items()}
        row = {
            "k": k,
            **seconds,
            "ratio_to_decode": seconds["packed"] / seconds["decode"],
            "ratio": seconds["packed"] / seconds["floor"],
            "ratios": {name: seconds[name] / seconds["floor"] for name in kinds},
            "errors": {name: worst(found[name], exact) for name in kinds},
            "packed_gflops": 4e-9 * n * m * k / seconds["packed"],
        }
        rows.append(row)
        listed = "".join(f"{row[name]:12.4f}" for name in functions)
        compared = "  ".join(f"{row['ratios'][name]:.2f} ({row['errors'][name]:.0e})" for name in kinds)
        print(f"{k:3d}{listed}   {compared}", flush=True)
    return rows


def worst(found: np.ndarray, exact: np.ndarray) -> float:
    """The largest error of a column, relative to its norm."""
    return float((np.linalg.norm(found - exact, axis=0) / np.linalg.norm(exact, axis=0)).max())


def component_rows(genotypes, k: int, repeats: int) -> list[dict]:
    """V(theta) B with 1, 10 and 100 overlapping components: one pass whatever their number."""
    rng = np.random.default_rng(0)
    B = rng.standard_normal((genotypes.num_samples, k)).astype(np.float32)
    functions = {}
    for groups in (1, 10, 100):
        weights = rng.random((genotypes.num_variants, groups))
        covariance = make_covariance(make_cpu_products(genotypes), weights)
        theta = np.full(groups, 0.5 / groups)
        functions[groups] = lambda c=covariance, t=theta: c.apply(t, B)
    seconds = alternate(functions, repeats)
    rows = [{"components": g, "seconds": s, "ratio": s / seconds[1]} for g, s in seconds.items()]
    for row in rows:
        print(f"G={row['components']:4d}  {row['seconds']:8.4f} s  ratio to G=1 {row['ratio']:5.2f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("-m", type=int, default=50000)
    parser.add_argument("-k", type=int, nargs="+", default=[1, 4, 16, 32, 64, 128])
    parser.add_argument("--missing", type=float, default=0.01, help="share of calls that are missing (default: 0.01)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    packed = random_packed(options.n, options.m, missing=options.missing)
    genotypes = standardise([packed], options.n)
    dense = 4 * options.n * options.m
    print(f"n={options.n} m={options.m}: packed {packed.nbytes / 2**20:.0f} MiB, float32 {dense / 2**20:.0f} MiB")
    result = {
        "floor": floor_rows(genotypes, options.k, options.repeats),
        "components": component_rows(genotypes, 32, options.repeats),
    }
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
