"""What the tests of versions in flight share: storage that stands still where a test says, and what a state is, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import _path_of

import holdfast
from holdfast import state
from holdfast.store import syscalls

MiB = 1 << 20
SECONDS = 10.0  # after which a gate opens by itself: a test that has failed must not hang


class Gate:
    """Calls of one storage function that concern a path with `part` in it wait while the gate is shut. `reached`: how many
    have come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, part: str) -> None:
        self.reached = 0
        self._open = threading.Event()
        self._came = threading.Condition()
        real: Callable[..., Any] = getattr(syscalls, name)

        def call(*args: Any) -> Any:
            path = args[-1] if name == "link" else _path_of(args[0])
            if part in str(path) and threading.current_thread() is not threading.main_thread():
                with self._came:
                    self.reached += 1
                    self._came.notify_all()
                assert self._open.wait(SECONDS)
            return real(*args)

        monkeypatch.setattr(syscalls, name, call)

    def wait(self) -> None:
        """Until a call stands before it."""
        with self._came:
            assert self._came.wait_for(lambda: self.reached > 0, SECONDS)

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()
        self.reached = 0


@contextmanager
def gate(monkeypatch: pytest.MonkeyPatch, name: str = "pwrite", part: str = "/data/") -> Iterator[Gate]:
    """A gate that is shut, and opens at the end. The program's own thread passes: only what goes on beside it waits."""
    made = Gate(monkeypatch, name, part)
    try:
        yield made
    finally:
        made.open()


def image(obj: object) -> tuple[bytes, list[bytes]]:
    """An object's state, bit for bit: its structure and its buffers."""
    encoded = state.encode(obj)
    return encoded.tree, [b.tobytes() for b in encoded.buffers]


def loaded(url: str | Path, name: str, version: int | None = None) -> Any:
    """A stored object, read by a run of its own."""
    run = holdfast.open(url, mode="r")
    try:
        return run.load(name, version)
    finally:
        run.close()


def statuses(run: holdfast.Run) -> list[tuple[int, str]]:
    return [(v.number, v.status) for v in run.versions]


def filled(nbytes: int, seed: int = 0) -> np.ndarray:
    """Bytes of which no two blocks are alike."""
    return np.random.default_rng(seed).integers(0, 1 << 63, -(-nbytes // 8), np.int64).view(np.uint8)[:nbytes]
