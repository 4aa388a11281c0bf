"""Children by fork: one for each fault, without the price of a new interpreter; every wait has a deadline.

Only for a driver process of its own, without threads at the moment of the fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

DEADLINE = 30.0  # seconds; a point takes a twentieth of one


class Child:
    """A forked process that runs `work` and hands back what it returns (JSON), then leaves by `os._exit`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # so that `_change` can wait for it
        sys.stdout.flush()
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _run(work, writer)
        os.close(writer)
        self._reader = reader

    def killed(self) -> bool:
        """Wait for the end; whether it was SIGKILL's. Anything else that is no normal end is an error."""
        return self._end() == -signal.SIGKILL

    def result(self) -> Any:
        """Wait for the normal end and return what `work` returned."""
        code = self._end()
        text = self._text
        if code != 0 or not text:
            raise RuntimeError(f"child ended with {code}: {text or 'said nothing'}")
        answer = json.loads(text)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def stopped(self) -> bool:
        """Wait until it stands still (True) or has ended (False; its result can still be asked for)."""
        status = self._change()
        if os.WIFSTOPPED(status):
            return True
        self._status = status
        return False

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    _status: int | None = None
    _text = ""

    def _end(self) -> int:
        status = self._status if self._status is not None else self._change()
        if os.WIFSTOPPED(status):
            self._kill()
            raise RuntimeError("child stopped where it should have ended")
        with os.fdopen(self._reader, "rb") as pipe:
            self._text = pipe.read().decode()
        return os.waitstatus_to_exitcode(status)

    def _change(self) -> int:
        until = time.monotonic() + DEADLINE
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                return status
            left = until - time.monotonic()
            if left <= 0:
                self._kill()
                raise TimeoutError(f"a child did nothing for {DEADLINE:g} s and was killed")
            signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.5))

    def _kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _run(work: Callable[[], Any], writer: int) -> None:
    """In the child: never returns, whatever happens."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        try:
            answer = {"value": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()[-4000:]}
        data = json.dumps(answer).encode()
        while data:  # a pipe takes 64 KiB without a reader
            data = data[os.write(writer, data) :]
        code = 0
    finally:
        os._exit(code)
