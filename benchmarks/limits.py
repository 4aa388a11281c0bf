"""What the machine can do at best with the same bytes: memcpy, raw writes, raw reads, measured in turn with a case."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from meters import Cpu, forget
from row import GiB, MiB, median

SOURCE = 128 * MiB  # raw writes come from this much warm, aligned memory, over and over: four requests of 32 MiB
WINDOW = GiB  # memcpy goes into at most this much warm memory, over and over: far more than any cache


@dataclass(frozen=True)
class Way:
    """A way to move bytes: through the page cache or not, by how many threads, in requests of how many bytes."""

    direct: bool
    threads: int
    request: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{'direct' if self.direct else 'buffered'}, {threads}, {self.request // MiB} MiB"

    def wire(self) -> list[Any]:
        return [self.direct, self.threads, self.request]


WAYS = [Way(d, t, r * MiB) for d in (True, False) for t in (1, 2, 3, 4) for r in (4, 8, 16, 32)]


def aligned(nbytes: int) -> np.ndarray:
    """Fresh page-aligned private memory, not touched yet, with huge pages where the kernel gives them."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def shared(nbytes: int) -> np.ndarray:
    """Fresh memory of a memfd, mapped shared."""
    fd = os.memfd_create("holdfast-bench")
    os.ftruncate(fd, nbytes)
    memory = mmap.mmap(fd, nbytes)
    os.close(fd)
    return np.frombuffer(memory, np.uint8)


def noise(nbytes: int = SOURCE) -> np.ndarray:
    data = aligned(nbytes)
    data[:] = np.frombuffer(np.random.default_rng(0).bytes(nbytes), np.uint8)
    return data


def raw_write(path: Path, source: np.ndarray, nbytes: int, way: Way) -> float:
    """Seconds to write `nbytes` to a new file, preallocated, fsync of file and directory included."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if way.direct else 0)
    path.unlink(missing_ok=True)

    def move(at: int, n: int) -> int:
        start = at % source.nbytes
        return os.pwrite(fd, source[start : start + n], at)

    began = time.perf_counter()
    fd = os.open(path, flags, 0o600)
    try:
        os.posix_fallocate(fd, 0, nbytes)
        _spread(way, nbytes, move)
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


def memcpy(window: np.ndarray, sources: Sequence[np.ndarray]) -> float:
    """Seconds to copy all `sources` (arrays) into warm memory, one thread."""
    pieces = [s.reshape(-1).view(np.uint8) for s in sources]
    began = time.perf_counter()
    for piece in pieces:
        for at in range(0, piece.nbytes, window.nbytes):
            n = min(window.nbytes, piece.nbytes - at)
            np.copyto(window[:n], piece[at : at + n])
    return time.perf_counter() - began


def survey(place: Path, nbytes: int) -> tuple[list[Way], list[Way]]:
    """The ways to write and to read, fastest first, each tried once with `nbytes`."""
    source, path = noise(), place / "survey"
    writes = {way: raw_write(path, source, nbytes, way) for way in WAYS}
    reads = {way: raw_read(path, way) for way in WAYS}
    path.unlink()
    return sorted(writes, key=writes.__getitem__), sorted(reads, key=reads.__getitem__)


def contenders(ways: list[Way], count: int) -> list[Way]:
    """`count` of `ways`, which are in order, fastest first: the fastest direct and the fastest buffered one among them."""
    kinds = [found[0] for kind in (True, False) if (found := [w for w in ways if w.direct is kind])]
    chosen = [*sorted(kinds, key=ways.index), *(w for w in ways if w not in kinds)][:count]
    return sorted(chosen, key=ways.index)


@dataclass
class Limits:
    """The limits beside a case. Which of the fastest ways is the best drifts with the machine: all of `writes` and `reads`
    stay in the race, each round, in turn with the case; the best is the one with the smallest median."""

    place: Path
    sources: Sequence[np.ndarray]
    writes: list[Way]
    reads: list[Way]
    nbytes: int = 0
    copies: dict[str, list[float]] = field(default_factory=dict)
    written: dict[Way, list[float]] = field(default_factory=dict)
    cpu: dict[Way, list[float]] = field(default_factory=dict)
    taken: dict[Way, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nbytes = self.nbytes or -(-sum(s.nbytes for s in self.sources) // 4096) * 4096
        self._source = noise()
        self._windows: dict[str, np.ndarray] = {}

    def copy(self, kind: str = "private") -> None:
        """Measure memcpy of the sources into warm memory of a kind, "private" or "shared"."""
        if kind not in self._windows:
            n = max(s.nbytes for s in self.sources)
            self._windows[kind] = aligned(min(n, WINDOW)) if kind == "private" else shared(min(n, WINDOW))
            self._windows[kind][:] = 1
        self.copies.setdefault(kind, []).append(memcpy(self._windows[kind], self.sources))

    def write(self) -> None:
        """Measure each raw write once. The file is removed: its room and its deletion are nobody's burden afterwards."""
        path = self.place / "raw"
        for way in self.writes:
            with Cpu() as cpu:
                self.written.setdefault(way, []).append(raw_write(path, self._source, self.nbytes, way))
            self.cpu.setdefault(way, []).append(cpu.seconds)
        path.unlink()

    def read(self) -> None:
        """Measure each raw read once."""
        path = self.place / "raw-read"
        if not path.exists():
            raw_write(path, self._source, self.nbytes, self.writes[0])
        for way in self.reads:
            self.taken.setdefault(way, []).append(raw_read(path, way))

    def done(self) -> None:
        (self.place / "raw-read").unlink(missing_ok=True)

    @property
    def write_way(self) -> Way:
        return min(self.written, key=lambda way: median(self.written[way]))

    @property
    def read_way(self) -> Way:
        return min(self.taken, key=lambda way: median(self.taken[way]))

    @property
    def write_seconds(self) -> float:
        return median(self.written[self.write_way])

    @property
    def write_cpu(self) -> float:
        return median(self.cpu[self.write_way])

    @property
    def read_seconds(self) -> float:
        return median(self.taken[self.read_way])

    def copy_seconds(self, kind: str = "private") -> float:
        return median(self.copies[kind])


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
