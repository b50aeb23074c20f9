"""Heritability by ancestry, where each has a genetic variance of its own: K_a = diag(sqrt q_a) K diag(sqrt q_a)."""

import numpy as np

from ..inference import Derived, delta_method
from ..tables import Components


def ancestry_heritability(
    result: Components, ancestries: dict[str, tuple[str, ...]], residuals: dict[str, str], proportions: np.ndarray
) -> Derived:
    """(A,) h2_a = sum_g tau_ga k_ga / (sum_g tau_ga k_ga + sigma_a): of a person of ancestry a alone.

    ancestries: name -> the components that are scaled by it; residuals: name -> its residual, the shared one or its
    own; proportions (A,): mean q_a.  k_ga = mean_i q_ia K_ii / mean_i q_ia is the mean relatedness to oneself of that
    ancestry.  With residuals by ancestry this is tau_a A_a / (tau_a A_a + sigma_a B_a) for A_a = mean q_ia K_ii and
    B_a = mean q_ia.  Errors by the delta method.
    """
    every = [*result.names, *result.residual_names]
    mean_traces = np.append(result.mean_traces, result.residual_traces)
    estimates, jacobian = [], []
    for (name, components), share in zip(ancestries.items(), proportions, strict=True):
        own = np.zeros(len(every))
        for component in components:
            position = every.index(component)
            own[position] = mean_traces[position] / share
        residual = np.zeros(len(every))
        residual[every.index(residuals[name])] = 1.0
        genetic, total = result.theta @ own, result.theta @ (own + residual)
        estimates.append(genetic / total)
        jacobian.append((own - genetic / total * (own + residual)) / total)
    return delta_method(np.array(estimates), np.array(jacobian), result.covariance, result.mc_covariance)
