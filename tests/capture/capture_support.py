"""What the tests of capture share: arrays of their own mapping, and what a scan should say."""

from __future__ import annotations

import ctypes
import functools
import os
import warnings

import numpy as np

from holdfast.capture.kernel import PAGE
from holdfast.capture.tracker import PageTracker
from holdfast.store.aligned import address

# Larger than malloc ever takes from its heap: such an array has a mapping of its own, which free() unmaps.
OWN_MAPPING = (33 << 20) + 123

libc = ctypes.CDLL(None, use_errno=True)


def with_tracker(test):
    """Run `test(tracker)`; where the kernel can't track pages, that it says so is the test."""

    # fixtures are found by the signature of the test without its first parameter
    @functools.wraps(test)
    def run(**fixtures):
        why = PageTracker.available()
        if why is not None:
            assert "page scan" in why or "VmPin" in why
            return
        tracker = PageTracker()
        try:
            test(tracker, **fixtures)
        finally:
            tracker.close()

    import inspect

    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    return run


def mask(runs, nbytes):
    """A scan's runs as one bool per byte; checks that they are in order, apart and inside."""
    assert runs.dtype == np.int64
    assert runs.shape == (len(runs), 2)
    found = np.zeros(nbytes, bool)
    end = -1
    for offset, count in runs.tolist():
        assert offset > end
        assert count > 0
        end = offset + count
        assert end <= nbytes
        found[offset:end] = True
    return found


def pages_of(array, *offsets):
    """One bool per byte of `array`: whether its page is one of those that hold the bytes at `offsets`."""
    found = np.zeros(array.nbytes, bool)
    start = address(array)
    for offset in offsets:
        offset %= array.nbytes
        low = (start + offset) // PAGE * PAGE - start
        found[max(low, 0) : low + PAGE] = True
    return found


def in_child(work):
    """Fork; the exit status of a child that ran `work()` (0, or 1 if it raised)."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # that threads run: the child makes no use of locks of theirs
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
