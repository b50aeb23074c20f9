"""Device memory: taken, given back, used again, and held to its limits."""

import numpy as np
import pytest

from gpu_reml.ops.device.pool import DeviceMemoryError, Pool, size_class


def counting_pool(**limits):
    asked = []

    def allocate(num_bytes):
        asked.append(num_bytes)
        return np.empty(num_bytes, np.uint8)

    pool = Pool(allocate, **limits)
    return pool, asked


@pytest.mark.parametrize("num_bytes", [1, 512, 513, 4096, 2**20, 2**20 + 1, 3 * 2**20 + 5, 2**31 + 17, 80 * 2**30])
def test_a_size_class_holds_its_bytes_and_wastes_a_sixteenth_where_it_matters(num_bytes):
    size = size_class(num_bytes)
    assert size >= num_bytes
    assert size <= num_bytes * (1 + 1 / 16) + 1 if num_bytes > 2**20 else size <= max(512, 2 * num_bytes)
    assert size_class(size) == size


def test_an_array_has_the_shape_and_type_asked_for():
    pool, _ = counting_pool()
    array = pool.array((3, 5), np.float64)
    array[...] = np.arange(15.0).reshape(3, 5)
    assert array.shape == (3, 5) and array.dtype == np.float64 and array.flags.c_contiguous


def test_memory_of_a_dropped_array_is_used_again_without_asking():
    pool, asked = counting_pool()
    first = pool.array((1000,), np.float32)
    address = first.ctypes.data
    del first
    second = pool.array((900,), np.float32)
    assert second.ctypes.data == address and len(asked) == 1


def test_arrays_alive_together_share_nothing():
    pool, _ = counting_pool()
    arrays = [pool.array((256,), np.float32) for _ in range(4)]
    for value, array in enumerate(arrays):
        array[:] = value
    assert [array[0] for array in arrays] == [0, 1, 2, 3]


def test_bytes_in_use_held_and_at_the_peak_are_counted():
    pool, _ = counting_pool()
    first, second = pool.array((1024,), np.uint8), pool.array((2048,), np.uint8)
    assert (pool.in_use, pool.held) == (3072, 3072)
    del first
    assert (pool.in_use, pool.held, pool.peak_in_use, pool.peak_held) == (2048, 3072, 3072, 3072)
    pool.release()
    assert (pool.in_use, pool.held) == (2048, 2048)
    assert second[0] is not None


def test_an_empty_array_takes_no_memory():
    pool, asked = counting_pool()
    assert pool.array((7, 0), np.float32).shape == (7, 0)
    assert asked == [] and pool.in_use == 0


def test_kept_memory_goes_before_the_plan_is_passed_and_only_as_much_as_needed():
    trimmed = []
    pool, asked = counting_pool(trim=lambda: trimmed.append(True))
    pool.planned = 8192
    small, large = pool.array((1024,), np.uint8), pool.array((4096,), np.uint8)
    del small, large
    kept = pool.array((6000,), np.uint8)  # a class of 8192
    assert pool.held == 8192 and trimmed and len(asked) == 3
    del kept
    assert pool.array((8192,), np.uint8) is not None and len(asked) == 3


def test_the_limit_is_an_error_with_both_numbers():
    pool, _ = counting_pool(limit=4096)
    held = pool.array((4096,), np.uint8)
    with pytest.raises(DeviceMemoryError, match=r"512 bytes more .* limit of 4,096 \(4,096 in use\)"):
        pool.array((1,), np.uint8)
    assert held is not None


def test_when_the_device_has_no_more_what_is_kept_is_given_back_first():
    room = 2048

    def allocate(num_bytes):
        if pool.held + num_bytes > room:
            raise DeviceMemoryError("out of memory")
        return np.empty(num_bytes, np.uint8)

    pool = Pool(allocate)
    array = pool.array((1024,), np.uint8)
    del array
    large = pool.array((2048,), np.uint8)
    assert pool.held == large.nbytes
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        pool.array((1024,), np.uint8)
