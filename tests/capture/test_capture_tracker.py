"""The page tracker: exact where it answers, and None or a refusal wherever it could be wrong."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from capture_support import OWN_MAPPING, in_child, libc, mask, pages_of, with_tracker

from holdfast.capture import kernel
from holdfast.capture.kernel import PAGE
from holdfast.capture.maps import private_anonymous
from holdfast.capture.tracker import MIN_BYTES, PageTracker
from holdfast.store.aligned import address

_plugs: list[np.ndarray] = []  # what fills the room that other tests have left in malloc's heap


def ones(nbytes=OWN_MAPPING):
    """An array, in a mapping of its own if it is large enough. In the heap it would share its first and last page with other
    data, whose writes are reported as well."""
    while in_heap(array := np.ones(nbytes, np.uint8)) and nbytes >= OWN_MAPPING:
        _plugs.append(array)
    return array


def in_heap(array):
    with open("/proc/self/maps") as maps:
        heap = [line.split()[0].split("-") for line in maps if line.rstrip().endswith("[heap]")]
    return any(int(start, 16) <= address(array) < int(stop, 16) for start, stop in heap)


# -- exact ----------------------------------------------------------------------------------


@with_tracker
def test_reports_the_pages_written_and_each_write_once(tracker):
    array = ones()
    assert tracker.watch(array)
    assert tracker.scan(array).tolist() == []
    places = [0, 12345, 20 << 20, (20 << 20) + PAGE, -1]
    for at in places:
        array[at] = 2
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, *places))
    assert tracker.scan(array).tolist() == []
    array[12345] = 3
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 12345))


@with_tracker
def test_random_writes_of_any_length(tracker):
    rng = np.random.default_rng(1)
    array = ones()
    assert tracker.watch(array)
    for _ in range(8):
        expected = np.zeros(array.nbytes, bool)
        for _ in range(20):
            at, count = int(rng.integers(array.nbytes)), int(rng.integers(1, 5 * PAGE))
            array[at : at + count] = rng.integers(256)
            last = min(at + count, array.nbytes) - 1
            expected |= pages_of(array, *range(at, last, PAGE), last)
        assert np.array_equal(mask(tracker.scan(array), array.nbytes), expected)


@with_tracker
def test_memory_never_touched_is_clean_until_written(tracker):
    array = np.zeros(OWN_MAPPING, np.uint8)
    array[: 4 << 20] = 1
    assert tracker.watch(array)
    assert int(array[30 << 20]) == 0  # a read is no write
    assert tracker.scan(array).tolist() == []
    array[25 << 20] = 1
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 25 << 20))


@with_tracker
def test_any_type_and_shape_that_is_contiguous(tracker):
    array = np.ones((3000, 1500))
    for view in (array, array.T, array[1000:2000], array.reshape(-1).view(np.uint8), array[None]):
        assert tracker.watch(view, key="one")
        view.flat[view.size // 2] = 7
        assert len(tracker.scan(view, key="one")) == 1
    assert not tracker.watch(array[:, :1000])
    assert not tracker.watch(array[::2])
    assert not tracker.watch(np.array([[]] * 1000 + [None], object).repeat(1000))


@with_tracker
def test_small_arrays_are_refused(tracker):
    assert not tracker.watch(np.ones(MIN_BYTES - 1, np.uint8))
    assert tracker.watch(np.ones(MIN_BYTES, np.uint8))


@with_tracker
def test_huge_pages_are_exact_and_keep_their_content(tracker):
    array = ones(OWN_MAPPING)
    start = -(-address(array) // (2 << 20)) * (2 << 20)
    try:
        kernel.advise(start, 30 << 20, mmap.MADV_HUGEPAGE)
        kernel.advise(start, 30 << 20, 25)  # MADV_COLLAPSE, Linux 6.1
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.ENOMEM, errno.EAGAIN)
    array[:] = np.arange(array.nbytes) // PAGE % 251
    before = array.copy()
    assert tracker.watch(array)
    places = list(range(0, array.nbytes, 3 << 20))
    array[places] += 1
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, *places))
    array[places] -= 1
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, *places))
    array[5 << 20] += 0  # in a huge page that is split by now
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 5 << 20))
    assert np.array_equal(array, before)


@with_tracker
def test_nothing_is_lost_while_a_thread_writes(tracker):
    array = ones(8 << 20)
    assert tracker.watch(array)
    mirror, stop = array.copy(), threading.Event()

    def write():
        rng = np.random.default_rng(2)
        while not stop.is_set():
            array[rng.integers(0, array.nbytes, 50)] += 1

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(150):
        for offset, count in tracker.scan(array).tolist():
            mirror[offset : offset + count] = array[offset : offset + count]
    stop.set()
    thread.join()
    for offset, count in tracker.scan(array).tolist():
        mirror[offset : offset + count] = array[offset : offset + count]
    assert np.array_equal(mirror, array)


# -- ways to write --------------------------------------------------------------------------


def by_readinto(array, at, tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 100)
    with open(tmp_path / "data", "rb", buffering=0) as file:
        assert file.readinto(array[at : at + 100].data) == 100


def by_direct_read(array, at, tmp_path):
    (tmp_path / "data").write_bytes(b"x" * PAGE)
    at += -(address(array) + at) % PAGE  # the next page
    try:
        fd = os.open(tmp_path / "data", os.O_RDONLY | os.O_DIRECT)
    except OSError:  # a file system without it
        fd = os.open(tmp_path / "data", os.O_RDONLY)
    assert os.preadv(fd, [array[at : at + PAGE].data], 0) == PAGE
    os.close(fd)
    return at


def by_recv(array, at, tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x" * 100)
        assert ours.recv_into(array[at : at + 100].data) == 100


def by_process_vm_writev(array, at, tmp_path):
    source = ctypes.create_string_buffer(b"x" * 100)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(source), 100)
    remote = (ctypes.c_uint64 * 2)(address(array) + at, 100)
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    assert libc.process_vm_writev(os.getpid(), local, one, remote, one, none) == 100


def by_copyto(array, at, tmp_path):
    np.copyto(array[at : at + 100], np.uint8(120))


def by_thread(array, at, tmp_path):
    thread = threading.Thread(target=array[at : at + 100].fill, args=(120,))
    thread.start()
    thread.join()


def by_memset(array, at, tmp_path):
    ctypes.memset(address(array) + at, 120, 100)


def by_giving_back(array, at, tmp_path):
    at += -(address(array) + at) % PAGE
    kernel.advise(address(array) + at, PAGE, mmap.MADV_DONTNEED)  # reads as zeros now
    return at


WAYS = [
    by_readinto, by_direct_read, by_recv, by_process_vm_writev, by_copyto, by_thread, by_memset, by_giving_back,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@with_tracker
def test_sees_writes(tracker, way, tmp_path):
    array = ones()
    assert tracker.watch(array)
    at = 7 << 20
    at = way(array, at, tmp_path) or at
    assert int(array[at]) in (120, 0)
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, at, at + 99))


@with_tracker
def test_mprotect_hides_nothing(tracker):
    array = ones()
    assert tracker.watch(array)
    start = -(-address(array) // PAGE) * PAGE
    array[1 << 20] = 2
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(16 << 20), 1) == 0
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 1 << 20))
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(16 << 20), 3) == 0
    assert tracker.scan(array).tolist() == []
    array[2 << 20] = array[20 << 20] = 2
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 2 << 20, 20 << 20))


@with_tracker
def test_fork_leaves_the_parent_its_tracker_and_the_child_none(tracker):
    array = ones()
    assert tracker.watch(array)
    array[3 << 20] = 2

    def child():
        array[5 << 20] = 3
        assert tracker.scan(array) is None
        assert not tracker.watch(ones())
        tracker.forget(array)
        tracker.close()
        mine = PageTracker()  # one of its own works
        assert mine.watch(array)
        array[6 << 20] = 3
        assert np.array_equal(mask(mine.scan(array), array.nbytes), pages_of(array, 6 << 20))

    assert in_child(child) == 0
    array[9 << 20] = 2
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 3 << 20, 9 << 20))
    assert int(array[5 << 20]) == 1


@with_tracker
def test_writes_while_a_child_shares_the_pages(tracker):
    array = ones()
    assert tracker.watch(array)
    ready, go = os.pipe(), os.pipe()
    writer = threading.Thread(target=lambda: in_child(lambda: (os.write(ready[1], b"x"), os.read(go[0], 1))))
    writer.start()
    os.read(ready[0], 1)
    array[3 << 20] = 2  # copies the page, as the child still has it
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 3 << 20))
    array[3 << 20] = 3
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 3 << 20))
    os.write(go[1], b"x")
    writer.join()
    for fd in (*ready, *go):
        os.close(fd)


# -- refused, or not known ------------------------------------------------------------------


@with_tracker
def test_memory_that_others_can_write_is_refused(tracker, tmp_path):
    nbytes = 2 << 20
    np.ones(nbytes, np.uint8).tofile(tmp_path / "data")
    held = []
    for mode in ("r", "r+", "c"):
        held.append(np.memmap(tmp_path / "data", np.uint8, mode))
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        held.append(np.frombuffer(mmap.mmap(-1, nbytes, flags=flags | mmap.MAP_ANONYMOUS), np.uint8))
    held.append(np.frombuffer(bytearray(nbytes), np.uint8))
    held.append(np.frombuffer(bytes(nbytes), np.uint8))
    held.append(np.ctypeslib.as_array((ctypes.c_uint8 * nbytes)()))
    for array in held:
        assert not tracker.watch(array)
        assert not tracker.watch(array[PAGE:])
        assert tracker.scan(array) is None


def test_only_private_anonymous_memory_passes(tmp_path):
    (tmp_path / "data").write_bytes(bytes(8 * PAGE))

    def passes(nbytes=8 * PAGE, fd=-1, **kw):
        memory = mmap.mmap(fd, 8 * PAGE, **kw)
        whole = (ctypes.c_char * 8 * PAGE).from_buffer(memory) if kw.get("prot", 3) & 2 else None
        start = ctypes.addressof(whole) if whole is not None else address(np.frombuffer(memory, np.uint8))
        return private_anonymous(start, start + nbytes)

    private, shared, anonymous = mmap.MAP_PRIVATE, mmap.MAP_SHARED, mmap.MAP_ANONYMOUS
    assert passes(flags=private | anonymous)
    assert not passes(flags=shared | anonymous)
    assert not passes(flags=private | anonymous, prot=mmap.PROT_READ)
    with open(tmp_path / "data", "r+b") as file:
        assert not passes(fd=file.fileno(), flags=private)
        assert not passes(fd=file.fileno(), flags=shared)
    hole = mmap.mmap(-1, 8 * PAGE, flags=private | anonymous)
    start = address(np.frombuffer(hole, np.uint8))
    assert libc.munmap(ctypes.c_void_p(start + 3 * PAGE), ctypes.c_size_t(PAGE)) == 0
    assert private_anonymous(start, start + 3 * PAGE)
    assert not private_anonymous(start, start + 8 * PAGE)
    # put something there again: the object unmaps all eight pages at its end
    libc.mmap.restype = ctypes.c_void_p
    again = libc.mmap(ctypes.c_void_p(start + 3 * PAGE), ctypes.c_size_t(PAGE), 3, 0x32, -1, ctypes.c_long(0))
    assert again == start + 3 * PAGE
    assert private_anonymous(start, start + 8 * PAGE)
    assert not private_anonymous(1 << 46, (1 << 46) + PAGE)


@with_tracker
def test_freed_memory_is_not_called_clean(tracker):
    array = ones()
    assert tracker.watch(array)
    alive = weakref.ref(array)
    del array
    gc.collect()
    assert alive() is None  # the tracker held no reference
    again = ones()  # most often at the same address
    assert tracker.scan(again) is None
    again[5] = 7
    assert tracker.watch(again)
    again[5 << 20] = 7
    assert np.array_equal(mask(tracker.scan(again), again.nbytes), pages_of(again, 5 << 20))
    # What the owner's life protects from: the kernel finds nothing to report in pages that are not mapped.
    where = address(again) // PAGE * PAGE
    del again
    gc.collect()
    try:
        assert len(kernel.pagemap_scan(tracker._pagemap, where, PAGE, protect=True)) == 0
    except OSError as error:  # something else is there by now
        assert error.errno == errno.EPERM


@with_tracker
def test_resized_in_place_is_not_known(tracker):
    array = ones()
    assert tracker.watch(array)
    view = array[:]
    array.resize(2 * OWN_MAPPING, refcheck=False)  # NumPy would refuse it if there were a weak reference
    assert tracker.scan(array) is None
    assert not tracker.watch(view) or address(view) == address(array)  # on freed memory if it moved
    assert tracker.watch(array)
    array[40 << 20] = 7
    assert np.array_equal(mask(tracker.scan(array), array.nbytes), pages_of(array, 40 << 20))


@with_tracker
def test_shrunk_and_grown_again_is_not_called_clean(tracker):
    array = ones(2 * OWN_MAPPING)
    assert tracker.watch(array)
    array.resize(OWN_MAPPING, refcheck=False)
    array.resize(2 * OWN_MAPPING, refcheck=False)  # zeros behind the middle now, most often at the old address
    runs = tracker.scan(array)
    assert runs is None or mask(runs, array.nbytes)[array == 0].all()


@with_tracker
def test_moved_pages_are_not_called_clean(tracker):
    array = ones()
    assert tracker.watch(array)
    start = -(-address(array) // PAGE) * PAGE
    libc.mmap.restype = ctypes.c_void_p
    # other memory in the place of the array's, behind NumPy's back
    moved = libc.mmap(ctypes.c_void_p(start + (4 << 20)), ctypes.c_size_t(1 << 20), 3, 0x32, -1, ctypes.c_long(0))
    assert moved == start + (4 << 20)
    assert tracker.scan(array) is None
    assert tracker.scan(array) is None
    assert tracker.watch(array)


@with_tracker
def test_one_tracker_per_range(tracker):
    array = ones()
    other = PageTracker()
    assert tracker.watch(array)
    assert not other.watch(array)
    assert not other.watch(array[8 << 20 : 16 << 20])
    array[1] = 2
    assert len(tracker.scan(array)) == 1  # the refusal has not disturbed it
    tracker.forget(array)
    assert other.watch(array)
    assert not tracker.watch(array)
    other.close()
    assert tracker.watch(array)


@with_tracker
def test_pinned_memory_is_not_trusted(tracker, tmp_path):
    array, other = ones(), ones()
    assert tracker.watch(array)
    (tmp_path / "status").write_text("VmLck:\t       0 kB\nVmPin:\t       4 kB\nVmHWM:\t   1 kB\n")
    real, tracker._status = tracker._status, os.open(tmp_path / "status", os.O_RDONLY)
    assert tracker.scan(array) is None
    assert not tracker.watch(other)
    os.close(tracker._status)
    tracker._status = real
    assert tracker.scan(array) is None  # not even afterwards: what was written meanwhile is not known
    assert tracker.watch(array)
    assert tracker.watch(other)


@with_tracker
def test_buffers_registered_with_io_uring_are_seen_as_pinned(tracker):
    array = ones()
    assert tracker.watch(array)
    libc.syscall.restype = ctypes.c_long
    ring = libc.syscall(ctypes.c_long(425), ctypes.c_long(4), (ctypes.c_uint8 * 120)())  # io_uring_setup
    if ring < 0:  # forbidden in many containers: then no buffer can be registered either
        assert ctypes.get_errno() in (errno.EPERM, errno.ENOSYS, errno.EACCES)
        return
    buffer = (ctypes.c_uint64 * 2)(address(array), 1 << 20)
    done = libc.syscall(ctypes.c_long(427), ctypes.c_long(ring), ctypes.c_long(0), buffer, ctypes.c_long(1))
    if done == 0:
        assert tracker.scan(array) is None
        assert not tracker.watch(array)
        assert "VmPin" in PageTracker.available()
    else:
        assert ctypes.get_errno() in (errno.ENOMEM, errno.EOPNOTSUPP)  # the limit of locked memory
    os.close(ring)
    end = time.monotonic() + 10  # it is let go a moment after the descriptor
    while PageTracker.available() is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert PageTracker.available() is None


@with_tracker
def test_an_error_in_a_scan_ends_all_watches_that_it_touched(tracker, monkeypatch):
    array, apart = ones(), ones()
    half = array[: 16 << 20]
    assert tracker.watch(array) and tracker.watch(half) and tracker.watch(apart)

    def fail(*args, **kw):
        raise OSError(errno.EINTR, "interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "pagemap_scan", fail)
        assert tracker.scan(half) is None
    assert tracker.scan(half) is None
    assert tracker.scan(array) is None
    assert tracker.scan(apart) is not None


# -- several watches ------------------------------------------------------------------------


@with_tracker
def test_views_of_one_owner_do_not_hide_writes_from_each_other(tracker):
    owner = ones()
    middle = (16 << 20) + 777  # in the middle of a page
    views = {"left": owner[:middle], "right": owner[middle:], "over": owner[8 << 20 : 24 << 20], "all": owner}
    for view in views.values():
        assert tracker.watch(view)
    places = [1 << 20, 10 << 20, middle - 1, middle, 30 << 20]
    for order in (list(views), list(views)[::-1]):
        expected = np.zeros(owner.nbytes, bool)
        for at in places:
            owner[at] += 1
            expected |= pages_of(owner, at)
        for name in order:
            view = views[name]
            begin = address(view) - address(owner)
            found = mask(tracker.scan(view), view.nbytes)
            assert np.array_equal(found, expected[begin : begin + view.nbytes]), name
        for view in views.values():
            assert tracker.scan(view).tolist() == []


@with_tracker
def test_two_that_ask_for_the_same_bytes_both_get_them(tracker):
    array = ones()
    assert tracker.watch(array, key="a")
    array[3] = 2
    assert tracker.watch(array.reshape(-1), key="b")  # a later watch takes nothing away either
    array[1 << 20] = 2
    assert np.array_equal(mask(tracker.scan(array, key="b"), array.nbytes), pages_of(array, 1 << 20))
    for _ in range(40):  # found by the other's scans, and kept without growing
        array[2 << 20] += 1
        assert len(tracker.scan(array, key="b")) == 1
    assert np.array_equal(mask(tracker.scan(array, key="a"), array.nbytes), pages_of(array, 3, 1 << 20, 2 << 20))
    assert tracker.scan(array) is None  # no key: nobody who watches
    tracker.forget(array, key="a")
    array[5 << 20] = 2
    assert np.array_equal(mask(tracker.scan(array, key="b"), array.nbytes), pages_of(array, 5 << 20))


# Neighbours in malloc's heap: the last page of one array is the first of the next.
NEIGHBOURS = """
import ctypes, sys
import numpy as np
assert ctypes.CDLL(None).mallopt(-3, 1 << 30) == 1  # M_MMAP_THRESHOLD
from holdfast.capture.kernel import PAGE
from holdfast.capture.tracker import PageTracker
from holdfast.store.aligned import address
tracker = PageTracker()
arrays = [np.ones((1 << 20) + 1000, np.uint8) for _ in range(6)]
arrays.sort(key=address)
pairs = [(a, b) for a, b in zip(arrays, arrays[1:]) if (address(a) + a.nbytes - 1) // PAGE == address(b) // PAGE]
assert pairs
for array in arrays:
    assert tracker.watch(array)
def first(array): return [r for r in tracker.scan(array).tolist() if r[0] == 0]
def last(array): return [r for r in tracker.scan(array).tolist() if sum(r) == array.nbytes]
for a, b in pairs:
    a[-1] = 2; b[0] = 2
    assert last(a) and first(b)
    a[-1] = 3; b[0] = 3
    assert first(b) and last(a)
    a[-1] = 4
    assert tracker.watch(b)  # begins anew: not at the cost of the neighbour
    assert last(a)
a, b = pairs[0]
tracker.forget(a)
b[0] = 9
assert first(b)
b[0] = 10
again = address(a)
del a, pairs, arrays
assert first(b)
print("held")
"""


@with_tracker
def test_neighbours_on_one_page_do_not_hide_writes_from_each_other(tracker):
    done = subprocess.run([sys.executable, "-c", NEIGHBOURS], capture_output=True, text=True, timeout=60)
    assert done.stdout == "held\n", done.stderr


# -- ends -----------------------------------------------------------------------------------


@with_tracker
def test_forget_and_close_leave_memory_as_it_was(tracker):
    array = ones()
    assert tracker.watch(array)
    tracker.forget(array)
    tracker.forget(array)
    with pytest.raises(PermissionError):
        kernel.pagemap_scan(tracker._pagemap, -(-address(array) // PAGE) * PAGE, PAGE, protect=False)
    assert tracker.scan(array) is None
    assert tracker.watch(array)
    tracker.close()
    tracker.close()
    assert tracker.scan(array) is None
    assert not tracker.watch(array)
    array[:] = 3


@with_tracker
def test_dead_watches_do_not_pile_up(tracker):
    held = []
    for _ in range(20):
        held.append(np.zeros(OWN_MAPPING, np.uint8))
        assert tracker.watch(held[-1], key="u")
    assert len(tracker._watches) == 1
    other = PageTracker()
    assert all(other.watch(array) for array in held[:-1])  # the pages of those before are free
    assert not other.watch(held[-1])
    other.close()


def test_a_reason_is_given_where_it_does_not_work(monkeypatch):
    def refuse(user_mode_only):
        raise PermissionError(errno.EPERM, "userfaultfd: Operation not permitted")

    monkeypatch.setattr(kernel, "userfaultfd", refuse)
    assert "Operation not permitted" in PageTracker.available()
    with pytest.raises(PermissionError):
        PageTracker()


@with_tracker
def test_a_kernel_that_reports_other_pages_is_not_used(tracker, monkeypatch):
    real = kernel.pagemap_scan
    monkeypatch.setattr(kernel, "pagemap_scan", lambda *a, **kw: real(*a, **kw)[:1])
    assert "does not report exactly" in PageTracker.available()
