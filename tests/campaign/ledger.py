"""The ledger: what programs said and saw, on a disk of its own and outside the library, one JSON line per event.

A line is one write to a file opened for appending, fsynced before the program goes on, so lines of several processes
stand in the order in which they were written, and a kill loses none that the program has left behind.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ledger:
    """Appends to the file at `path`; any number of processes may."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **values}).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(fd, line) != len(line):
                raise OSError(f"{self.path} took only a part of a line")
            os.fsync(fd)
        finally:
            os.close(fd)

    def lines(self) -> list[dict[str, Any]]:
        """All events, oldest first. A killed writer can't leave half a line: each is one short write."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]


class Durable(logging.Handler):
    """Puts each checkpoint that the library reports as durable into the ledger, at the moment of the report.

    `more()`: further values of the line, asked for at that moment. The library reports on rank 0 only.
    """

    def __init__(self, ledger: Ledger, more: Callable[[], dict[str, Any]] = dict) -> None:
        super().__init__(logging.INFO)
        self._ledger, self._more = ledger, more

    def emit(self, record: logging.LogRecord) -> None:
        if " durable: step " not in record.msg or not isinstance(record.args, tuple):
            return
        kind, version, step = record.args[:3]
        if kind == "checkpoint":
            self._ledger.append("durable", version=version, step=step, **self._more())

    def attach(self) -> None:
        """Listen to the library's log from now on."""
        log = logging.getLogger("holdfast")
        log.setLevel(logging.INFO)
        log.addHandler(self)


def newest_durable(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The reported version with the largest number."""
    return max((line for line in lines if line["event"] == "durable"), key=lambda line: line["version"], default=None)
