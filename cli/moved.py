"""Flags that there were: what a developer of methods turns is set in Python, and what another command does is its own.

The import path of what takes the setting comes first in the advice.
"""

PREDICT = "give --save-model FILE, then gpu-reml-predict --model FILE with {} of the predicted samples"

MOVED = {
    "--check-psd": "in Python: gpu_reml.io.smile.read_w(path, check_psd=True)",
    "--normalise": 'in Python: gpu_reml.ops.make_covariance(products, normalise="trace"); V/Vp and h2 are the same',
    "--first-probes": "in Python: gpu_reml.reml.ProbeSettings(first=N); here --max-probes limits them",
    "--precond-rank": "in Python: gpu_reml.reml.studies.effects.effects(..., preconditioner=...); fits need none",
    "--calibration-variants": "in Python: gpu_reml.reml.studies.loco.LocoSettings(variants=N)",
    "--lasso-ebic-rss": "in Python: gpu_reml.reml.studies.lasso.PathSettings(refit=False)",
    "--prediction-admix-q": PREDICT.format("--admix-q"),
    "--prediction-admix-fam": PREDICT.format("--admix-q and --admix-fam"),
    "--prediction-admix-component-names": PREDICT.format("--admix-q and --admix-component-names"),
    "--prediction-gxe": PREDICT.format("--gxe"),
}
