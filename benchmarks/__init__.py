"""Timings as ratios against a floor or a peer, run from a checkout; GPU_REML itself need not be installed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

if importlib.util.find_spec("gpu_reml") is None:
    checkout = ModuleType("gpu_reml")
    checkout.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["gpu_reml"] = checkout
