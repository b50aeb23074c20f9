"""``python by_fastlmm.py PREFIX TABLE``: one component by FaST-LMM's Python library; prints h2.

Run by ``benchmarks.compare_tools`` in an environment of its own, which has fastlmm.
"""

import sys
from importlib.metadata import version

import numpy as np
import pandas as pd
from fastlmm.inference.lmm import LMM
from pysnptools.snpreader import Bed
from pysnptools.standardizer import Unit

prefix, table = sys.argv[1:]
y = pd.read_csv(table, sep=" ")["trait"].to_numpy()
Z = Bed(f"{prefix}.bed", count_A1=True).read().standardize(Unit()).val
K = Z @ Z.T / Z.shape[1]
model = LMM()
model.setK(K)
model.setX(np.ones((len(y), 1)))
model.sety(y)
share = float(model.findH2(REML=True)["h2"])  # of a unit of K
explained = share * np.trace(K) / len(y)
print(f"fastlmm {version('fastlmm')} h2 {explained / (explained + 1 - share):.8f} nan")
