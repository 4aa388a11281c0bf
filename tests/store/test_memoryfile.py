"""A file in memory that is filled before it has its key: whole under its key or not there at all, and never without room."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import Faults

from holdfast.errors import HoldfastError, StorageError, UsageError
from holdfast.store import KeyExistsError, PosixStore, syscalls
from holdfast.store.aligned import address

AHEAD, KEY = "ahead/r0", "versions/1/data/r0"
SIZE = 300_000
DATA = np.random.default_rng(7).integers(0, 256, 200_000, np.uint8)
MEMORY = Path("/dev/shm")

pytestmark = pytest.mark.skipif(not MEMORY.is_dir(), reason="this system has no file system in memory")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="holdfast-tests-", dir=MEMORY) as made:
        yield Path(made)


@pytest.fixture
def store(root: Path) -> PosixStore:
    return PosixStore(str(root / "s"), create=True, write_once=True)


def begin(store: PosixStore) -> Any:
    file = store.create_in_memory(AHEAD, SIZE)
    assert file is not None
    file.view[: DATA.nbytes] = DATA
    return file


def make(store: PosixStore) -> None:
    file = begin(store)
    try:
        file.finish(KEY, DATA.nbytes)
    except HoldfastError:
        file.abort()
        raise


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_it_becomes_the_file_of_its_key(root: Path, store: PosixStore) -> None:
    file = begin(store)
    assert file.view.shape == (SIZE,)
    assert address(file.view) % 4096 == 0
    assert files(root) == ["s/ahead/r0"]
    file.finish(KEY, DATA.nbytes)
    file.abort()  # nothing any more
    assert files(root) == [f"s/{KEY}"]
    assert store.get(KEY, SIZE) == DATA.tobytes()
    assert os.stat(root / "s" / KEY).st_mode & 0o777 == 0o400
    with pytest.raises(UsageError, match="is over"):
        _ = file.view


def test_its_room_is_had_at_once(root: Path, store: PosixStore) -> None:
    file = begin(store)
    assert os.stat(root / "s" / AHEAD).st_blocks * 512 >= SIZE
    file.abort()
    assert files(root) == []


def test_more_than_there_is(root: Path, store: PosixStore) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="ENOSPC|EFBIG|ENOMEM"):
        store.create_in_memory(AHEAD, 1 << 50)
    assert files(root) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_key_that_is_taken(root: Path, store: PosixStore) -> None:
    store.put(KEY, b"first")
    file = begin(store)
    with pytest.raises(KeyExistsError):
        file.finish(KEY, DATA.nbytes)
    file.abort()
    assert files(root) == [f"s/{KEY}"]
    assert store.get(KEY, SIZE) == b"first"


def test_not_where_files_are_not_in_memory(root: Path, store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "fs_type", lambda fd: 0xEF53)
    assert store.create_in_memory(AHEAD, SIZE) is None
    assert files(root) == []


def test_a_directory_that_was_deleted_since(root: Path, store: PosixStore) -> None:
    make(store)
    store.delete_tree("versions")
    file = begin(store)
    os.rmdir(root / "s" / "ahead") if not os.listdir(root / "s" / "ahead") else None
    file.finish(KEY, DATA.nbytes)
    assert store.get(KEY, SIZE) == DATA.tobytes()


def test_a_child_that_lets_go_of_it_keeps_its_own_memory(root: Path, store: PosixStore) -> None:
    """Nor is what the parent has of it harmed."""
    file = begin(store)
    pid = os.fork()
    if pid == 0:
        own = [np.full(SIZE, k, np.uint8) for k in range(40)]
        file._memory = None  # the last reference here
        os._exit(0 if all((array == k).all() for k, array in enumerate(own)) else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    file.finish(KEY, DATA.nbytes)
    assert store.get(KEY, SIZE) == DATA.tobytes()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_call_fails_in_turn(root: Path, code: int) -> None:
    def store(n: int) -> PosixStore:
        return PosixStore(str(root / f"s{n}"), create=True, write_once=True)

    first = store(0)
    with Faults("count") as counting:
        make(first)
    assert counting.count >= 12
    before, failed = len(os.listdir("/proc/self/fd")), 0
    for at in range(1, counting.count + 1):
        this = store(at)
        with Faults("error", at=at, errno=code) as faults:
            try:
                make(this)
            except HoldfastError as error:
                assert isinstance(error, StorageError)
                failed += 1
        assert faults.fired == 1
        if this.exists(KEY):
            assert this.get(KEY, SIZE) == DATA.tobytes()
        elif faults.hit[0].name != "unlink":
            assert not this.exists(AHEAD), faults.hit
        assert len(os.listdir("/proc/self/fd")) == before
    assert failed >= 8


def test_killed_at_every_call(root: Path) -> None:
    """Its key holds all of it or nothing; what is left lies where nobody reads."""
    first = PosixStore(str(root / "s"), create=True, write_once=True)
    with Faults("count") as counting:
        make(first)
    killed = 0
    for at in range(1, counting.count + 1):
        this = PosixStore(str(root / f"s{at}"), create=True, write_once=True)
        pid = os.fork()
        if pid == 0:
            with Faults("kill", at=at):
                make(this)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        if this.exists(KEY):
            assert this.get(KEY, SIZE) == DATA.tobytes()
    assert killed == counting.count
