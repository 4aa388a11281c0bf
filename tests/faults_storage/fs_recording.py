"""Every storage call that changes something, with its bytes, in order: the input of the power loss model.

Also noted: when an operation of the store returned that says it is durable (`Promise`), and the fsyncs of the output
file, which is the program's and does not come through the store's door.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.store import PosixStore, syscalls
from holdfast.store.files import FileWriter


@dataclass(frozen=True)
class Op:
    """`name`: mkdir, create, pwrite, size (grown to `offset` bytes at least), cut (to exactly so many), fsync, link,
    rename_new, unlink, rmdir, outfile (a file outside the store is on disk with `data` as its content), promise. `path`:
    absolute; `to`: the new name, or what is promised; `site`: of an fsync, the functions of the library on the way to it."""

    name: str
    path: str
    to: str = ""
    offset: int = 0
    data: bytes = b""
    site: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.path}" + (f" -> {self.to}" if self.to else "")


class Recording:
    """A context manager; `ops` grows while it is entered. `outfile`: path of the output file.

    Threads may call at the same time: each call and its note are one, so the notes are in the order of the calls.
    """

    def __init__(self, outfile: str) -> None:
        self.ops: list[Op] = []
        self._outfile = outfile
        self._paths: dict[int, str] = {}
        self._undo: list[tuple[Any, str, Any]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Recording:
        for name in ("open", "pwrite", "fallocate", "ftruncate", "fsync", "link", "rename_new", "unlink", "mkdir", "rmdir"):
            self._replace(syscalls, name, self._alone(getattr(self, f"_{name}")(getattr(syscalls, name))))
        for name, what in (("put", "stored"), ("delete", "deleted"), ("delete_tree", "deleted"), ("sync_root", "names")):
            self._replace(PosixStore, name, self._promise(getattr(PosixStore, name), what))
        self._replace(PosixStore, "__init__", self._made(PosixStore.__init__))
        self._replace(FileWriter, "finish", self._promise(FileWriter.finish, "stored"))
        self._replace(os, "fsync", self._os_fsync(os.fsync))
        return self

    def __exit__(self, *exc: object) -> None:
        while self._undo:
            setattr(*self._undo.pop())

    def _replace(self, where: Any, name: str, new: Any) -> None:
        self._undo.append((where, name, getattr(where, name)))
        setattr(where, name, new)

    def _alone(self, noting: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with self._lock:
                return noting(*args)

        return call

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: str, flags: int, mode: int = 0o644) -> int:
            fd = real(path, flags, mode)
            self._paths[fd] = path
            if flags & os.O_CREAT:
                self.ops.append(Op("create", path))
            return fd

        return call

    def _pwrite(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(fd: int, data: Any, offset: int) -> int:
            n = real(fd, data, offset)
            self.ops.append(Op("pwrite", self._paths[fd], offset=offset, data=bytes(memoryview(data).cast("B")[:n])))
            return n

        return call

    def _fallocate(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(fd: int, nbytes: int) -> None:
            real(fd, nbytes)
            self.ops.append(Op("size", self._paths[fd], offset=nbytes))

        return call

    def _ftruncate(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(fd: int, nbytes: int) -> None:
            real(fd, nbytes)
            self.ops.append(Op("cut", self._paths[fd], offset=nbytes))

        return call

    def _fsync(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(fd: int) -> None:
            real(fd)
            self.ops.append(Op("fsync", self._paths[fd], site=_site()))

        return call

    def _link(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._two(real, "link")

    def _rename_new(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._two(real, "rename_new")

    def _two(self, real: Callable[..., None], name: str) -> Callable[..., None]:
        def call(old: str, new: str) -> None:
            real(old, new)
            self.ops.append(Op(name, old, new))

        return call

    def _unlink(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._one(real, "unlink")

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._one(real, "mkdir")

    def _rmdir(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._one(real, "rmdir")

    def _one(self, real: Callable[..., None], name: str) -> Callable[..., None]:
        def call(path: str) -> None:
            real(path)
            self.ops.append(Op(name, path))

        return call

    def _promise(self, real: Callable[..., Any], what: str) -> Callable[..., Any]:
        def call(this: Any, *args: Any) -> Any:
            result = real(this, *args)
            path = this._path if isinstance(this, FileWriter) else "/".join([this.location, *args[:1]])
            self.ops.append(Op("promise", path, what))
            return result

        return call

    def _made(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(this: Any, root: str, create: bool, read_only: bool = False) -> None:
            there = os.path.isdir(root)
            real(this, root, create, read_only)
            if create and not there:
                self.ops.append(Op("promise", this.location, "made"))

        return call

    def _os_fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        """Only the output file: all else has been seen at the store's door."""

        def call(fd: int) -> None:
            real(fd)
            if os.readlink(f"/proc/self/fd/{fd}") == self._outfile:
                with open(self._outfile, "rb") as f:
                    self.ops.append(Op("outfile", self._outfile, data=f.read()))

        return call


def _site() -> str:
    """The library's functions on the stack, outermost first, down to the one that speaks to the store."""
    names, frame = [], sys._getframe(1)
    while frame is not None:
        if "/holdfast/" in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return " ".join(reversed(names))
