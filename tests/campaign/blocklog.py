"""A disk that remembers: a file system with one file, `disk.img`, that logs every write and every flush.

    python blocklog.py MOUNTPOINT IMAGE LOG        # until it is unmounted; prints "ready"

Loop-mounted, the file is a block device: the file system on it sends its barriers as flushes, which the loop driver
turns into fsync of this file. LOG holds, in the order in which they were answered, records of 16 bytes
`offset, length` (little-endian unsigned 64-bit) with the data behind; a flush is offset 2**64 - 1, length 0. A record
is written before its request is answered: what the device has acknowledged is in the log.

Speaks the kernel's FUSE protocol (7.31) itself: no library to install, and the order of log and answer is plain
to see. One thread: requests are answered one after the other. Needs root, or whoever may mount.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import sys

FLUSH = 2**64 - 1
RECORD = struct.Struct("<QQ")

_IN = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 1, 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 18, 20, 25, 26, 36, 38, 42
_SILENT = (_FORGET, _BATCH_FORGET, _INTERRUPT)
_MAX_WRITE = 128 << 10
_ROOT, _FILE = 1, 2


class Disk:
    """Answers the kernel's requests on `fuse`, an open /dev/fuse."""

    def __init__(self, fuse: int, image: int, log: int) -> None:
        self.fuse, self.image, self.log = fuse, image, log
        self.size = os.fstat(image).st_size

    def serve(self) -> None:
        """Until the file system is unmounted."""
        while True:
            try:
                request = os.read(self.fuse, _MAX_WRITE + 65536)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in _SILENT:
                continue
            try:
                body, code = self._answer(opcode, node, memoryview(request)[_IN.size :]), 0
            except OSError as error:
                body, code = b"", -(error.errno or errno.EIO)
            os.write(self.fuse, struct.pack("<IiQ", 16 + len(body), code, unique) + body)

    def _answer(self, opcode: int, node: int, data: memoryview) -> bytes:
        if opcode == _INIT:
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 9, _MAX_WRITE, 1, 0, 0, 0)
        if opcode == _LOOKUP:
            if node != _ROOT or bytes(data).rstrip(b"\0") != b"disk.img":
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("<QQQQII", _FILE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE)
        if opcode in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if opcode == _OPEN:
            return struct.pack("<QII", 0, 0, 0)
        if opcode == _READ:
            _, offset, length = struct.unpack_from("<QQI", data)
            return os.pread(self.image, length, offset)
        if opcode == _WRITE:
            _, offset, length = struct.unpack_from("<QQI", data)
            return self._write(offset, data[40 : 40 + length])
        if opcode in (_FSYNC, _FLUSH):
            if opcode == _FSYNC:
                self._record(FLUSH, b"")
            return b""
        if opcode == _STATFS:
            return struct.pack("<QQQQQIIII24x", self.size // 4096, 0, 0, 2, 0, 4096, 255, 4096, 0)
        if opcode in (_RELEASE, _DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not needed")

    def _write(self, offset: int, data: memoryview) -> bytes:
        self._record(offset, data)
        os.pwrite(self.image, data, offset)
        return struct.pack("<II", len(data), 0)

    def _record(self, offset: int, data: bytes | memoryview) -> None:
        whole = RECORD.pack(offset, len(data)) + bytes(data)
        if os.write(self.log, whole) != len(whole):
            raise OSError(errno.EIO, "the log took only a part of a record")

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o600
        size = 0 if node == _ROOT else self.size
        return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def main(mountpoint: str, image: str, log: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the campaign
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if libc.mount(b"blocklog", os.fsencode(mountpoint), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mountpoint)
    disk = Disk(fuse, os.open(image, os.O_RDWR), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    print("ready", flush=True)
    disk.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
