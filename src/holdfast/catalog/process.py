"""Which process: names one for ever, and tells whether it lives."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from ..errors import DamageError


@dataclass(frozen=True)
class Process:
    """A process: host name, kernel boot id, process-id namespace, pid, start time in clock ticks since boot."""

    host: str
    boot: str
    pidns: str
    pid: int
    start: int

    @property
    def here(self) -> bool:
        """Whether we would see it: same boot of the same kernel, same process-id namespace."""
        host = _this_host()
        return (self.boot, self.pidns) == (host.boot, host.pidns)

    @property
    def alive(self) -> bool:
        """Whether it lives; only meaningful if `here`. A zombie is dead; a pid used again is another process."""
        found = _stat(self.pid)
        return found is not None and found[0] not in "ZXx" and found[1] == self.start

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @staticmethod
    def parse(value: Any) -> Process:
        """From a record's member; DamageError if it is malformed."""
        try:
            host, boot, pidns = (value[k] for k in ("host", "boot", "pidns"))
            pid, start = value["pid"], value["start"]
            texts = all(isinstance(v, str) and len(v) < 300 for v in (host, boot, pidns))
            if texts and type(pid) is int and type(start) is int and 0 < pid < 1 << 31:
                return Process(host, boot, pidns, pid, start)
        except (TypeError, KeyError):
            pass
        raise DamageError("a record's process is malformed")


def current() -> Process:
    """This process."""
    host = _this_host()
    found = _stat(os.getpid())
    return Process(host.host, host.boot, host.pidns, os.getpid(), found[1] if found else 0)


class _Host(NamedTuple):
    host: str
    boot: str
    pidns: str


@cache
def _this_host() -> _Host:
    def read(path: str) -> str:
        try:
            with open(path) as f:
                return f.read().strip()
        except OSError:
            return ""

    try:
        pidns = os.readlink("/proc/self/ns/pid")
    except OSError:
        pidns = ""
    host = os.uname().nodename
    return _Host(host, read("/proc/sys/kernel/random/boot_id") or host, pidns)


def find(pid: int) -> Process | None:
    """The process of that number on this host, known by its start time too; None if there is none (local)."""
    found = _stat(pid)
    return None if found is None else replace(current(), pid=pid, start=found[1])


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start time) of a process, None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            text = f.read().decode(errors="replace")
    except OSError:
        return None
    rest = text[text.rfind(")") + 2 :].split()  # the name before may hold spaces and parentheses
    return rest[0], int(rest[19])
