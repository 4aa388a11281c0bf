"""Faults at storage system calls: every one traced, counted, or one of them made to go wrong.

All of Holdfast's storage calls go through `holdfast.store.syscalls`; `Faults` replaces that module's functions
while its `with` block runs, in this process, for all threads.

    with Faults() as trace:                        # mode "trace": records, changes nothing
        store.put("a/b", b"x")
    [call.name for call in trace.calls]            # "mkdir", "open", "fsync", ...; trace.count: how many

    with Faults("kill", at=7): ...                 # SIGKILL to this process before the 7th call
    with Faults("torn", at=7): ...                 # the same, but half of it is done first if it is a pwrite
    with Faults("stop", at=7): ...                 # SIGSTOP before the 7th call; goes on after SIGCONT
    with Faults("error", at=7, errno=ENOSPC): ...  # the 7th call raises OSError(ENOSPC) and does nothing
    with Faults("short", at=1, match=named("pwrite")): ...     # the 1st pwrite (or pread) moves half of its bytes

`at` counts from 1, among the calls for which `match(call)` is true; None means each of them. `fired` says how many
calls went wrong, so that a test can tell that its fault was reached. Mode "count" only counts: run the job once with
it, then once for each number up to `count`. `match` sees a `Call`; `named("pwrite", "fsync", path="commit")` makes the
usual ones. `match` is called with a lock held: it must not touch the store.

For another process, `Faults.parse("kill at=7 name=pwrite,fsync path=commit")` takes the same from one string, as an
argument or environment variable (`errno=ENOSPC`, `part=100` also).

Descriptors are resolved to paths by the calls to `open` seen, and by /proc for those opened before.
"""

from __future__ import annotations

import errno as errnos
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.store import syscalls

MODES = ("trace", "count", "kill", "torn", "stop", "error", "short")


@dataclass(frozen=True)
class Call:
    """One system call: `number` counts from 1 among those that match; `path` is the file's, `to` the new name of
    a link or rename; `offset`, `nbytes` (bytes asked for) and `flags` (of an open) None where they do not apply."""

    number: int
    name: str
    path: str
    to: str | None = None
    offset: int | None = None
    nbytes: int | None = None
    flags: int | None = None

    def __str__(self) -> str:
        return f"{self.number} {self.name} {self.path}" + (f" -> {self.to}" if self.to else "")


def named(*names: str, path: str = "") -> Callable[[Call], bool]:
    """A `match`: calls with one of these names (none: all) that have `path` in their path or new name."""
    for name in names:
        if name not in syscalls.__all__:
            raise ValueError(f"{name} is no storage call; there are {', '.join(syscalls.__all__)}")
    return lambda call: (not names or call.name in names) and (path in call.path or path in (call.to or ""))


class Faults:
    """See the module. A context manager, to be entered once; `calls` (mode "trace" only), `count`, `hit`, `fired`."""

    def __init__(
        self,
        mode: str = "trace",
        *,
        at: int | None = None,
        errno: int = errnos.EIO,
        match: Callable[[Call], bool] = lambda call: True,
        part: int | None = None,
    ) -> None:
        """`part`: bytes that a "short" or "torn" call moves; None: half, at least 1."""
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {MODES}")
        self.mode, self.at, self.errno, self.match, self.part = mode, at, errno, match, part
        self.calls: list[Call] = []
        self.count = 0
        self.hit: list[Call] = []
        self._paths: dict[int, str] = {}
        self._real: dict[str, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    @property
    def fired(self) -> int:
        """How many calls went wrong; `hit` has them."""
        return len(self.hit)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """From one string: `MODE [at=N] [errno=NAME] [name=A,B] [path=PART] [part=BYTES]`."""
        mode, *words = text.split()
        options = dict(word.split("=", 1) for word in words)
        names = [name for name in options.pop("name", "").split(",") if name]
        made = cls(mode, match=named(*names, path=options.pop("path", "")))
        for key, value in options.items():
            if key not in ("at", "errno", "part"):
                raise ValueError(f"{key!r} is no option of {cls.__name__}")
            setattr(made, key, getattr(errnos, value) if key == "errno" else int(value))
        return made

    def __enter__(self) -> Faults:
        for name in syscalls.__all__:
            self._real[name] = getattr(syscalls, name)
            setattr(syscalls, name, self._wrapped(name, self._real[name]))
        return self

    def __exit__(self, *exc: object) -> None:
        for name, function in self._real.items():
            setattr(syscalls, name, function)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            now = self._seen(name, args)
            result = self._fault(now, real, args) if now and self._wrong(now) else real(*args)
            with self._lock:
                if name == "open":
                    self._paths[result] = args[0]
            return result

        return call

    def _seen(self, name: str, args: tuple[Any, ...]) -> Call | None:
        """The call, numbered and recorded; None if it does not match."""
        with self._lock:
            call = self._describe(name, args)
            if name == "close":
                self._paths.pop(args[0], None)
            if not self.match(call):
                return None
            self.count += 1
            if self.mode == "trace":
                self.calls.append(call)
            return call

    def _describe(self, name: str, args: tuple[Any, ...]) -> Call:
        first = args[0]
        path = first if isinstance(first, str) else self._paths.get(first) or _path_of(first)
        more: dict[str, Any] = {}
        if name == "open":
            more = {"flags": args[1]}
        elif name in ("pwrite", "pread"):
            more = {"offset": args[2], "nbytes": memoryview(args[1]).nbytes}
        elif name in ("fallocate", "ftruncate"):
            more = {"nbytes": args[1]}
        elif name in ("link", "rename", "rename_new"):
            more = {"to": args[1]}
        return Call(self.count + 1, name, path, **more)

    def _wrong(self, call: Call) -> bool:
        if self.mode in ("trace", "count") or self.at not in (None, call.number):
            return False
        if self.mode == "short" and call.name not in ("pwrite", "pread"):
            return False
        with self._lock:
            self.hit.append(call)
        return True

    def _fault(self, call: Call, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.mode == "error":
            if call.name == "close":
                real(*args)  # Linux has freed the descriptor, whatever it says
            raise OSError(self.errno, os.strerror(self.errno), call.path)
        if self.mode == "short":
            return self._some(call, args)
        if self.mode == "torn" and call.name == "pwrite":
            self._some(call, args)
        # to this thread, which then makes no further step; SIGKILL takes the others with it, SIGSTOP stops them
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP if self.mode == "stop" else signal.SIGKILL)
        return real(*args)

    def _some(self, call: Call, args: tuple[Any, ...]) -> int:
        """Move only some of the bytes. By a descriptor of its own: a direct one takes no odd numbers."""
        data = memoryview(args[1]).cast("B")
        data = data[: max(1, len(data) // 2) if self.part is None else self.part]
        if not len(data):
            return 0
        fd = os.open(call.path, os.O_RDONLY if call.name == "pread" else os.O_WRONLY)
        try:
            if call.name == "pread":
                return os.preadv(fd, [data], args[2])
            return os.pwrite(fd, data, args[2])
        finally:
            os.close(fd)


def _path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"fd {fd}"
