"""Starting the helper process, and finding out what it can do here."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from ...capture import kernel
from ...store.aligned import address
from .failures import lost
from .wire import Channel

_CHANNEL_FD = 3
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from holdfast.engine.helper.process import main; main()"
_FEATURES = kernel.UFFD_FEATURE_PAGEFAULT_FLAG_WP | kernel.UFFD_FEATURE_WP_UNPOPULATED
# NumPy would start a thread for each core, for nothing
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Ask = Callable[..., list[Any]]


def spawn() -> tuple[Channel, int]:
    """Start the interpreter anew; the program's end of the channel, and the process id. HelperLostError if that
    fails.

    Not a fork: of an MPI program, or of one with threads, none is safe. The helper has the program's `sys.path` and
    nothing of its site configuration, so that it finds the same packages and starts sooner. All signals are blocked
    until it ignores them. It has no output of its own: it would keep the program's pipes open beyond the program's
    end, should the disk hang.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    high = -1
    try:
        high = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 16)  # out of the way of the numbers set below
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-S", "-s", "-c", _CODE, *_search_path()],
            {**os.environ, **_ENVIRONMENT},
            file_actions=[*null, (os.POSIX_SPAWN_DUP2, high, _CHANNEL_FD)],
            setsigmask=signal.valid_signals(),
        )
    except (OSError, TypeError, ValueError) as error:
        ours.close()
        raise lost(f"could not be started ({error})") from error
    finally:
        theirs.close()
        if high >= 0:
            os.close(high)
    with suppress(OSError):  # then it can't read memory, and the trial says so
        kernel.set_ptracer(pid)
    return Channel(ours), pid


def _search_path() -> list[str]:
    """Where the program finds modules, as absolute paths; and where it has found ours, should a hook of its own have
    done that."""
    import msgpack
    import xxhash

    names = [__file__.rsplit("/", 4)[0], *(m.__file__.rsplit("/", 2)[0] for m in (np, msgpack, xxhash) if m.__file__)]
    return list(dict.fromkeys([*(os.path.abspath(p) for p in sys.path if isinstance(p, str)), *names]))


class Probe:
    """What the helper needs of the program's memory, and what it finds that it can do with it."""

    def __init__(self) -> None:
        # Kept: the helper reads the gaps between small arrays from here.
        self._zeros = mmap.mmap(-1, kernel.PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def why_no_reading(self, ask: Ask) -> str | None:
        token = np.frombuffer(secrets.token_bytes(16), np.uint8)
        zeros = np.frombuffer(self._zeros, np.uint8)
        why: str | None = ask(["setup", address(zeros), address(token), token.tobytes()], "setup")[0]
        return why

    def why_no_freeze(self, ask: Ask, kill: Callable[[], None], timeout: float) -> str | None:
        """Try it out. The userfaultfd is the helper's afterwards: if this process kept it open, nobody would free
        the program's threads when the helper dies."""
        try:
            uffd = kernel.userfaultfd(user_mode_only=False)
        except OSError as error:
            return f"userfaultfd in full mode is not permitted ({error.strerror or error}): see /dev/userfaultfd"
        page = mmap.mmap(-1, kernel.PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory = np.frombuffer(page, np.uint8)
        memory[:] = 1
        try:
            kernel.uffd_api(uffd, _FEATURES)
            why: str | None = ask(["uffd", address(memory)], "armed", uffd)[0]
        except OSError as error:
            return f"userfaultfd lacks write protection of untouched pages, which Linux has from 6.4 on ({error})"
        finally:
            os.close(uffd)
        if why is None:
            why = _write_by_system_call(memory, kill, timeout)
        faults = ask(["tried"], "tried")[0]
        if why is None and faults < 1:
            why = "the kernel does not report writes to protected memory"
        return why


def _write_by_system_call(memory: Any, kill: Callable[[], None], timeout: float) -> str | None:
    """Have the kernel write to the page, as `readinto` and MPI's transfers do; why that failed."""
    reader, writer = os.pipe()
    guard = threading.Timer(timeout, kill)  # the helper's death would wake this thread, if nothing else does
    guard.daemon = True
    guard.start()
    try:
        os.write(writer, b"\2" * 16)
        os.readv(reader, [memory[:16]])
    except OSError as error:
        return f"a system call can't write to protected memory: {error}"
    finally:
        guard.cancel()
        os.close(reader)
        os.close(writer)
    return None if memory[:17].tolist() == [2] * 16 + [1] else "a write to protected memory was lost"
