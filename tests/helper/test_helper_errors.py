"""Storage errors in the helper, and kernels or rights that do not let it do its work."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from snapshots import HERE, check_stored, images, units_of

from holdfast.capture import kernel
from holdfast.engine.helper import CaptureError, Helper, HelperLostError
from holdfast.engine.helper.granules import HUGE, plan, private_mappings
from holdfast.engine.units import UNIT
from holdfast.errors import StorageError
from holdfast.store import KeyExistsError


def limit_file_size(helper: Helper, nbytes: int) -> None:
    resource.prlimit(helper.pid, resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


@pytest.mark.usefixtures("freezing")
@pytest.mark.parametrize("expected", [None, UNIT * 16])
def test_a_write_error_frees_everything(helper: Helper, root: Path, expected: int | None) -> None:
    array = np.arange(UNIT * 2, dtype=np.uint64)
    units = units_of([array])
    limit_file_size(helper, UNIT * 3)
    writing = helper.begin(str(root), "data", expected, 2)
    writing.freeze(units, 10.0)
    array[:] = 0
    with pytest.raises(StorageError, match=r"file too large \(EFBIG\)"):
        writing.finish()
    array[:] = 1
    assert not (root / "data").exists()
    limit_file_size(helper, resource.RLIM_INFINITY)
    want = images(units)
    writing = helper.begin(str(root), "next", None, 2)
    writing.freeze(units, 10.0)
    array[:] = 2
    results, _ = writing.finish()
    check_stored(root, "next", units, results, want)


def test_a_write_error_releases_what_was_put(helper: Helper, root: Path) -> None:
    """At once, not only at the end: the program may wait for room in its arena."""
    import threading

    array = np.ones(UNIT, np.uint8)
    unit = units_of([array])[0][1]
    released = threading.Semaphore(0)
    limit_file_size(helper, UNIT)
    writing = helper.begin(str(root), "data", None, 1)
    writing.begin()
    for number in range(6):
        writing.put(number, unit, released.release)
    for _ in range(6):
        assert released.acquire(timeout=10.0)
    with pytest.raises(StorageError, match="EFBIG"):
        writing.finish()
    helper.close()  # its limit can't be raised again without rights


def test_a_full_disk(helper: Helper, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not permitted")
    try:
        array = np.ones(UNIT * 4, np.uint8)
        writing = helper.begin(str(place), "data", None, 2)
        for number, unit in units_of([array]):
            writing.put(number, unit, lambda: None)
        with pytest.raises(StorageError, match="disk full"):
            writing.finish()
        assert not (place / "data").exists()
    finally:
        subprocess.run(["umount", place], check=True, timeout=20)


def test_errors_keep_their_class(helper: Helper, root: Path) -> None:
    (root / "data").write_bytes(b"")
    with pytest.raises(KeyExistsError) as caught:
        helper.begin(str(root), "data", None, 1).finish()
    assert caught.value.file == "data" and (root / "data").exists()
    with pytest.raises(StorageError, match="nothing is there"):
        helper.begin(str(root / "nowhere"), "data", None, 1).finish()
    assert helper.alive


@pytest.mark.usefixtures("freezing")
def test_a_hanging_disk_does_not_hang_the_program(root: Path) -> None:
    """Writes to a FIFO that nobody reads hang as those to a dead file server do. The program's faults use up the
    spare memory, wait `patience` and then have the version given up."""
    code = f"import sys; sys.path[:] = [{str(HERE)!r}, *sys.argv[1:]]; import hanging; hanging.main()"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.engine.helper.spawn._CODE", code)
        hanging = Helper.start(20.0)
    try:
        hanging.patience = 1.0
        array = np.zeros(UNIT * 12, np.uint8)
        writing = hanging.begin(str(root), "data", None, 2)
        writing.freeze(units_of([array]), 10.0)
        began = time.monotonic()
        array[:] = 1
        assert 0.8 < time.monotonic() - began < 15.0
        with pytest.raises(StorageError, match="has taken nothing for 1 s"):
            writing.finish()
        assert time.monotonic() - began < 20.0
        with pytest.raises(HelperLostError, match="write that hangs"):
            hanging.begin(str(root), "next", None, 2)
    finally:
        hanging.close()


def refuse(user_mode_only: bool) -> int:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_without_rights(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(kernel, "userfaultfd", refuse)
    helper = Helper.start(20.0)
    try:
        assert helper.why_no_freeze is not None and "not permitted" in helper.why_no_freeze
        array = np.ones(UNIT, np.uint8)
        writing = helper.begin(str(root), "data", None, 1)
        with pytest.raises(CaptureError, match="full mode is not permitted"):
            writing.freeze(units_of([array]), 5.0)
        writing.put(0, units_of([array])[0][1], lambda: None)
        assert writing.finish()[1] == UNIT
    finally:
        helper.close()


@pytest.mark.usefixtures("freezing")
def test_user_mode_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    full = kernel.userfaultfd
    monkeypatch.setattr(kernel, "userfaultfd", lambda user_mode_only: full(True))
    helper = Helper.start(20.0)
    try:
        assert helper.why_no_freeze is not None and "system call can't write" in helper.why_no_freeze
    finally:
        helper.close()


@pytest.mark.usefixtures("freezing")
def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_feature(fd: int, features: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(kernel, "uffd_api", refuse_feature)
    helper = Helper.start(20.0)
    try:
        assert helper.why_no_freeze is not None and "6.4" in helper.why_no_freeze
        assert helper.reads_memory
    finally:
        helper.close()


def test_an_interpreter_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(HelperLostError, match="could not be started"):
        Helper.start(5.0)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(HelperLostError, match="ended"):
        Helper.start(5.0)


# -- which pages are protected -----------------------------------------------------------------


def test_granules_cover_what_they_must() -> None:
    """Random pieces in random mappings: every page of every piece is in a granule that waits for its unit."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        mappings, at = [], 1 << 30
        for _ in range(5):
            at += int(rng.integers(0, 600)) * 4096
            stop = at + int(rng.integers(1, 3000)) * 4096
            mappings.append((at, stop))
            at = stop
        units = []
        for _ in range(8):
            m = [mappings[i] for i in rng.integers(0, 5, 20)]
            start = np.array([int(rng.integers(a, b)) for a, b in m])
            longest = np.array([b for _, b in m]) - start
            units.append(np.stack((start, rng.integers(0, longest + 1)), axis=1))
        p = plan(mappings, units)
        assert p.start == sorted(p.start) and all(b <= a for a, b in zip(p.start[1:], p.stop, strict=False))
        for a, b in zip(p.start, p.stop, strict=True):
            assert a % 4096 == b % 4096 == 0 and (b - 1) // HUGE == a // HUGE
            assert any(low <= a and b <= high for low, high in mappings)
            assert any(low <= a and b <= low + n for low, n in p.register)
        for u, pieces in enumerate(units):
            for start, nbytes in pieces.tolist():
                inside = [g for g in p.of[u] if p.stop[g] > start and p.start[g] < start + nbytes]
                covered = sum(min(p.stop[g], start + nbytes) - max(p.start[g], start) for g in inside)
                assert covered == nbytes
            assert all(u in p.units[g] for g in p.of[u])


def test_only_private_memory_counts() -> None:
    text = (
        "10000-20000 rw-p 00000000 00:00 0    [heap]\n"
        "30000-40000 rw-s 00000000 00:01 77   /dev/zero (deleted)\n"
        "50000-60000 rw-p 00000000 08:01 9    /lib/x y\n"
        "70000-80000 rw-p 00000000 00:00 0 \n"
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n"
    )
    assert private_mappings(text) == [(0x10000, 0x20000), (0x70000, 0x80000)]
    with pytest.raises(CaptureError):
        plan(private_mappings(text), [np.array([[0x1F000, 0x2000]])])
