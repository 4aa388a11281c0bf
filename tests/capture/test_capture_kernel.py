"""The kernel's memory calls: what each does, and the errno of each refusal."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from capture_support import in_child, libc, with_tracker

from holdfast.capture import kernel
from holdfast.capture.kernel import PAGE
from holdfast.capture.tracker import PageTracker
from holdfast.store.aligned import address


def pages(count):
    memory = np.frombuffer(mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    memory[:] = 1
    return memory


def open_uffd(user_mode_only):
    """A userfaultfd ready for use; None where it is refused, which must be with one of the documented errors."""
    try:
        fd = kernel.userfaultfd(user_mode_only)
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.ENOSYS) or (user_mode_only and error.errno == errno.EINVAL)
        assert os.getuid() != 0 or error.errno != errno.EPERM or user_mode_only or not os.access("/dev/userfaultfd", 6)
        return None
    assert os.get_inheritable(fd) is False
    kernel.uffd_api(fd, kernel.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    return fd


def wait_for_fault(fd):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        faults = kernel.uffd_read_faults(fd)
        if faults:
            return faults
        time.sleep(1e-3)
    raise AssertionError("no fault came")


@pytest.mark.parametrize("user_mode_only", [True, False])
def test_a_write_to_protected_memory_waits(user_mode_only):
    fd = open_uffd(user_mode_only)
    if fd is None:
        return
    memory, source = pages(4), np.full(PAGE, 7, np.uint8)
    start = address(memory)
    kernel.uffd_register(fd, start, memory.nbytes)
    kernel.uffd_write_protect(fd, start, memory.nbytes, True)
    assert kernel.uffd_read_faults(fd) == []
    # memmove without the GIL: a thread that waits for a page while it holds the GIL would stop this one
    copy = ctypes.CDLL(None).memmove
    writer = threading.Thread(target=copy, args=tuple(map(ctypes.c_void_p, (start + PAGE, address(source), PAGE))))
    writer.start()
    ((where, flags),) = wait_for_fault(fd)
    assert where // PAGE == start // PAGE + 1
    assert flags & kernel.UFFD_FAULT_WP
    assert int(memory[PAGE]) == 1
    kernel.uffd_wake(fd, start, memory.nbytes)  # tries again, and waits again
    wait_for_fault(fd)
    kernel.uffd_write_protect(fd, start + PAGE, PAGE, False)
    writer.join(10)
    assert int(memory[PAGE]) == 7
    kernel.uffd_unregister(fd, start, memory.nbytes)
    memory[:] = 9
    os.close(fd)


def test_in_user_mode_a_system_call_into_protected_memory_fails(tmp_path):
    fd = open_uffd(True)
    if fd is None:
        return
    (tmp_path / "data").write_bytes(b"x" * 100)
    memory = pages(2)
    kernel.uffd_register(fd, address(memory), memory.nbytes)
    kernel.uffd_write_protect(fd, address(memory), memory.nbytes, True)
    with open(tmp_path / "data", "rb", buffering=0) as file, pytest.raises(OSError) as caught:
        file.readinto(memory.data)
    assert caught.value.errno == errno.EFAULT
    os.close(fd)
    assert int(memory[0]) == 1


def test_registering_twice_is_busy():
    one, two = open_uffd(True), open_uffd(True)
    if one is None:
        assert two is None
        return
    memory = pages(4)
    kernel.uffd_register(one, address(memory), memory.nbytes)
    kernel.uffd_register(one, address(memory), memory.nbytes)
    with pytest.raises(OSError) as caught:
        kernel.uffd_register(two, address(memory), PAGE)
    assert caught.value.errno == errno.EBUSY
    os.close(one)
    kernel.uffd_register(two, address(memory), PAGE)
    os.close(two)


def test_an_unknown_feature_is_refused():
    try:
        fd = kernel.userfaultfd(True)
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.ENOSYS, errno.EINVAL)
        return
    with pytest.raises(OSError) as caught:
        kernel.uffd_api(fd, 1 << 60)
    assert caught.value.errno == errno.EINVAL
    os.close(fd)


@pytest.mark.parametrize("machine", ["s390x", "i686", "ppc64le"])
def test_a_machine_whose_numbers_are_not_known(machine, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    kernel._known_machine.cache_clear()
    try:
        for call in (lambda: kernel.userfaultfd(True), lambda: kernel.pagemap_scan(0, 0, PAGE, protect=False)):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENOSYS
        assert machine in PageTracker.available()
    finally:
        monkeypatch.undo()
        kernel._known_machine.cache_clear()


# -- the page scan --------------------------------------------------------------------------


@with_tracker
def test_more_runs_than_one_call_reports(tracker):
    memory = pages(20001)
    start = address(memory)
    kernel.uffd_register(tracker._uffd, start, memory.nbytes)

    def scan(protect):
        return kernel.pagemap_scan(tracker._pagemap, start, memory.nbytes, protect=protect)

    assert scan(True).tolist() == [[start, memory.nbytes]]  # whole, although it takes several calls inside
    memory[:: 2 * PAGE] = 2
    expected = [[start + page * PAGE, PAGE] for page in range(0, 20001, 2)]
    assert len(expected) > 2 * kernel._SCAN_REGIONS
    for protect in (False, True):
        found = scan(protect)
        assert found.dtype == np.uint64
        assert found.tolist() == expected
    assert scan(False).shape == (0, 2)


@with_tracker
def test_memory_without_protection_is_refused_and_a_hole_passes_as_clean(tracker):
    memory = pages(4)
    start = address(memory)
    with pytest.raises(PermissionError):
        kernel.pagemap_scan(tracker._pagemap, start, memory.nbytes, protect=True)
    kernel.uffd_register(tracker._uffd, start, memory.nbytes)
    kernel.pagemap_scan(tracker._pagemap, start, memory.nbytes, protect=True)
    libc.mmap.restype = ctypes.c_void_p
    assert libc.munmap(ctypes.c_void_p(start + PAGE), ctypes.c_size_t(PAGE)) == 0
    try:
        assert len(kernel.pagemap_scan(tracker._pagemap, start, memory.nbytes, protect=True)) == 0
    finally:
        libc.mmap(ctypes.c_void_p(start + PAGE), ctypes.c_size_t(PAGE), 3, 0x32, -1, ctypes.c_long(0))
    with pytest.raises(PermissionError):
        kernel.pagemap_scan(tracker._pagemap, start, memory.nbytes, protect=True)


# -- another process's memory ---------------------------------------------------------------


def test_reads_ranges_of_this_process_in_any_order():
    rng = np.random.default_rng(3)
    memory = rng.integers(0, 256, 1 << 20, np.uint8)
    out = np.empty(1 << 20, np.uint8)
    kernel.process_vm_readv(os.getpid(), address(memory), out)
    assert np.array_equal(out, memory)
    starts, counts = rng.integers(0, 1 << 19, 3000), rng.integers(0, 300, 3000)  # three batches, and empty ranges
    ranges = [(address(memory) + int(s), int(n)) for s, n in zip(starts, counts, strict=True)]
    expected = np.concatenate([memory[s : s + n] for s, n in zip(starts, counts, strict=True)])
    for given in (ranges, np.array(ranges, np.uint64)):
        out = np.empty(int(counts.sum()), np.uint8)
        kernel.process_vm_readv_many(os.getpid(), given, out)
        assert np.array_equal(out, expected)
    kernel.process_vm_readv_many(os.getpid(), [], np.empty(0, np.uint8))


def test_short_reads_are_continued(monkeypatch):
    """The kernel reads at most 2 GiB a call; here, at most 1000 bytes."""
    real = kernel._libc()

    class Short:
        def process_vm_readv(self, pid, local, one, remote, count, flags):
            left, given = 1000, []
            for base, nbytes in np.ctypeslib.as_array((ctypes.c_uint64 * (2 * count)).from_address(remote)).reshape(
                -1, 2
            ):
                given += [int(base), min(int(nbytes), left)]
                left -= given[-1]
            cut = (ctypes.c_uint64 * len(given))(*given)
            where = ctypes.c_uint64.from_address(local).value
            to = (ctypes.c_uint64 * 2)(where, sum(given[1::2]))
            return real.process_vm_readv(pid, ctypes.addressof(to), 1, ctypes.addressof(cut), count, 0)

    memory = np.arange(40000, dtype=np.uint16).view(np.uint8)
    ranges = [(address(memory) + i * 800, 700 + i % 100) for i in range(100)]
    out = np.empty(sum(n for _, n in ranges), np.uint8)
    monkeypatch.setattr(kernel, "_libc", Short)
    kernel.process_vm_readv_many(os.getpid(), ranges, out)
    begin = address(memory)
    assert np.array_equal(out, np.concatenate([memory[a - begin : a - begin + n] for a, n in ranges]))


def test_reads_that_can_not_be():
    memory = mmap.mmap(-1, 4 * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = address(whole)
    out = np.empty(4 * PAGE, np.uint8)
    libc.mprotect(ctypes.c_void_p(start + 2 * PAGE), ctypes.c_size_t(PAGE), 0)

    def code(pid, ranges, out):
        with pytest.raises(OSError) as caught:
            kernel.process_vm_readv_many(pid, ranges, out)
        return caught.value.errno

    assert code(os.getpid(), [(start, 4 * PAGE)], out) == errno.EFAULT  # after two pages
    assert code(os.getpid(), [(start + 2 * PAGE, PAGE)], out[:PAGE]) == errno.EFAULT
    libc.mprotect(ctypes.c_void_p(start + 2 * PAGE), ctypes.c_size_t(PAGE), 3)
    assert code((1 << 22) + 1, [(start, PAGE)], out[:PAGE]) == errno.ESRCH
    assert code(os.getpid(), [(start, PAGE)], out) == errno.EINVAL
    assert code(os.getpid(), [(start, PAGE)], out[: 2 * PAGE : 2]) == errno.EINVAL
    out.flags.writeable = False
    assert code(os.getpid(), [(start, 4 * PAGE)], out) == errno.EINVAL


def test_a_child_reads_its_parent():
    memory = np.random.default_rng(4).integers(0, 256, 3 * PAGE, np.uint8)
    expected, parent = memory.tobytes(), os.getpid()
    yama = "/proc/sys/kernel/yama/ptrace_scope"
    permitted = not os.path.exists(yama) or open(yama).read().strip() in "01"  # noqa: SIM115

    def child():
        out = np.empty(memory.nbytes, np.uint8)
        try:
            kernel.process_vm_readv(parent, address(memory), out)
        except PermissionError:
            assert not permitted
        else:
            assert out.tobytes() == expected

    kernel.set_ptracer(-1)
    try:
        assert in_child(child) == 0
    finally:
        kernel.set_ptracer(0)


def test_a_child_ends_with_its_parent():
    inner = "from holdfast.capture import kernel; kernel.pdeathsig(); print('ready', flush=True); import time; time.sleep(60)"
    outer = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE); "
        "p.stdout.readline(); print(p.pid, flush=True); sys.stdin.readline(); import os; os._exit(0)"
    )
    command = [sys.executable, "-c", outer, inner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.communicate("\n", timeout=20)
    end = time.monotonic() + 10
    while time.monotonic() < end and alive(pid):
        time.sleep(0.01)
    assert not alive(pid)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_pdeathsig_is_the_signal_asked_for():
    def child():
        kernel.pdeathsig(signal.SIGUSR1)
        number = ctypes.c_int()
        assert libc.prctl(2, ctypes.byref(number)) == 0  # PR_GET_PDEATHSIG
        assert number.value == signal.SIGUSR1
        with pytest.raises(OSError):
            kernel.pdeathsig(1000)

    assert in_child(child) == 0


# -- populate -------------------------------------------------------------------------------


def resident(memory):
    """Whether each page is there, by /proc/self/pagemap's top bit."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        entries = os.pread(file.fileno(), memory.nbytes // PAGE * 8, address(memory) // PAGE * 8)
    return np.frombuffer(entries, np.uint64) >> 63 == 1


@pytest.mark.parametrize("by", ["the kernel", "touching", "touching, when the kernel can't"])
def test_populated_pages_are_there_and_keep_what_they_held(by, monkeypatch):
    memory = np.frombuffer(mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    memory[: 3 * PAGE] = 5
    assert not resident(memory)[3:].any()
    if by == "touching":
        kernel.touch(address(memory), memory.nbytes)
    else:
        if by != "the kernel":
            monkeypatch.setattr(kernel, "MADV_POPULATE_WRITE", 9999)  # EINVAL, as on older kernels
        kernel.populate(address(memory), memory.nbytes)
    assert resident(memory).all()
    assert (memory[: 3 * PAGE] == 5).all() and not memory[3 * PAGE :].any()


def test_populating_what_is_not_there_is_an_error():
    with pytest.raises(OSError) as caught:
        kernel.populate(1 << 46, PAGE)
    assert caught.value.errno in (errno.ENOMEM, errno.EFAULT)
