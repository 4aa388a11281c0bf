"""Whether this process gets on with reading or writing: bytes that it and its children have moved, processor time that it has
used, a call that the kernel can't interrupt.

Asked from outside of what reads and writes, so that none of it has to tell; a slow disk is no stall as long as it moves.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

_BYTES = 16384  # from one call to the next; less is a line for a log, of which the kernel counts whole pages
_COMPUTES = 0.25  # of the time, by all threads but the one that asks: digests, copies, parities


class Moving:
    """Call it from one thread, whose own reading and computing does not count: whether the process has got on since the last
    call. True where the kernel does not tell: then the deadlines of storage alone hold."""

    def __init__(self) -> None:
        self._nbytes = 0
        self._cpu, self._at = 0.0, time.monotonic()

    def __call__(self) -> bool:
        nbytes, cpu, now = _moved(), time.process_time() - time.thread_time(), time.monotonic()
        if nbytes is None:
            return True
        moved = nbytes - self._nbytes >= _BYTES
        self._nbytes = nbytes
        computed = cpu - self._cpu >= _COMPUTES * (now - self._at)
        self._cpu, self._at = cpu, now
        return moved or computed or _uninterruptible()


def _moved() -> int | None:
    """Bytes read and written by all threads but this one, and by the children, of which a helper may write for us."""
    own, mine = _io("/proc/self/io"), _io("/proc/thread-self/io")
    if own is None or mine is None:
        return None
    return own - mine + sum(_io(f"/proc/{child}/io") or 0 for child in _children())


def _io(path: str) -> int | None:
    """By calls, and by the kernel for memory that is mapped."""
    try:
        with open(path, "rb") as f:
            words = dict(line.split(b": ") for line in f.read().splitlines())
        return sum(int(words[name]) for name in (b"rchar", b"wchar", b"read_bytes", b"write_bytes"))
    except (OSError, ValueError, KeyError):
        return None


def _children() -> list[str]:
    found: list[str] = []
    for thread in _threads():
        with suppress(OSError), open(f"/proc/self/task/{thread}/children") as f:
            found += f.read().split()
    return found


def _uninterruptible() -> bool:
    """Whether another thread of this process is in such a call: it waits for a disk, or for a server."""
    own = str(threading.get_native_id())
    for thread in _threads():
        with suppress(OSError, IndexError):
            with open(f"/proc/self/task/{thread}/stat", "rb") as f:
                text = f.read()
            if thread != own and text[text.rindex(b")") + 2 :][:1] == b"D":
                return True
    return False


def _threads() -> list[str]:
    with suppress(OSError):
        return os.listdir("/proc/self/task")
    return []
