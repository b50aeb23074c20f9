"""A covariance whose products have all threads of BLAS, in a fit whose small matrices have one."""

from gpu_reml.ops.blas import all_threads

from .wrapped import WrappedCovariance


class ThreadedCovariance(WrappedCovariance):
    """Another covariance, with products by all threads (:mod:`gpu_reml.ops.blas`), a caller's own among them."""

    def __init__(self, base):
        super().__init__(base)
        self.products, self.weights = self.base.products, self.base.weights

    @all_threads()
    def apply(self, theta, B):
        return self.base.apply(theta, B)

    @all_threads()
    def features(self, B):
        return self.base.features(B)

    def grams(self, pieces, F):
        return self.base.grams(pieces, F)

    @all_threads()
    def core(self, B):
        return self.base.core(B)

    @all_threads()
    def apply_each(self, F):
        return self.base.apply_each(F)

    @all_threads()
    def apply_features(self, theta, F):
        return self.base.apply_features(theta, F)
