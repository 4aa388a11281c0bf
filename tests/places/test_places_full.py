"""A full memory is an error with its number: never a signal, and never a torn file that counts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Faults, named
from places_support import FIRST, SECOND, held_for, noise, put, with_set, write

from holdfast.catalog.places import Place, verify_held
from holdfast.store import SystemCallError

HERE = Path(__file__).parent
MOUNT = 'mount -t tmpfs -o size=1m,mode=0700 tmpfs "$1" && exec "$2" "$3" "$1"'


def namespace() -> list[str] | None:
    """What starts a command with mounts of its own; None where that is refused."""
    for flags in (["-m"], ["-r", "-m"]):  # as root, or as root of a user namespace
        command = ["unshare", *flags]
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True, timeout=20).returncode == 0
        ):
            return command
    return None


def test_a_full_tmpfs(tmp_path: Path) -> None:
    """On a tmpfs of 1 MiB that only the child process sees. Where no mount is to be had, tests below do it in its place."""
    command = namespace()
    if command is None:
        return
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [*command, "sh", "-c", MOUNT, "sh", str(tmp_path), sys.executable, str(HERE / "places_full.py")],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("size") == 1 << 20
    assert seen.pop("free") > 0
    assert seen.pop("hogs") > 0
    for what in ("too large", "part", "record"):
        assert seen.pop(what) == errno.ENOSPC, what
    assert seen and all(value is True for value in seen.values()), seen
    assert list(tmp_path.iterdir()) == []


def test_room_is_reserved_before_a_byte_is_written(memory: Place) -> None:
    with Faults() as trace:
        put(memory, FIRST, 0, 300_000)
    for key in (memory.data_key(FIRST, 0), memory.parity_key(FIRST, 0)):
        names = [
            call.name
            for call in trace.calls
            if call.path.endswith(key) and call.name in ("fallocate", "pwrite", "fchmod")
        ]
        assert names[0] == "fallocate" and names[-1] == "fchmod" and names.count("pwrite") == len(names) - 2 > 0, names


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_the_data(memory: Place, number: int) -> None:
    put(memory, FIRST, 0)
    with Faults("error", at=1, errno=number, match=named("fallocate")) as faults:
        with pytest.raises(SystemCallError) as caught:
            memory.store.create(memory.data_key(SECOND, 0), 20_000)
    assert faults.fired == 1 and caught.value.errno == number
    assert not memory.store.exists(memory.data_key(SECOND, 0))
    assert verify_held(memory, FIRST, 0).version == FIRST


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("where", ["/part/", "/held/"])
def test_no_room_for_the_part_or_the_record(memory: Place, where: str, at: int) -> None:
    """Refused at once, or after half of it: it does not exist, and the next try succeeds."""
    data, part = noise(5000), noise(9000)
    held = held_for(FIRST, 0, data, part)
    write(memory, memory.data_key(FIRST, 0), data)
    first = Faults("short", at=1, match=named("pwrite", path=where))
    with first, Faults("error", at=at, errno=errno.ENOSPC, match=named("pwrite", path=where)) as faults:
        with pytest.raises(SystemCallError) as caught:
            memory.put_held(held, part)
    assert faults.fired == 1 and caught.value.errno == errno.ENOSPC
    assert memory.ranks(FIRST) == []
    memory.forget(FIRST, 0)
    assert memory.store.leftovers(f"versions/{FIRST}/held") == memory.store.leftovers(f"versions/{FIRST}/part") == []
    assert put(memory, FIRST, 0) == verify_held(memory, FIRST, 0)


@pytest.mark.parametrize("at", [1, 2])
def test_no_room_for_the_protected_record(memory: Place, at: int) -> None:
    """What was held before stays held."""
    data, part = noise(5000), noise(9000)
    write(memory, memory.data_key(FIRST, 0), data)
    held = held_for(FIRST, 0, data, part)
    memory.put_held(held, part)
    protected, parity = with_set(held, 1, [(4000, 10)] * 3)
    write(memory, memory.parity_key(FIRST, 0), parity)
    first = Faults("short", at=1, match=named("pwrite", path="/protected/"))
    with first, Faults("error", at=at, errno=errno.ENOSPC, match=named("pwrite", path="/protected/")) as faults:
        with pytest.raises(SystemCallError) as caught:
            memory.put_held(protected, part)
    assert faults.fired == 1 and caught.value.errno == errno.ENOSPC
    assert verify_held(memory, FIRST, 0) == held
    memory.forget_parity(FIRST, 0)
    assert memory.store.leftovers(f"versions/{FIRST}/protected") == []
    write(memory, memory.parity_key(FIRST, 0), parity)
    memory.put_held(protected, part)
    assert verify_held(memory, FIRST, 0) == protected
