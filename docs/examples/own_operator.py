"""A component that is a function: people in households of three."""

import numpy as np
from data import K, X, y

from gpu_reml import reml

household = reml.Operator(lambda B: np.repeat(B.reshape(100, 3, -1).sum(axis=1), 3, axis=0), 300.0, "household")
result = reml.fit(y, X, [K, household])
print(result.summary())
