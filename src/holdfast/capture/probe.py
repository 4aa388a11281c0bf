"""What this machine offers for capture, found by small trials: for `holdfast doctor`."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..store.aligned import address, empty
from ..units import bytes_text
from . import kernel
from .kernel import PAGE
from .memory import available_bytes, cgroup_limits
from .tracker import PageTracker

DEADLINE = 5.0  # seconds for one trial


class Fact(NamedTuple):
    """One thing that was tried: whether it works here, and what was seen, or why it does not work."""

    name: str
    works: bool
    detail: str


Trial = Callable[[], tuple[bool, str]]


def probe(directory: str | None = None) -> list[Fact]:
    """Try everything; local, takes some tenths of a second. Raises nothing: what fails, or takes more than DEADLINE, is a
    fact that says so. `directory`: where to try direct writes (a file is made there and removed), None: nowhere."""
    trials: list[tuple[str, Trial]] = [
        ("kernel", _kernel),
        ("userfaultfd, full mode", lambda: _userfaultfd(False)),
        ("userfaultfd, user mode only", lambda: _userfaultfd(True)),
        ("write protection", _write_protection),
        ("page scan", _page_scan),
        ("reading from a helper process", _helper),
        ("huge pages", _huge_pages),
        ("populating memory", _populating),
        ("/dev/shm", _shared_memory),
        ("memfd", _memfd),
        ("memory", _memory),
        ("processors", _processors),
    ]
    if directory is not None:
        trials.append((f"direct I/O in {directory}", lambda: _direct(directory)))
    return [within(DEADLINE, name, trial) for name, trial in trials]


def within(seconds: float, name: str, trial: Trial) -> Fact:
    """The fact that `trial` finds; one that says so where it raises or takes longer (it is left behind in its thread)."""
    found: list[Fact] = []

    def run() -> None:
        try:
            found.append(Fact(name, *trial()))
        except Exception as error:
            found.append(
                Fact(name, False, f"{error}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}")
            )

    thread = threading.Thread(target=run, name="holdfast-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else Fact(name, False, f"the trial was not finished after {seconds:g} s")


def _kernel() -> tuple[bool, str]:
    about = os.uname()
    return sys.platform == "linux", f"{about.sysname} {about.release}, {about.machine}, pages of {bytes_text(PAGE)}"


def _userfaultfd(user_mode_only: bool) -> tuple[bool, str]:
    try:
        fd = kernel.userfaultfd(user_mode_only)
    except OSError as error:
        if error.errno != errno.EPERM or user_mode_only:
            raise
        return False, (
            f"{error}; it needs CAP_SYS_PTRACE, or rights on /dev/userfaultfd, or vm.unprivileged_userfaultfd = 1 "
            f"(here: {_setting('vm/unprivileged_userfaultfd')})"
        )
    try:
        kernel.uffd_api(fd, kernel.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    finally:
        os.close(fd)
    return True, "system calls may write into protected memory" if not user_mode_only else (
        "enough for the page scan; not for copy-on-write, where system calls that write into protected memory would fail"
    )


def _write_protection() -> tuple[bool, str]:
    """A page is protected, a thread writes to it, the fault is seen and resolved."""
    fd = kernel.userfaultfd(user_mode_only=True)
    memory = _pages(2)
    memory[:] = 1
    start = address(memory)
    flags: list[int] = []
    try:
        kernel.uffd_api(fd, kernel.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
        kernel.uffd_register(fd, start, memory.nbytes)
        kernel.uffd_write_protect(fd, start, memory.nbytes, True)
        # Not a Python thread that writes by itself: it would wait for us with the GIL in its hands. The copy lets go of it.
        source = np.full(PAGE, 7, np.uint8)
        writer = threading.Thread(target=_copy_without_gil, args=(start, address(source), PAGE), daemon=True)
        writer.start()
        end = time.monotonic() + DEADLINE / 2
        while not flags and time.monotonic() < end:
            flags += [flag for _, flag in kernel.uffd_read_faults(fd)]
            time.sleep(1e-4)
        seen = int(memory[0])
        kernel.uffd_write_protect(fd, start, memory.nbytes, False)
        writer.join(DEADLINE / 4)
    finally:
        os.close(fd)  # also lets a writer go on that still waits
    works = bool(flags and flags[0] & kernel.UFFD_FAULT_WP) and seen == 1 and int(memory[0]) == 7
    return works, "a write waited until it was let through" if works else f"a write did not wait (faults seen: {flags})"


def _page_scan() -> tuple[bool, str]:
    why = PageTracker.available()
    return why is None, why or "reports exactly the pages that were written"


# Reads 16 bytes at an address of its parent and prints them; waits for a line first.
_READER = """
import ctypes, os, sys
sys.stdin.readline()
libc = ctypes.CDLL(None, use_errno=True)
out = ctypes.create_string_buffer(16)
local = (ctypes.c_uint64 * 2)(ctypes.addressof(out), 16)
remote = (ctypes.c_uint64 * 2)(int(sys.argv[1]), 16)
got = libc.process_vm_readv(os.getppid(), local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0))
print(out.raw.hex() if got == 16 else os.strerror(ctypes.get_errno()))
"""


def _helper() -> tuple[bool, str]:
    """A child reads this process's memory, as the helper process does."""
    import subprocess

    secret = np.frombuffer(os.urandom(16), np.uint8)
    command = [sys.executable, "-I", "-S", "-c", _READER, str(address(secret))]
    yama = _setting("kernel/yama/ptrace_scope")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            kernel.set_ptracer(child.pid)
            answer = child.communicate(b"\n", timeout=DEADLINE - 1)[0].decode().strip()
        except subprocess.TimeoutExpired:
            child.kill()
            return False, "the helper process did not answer"
        finally:
            kernel.set_ptracer(0)
    works = answer == secret.tobytes().hex()
    said = "permitted" if works else answer or "the helper process failed"
    return works, f"process_vm_readv: {said}; Yama's ptrace_scope: {yama}"


def _huge_pages() -> tuple[bool, str]:
    memory = empty(8 << 20)
    memory[:] = 1
    start, huge = address(memory), 0
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            first = line.split(None, 1)[0]
            if not first.endswith(":"):
                low, _, high = first.partition("-")
                inside = int(low, 16) < start + memory.nbytes and start < int(high, 16)
            elif inside and first == "AnonHugePages:":
                huge += int(line.split()[1]) << 10
    setting = _setting("enabled", "/sys/kernel/mm/transparent_hugepage")
    return (
        huge > 0,
        f"{bytes_text(min(huge, memory.nbytes))} of {bytes_text(memory.nbytes)} in a trial; setting: {setting}",
    )


def _populating() -> tuple[bool, str]:
    memory = _pages(16)
    try:
        kernel.advise(address(memory), memory.nbytes, kernel.MADV_POPULATE_WRITE)
    except OSError as error:
        kernel.populate(address(memory), memory.nbytes)
        return False, f"by touching pages: {error}"
    return True, "by the kernel (MADV_POPULATE_WRITE)"


def _shared_memory() -> tuple[bool, str]:
    room = os.statvfs("/dev/shm")
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    return os.access("/dev/shm", os.W_OK) and free > 0, f"{bytes_text(free)} free of {bytes_text(total)}"


def _memfd() -> tuple[bool, str]:
    fd = os.memfd_create("holdfast-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, PAGE)
        memory = np.frombuffer(mmap.mmap(fd, PAGE), np.uint8)
        memory[:] = 7
        return os.pread(fd, PAGE, 0) == memory.tobytes(), "memory that a helper process can map"
    finally:
        os.close(fd)


def _memory() -> tuple[bool, str]:
    limits = [f"{bytes_text(x.limit)} at {x.path} ({bytes_text(x.used)} used)" for x in cgroup_limits()]
    return True, f"{bytes_text(available_bytes())} available; cgroup limits: {', '.join(limits) or 'none'}"


def _processors() -> tuple[bool, str]:
    mine = len(os.sched_getaffinity(0))
    return True, f"{mine} for this process, of {os.cpu_count()}"


def _direct(directory: str) -> tuple[bool, str]:
    path = os.path.join(directory, f".holdfast-probe-{os.getpid()}")
    memory = empty(1 << 20)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DIRECT, 0o600)
    try:
        memory[:] = 7
        written = os.pwrite(fd, memory.data, 0)
        memory[:] = 0
        read = os.preadv(fd, [memory.data], 0)
    finally:
        os.close(fd)
        os.unlink(path)
    return written == read == memory.nbytes and bool((memory == 7).all()), f"{bytes_text(written)} written and read"


def _pages(count: int) -> kernel.Bytes:
    return np.frombuffer(mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _copy_without_gil(to: int, source: int, nbytes: int) -> None:
    import ctypes

    ctypes.CDLL(None).memcpy(ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(nbytes))


def _setting(name: str, folder: str = "/proc/sys") -> str:
    try:
        with open(os.path.join(folder, name)) as file:
            return file.read().strip()
    except OSError:
        return "none"
