"""What the estimators ask of a covariance, and how one is made: of functions, matrices, lists or your own class."""

from gpu_reml.ops.base import Covariance

from .conversion import as_covariance, placed
from .functions import FunctionCovariance, Operator, dense_covariance
from .mixed import MixedCovariance
from .wrapped import CountingCovariance, WrappedCovariance, genetic

__all__ = [
    "CountingCovariance",
    "Covariance",
    "FunctionCovariance",
    "MixedCovariance",
    "Operator",
    "WrappedCovariance",
    "as_covariance",
    "dense_covariance",
    "genetic",
    "placed",
]
