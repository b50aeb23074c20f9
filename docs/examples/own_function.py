"""The trace of a function of your own: how many effective parameters a ridge of 1 leaves, tr K (K + I)^-1."""

from data import K

from gpu_reml import reml

found = reml.slq(K, reml.draw_probes(300, 100), lambda values: values / (values + 1))
print(f"{found.estimate:.1f} (SE {found.mc_se:.1f})")
