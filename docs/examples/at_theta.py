"""Log-likelihood, score and average information at a theta, and the step that they make."""

import numpy as np
from data import K, X, y

from gpu_reml import reml

model, probes = (np.array([1.0, 2.0]), y, X, K), reml.exact_probes(len(y))
likely, gradient = reml.loglik(*model, probes=probes), reml.score(*model, probes=probes)
information = reml.average_information(*model)
step = reml.ai_step(model[0], gradient.score, information.ai, np.array([0.0, 1e-6]))
print(likely.value, gradient.score, step.theta)
