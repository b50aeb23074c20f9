"""The checksum of kept genotypes."""

import numba
import numpy as np
import pytest

from gpu_reml.ops.checksum import BLOCK_WORDS, checksum

SIZES = [0, 1, 7, 8, 9, 40, 8 * BLOCK_WORDS - 1, 8 * BLOCK_WORDS + 19, 3 * 8 * BLOCK_WORDS]


@pytest.fixture(params=SIZES)
def content(request):
    return np.random.default_rng(request.param).integers(0, 256, request.param, dtype=np.uint8)


def test_every_bit_of_every_byte_counts(content):
    whole, seen = checksum(content), set()
    places = np.unique(np.linspace(0, len(content) - 1, 40).astype(int)) if len(content) else []
    for place in places:
        for bit in range(8):
            content[place] ^= 1 << bit
            seen.add(checksum(content))
            content[place] ^= 1 << bit
    assert whole not in seen and len(seen) == 8 * len(places)
    assert checksum(content) == whole


def test_a_zero_more_is_another_array(content):
    assert checksum(np.append(content, np.uint8(0))) != checksum(content)


def test_words_that_change_places_count():
    content = np.arange(4 * BLOCK_WORDS, dtype=np.uint64)
    for i, j in ((0, 1), (0, 4), (5, 3 * BLOCK_WORDS), (BLOCK_WORDS - 1, BLOCK_WORDS)):
        other = content.copy()
        other[[i, j]] = other[[j, i]]
        assert checksum(other) != checksum(content)


def test_it_does_not_depend_on_threads_or_on_how_the_bytes_are_shaped(content):
    whole = checksum(content)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert checksum(content) == whole
    finally:
        numba.set_num_threads(threads)
    if len(content) % 3 == 0:
        assert checksum(content.reshape(3, -1)) == whole


def test_an_array_with_gaps_is_refused():
    with pytest.raises(ValueError, match="array: expected one that is contiguous"):
        checksum(np.zeros((4, 4), np.uint8)[:, :2])
