"""What the machine can do at best: raw writes and raw reads of the same bytes, measured beside ours in the same run."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MiB = 1 << 20


@dataclass(frozen=True)
class Way:
    """A way to move bytes: through the page cache or not, by how many threads, in requests of how many bytes."""

    direct: bool
    threads: int
    request: int

    def __str__(self) -> str:
        return f"{'direct' if self.direct else 'buffered'}, {self.threads} thread(s), {self.request // MiB} MiB"


WAYS = [Way(d, t, r * MiB) for d in (True, False) for t in (1, 2, 3, 4) for r in (4, 16)]


def aligned(nbytes: int) -> np.ndarray:
    """Fresh page-aligned memory, not touched yet, with huge pages where the kernel gives them."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def raw_write(path: Path, data: np.ndarray, way: Way) -> float:
    """Seconds to write `data` to a new file, preallocated, fsync of file and directory included."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if way.direct else 0)
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    fd = os.open(path, flags, 0o600)
    try:
        os.posix_fallocate(fd, 0, data.nbytes)
        _spread(way, data.nbytes, lambda at, n: os.pwrite(fd, data[at : at + n], at))
        os.fsync(fd)
    finally:
        os.close(fd)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return time.perf_counter() - began


def raw_read(path: Path, way: Way) -> float:
    """Seconds to read the file from a cold cache into fresh memory."""
    forget(path)
    nbytes = path.stat().st_size
    began = time.perf_counter()
    out = aligned(nbytes)
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way.direct else 0))
    try:
        _spread(way, nbytes, lambda at, n: os.preadv(fd, [out[at : at + n]], at))
    finally:
        os.close(fd)
    return time.perf_counter() - began


def forget(path: Path) -> None:
    """Drop a file, or all files below a directory, from the page cache (no root needed: they are clean)."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def memcpy(target: np.ndarray, source: np.ndarray) -> float:
    """Seconds to copy into warm memory, one thread."""
    began = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - began


def _spread(way: Way, nbytes: int, move: Callable[[int, int], int]) -> None:
    starts = iter(range(0, nbytes, way.request))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                with lock:
                    at = next(starts, None)
                if at is None:
                    return
                n = min(way.request, nbytes - at)
                if move(at, n) != n:
                    raise OSError("a short request")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(way.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
