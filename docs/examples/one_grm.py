"""A fit with one relationship matrix."""

from data import K, X, y

from gpu_reml import reml

result = reml.fit(y, X, K)
print(result.summary())
