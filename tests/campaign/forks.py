"""Forked children of a process that has imported everything: a start takes milliseconds. Every wait has a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

DEADLINE = 60.0  # seconds; what a child does takes a tenth of one on a quiet machine


class Child:
    """A forked process that runs `work`, hands back what it returns (JSON) and leaves by `os._exit`.

    The parent must have no other threads at that moment.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _run(work, writer)
        os.close(writer)
        self._status: int | None = None
        self._text = b""

    def wait_stopped(self) -> bool:
        """Until it stops itself: True; False if it ended instead."""
        status = self._wait(os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._take(status)
            return False
        return True

    def end(self) -> int:
        """Its exit code, negative for a signal, once it has ended."""
        if self._status is None:
            self._take(self._wait(0))
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)

    def result(self) -> Any:
        """What `work` returned; RuntimeError if it raised or was killed."""
        code = self.end()
        if code != 0 or not self._text:
            raise RuntimeError(f"a child ended with {code}: {self._text.decode(errors='replace') or 'said nothing'}")
        answer = json.loads(self._text)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int:
        until = time.monotonic() + DEADLINE
        pause = 0.0005
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | options)
            if pid:
                return status
            if time.monotonic() > until:
                self.kill()
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"a child was not over after {DEADLINE:g} s and was killed")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)

    def _take(self, status: int) -> None:
        with os.fdopen(self._reader, "rb") as pipe:
            self._text = pipe.read()
        self._status = status


def _run(work: Callable[[], Any], writer: int) -> None:
    """In the child: never returns."""
    code = 1
    try:
        try:
            answer = {"value": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()[-4000:]}
        data = json.dumps(answer).encode()
        while data:  # a pipe takes 64 KiB without a reader; answers are smaller
            data = data[os.write(writer, data) :]
        code = 0
    finally:
        os._exit(code)
