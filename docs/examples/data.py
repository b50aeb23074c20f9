"""The arrays that the other examples start from: y (n,), X (n, c), and two relationship matrices (n, n)."""

import numpy as np

rng = np.random.default_rng(0)
Z = rng.standard_normal((300, 800))
K, other = (part @ part.T / 400 for part in (Z[:, :400], Z[:, 400:]))
X = np.column_stack([np.ones(300), rng.standard_normal(300)])
y = X @ [10.0, 1.0] + Z @ rng.standard_normal(800) / 20 + rng.standard_normal(300)
