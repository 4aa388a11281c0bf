"""The cross-check of part B: what strace sees below the run's directory is what `tests/faults.py` sees at the store's door.

`make test` makes calls go wrong at that door. That covers all of storage only if nothing passes beside it.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.run import maintenance

from . import strace
from .forks import Child
from .small import Program

sys.path.append(str(Path(__file__).resolve().parents[1]))
from faults import Faults

if TYPE_CHECKING:
    from .syscall_points import Ground, Tell

Seen = list[tuple[str, str]]  # name of the call at the door, path

_DOOR = {
    "openat": "open", "open": "open", "close": "close", "pwrite64": "pwrite", "preadv": "pread", "preadv2": "pread",
    "ftruncate": "ftruncate",
    "fsync": "fsync", "fallocate": "fallocate", "link": "link", "linkat": "link", "renameat2": "rename_new", "rename": "rename",
    "unlink": "unlink", "unlinkat": "unlink", "mkdir": "mkdir", "mkdirat": "mkdir", "rmdir": "rmdir",
    "utimensat": "utime", "lstat": "lstat",
}  # fmt: skip


def cross_check(ground: Ground, tell: Tell) -> dict[str, int]:
    """Each stretch of a run's life under both; how many calls each made, all of them the same."""
    counts = {}
    for name, stretch in _STRETCHES.items():
        if name == "first opening":
            shutil.rmtree(ground.work, ignore_errors=True)
            ground.work.mkdir()
        else:
            ground.reset()
        child = Child(lambda stretch=stretch: _under_both(ground, stretch))
        strace.attach(child, ground.trace, "-e", "trace=%file,%desc")
        root = f"{ground.work}/run"
        door: Seen = [(call, path) for call, path in child.result() if f"{path}/".startswith(f"{root}/")]
        outside = translated(strace.calls_in(ground.trace), root)
        ground.expect(len(door) > 5, f"cross-check, {name}", f"the door saw only {door}")
        beside, unseen = Counter(outside) - Counter(door), Counter(door) - Counter(outside)
        ground.expect(not beside, f"cross-check, {name}", f"calls beside the store's door: {dict(beside)}")
        ground.expect(not unseen, f"cross-check, {name}", f"calls at the door that strace did not see: {dict(unseen)}")
        counts[name] = len(door)
    tell(f"cross-check, storage calls at the door and under strace alike: {counts}")
    return counts


def translated(calls: list[strace.SystemCall], root: str) -> Seen:
    """System calls at `root` or below in the door's words. What the door has no word for keeps its own name."""
    found: Seen = []
    listing: set[str] = set()  # descriptors of directories that are being listed: one call at the door, several here
    for call in calls:
        path = next((p for p in call.paths if p == root or p.startswith(root + "/")), None)
        if path is None or "/proc/self/fd/" in call.text.split(",")[0]:  # the injector asks for a descriptor's path
            continue
        fd = strace.argument_descriptor(call)
        if fd in listing:
            if call.name == "close":
                listing.discard(fd)
            continue
        if call.name == "openat" and "O_NONBLOCK" in call.text and "O_DIRECTORY" in call.text:
            listing.add(strace.result_of(call))
            found.append(("scandir", path))
        elif call.name in ("newfstatat", "statx", "fstat"):
            found.append(("fstat" if fd else "lstat" if "AT_SYMLINK_NOFOLLOW" in call.text else call.name, path))
        elif call.name == "preadv2" and "RWF_NOWAIT" in call.text:
            found.append(("pread_cached", path))
        else:
            found.append((_DOOR.get(call.name, call.name), path))
    return found


def _under_both(ground: Ground, stretch: Callable[[Ground, Callable[[], None]], None]) -> Seen:
    faults = Faults("trace")
    with ExitStack() as stack:

        def begin() -> None:
            strace.begin_window()
            stack.enter_context(faults)

        stretch(ground, begin)
        strace.end_window()
    return [(call.name, call.path) for call in faults.calls]


def _opening(ground: Ground, begin: Callable[[], None]) -> None:
    begin()
    _program(ground).settle()


def _checkpoint(ground: Ground, begin: Callable[[], None]) -> None:
    program = _program(ground)
    program.settle()

    class Through(Exception):
        pass

    def tail(step: int) -> None:
        if step + 1 == 6:
            begin()

    def head(step: int) -> None:
        if step == 6:
            raise Through

    try:
        program.loop(head, tail)
    except Through:
        return
    raise RuntimeError("the loop ended before the checkpoint")


def _ending(ground: Ground, begin: Callable[[], None]) -> None:
    program = _program(ground)
    with program.run:
        program.loop()
        begin()


def _prune(ground: Ground, begin: Callable[[], None]) -> None:
    begin()
    maintenance.prune(ground.work / "run")


def _rollback(ground: Ground, begin: Callable[[], None]) -> None:
    begin()
    maintenance.rollback(ground.work / "run", 1)


def _verify(ground: Ground, begin: Callable[[], None]) -> None:
    begin()
    maintenance.verify(ground.work / "run")


def _program(ground: Ground) -> Program:
    from .syscall_points import ELEMENTS, STEPS

    return Program(ground.work, STEPS, ELEMENTS, overlap="off")


_STRETCHES: dict[str, Callable[[Any, Callable[[], None]], None]] = {
    "first opening": _opening,
    "opening": _opening,
    "checkpoint": _checkpoint,
    "ending": _ending,
    "verify": _verify,
    "rollback": _rollback,
    "prune": _prune,
}
