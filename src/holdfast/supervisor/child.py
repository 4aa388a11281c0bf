"""The program's processes: its session, its death, what is left of it. And the signals that reach the supervisor."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import FrameType

from ..catalog import Process, current, evict
from ..catalog.eviction import send
from ..errors import UsageError

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Child:
    """A program in a session of its own, so that a terminal's Ctrl-C reaches only the supervisor.

    It is reaped only by `reap`: until then its process id, which is the session's too, can't become another's, and
    whatever bears the session's id is its own. `mark`: a variable of `environment` with a value that is this child's
    alone: processes that have it are its own too, in whatever session (MPICH gives each rank one).
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], mark: str | None = None) -> None:
        self._mark = f"{mark}={environment[mark]}".encode() if mark else None
        try:
            self._process = subprocess.Popen(
                list(arguments), env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise UsageError(f"{arguments[0]!r} could not be started: {error}. Nothing was changed.") from None
        self.pid = self._process.pid

    @property
    def dead(self) -> bool:
        """Whether the process that was started has ended (others of its session may live)."""
        return self._process.returncode is not None or self._ended() is not None

    @property
    def killed(self) -> bool:
        """Whether it has been ended by a signal, and so left behind whatever it was looking after."""
        found = self._ended() if self._process.returncode is None else None
        return found is not None and found.si_code != os.CLD_EXITED

    def _ended(self) -> os.waitid_result | None:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def members(self) -> list[Process]:
        """Its living processes: itself, its session's, and those that bear its mark."""
        if self._process.returncode is not None:
            return []  # reaped: the number may be another's by now
        return [p for p in _members(self.pid, self._mark) if p.alive]

    def ranks(self) -> set[tuple[int, int]]:
        """The processes that the launcher itself has started, by id and start time, its own helpers aside; those that have
        ended and that it has not taken note of are not among them."""
        return {(p.pid, p.start) for p in self.members() if _parent(p.pid) == self.pid and not is_proxy(p)}

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process that was started, if it lives."""
        for process in self.members():
            if process.pid == self.pid:
                send(process, number)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        for process in self.members():
            send(process, signal.SIGKILL)

    def reap(self) -> int:
        """Its exit code (negative: the signal that killed it), once `dead`."""
        return self._process.wait(timeout=60)

    def end(self) -> None:
        """Ends whatever lives of it, without asking, and reaps it."""
        if self._process.returncode is None:
            self.kill()
            evict(self.members(), 0.0)
            self.reap()


def is_proxy(process: Process) -> bool:
    """Whether it is a launcher's helper, which computes nothing."""
    try:
        with open(f"/proc/{process.pid}/comm") as f:
            return f.read().strip() in ("hydra_pmi_proxy", "prted", "orted")
    except OSError:
        return False


def _members(sid: int, mark: bytes | None) -> list[Process]:
    here = current()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                text = f.read().decode(errors="replace")
        except OSError:
            continue
        rest = text[text.rfind(")") + 2 :].split()
        if int(rest[3]) == sid or (mark is not None and _has(name, mark)):
            found.append(replace(here, pid=int(name), start=int(rest[19])))
    return found


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            text = f.read().decode(errors="replace")
        return int(text[text.rfind(")") + 2 :].split()[1])
    except OSError:  # gone
        return 0


def _has(pid: str, variable: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            return variable in f.read().split(b"\0")
    except OSError:  # another user's, or gone
        return False


class Watch:
    """Pid file descriptors of processes: tells at once which of them dies first, of those that can be watched.

    `first_dead`: its rank and pid; None while none has died, or if several died before it could be seen who was first.
    `fault`: when that was seen, of any (seconds since 1970).
    """

    def __init__(self) -> None:
        self._handles: dict[int, tuple[int, Process]] = {}
        self._known = False
        self.first_dead: tuple[int, int] | None = None
        self.fault: float | None = None

    def add(self, processes: Sequence[Process]) -> None:
        """Watches `processes`, in order of ranks, in place of those watched before."""
        self.close()
        self._known, self.first_dead, self.fault = False, None, None
        dead = []
        for rank, process in enumerate(processes):
            if not process.here or not hasattr(os, "pidfd_open"):
                continue
            try:
                handle = os.pidfd_open(process.pid)
            except OSError:
                handle = -1
            if process.alive and handle >= 0:
                self._handles[handle] = rank, process
                continue
            if handle >= 0:
                os.close(handle)
            if not process.alive:
                dead.append((rank, process))
        self._note(dead)

    @property
    def handles(self) -> list[int]:
        return list(self._handles)

    def died(self, handles: Sequence[int]) -> None:
        """Notes those of `handles` that have become readable."""
        dead = []
        for handle in handles:
            if handle in self._handles:
                dead.append(self._handles.pop(handle))
                os.close(handle)
        self._note(dead)

    def _note(self, dead: Sequence[tuple[int, Process]]) -> None:
        if dead and not self._known:
            self._known, self.fault = True, time.time()
            self.first_dead = (dead[0][0], dead[0][1].pid) if len(dead) == 1 else None

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()


class Signals:
    """A context in which signals to this process are collected, not obeyed, and wake `wait` (main thread only).

    SIGHUP counts as a request too: a lost terminal should end in a last checkpoint. One that was ignored when the
    supervisor started (nohup, `&` in a script) stays ignored.
    """

    def __init__(self) -> None:
        self._taken: list[signal.Signals] = []
        self._before: dict[signal.Signals, object] = {}
        self._wakeup = -1
        self._read = self._write = -1

    def __enter__(self) -> Signals:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*REQUESTS, signal.SIGCHLD):
            before = signal.getsignal(number)
            if number is signal.SIGCHLD or before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._taken.append(signal.Signals(number))

    @property
    def pending(self) -> int:
        """How many requests have come since the last `take`."""
        return len(self._taken)

    def take(self) -> list[signal.Signals]:
        """The requests since the last call, in order."""
        taken, self._taken[:] = list(self._taken), []
        return taken

    def wait(self, seconds: float, watch: Watch) -> None:
        """Returns when a signal comes (SIGCHLD too), a watched process dies, or `seconds` have passed."""
        poll = select.poll()
        for handle in (self._read, *watch.handles):
            poll.register(handle, select.POLLIN)
        ready = [handle for handle, _ in poll.poll(max(0.0, seconds) * 1000)]
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        watch.died(ready)
