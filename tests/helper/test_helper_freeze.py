"""Frozen memory: what is stored is the state of the call, whatever the program does to its memory, and however,
afterwards."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from snapshots import check_stored, image, images, packed, program, units_of

from holdfast.engine.helper import CaptureError, Helper
from holdfast.engine.units import UNIT, Block, Piece, Unit
from holdfast.store.aligned import address
from holdfast.store.aligned import empty as aligned_empty

pytestmark = pytest.mark.usefixtures("freezing")


def random(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, nbytes, np.uint8)


def test_several_threads_overwrite_everything(helper: Helper, root: Path) -> None:
    arrays = [random(UNIT * 6 + 1000, 1), random(UNIT * 6, 2), random(70_000, 3)]
    units = units_of(arrays)
    for version in range(3):
        want = images(units)
        writing = helper.begin(str(root), f"data{version}", None, 2)
        writing.freeze(units, 10.0)
        threads = [threading.Thread(target=a.fill, args=(version,)) for a in arrays]
        for t in threads:
            t.start()
        for t in threads:
            t.join(20.0)
            assert not t.is_alive()
        results, size = writing.finish()
        assert size == sum(u.nbytes for _, u in units)
        check_stored(root, f"data{version}", units, results, want)
        assert all((a == version).all() for a in arrays)


def test_pages_shared_by_units(helper: Helper, root: Path) -> None:
    """Small arrays within one page, arrays that overlap, an array twice, in different units."""
    block = random(3 << 20)
    small = [block[i * 100 : i * 100 + 90] for i in range(400)]
    groups = [small[0::3], small[1::3], small[2::3], [block], [block[1 << 20 :], block[:500]]]
    units = [(i, packed(g)) for i, g in enumerate(groups)]
    want = images(units)
    writing = helper.begin(str(root), "data", None, 2)
    writing.freeze(units, 10.0)
    block[::-1][::777] += 1
    block[:] = 7
    results, _ = writing.finish()
    check_stored(root, "data", units, results, want)
    assert (block == 7).all()


def test_thousands_of_scattered_pages(helper: Helper, root: Path) -> None:
    array = random(64 << 20)
    pages = array[: array.nbytes // 4096 * 4096].reshape(-1, 4096)
    chosen = np.random.default_rng(1).permutation(len(pages))[:2500]
    units = [(i, packed([pages[p] for p in chosen[k : k + 1000]])) for i, k in enumerate(range(0, 2500, 1000))]
    want = images(units)
    writing = helper.begin(str(root), "data", None, 2)
    writing.freeze(units, 10.0)
    array[:] = 1
    results, _ = writing.finish()
    check_stored(root, "data", units, results, want)


def test_pages_never_touched(helper: Helper, root: Path) -> None:
    array = np.zeros(12 << 20, np.uint8)
    units = units_of([array])
    writing = helper.begin(str(root), "data", 12 << 20, 2)
    writing.freeze(units, 10.0)
    array[:] = 1
    results, _ = writing.finish()
    check_stored(root, "data", units, results, [bytes(UNIT)] * 3)


def test_writes_by_system_calls(helper: Helper, root: Path) -> None:
    """readv, recv_into, and another process's process_vm_writev, as MPI's single-copy transfers use it."""
    arrays = [random(UNIT * 2, i) for i in range(3)]
    units = units_of(arrays)
    want = images(units)
    new = random(UNIT * 2, 9)
    path = root.parent / "input"
    path.write_bytes(new.tobytes())
    writing = helper.begin(str(root), "data", None, 2)
    writing.freeze(units, 10.0)
    with open(path, "rb", buffering=0) as file:
        assert file.readinto(arrays[0]) == new.nbytes
    left, right = socket.socketpair()
    with left, right:
        sender = threading.Thread(target=left.sendall, args=(new,))
        sender.start()
        view = memoryview(arrays[1])
        while view:
            view = view[right.recv_into(view) :]
        sender.join(10.0)
    if (pid := os.fork()) == 0:  # writes to its parent's memory
        import ctypes

        local = (ctypes.c_uint64 * 2)(address(new), new.nbytes)
        remote = (ctypes.c_uint64 * 2)(address(arrays[2]), new.nbytes)
        call = ctypes.CDLL(None).process_vm_writev
        call.restype = ctypes.c_ssize_t
        n = call(os.getppid(), local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0))
        os._exit(0 if n == new.nbytes else 1)
    assert os.waitpid(pid, 0)[1] == 0
    results, _ = writing.finish()
    check_stored(root, "data", units, results, want)
    assert all((a == new).all() for a in arrays)


def test_a_fork_while_frozen(tmp_path: Path) -> None:
    """The child writes to its copy unhindered, and ends; the parent's snapshot is that of the call."""
    out = program(
        """
helper = Helper.start(20.0)
array = np.arange(UNIT, dtype=np.uint64)
units = units_of([array])
want = images(units)
writing = helper.begin(root, "data", None, 2)
os.kill(helper.pid, signal.SIGCONT)
writing.freeze(units, 10.0)
if (pid := os.fork()) == 0:
    array[:] = 5
    ok = not helper.alive and (array == 5).all()
    try:
        helper.begin(root, "other", None, 1)
    except HelperLostError:
        helper.close()
        os._exit(0 if ok else 1)
    os._exit(2)
array[:] = 6
assert os.waitpid(pid, 0)[1] == 0
results, _ = writing.finish()
check_stored(root, "data", units, results, want)
assert helper.alive
helper.close()
print("fine")
""",
        tmp_path,
    )
    assert out == "fine\n"


def test_frozen_and_put_in_one_version(helper: Helper, root: Path) -> None:
    frozen, held = random(UNIT * 2, 1), random(UNIT * 2 + 5, 2)
    units = units_of([frozen, held])
    want = images(units)
    released: list[int] = []
    writing = helper.begin(str(root), "data", None, 2)
    for number, unit in units[2:]:
        writing.put(number, unit, lambda n=number: released.append(n))
    writing.freeze(units[:2], 10.0)
    frozen[:] = 0
    results, _ = writing.finish()
    check_stored(root, "data", units, results, want)
    assert sorted(released) == [n for n, _ in units[2:]]


def test_shared_memory_is_refused_and_nothing_stays_protected(helper: Helper, root: Path) -> None:
    import mmap

    own = aligned_empty(UNIT)
    shared = np.frombuffer(mmap.mmap(-1, UNIT), np.uint8)
    writing = helper.begin(str(root), "data", None, 2)
    with pytest.raises(CaptureError, match="private memory"):
        writing.freeze(units_of([own, shared]), 10.0)
    own[:] = 1
    shared[:] = 2
    units = units_of([own, shared])
    for number, unit in units:  # the caller copies instead
        writing.put(number, unit, lambda: None)
    results, _ = writing.finish()
    check_stored(root, "data", units, results, images(units))


def test_freezing_twice_for_one_file_is_refused(helper: Helper, root: Path) -> None:
    array = random(UNIT)
    units = units_of([array])
    want = images(units)
    writing = helper.begin(str(root), "data", None, 1)
    writing.freeze(units, 10.0)
    with pytest.raises(CaptureError, match="one call takes all"):
        writing.freeze([(1, units[0][1])], 10.0)
    array[:] = 0
    results, _ = writing.finish()
    check_stored(root, "data", units, results, want)


def test_unchanged_units_are_not_written(helper: Helper, root: Path) -> None:
    array = random(UNIT * 4)
    first = helper.begin(str(root), "first", UNIT * 4, 2)
    first.freeze(units_of([array]), 10.0)
    results, _ = first.finish()
    array[UNIT * 2 + 17] += 1
    units = units_of([array], [r.digests[0] for r in results])
    want = image(units[2][1])
    second = helper.begin(str(root), "second", None, 2)
    second.freeze(units, 10.0)
    array[:] = 0
    again, size = second.finish()
    assert [r.offset for r in again] == [None, None, 0, None] and size == UNIT
    assert [r.digests for i, r in enumerate(again) if i != 2] == [r.digests for i, r in enumerate(results) if i != 2]
    assert (root / "second").read_bytes() == want


def test_abort_frees_memory_and_removes_the_file(helper: Helper, root: Path) -> None:
    array = random(UNIT * 8)
    writing = helper.begin(str(root), "data", None, 2)
    writing.freeze(units_of([array]), 10.0)
    writing.abort()
    array[:] = 0
    assert not (root / "data").exists()
    units = units_of([array])
    writing = helper.begin(str(root), "next", None, 2)
    writing.freeze(units, 10.0)
    results, _ = writing.finish()
    check_stored(root, "next", units, results, images(units))


def test_a_huge_page_that_is_frozen_whole_stays_one(helper: Helper, root: Path) -> None:
    array = aligned_empty(32 << 20)
    array[:] = 1
    before = huge_kib(address(array))
    if not before:
        pytest.skip("no huge pages here")
    writing = helper.begin(str(root), "data", None, 2)
    writing.freeze(units_of([array]), 10.0)
    array[:] = 2
    writing.finish()
    assert huge_kib(address(array)) >= before


def huge_kib(at: int) -> int:
    """KiB of huge pages in the mapping at an address and those that adjoin it within 32 MiB."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(None, 1)[0]
        if "-" in first and not first.endswith(":"):
            start, stop = (int(x, 16) for x in first.split("-"))
            inside = start < at + (32 << 20) and stop > at
        elif inside and first == "AnonHugePages:":
            total += int(line.split()[1])
    return total


def test_a_unit_without_pieces(helper: Helper, root: Path) -> None:
    unit = Unit(4096, [Piece(0, np.empty(0, np.uint8))], [Block(0, 0, 0, 0)], "cow")
    writing = helper.begin(str(root), "data", None, 1)
    writing.freeze([(0, unit), (1, Unit(4096, [], [Block(0, 0, 0, 0)], "cow"))], 10.0)
    results, size = writing.finish()
    assert size == 8192 and (root / "data").read_bytes() == bytes(8192) and len(results) == 2
