"""Attaching strace to a stopped process: what it calls, or one of its calls made to go wrong.

The process stops itself where the window begins; strace's counts (`when=N`) therefore begin there too. The window
ends at the process's end or at its call of `end_window`.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .forks import DEADLINE, Child

END = "/holdfast-campaign-end-of-window"

# What is made to go wrong, where it occurs: all calls that change storage or open it.
CHANGING = (
    "openat", "creat", "pwrite64", "pwritev", "write", "fsync", "fdatasync", "fallocate", "link", "linkat", "symlink",
    "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "truncate", "ftruncate",
    "utimensat", "sync_file_range",
)  # fmt: skip

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)")
_QUOTED = re.compile(r'"([^"]*)"')
_NUMBER_AND_PATH = re.compile(r"\b(\d+|AT_FDCWD)<([^>]*)>")


@dataclass(frozen=True)
class SystemCall:
    """One line of strace: `thread` that made it, `name`, the `paths` in it (of names and of descriptors), `number`: the
    how many-th of this name in its thread since the window began; `text`: the line."""

    thread: int
    name: str
    paths: tuple[str, ...]
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} number {self.number} ({', '.join(self.paths)})"


def missing() -> str | None:
    """Why strace can't be used, or None."""
    return None if shutil.which("strace") else "strace is not installed"


def begin_window() -> None:
    """In the child: stop until strace is attached."""
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)  # PR_SET_PTRACER_ANY, where Yama asks for it
    os.kill(os.getpid(), signal.SIGSTOP)


def end_window() -> None:
    os.access(END, os.F_OK)


def attach(child: Child, output: Path, *options: str) -> None:
    """Attach to the child when it has stopped itself, and let it go on. strace leaves when the child has ended."""
    if not child.wait_stopped():
        child.result()
        raise RuntimeError("the child ended before its window")
    tracer = subprocess.Popen(
        ["strace", "-q", "-f", "-y", "-s", "4096", "-o", str(output), *options, "-p", str(child.pid)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + DEADLINE
    while _tracer_of(child.pid) != tracer.pid:
        if tracer.poll() is not None or time.monotonic() > until:
            child.kill()
            tracer.kill()
            said = tracer.communicate()[1]
            raise RuntimeError(f"strace could not attach: {said.strip()}")
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGCONT)
    try:
        child.end()
    finally:
        try:
            tracer.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.communicate()
            raise


def _tracer_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0


def inject(call: SystemCall, fault: str) -> tuple[str, ...]:
    """Options that make this call go wrong. `fault`: "signal=SIGKILL", "error=EIO", "retval=100"."""
    return ("-e", f"trace={call.name}", "-e", f"inject={call.name}:{fault}:when={call.number}")


def calls_in(output: Path) -> list[SystemCall]:
    """The calls of a window that was traced with `-e trace=%file,%desc`."""
    counts: Counter[tuple[int, str]] = Counter()
    found = []
    for line in output.read_text(errors="replace").splitlines():
        matched = _LINE.match(line)
        if matched is None:
            continue  # a signal, an exit, or the rest of a call that another thread's came into
        thread, name, rest = int(matched[1]), matched[2], matched[3]
        if END in rest:
            break
        counts[thread, name] += 1
        arguments = rest.rpartition(") = ")[0] or rest
        names = [path for path in _QUOTED.findall(arguments) if path.startswith("/")]
        open_ones = [path.removesuffix(" (deleted)") for _, path in _NUMBER_AND_PATH.findall(arguments)]
        paths = names if names else open_ones
        found.append(SystemCall(thread, name, tuple(paths), counts[thread, name], line))
    return found


def result_of(call: SystemCall) -> str:
    """What the call returned: its number, without the path of a descriptor."""
    return call.text.rpartition(") = ")[2].split("<")[0].split(" ")[0]


def argument_descriptor(call: SystemCall) -> str | None:
    """The number of the descriptor that is the first argument, if one is."""
    matched = re.match(r"(\d+)(<|,|\))", call.text.split("(", 1)[1])
    return matched[1] if matched else None
