"""A fit with several, and the exact fit beside it."""

from data import K, X, other, y

from gpu_reml import reml

result, exact = reml.fit(y, X, [K, other]), reml.fit_exact(y, X, [K, other])
print(result.theta, exact.theta, result.mc_se)
