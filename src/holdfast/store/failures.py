"""From `OSError` to our own errors: what was tried, why it failed, what is safe, what to do next."""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType

from holdfast.errors import DamageError, HoldfastError
from holdfast.store.base import KeyExistsError, KeyMissingError, SystemCallError

# errno -> what it means, what to do
_MEANING = {
    errno.ENOSPC: ("disk full", "free space there"),
    errno.EDQUOT: ("quota exceeded", "free space there or have the quota raised"),
    errno.EIO: ("input/output error", "look at the device and the kernel's log, or move the run elsewhere"),
    errno.EROFS: ("read-only file system", "have it mounted for writing, or move the run elsewhere"),
    errno.EACCES: ("permission denied", "give yourself the rights, or use another place"),
    errno.EPERM: ("operation not permitted", "give yourself the rights, or use another place"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n)"),
    errno.EFBIG: ("file too large", "raise the limit (ulimit -f), or use a file system for larger files"),
    errno.ESTALE: ("stale file handle", "have the file system mounted anew"),
    errno.ENOTDIR: ("not a directory", "move away what stands in its place"),
    errno.ENAMETOOLONG: ("name too long", "use a shorter path"),
}


class failing:
    """`with failing("write", key, path):` turns an `OSError` inside into the error that a caller of the store expects.

    A read of what is not there becomes `KeyMissingError`; a symbolic link or a socket in the way `DamageError`.
    """

    def __init__(self, doing: str, key: str, path: str, *, writes: bool) -> None:
        self.doing, self.key, self.path, self.writes = doing, key, path, writes

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise self.translate(error) from error

    def translate(self, error: OSError) -> HoldfastError:
        code = error.errno
        if code == errno.EEXIST and self.writes:
            return exists(self.key, self.path)
        if code == errno.ENOENT and not self.writes:
            return missing(self.key, self.path)
        if code in (errno.ELOOP, errno.ENXIO):
            return strange(self.key, self.path, "a symbolic link" if code == errno.ELOOP else "a socket or device")
        meaning, advice = _MEANING.get(code or 0, ("", "mend the place"))
        if not meaning:
            meaning = os.strerror(code) if code else str(error)
        name = errno.errorcode.get(code or 0, "no error number")
        safe = "What was stored before is intact" if self.writes else "Nothing was changed"
        message = f"can't {self.doing} {self.path}: {meaning} ({name}). {safe}; {advice}, then try again."
        return SystemCallError(message, errno=code, file=self.key)


def exists(key: str, path: str) -> KeyExistsError:
    return KeyExistsError(
        f"{path} exists already; nothing was written. Nothing is ever overwritten: use another key.", file=key
    )


def missing(key: str, path: str) -> KeyMissingError:
    return KeyMissingError(
        f"there is no {path}: it was never written, or has been deleted. Nothing was changed.", file=key
    )


def strange(key: str, path: str, what: str) -> DamageError:
    return DamageError(
        f"{path} is {what}, which this library never puts there; it was neither followed nor read. Find out who did, "
        "and move it away.",
        file=key,
    )


def kind_of(mode: int) -> str:
    """In words, what has the `st_mode` given."""
    names = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a FIFO",
    }
    return names.get(stat.S_IFMT(mode), "a socket or device")
