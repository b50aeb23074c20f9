"""What the estimators ask of a covariance, and how one is made: of functions, matrices, lists or your own class."""

from gpu_reml.ops.base import Covariance

from .conversion import as_covariance, placed
from .functions import FunctionCovariance, Operator, dense_covariance
from .incidence import IncidenceCovariance, grouping, incidence, legendre_basis, random_regression, records
from .mixed import MixedCovariance
from .single_step import single_step
from .wrapped import CountingCovariance, WrappedCovariance, genetic

__all__ = [
    "CountingCovariance",
    "Covariance",
    "FunctionCovariance",
    "IncidenceCovariance",
    "MixedCovariance",
    "Operator",
    "WrappedCovariance",
    "as_covariance",
    "dense_covariance",
    "genetic",
    "grouping",
    "incidence",
    "legendre_basis",
    "placed",
    "random_regression",
    "records",
    "single_step",
]
