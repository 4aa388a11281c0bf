"""What a first process (`anchor.py`) and its maker say to each other."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

from ...catalog.process import Process, find
from .state import ClusterError

_DEADLINE = 20.0  # seconds for each answer
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Link:
    """The maker's end. `process`: who is at the other end, as seen from here; `inner`: its number as seen from
    the process-id namespace around its own. Both known after `hello`."""

    process: Process
    inner: int

    def __init__(self, ours: socket.socket, name: str, log: Path) -> None:
        self._socket, self._name, self._log = ours, name, log
        ours.settimeout(_DEADLINE)
        # The kernel then adds the sender's pid to each message, translated into our process-id namespace: the one way
        # to know it, as the other end is inside several new ones.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def hello(self) -> None:
        """Waits until the other end is there. ClusterError if it never comes; the link is closed then."""
        answer, pid = self._answer()
        process = find(pid) if pid else None
        if process is None:
            raise self._failed("it ended at once")
        self.process, self.inner = process, int(answer["pid"])

    def ask(self, order: dict[str, Any]) -> None:
        """Sends an order and waits until it is carried out. ClusterError with the reason if it could not be."""
        self._say(order)
        answer, _ = self._answer()
        if "error" in answer:
            raise self._failed(answer["error"])

    def stay(self) -> None:
        """Tells it to live on without us, and closes."""
        self._say({"stay": True})
        self.close()

    def close(self) -> None:
        """Hangs up: the other end ends, unless it was told to stay."""
        self._socket.close()

    def _say(self, words: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
        except OSError as error:
            raise self._failed(str(error)) from None

    def _answer(self) -> tuple[dict[str, Any], int]:
        """The next message, which is short and so comes in one piece, and its sender's pid."""
        try:
            text, extra, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError as error:
            raise self._failed(str(error)) from None
        if not text:
            raise self._failed("it ended")
        pids = [
            _CREDENTIALS.unpack(data)[0]
            for level, kind, data in extra
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
        ]
        found = json.loads(text)
        return found, pids[0] if pids else 0

    def _failed(self, why: str) -> ClusterError:
        self.close()
        try:
            said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        except OSError:
            said = []
        detail = "".join(f" ({line})" for line in said)
        return ClusterError(f"The stand-in {self._name} could not be made: {why}{detail}. Take the cluster down.")
