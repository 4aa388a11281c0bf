"""Page-aligned memory and its pool."""

import gc
import threading

import numpy as np
import pytest

from holdfast.errors import DeadlineError, UsageError
from holdfast.store.aligned import Pool, address, empty, is_aligned


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 2 << 20, (5 << 20) + 3])
@pytest.mark.parametrize("warm", [False, True])
def test_empty_is_aligned_zero_and_writable(nbytes, warm):
    array = empty(nbytes, warm=warm)
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


def test_pool_reuses_and_is_bounded():
    pool = Pool(8192, 2)
    first, second = pool.take(), pool.take()
    assert address(first) != address(second)
    with pytest.raises(DeadlineError, match="2 buffers"):
        pool.take(timeout=0.05)
    threading.Timer(0.05, pool.give, (first,)).start()
    with pool.lend(timeout=30) as again:
        assert address(again) == address(first)
    with pytest.raises(ZeroDivisionError), pool.lend():
        _ = 1 // 0
    with pool.lend(timeout=1) as again:
        assert address(again) == address(first)
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(UsageError):
            Pool(*wrong)
