"""Whether memory has room: the least of what the file system, the machine and the cgroups leave."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from holdfast.capture import room
from holdfast.capture.memory import available_bytes
from holdfast.capture.room import default_memory, memory_room
from holdfast.errors import StorageError
from holdfast.store import syscalls
from holdfast.store.owned import free_bytes

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """/proc and /sys of a machine with 8 GiB available, this process in a cgroup (v2) without a limit."""
    cgroup = tmp_path / "sys/fs/cgroup/job"
    cgroup.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {8 * GIB >> 10} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text(f"{GIB}\n")
    return tmp_path


@pytest.fixture
def tmpfs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many bytes the file system says it has in all, and free."""
    size = {"all": 16 * GIB, "free": 6 * GIB}
    monkeypatch.setattr(
        syscalls,
        "statvfs",
        lambda path: os.statvfs_result((4096, 4096, size["all"] >> 12, *[size["free"] >> 12] * 2, 9, 9, 9, 0, 255)),
    )
    return size


def limit(machine: Path, nbytes: int) -> None:
    (machine / "sys/fs/cgroup/job/memory.max").write_text(f"{nbytes}\n")


def test_the_least_counts(machine: Path, tmpfs: dict[str, int]) -> None:
    where, root = str(machine), str(machine)
    assert memory_room(where, root) == 6 * GIB
    tmpfs["free"] = 12 * GIB
    assert memory_room(where, root) == 8 * GIB
    limit(machine, 4 * GIB)
    assert memory_room(where, root) == 3 * GIB
    tmpfs["free"] = 0
    assert memory_room(where, root) == 0


def test_a_tmpfs_without_a_size_has_no_limit_of_its_own(machine: Path, tmpfs: dict[str, int]) -> None:
    tmpfs.update(all=0, free=0)
    assert free_bytes(str(machine)) == sys.maxsize
    assert memory_room(str(machine), str(machine)) == 8 * GIB


def test_here(tmp_path: Path) -> None:
    assert 0 < memory_room(str(tmp_path)) <= available_bytes() * 2
    with pytest.raises(StorageError):
        memory_room(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("state", "parity", "held", "on"),
    [
        (2 * GIB, 0.0, 0, True),  # 4 GiB and an eighth
        (3 * GIB, 0.0, 0, False),  # 6 GiB and an eighth
        (3 * GIB, 0.0, GIB, True),
        (2 * GIB, 1 / 3, 0, True),  # 5.33 GiB and an eighth: just 6
        (2 * GIB, 1.0, 0, False),
        (0, 0.0, 0, True),
    ],
)
def test_two_versions_and_headroom(
    machine: Path, tmpfs: dict[str, int], state: int, parity: float, held: int, on: bool
) -> None:
    said, why = default_memory(state, str(machine), parity=parity, held=held, root=str(machine))
    assert said is on
    assert why.startswith(f"memory level {'on' if on else 'off'}: 2 versions of") and "\n" not in why
    assert str(machine) in why  # the file system is what limits here


def test_it_is_said_what_limits(machine: Path, tmpfs: dict[str, int]) -> None:
    limit(machine, GIB + 100 * MIB)
    assert default_memory(GIB, str(machine), root=str(machine)) == (
        False,
        "memory level off: 2 versions of 1.0 GiB and headroom take 2.2 GiB, the memory of this machine or cgroup has 100.0 MiB",
    )
    limit(machine, 2 * GIB)
    assert default_memory(16 * MIB, str(machine), root=str(machine))[0]
    assert not default_memory(500 * MIB, str(machine), root=str(machine))[0]


def test_where_it_can_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, why = default_memory(1, str(tmp_path / "absent"))
    assert not said and "absent" in why and "\n" not in why
    monkeypatch.setattr(room.os, "access", lambda path, how: False)
    said, why = default_memory(1, str(tmp_path))
    assert not said and "can't be written" in why
