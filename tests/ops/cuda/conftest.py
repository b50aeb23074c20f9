"""Device arrays for the tests of the launchers, on a device or in numba's simulator."""

import numpy as np
import pytest

GUARD = -7.0


class Device:
    """Makes device arrays; memory that nobody has written is NaN, so an entry that a kernel leaves out shows."""

    stream = 0

    def __init__(self):
        self.allocated_bytes = 0

    @staticmethod
    def put(array, dtype=np.float32):
        from numba import cuda

        return cuda.to_device(np.ascontiguousarray(array, dtype))

    def empty(self, shape, dtype=np.float32):
        return self.put(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -1), dtype)

    def allocate(self, shape, dtype):
        """What launchers take scratch memory from."""
        self.allocated_bytes += int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.empty(shape, dtype)

    def guarded(self, array, dtype=np.float32):
        """(array on the device, function that reads it back): rows before and after it must keep their value."""
        array = np.asarray(array, dtype)
        whole = self.put(np.concatenate([np.full_like(array[:1], GUARD), array, np.full_like(array[:1], GUARD)]), dtype)

        def read():
            host = whole.copy_to_host()
            assert (host[[0, -1]] == GUARD).all(), "a kernel wrote outside its result"
            return host[1:-1]

        return whole[1:-1], read


@pytest.fixture
def device():
    return Device()
