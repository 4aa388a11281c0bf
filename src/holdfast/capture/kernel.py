"""The one door to the kernel's memory calls: userfaultfd, PAGEMAP_SCAN, process_vm_readv, madvise, prctl.

Thin functions over ctypes, which releases the GIL during each call. Addresses are of this process unless a `pid` is
given, sizes are bytes. Every failure is an `OSError` with its errno; `ENOSYS` also where the machine's numbers are not
known here.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import platform
import signal
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .runs import union

Bytes = npt.NDArray[np.uint8]
Ranges = npt.NDArray[np.uint64]

PAGE = mmap.PAGESIZE

# linux/userfaultfd.h
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13  # Linux 6.4: pages that were never touched can be protected too
UFFD_FEATURE_WP_ASYNC = 1 << 15  # Linux 6.7: the kernel itself resolves a write and remembers it
UFFD_REGISTER_WP = 2  # `mode` of uffd_register
UFFD_FAULT_WRITE, UFFD_FAULT_WP = 1, 2  # `flags` of uffd_read_faults
_UFFD_API = 0xAA
_UFFD_USER_MODE_ONLY = 1
_UFFD_EVENT_PAGEFAULT = 0x12
_UFFD_WRITEPROTECT_ON = 1
_UFFD_MESSAGE = struct.Struct("=B7xQQ8x")  # event, flags, address

# linux/fs.h (Linux 6.7)
_SCAN_PROTECT, _SCAN_CHECK_ASYNC = 1, 2
_WRITTEN = 1 << 1
_SCAN_REGIONS = 4096  # of 24 bytes: what one call can report

MADV_POPULATE_WRITE = 23  # Linux 5.14
_PR_SET_PDEATHSIG, _PR_SET_PTRACER = 1, 0x59616D61
_IOV_MAX = 1024
_ATTEMPTS = 1000  # of a call that says EAGAIN: the address space is changing under it

# Number of userfaultfd, which libc has no function for; the ioctl numbers below hold on these machines.
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}


def _ioc(direction: int, kind: int, number: int, nbytes: int) -> int:
    return direction << 30 | nbytes << 16 | kind << 8 | number


_UFFDIO_API = _ioc(3, 0xAA, 0x3F, 24)
_UFFDIO_REGISTER = _ioc(3, 0xAA, 0x00, 32)
_UFFDIO_UNREGISTER = _ioc(2, 0xAA, 0x01, 16)
_UFFDIO_WAKE = _ioc(2, 0xAA, 0x02, 16)
_UFFDIO_WRITEPROTECT = _ioc(3, 0xAA, 0x06, 24)
_USERFAULTFD_IOC_NEW = _ioc(0, 0xAA, 0x00, 0)
_PAGEMAP_SCAN = _ioc(3, ord("f"), 16, 96)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    number, pointer = ctypes.c_ulong, ctypes.c_void_p
    libc.process_vm_readv.argtypes = [ctypes.c_int, pointer, number, pointer, number, number]
    return libc


@functools.cache
def _known_machine() -> int:
    number = _USERFAULTFD.get(platform.machine(), 0)
    if not number or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(errno.ENOSYS, f"the kernel's numbers on {platform.machine()} are not known to Holdfast")
    return number


def _failed(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")


def _ioctl(call: str, fd: int, request: int, argument: ctypes.Array[ctypes.c_uint64]) -> int:
    _known_machine()
    for _ in range(_ATTEMPTS):
        result: int = _libc().ioctl(fd, request, ctypes.addressof(argument))
        if result >= 0:
            return result
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise _failed(call)


def _words(*values: int) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * len(values))(*values)


# -- userfaultfd ----------------------------------------------------------------------------


def userfaultfd(user_mode_only: bool) -> int:
    """A new userfaultfd (close-on-exec, nonblocking); the caller closes it.

    `user_mode_only`: faults of the program's own instructions alone, which needs no rights; a system call that writes into
    a page that it protects (not asynchronously) fails with EFAULT. Otherwise the full mode: needs privilege, a sysctl, or
    rights on /dev/userfaultfd.
    """
    number = _known_machine()
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    mode = _UFFD_USER_MODE_ONLY if user_mode_only else 0
    fd: int = _libc().syscall(ctypes.c_long(number), ctypes.c_long(flags | mode))
    if fd >= 0:
        return fd
    refused = _failed("userfaultfd")
    if user_mode_only:
        raise refused
    try:
        door = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise refused from None
    try:
        fd = _libc().ioctl(door, _USERFAULTFD_IOC_NEW, flags)
        if fd < 0:
            raise _failed("USERFAULTFD_IOC_NEW")
        return fd
    finally:
        os.close(door)


def uffd_api(fd: int, features: int) -> int:
    """Begin to use `fd` with these features; returns all that the kernel knows. EINVAL if it lacks one of them."""
    argument = _words(_UFFD_API, features, 0)
    _ioctl("UFFDIO_API", fd, _UFFDIO_API, argument)
    return int(argument[1])


def uffd_register(fd: int, start: int, nbytes: int, mode: int = UFFD_REGISTER_WP) -> None:
    """Put whole pages under `fd`; EBUSY if another userfaultfd has some of them."""
    _ioctl("UFFDIO_REGISTER", fd, _UFFDIO_REGISTER, _words(start, nbytes, mode, 0))


def uffd_unregister(fd: int, start: int, nbytes: int) -> None:
    """Take whole pages out again; protection on them ends and who waits on them goes on."""
    _ioctl("UFFDIO_UNREGISTER", fd, _UFFDIO_UNREGISTER, _words(start, nbytes))
    uffd_wake(
        fd, start, nbytes
    )  # the kernel itself wakes here only who waits for missing pages, not for protected ones


def uffd_write_protect(fd: int, start: int, nbytes: int, on: bool) -> None:
    """Protect registered pages against writes, or end it and wake who waits on them."""
    _ioctl("UFFDIO_WRITEPROTECT", fd, _UFFDIO_WRITEPROTECT, _words(start, nbytes, _UFFD_WRITEPROTECT_ON if on else 0))


def uffd_wake(fd: int, start: int, nbytes: int) -> None:
    """Let threads that wait on a fault in these pages try again."""
    _ioctl("UFFDIO_WAKE", fd, _UFFDIO_WAKE, _words(start, nbytes))


def uffd_read_faults(fd: int) -> list[tuple[int, int]]:
    """Faults that wait now, at most 128: (address, UFFD_FAULT_* flags). Empty if there are none; never waits."""
    try:
        messages = os.read(fd, 128 * _UFFD_MESSAGE.size)
    except BlockingIOError:
        return []
    found = _UFFD_MESSAGE.iter_unpack(messages)
    return [(address, flags) for event, flags, address in found if event == _UFFD_EVENT_PAGEFAULT]


# -- which pages were written ---------------------------------------------------------------


def pagemap_scan(pagemap_fd: int, start: int, nbytes: int, *, protect: bool) -> Ranges:
    """Runs of written pages among the whole pages from `start`: uint64, shape (n, 2), each (address, bytes), in order, merged.

    Written: not write-protected by a userfaultfd now, or given back to the kernel (MADV_DONTNEED) since. The range must be
    registered for asynchronous write protection: `EPERM` where it is not; but pages that are not mapped at all pass as clean.
    `protect`: protect the written ones, atomically with the look. `pagemap_fd`: an open /proc/PID/pagemap. An error in the
    middle may leave a part protected that was not reported.
    """
    regions = np.empty((_SCAN_REGIONS, 3), np.uint64)
    vector = int(regions.__array_interface__["data"][0])
    flags = _SCAN_CHECK_ASYNC | (_SCAN_PROTECT if protect else 0)
    at, end = start, start + nbytes
    parts = []
    while at < end:
        # size, flags, start, end, walk_end, vec, vec_len, max_pages, category: inverted, mask, anyof; return_mask
        argument = _words(96, flags, at, end, 0, vector, _SCAN_REGIONS, 0, 0, _WRITTEN, 0, _WRITTEN)
        count = _ioctl("PAGEMAP_SCAN", pagemap_fd, _PAGEMAP_SCAN, argument)
        found = regions[:count, :2].copy()
        found[:, 1] -= found[:, 0]
        parts.append(found)
        if argument[4] <= at:  # a kernel that does not move on would keep us here for ever
            raise OSError(errno.EIO, f"PAGEMAP_SCAN stopped at {at:#x} of {start:#x} to {end:#x}")
        # After a walk of many regions to its very end the kernel still names an earlier place (seen in 6.18), so the last
        # stretch is looked at twice and what was written in between is reported twice.
        at = argument[4]
    return union(parts)


# -- another process's memory ---------------------------------------------------------------


def process_vm_readv(pid: int, address: int, out: Bytes) -> None:
    """Fill `out` from `address` of process `pid`. EPERM if that is not permitted, ESRCH if it is gone, EFAULT if a page is
    not there (`out` is then filled in part)."""
    process_vm_readv_many(pid, [(address, out.nbytes)], out)


def process_vm_readv_many(pid: int, ranges: Sequence[tuple[int, int]] | Ranges, out: Bytes) -> None:
    """Fill `out` from ranges (address, bytes) of process `pid`, one after the other; as `process_vm_readv`. EINVAL if `out`
    is not as long as their sum."""
    remote = np.array(ranges, np.uint64).reshape(-1, 2)  # a copy, laid out as struct iovec
    remote = remote[remote[:, 1] > 0]
    if int(remote[:, 1].sum()) != out.nbytes or not (out.flags.c_contiguous and out.flags.writeable):
        raise OSError(errno.EINVAL, "process_vm_readv: the destination's size or layout does not fit the ranges")
    to = int(out.__array_interface__["data"][0])
    first = done = 0
    while first < len(remote):
        batch = remote[first : first + _IOV_MAX]
        ends = np.cumsum(batch[:, 1])
        local = _words(to + done, int(ends[-1]))
        got: int = _libc().process_vm_readv(
            pid, ctypes.addressof(local), 1, int(batch.__array_interface__["data"][0]), len(batch), 0
        )
        if got <= 0:
            if got == 0:
                ctypes.set_errno(errno.EFAULT)
            raise _failed("process_vm_readv")
        done += got
        whole = int(np.searchsorted(ends, got, side="right"))  # ranges that were read to their end
        if whole < len(batch):  # cut short (2 GiB a call, or a page that is not there): go on within the next range
            part = got - (int(ends[whole - 1]) if whole else 0)
            batch[whole] += np.array([part, 0], np.uint64)
            batch[whole, 1] -= np.uint64(part)
        first += whole


def set_ptracer(pid: int) -> None:
    """Permit `pid` (0: nobody more, -1: anyone) to read this process's memory where the Yama module asks; else nothing."""
    if _libc().prctl(_PR_SET_PTRACER, pid & (1 << 64) - 1, 0, 0, 0) != 0 and ctypes.get_errno() != errno.EINVAL:
        raise _failed("PR_SET_PTRACER")


def pdeathsig(number: int = signal.SIGKILL) -> None:
    """Send this process the signal when the *thread* that started it ends. Look at `os.getppid()` afterwards: it may have
    ended already."""
    if _libc().prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise _failed("PR_SET_PDEATHSIG")


# -- memory that is there before it is used -------------------------------------------------


def advise(address: int, nbytes: int, advice: int) -> None:
    """madvise on whole pages."""
    if _libc().madvise(address, nbytes, advice) != 0:
        raise _failed("madvise")


def populate(address: int, nbytes: int) -> None:
    """Fault whole pages in for writing; what they hold stays.

    Where the kernel can't (before 5.14) a byte of each page is read and written back: nobody else may write them meanwhile.
    """
    for _ in range(_ATTEMPTS):
        try:
            return advise(address, nbytes, MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    touch(address, nbytes)


def touch(address: int, nbytes: int) -> None:
    """Read and write back a byte of each page: `populate` where the kernel has nothing better."""
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
    memory[::PAGE] = memory[::PAGE].copy()
