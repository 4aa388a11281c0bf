"""A request of MPI's is tested by one thread at a time: two at once free it twice, and another call's request with it."""

from __future__ import annotations

import threading
import time

import pytest

from holdfast.group.transfers import Transfer, _unfinished, reap


class Request:
    """One that notices, as MPI does not."""

    def __init__(self, tests: int) -> None:
        self.left, self.inside, self.twice = tests, False, False

    def Test(self) -> bool:
        self.twice = self.twice or self.inside
        self.inside = True
        time.sleep(0.002)  # as mpi4py does, without the interpreter's lock
        self.inside = False
        self.left -= 1
        return self.left <= 0


def test_a_transfer_that_another_thread_reaps_is_not_tested_twice_at_once() -> None:
    request = Request(40)
    transfer = Transfer(request)
    over = threading.Event()

    def others() -> None:
        while not over.is_set():
            reap()

    threads = [threading.Thread(target=others) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while not transfer.done():
            assert time.monotonic() < until
            time.sleep(0.0005)
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert not request.twice and transfer not in _unfinished
    assert transfer.done()


def test_what_failed_fails_each_time_and_stays_with_its_memory() -> None:
    class Failing:
        def Test(self) -> bool:
            raise RuntimeError("cut off")

    transfer = Transfer(Failing(), b"bytes")
    try:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cut off"):
                transfer.done()
        reap()
        assert transfer in _unfinished
    finally:
        _unfinished.discard(transfer)
