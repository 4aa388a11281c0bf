"""Meters: CPU seconds and memory of a process and its children, fsyncs, files written."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Processes that descend from `pid` and live, without itself."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            parents[int(name)] = int(fields[1])
    found, newest = [], [pid]
    while newest:
        newest = [child for child, parent in parents.items() if parent in newest]
        found += newest
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on, behind the command's name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


class Cpu:
    """CPU seconds, user and system, of this process and its children within the block: `seconds` afterwards.

    Children that live count in clock ticks (10 ms); those that began and ended within the block when they were waited for.
    """

    seconds = 0.0

    def __enter__(self) -> Cpu:
        self._own, self._children = _own(), _children()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = _own() - self._own
        for pid, used in _children().items():
            self.seconds += used - self._children.get(pid, 0.0)


def _own() -> float:
    times = os.times()  # of ticks, but summed over all children that were waited for; own time by the process clock
    return time.process_time() + times.children_user + times.children_system


def _children() -> dict[int, float]:
    found = {}
    for pid in descendants(os.getpid()):
        fields = _stat(pid)
        if fields and "meters.py" not in _command(pid):
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICK
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


class Memory:
    """Peak memory of this process and its children within the block beyond what it had at its beginning: `extra` bytes.

    Another process samples every 5 ms, so that a program that holds the interpreter's lock is seen too. Memory is
    Pss, in which pages that several processes share count once.
    """

    extra = 0

    def __enter__(self) -> Memory:
        command = [sys.executable, "-S", __file__, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._base = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        output, _error = self._process.communicate(timeout=60)
        self.extra = int(output) - self._base


def pss(pids: list[int]) -> int:
    """Bytes that the processes hold in memory, shared pages counted once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as f:
                total += next(int(line.split()[1]) for line in f if line.startswith(b"Pss:")) * 1024
        except (OSError, StopIteration):
            continue  # it has just ended
    return total


def _sample(pid: int) -> None:
    me, peak, beginning = os.getpid(), 0, True
    while True:
        peak = max(peak, pss([pid, *(p for p in descendants(pid) if p != me)]))
        if beginning:
            print(peak, flush=True)
            beginning = False
        if select.select([sys.stdin], [], [], 0.005)[0]:
            break
    print(peak, flush=True)


class Fsyncs:
    """Notes the fsyncs of this process within the block: `spans`, (begin, end) by `time.perf_counter`."""

    def __enter__(self) -> Fsyncs:
        self.spans: list[tuple[float, float]] = []
        self._real = {name: getattr(os, name) for name in ("fsync", "fdatasync")}
        for name, real in self._real.items():
            setattr(os, name, self._traced(real))
        return self

    def _traced(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def traced(fd: int) -> None:
            began = time.perf_counter()
            try:
                real(fd)
            finally:
                self.spans.append((began, time.perf_counter()))

        return traced

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)


def covered(spans: list[tuple[float, float]], first: float, last: float) -> float:
    """Length of what the intervals (begin, end) cover of `first` to `last`: two fsyncs at once count once."""
    total, until = 0.0, first
    for begin, end in sorted(spans):
        total += max(0.0, min(end, last) - max(begin, until))
        until = max(until, end)
    return total


def forget(path: Path) -> None:
    """Drop a file, or all files below a directory, from the page cache (no root needed: they are made clean)."""
    for file in files(path):
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def warm(path: Path) -> None:
    """Read a file, or all files below a directory, into the page cache."""
    buffer = bytearray(8 << 20)
    for file in files(path):
        with open(file, "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def sizes(path: Path) -> dict[Path, int]:
    """Bytes of each file below a directory. Files that vanish meanwhile do not count."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            try:
                found[file] = file.stat().st_size
            except FileNotFoundError:
                continue
    return found


def fsync_tree(path: Path) -> None:
    """Make everything below `path`, and its own name, durable."""
    for entry in [
        *files(path),
        *(p for p in path.rglob("*") if p.is_dir()),
        *([path] if path.is_dir() else []),
        path.parent,
    ]:
        fd = os.open(entry, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


if __name__ == "__main__":
    _sample(int(sys.argv[1]))
