"""How much memory this process may still take: the machine's, and what its cgroups leave of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple


class Limit(NamedTuple):
    """A cgroup's memory limit: where it is set, its bytes, and how many of them are in use (reclaimable cache not counted)."""

    path: str
    limit: int
    used: int


def available_bytes(root: str = "/") -> int:
    """Bytes that can be taken without swapping: MemAvailable, or less where a cgroup (v2 or v1) of this process leaves less.

    `root` is where /proc and /sys are looked for.
    """
    free = _meminfo(root)
    for limit in cgroup_limits(root):
        free = min(free, max(limit.limit - limit.used, 0))
    return free


def cgroup_limits(root: str = "/") -> list[Limit]:
    """The memory limits above this process, of its own cgroup and of all that hold it; empty where there are none."""
    found = []
    for folder, limit_name, used_name, cache_name in _folders(root):
        try:
            limit = int(_read(os.path.join(folder, limit_name)))
            used = int(_read(os.path.join(folder, used_name)))
        except (OSError, ValueError):  # not there, or "max"
            continue
        if limit >= 1 << 62:  # how v1 says that there is none
            continue
        with suppress(OSError):
            for line in _read(os.path.join(folder, "memory.stat")).splitlines():
                name, _, value = line.partition(" ")
                if name == cache_name:
                    used -= int(value)
        found.append(Limit(folder, limit, max(used, 0)))
    return found


def _folders(root: str) -> Iterator[tuple[str, str, str, str]]:
    """(folder, file of the limit, file of the use, name of the reclaimable part in memory.stat), innermost first."""
    v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    v2 = ("memory.max", "memory.current", "inactive_file")
    try:
        lines = _read(os.path.join(root, "proc/self/cgroup")).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts, names = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], v2
        elif "memory" in controllers.split(","):
            mounts, names = ["sys/fs/cgroup/memory"], v1
        else:
            continue
        for mount in mounts:
            # In a container the path is often that of the host, while its own cgroup is mounted at the top: both are tried.
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                yield os.path.join(root, mount, *parts[:depth]), *names


def _meminfo(root: str) -> int:
    values = {}
    for line in _read(os.path.join(root, "proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        values[name] = int(value.split()[0]) << 10
    return values.get("MemAvailable", values.get("MemFree", 0))


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
