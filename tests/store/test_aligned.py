"""Page-aligned memory."""

import gc

import numpy as np
import pytest

from holdfast.store.aligned import address, empty, is_aligned


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 2 << 20, (5 << 20) + 3])
def test_empty_is_aligned_zero_and_writable(nbytes):
    array = empty(nbytes)
    assert array.shape == (nbytes,)
    assert array.dtype == np.uint8
    assert not array.any()
    array[:] = 255
    assert array.all()
    if nbytes:
        assert address(array) % (2 << 20 if nbytes >= 2 << 20 else 4096) == 0


def test_memory_lives_as_long_as_a_view_of_it():
    view = empty(3 << 20)[4096:8192]
    gc.collect()
    view[:] = 7
    assert int(view.sum()) == 7 * 4096


def test_aligned_means_offset_length_and_address():
    array = empty(8192)
    assert is_aligned(0, array)
    assert is_aligned(4096, array[4096:])
    assert not is_aligned(1, array)
    assert not is_aligned(0, array[:4095])
    assert not is_aligned(0, array[1:4097])
    assert not is_aligned(0, array[:0])
