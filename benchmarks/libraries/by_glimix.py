"""``python by_glimix.py PREFIX TABLE``: one component by glimix-core, as its users write it; prints h2.

Run by ``benchmarks.compare_tools`` in an environment of its own, which has glimix-core and bed-reader.
"""

import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
from bed_reader import open_bed
from glimix_core.lmm import LMM
from numpy_sugar.linalg import economic_qs

prefix, table = sys.argv[1:]
y = pd.read_csv(table, sep=" ")["trait"].to_numpy()
Z = open_bed(f"{prefix}.bed").read(dtype="float64")
Z -= np.nanmean(Z, axis=0)
Z /= np.nanstd(Z, axis=0)
Z[np.isnan(Z)] = 0
K = Z @ Z.T / Z.shape[1]
model = LMM(y, np.ones((len(y), 1)), economic_qs(K), restricted=True)
model.fit(verbose=False)
explained = model.v0 * np.trace(K) / len(y)
print(f"glimix-core {version('glimix-core')} h2 {explained / (explained + model.v1):.8f} nan")
