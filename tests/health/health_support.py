"""Ranks as processes of their own, told what to do and listened to."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.health import Event

RUN = "0123456789abcdef" * 2
PROGRAM = Path(__file__).with_name("health_program.py")
SOURCE = Path(__file__).parents[2] / "src"


class Nursery:
    """The process of which all ranks are forks."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(SOURCE)}
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        self._ended: dict[int, int] = {}

    def fork(self, **how: Any) -> int:
        """The pid of a new rank."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(how).encode() + b"\n")
        self.process.stdin.flush()
        while "pid" not in (line := self._line()):
            pass
        return int(line["pid"])

    def status(self, pid: int, wait: bool) -> int | None:
        """Exit status of a rank, negative for a signal; None if it lives."""
        assert self.process.stdout is not None
        while pid not in self._ended and select.select([self.process.stdout], [], [], 5.0 if wait else 0.0)[0]:
            self._line()
        assert pid in self._ended or not wait, f"{pid} lives on"
        return self._ended.get(pid)

    def _line(self) -> dict[str, int]:
        # Unbuffered: `select` must see what is there.
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"\n"):
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, "the nursery has ended"
            text += byte
        line: dict[str, int] = json.loads(text)
        if "ended" in line:
            self._ended[line["ended"]] = line["status"]
        return line


class Rank:
    """A rank of `health_program.py`."""

    def __init__(
        self,
        nursery: Nursery,
        root: Path,
        rank: int,
        *,
        attempt: int = 1,
        env: dict[str, str] | None = None,
        **limits: float,
    ) -> None:
        pipes = f"{root}/pipe-{attempt}-{rank}"
        for end in ("in", "out"):
            os.mkfifo(f"{pipes}.{end}")
        self._input, self.output = (os.open(f"{pipes}.{end}", os.O_RDWR | os.O_NONBLOCK) for end in ("in", "out"))
        self.rank, self.lines, self._half = rank, list[dict[str, Any]](), b""
        self._nursery = nursery
        self.pid = nursery.fork(
            root=str(root), run=RUN, attempt=attempt, rank=rank, limits=limits, pipes=pipes, env=env or {}
        )

    def wait(self) -> int:
        """Its exit status; AssertionError if it lives on."""
        status = self._nursery.status(self.pid, wait=True)
        assert status is not None
        return status

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._nursery.status(self.pid, wait=False) is None

    def kill(self) -> None:
        """End it if it lives, and close what was open for it."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self._input)
        os.close(self.output)

    def tell(self, line: str) -> None:
        os.write(self._input, line.encode() + b"\n")

    def signal(self, number: signal.Signals) -> float:
        """Send it; the time of the monotonic clock."""
        os.kill(self.pid, number)
        return time.monotonic()

    def listen(self) -> None:
        """Take in what it has said."""
        with suppress(BlockingIOError):
            while chunk := os.read(self.output, 1 << 16):
                *lines, self._half = (self._half + chunk).split(b"\n")
                self.lines += [json.loads(line) for line in lines]

    def events(self, kind: str | None = None) -> list[tuple[Event, float]]:
        """What it told, with the time it did."""
        told = [(Event.parse(line["event"]), line["clock"]) for line in self.lines if "event" in line]
        return [(event, at) for event, at in told if kind in (None, event.kind)]

    def said(self, word: str) -> Any:
        """The value of `word` in the last line that has it, None if none does."""
        return next((line[word] for line in reversed(self.lines) if word in line), None)


def until(ranks: list[Rank], what: Callable[[], object], timeout: float = 10.0) -> None:
    """Listen to the ranks until `what()` holds; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        for rank in ranks:
            rank.listen()
        if what():
            return
        assert time.monotonic() < deadline, [rank.lines for rank in ranks]
        select.select([rank.output for rank in ranks], [], [], 0.02)


def rest(ranks: list[Rank], seconds: float) -> None:
    """Listen for so long."""
    end = time.monotonic() + seconds
    until(ranks, lambda: time.monotonic() >= end, seconds + 5)
