"""Output files that belong to the state: cut back on a resume to their length at the restored version."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from ..errors import DamageError, FencedError, HoldfastError, MismatchError, StorageError, UsageError
from ..format import StoredFile, decode_record, digest, digest_hex, encode_record
from ..format.records import RECORD_LIMIT, count
from ..store import KeyExistsError, KeyMissingError, Store

log = logging.getLogger("holdfast")

_TAIL = 4096


@dataclass
class _Open:
    path: str  # absolute, as it was when the program opened it
    handles: list[IO[Any]]
    before: int | None  # bytes that were there before the run first wrote to it; None if the record of it is damaged
    known: bool  # whether the version for which it was opened knew it
    uncut: int | None = None  # bytes that it was found with, where it was not cut then: the program's own come behind them


class OutFiles:
    """One rank's output files. All calls are local. `check_fence()` raises FencedError if a later attempt exists: its
    lines must not be cut off by one that has lost the run and does not know it yet, nor mixed with what that has still to
    write, as far as it has not left the process. `shared`: whether the holder that the run was taken from may still live: what
    it goes on to write is then to land in files of its own."""

    def __init__(self, store: Store, rank: int, check_fence: Callable[[], None]) -> None:
        self._store, self._rank, self._check_fence = store, rank, check_fence
        self.shared = False
        self._files: dict[str, _Open] = {}
        self._settled = False

    def open(
        self, name: str, mode: str, stored: StoredFile | None, options: dict[str, Any], cut: bool = True
    ) -> IO[Any]:
        """Open `name`. `stored`: what the version to resume from knows of it; `cut`: False if nobody knows yet which that is,
        or none at all: a newer one may know more of it, and what has been cut off is gone."""
        letter = mode.replace("b", "").replace("t", "")
        if letter not in ("a", "w"):
            raise UsageError(f"run.file({name!r}, {mode!r}): the mode must be 'a' or 'w', with 'b' for bytes.")
        path = os.path.abspath(name)
        if stored is not None:
            name = stored.path
        self._check_one_name(name, path)
        earlier = self._files.get(name)
        if earlier is not None:  # again within one execution: nothing to cut
            _flush(earlier.handles)
            before, known, uncut = earlier.before, earlier.known, earlier.uncut
        else:
            if self.shared and os.path.exists(path):
                _renew(path, self._check_fence)
            before, known = self._cut(name, path, stored, letter == "a", cut), stored is not None
            uncut = None if cut else os.path.getsize(path) if os.path.exists(path) else 0
        handle = open(  # noqa: SIM115 - the program closes it, or `close`
            path, _how(letter, path) + ("b" if "b" in mode else ""), **options
        )
        handle.seek(0, os.SEEK_END)
        self._files[name] = _Open(path, [*(earlier.handles if earlier else []), handle], before, known, uncut)
        return handle

    def _check_one_name(self, name: str, path: str) -> None:
        """UsageError if the file is open under another name, or another file under this one: each file has one name, by
        which a resume knows it."""
        for other, file in self._files.items():
            if (other == name) != (os.path.realpath(file.path) == os.path.realpath(path)):
                raise UsageError(
                    f"The output file {path!r} can't be opened as {name!r}: {file.path!r} is open as {other!r}. "
                    "A resume knows a file by the name that it is opened by: open each by one name, an absolute one if the "
                    "program changes its directory.",
                    file=path,
                )

    def _cut(self, name: str, path: str, stored: StoredFile | None, append: bool, cut: bool) -> int | None:
        """Cut a file as it is found at a start; what of it was there before the run."""
        try:
            before = self._before(name, path) if append else 0
        except DamageError:
            if stored is None:
                raise
            before = None
        if not cut:
            return before
        if stored is not None:
            cut_back(path, stored.nbytes, stored.tail, self._check_fence)
        elif os.path.exists(path):
            # Not known to the version: what a lost attempt has written since goes, what was there before the run stays.
            assert before is not None
            cut_back(path, before, None, self._check_fence)
        return before

    def _before(self, name: str, path: str) -> int:
        """The file's length before the run first wrote to it, on record since then."""
        key = f"files/{self._rank:06d}-{digest_hex(name.encode())[:16]}.json"
        try:
            return int(count(decode_record(self._store.get(key, RECORD_LIMIT), key)[0], "bytes", key))
        except KeyMissingError:
            nbytes = os.path.getsize(path) if os.path.exists(path) else 0
            body = {"rank": self._rank, "path": name, "bytes": nbytes}
            try:
                self._store.put(key, encode_record(body)[0])
            except KeyExistsError:
                return self._before(name, path)
            return nbytes

    def settle(self, stored: tuple[StoredFile, ...]) -> None:
        """Cut the open files back to the version that is gone on from. MismatchError if one is not what that knows."""
        known = {f.path: f for f in stored}
        for name, file in self._files.items():
            path = file.path
            _flush(file.handles)  # first: what is still in the buffer lies behind the version as well
            if name in known:
                cut_back(path, known[name].nbytes, known[name].tail, self._check_fence)
            elif file.known or self._settled:
                # If the record of what was there before is damaged, reading it again says so.
                before = self._before(name, path) if file.before is None else file.before
                cut_back(path, before, None, self._check_fence)
            elif file.uncut is not None and file.before is not None:
                _cut_out(path, file.before, file.uncut, self._check_fence)
            # Else it is new in this execution: what the program has written so far, a heading perhaps, is its beginning.
            file.uncut = None
            for handle in file.handles:
                if not handle.closed:
                    handle.seek(0, os.SEEK_END)
        self._settled = True

    def capture(self, carried: tuple[StoredFile, ...]) -> list[StoredFile]:
        """Flush and fsync every file; their lengths. StorageError names the one that failed.

        `carried`: files that the version before knows; those not opened yet in this execution stay known.
        """
        found = {f.path: f for f in carried}
        self._keep_to_itself_if_overtaken()
        for name, file in self._files.items():
            path = file.path
            try:
                _flush(file.handles)
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
                    nbytes = os.fstat(f.fileno()).st_size
                    f.seek(max(0, nbytes - _TAIL))
                    tail = f.read(_TAIL)
                _sync_directory(path)
            except OSError as error:
                raise StorageError(
                    f"The output file {path!r} could not be made durable: {error.strerror}.", file=path
                ) from error
            found[name] = StoredFile(name, nbytes, digest(tail), path)
        return list(found.values())

    def _keep_to_itself_if_overtaken(self) -> None:
        """FencedError where a later attempt has the files; what is still in this process's buffers goes nowhere then, whoever
        flushes them."""
        if not any(not handle.closed for file in self._files.values() for handle in file.handles):
            return
        try:
            self._check_fence()
        except FencedError:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for file in self._files.values():
                    for handle in file.handles:
                        if not handle.closed:
                            os.dup2(nowhere, handle.fileno(), inheritable=False)
            finally:
                os.close(nowhere)
            raise

    def close(self) -> None:
        """Close what the program left open. A failure is told, not raised: it would take the place of the error that the
        run is being closed for, and leave other files open. What the last version counts on is durable already."""
        with suppress(HoldfastError):
            self._keep_to_itself_if_overtaken()
        for file in self._files.values():
            for handle in file.handles:
                try:
                    handle.close()
                except OSError as error:
                    log.warning("the output file %r lost what was written since the last version: %s", file.path, error)


def _flush(handles: list[IO[Any]]) -> None:
    for handle in handles:
        if not handle.closed:
            handle.flush()


def _how(letter: str, path: str) -> str:
    """The mode to open with, the file having been cut: "w" must not cut again, and allows to seek."""
    return "a" if letter == "a" else "r+" if os.path.exists(path) else "w"


def find_stored(known: Iterable[StoredFile], name: str) -> StoredFile | None:
    """What a version knows of the file that the program calls `name`: by that name, for a run may have been moved with
    its files; else by where it is, for the program may have changed its directory."""
    known = list(known)
    place = os.path.abspath(name)
    return next((f for f in known if f.path == name), None) or next((f for f in known if f.place == place), None)


def cut_back(path: str, nbytes: int, tail: bytes | None, check: Callable[[], None]) -> None:
    """Cut the file at `path` to `nbytes` bytes; MismatchError if it is shorter or other bytes end there. `check` is
    called right before, and may raise."""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if size < nbytes:
        raise MismatchError(
            f"The output file {path!r} has {size} bytes; the version to resume from knows {nbytes}. Nothing was changed. "
            "Put the file back, or give it up with holdfast.open(..., objects_changed='accept') and another name.",
            file=path,
        )
    if tail is not None and nbytes:
        with open(path, "rb") as f:
            f.seek(max(0, nbytes - _TAIL))
            if digest(f.read(min(nbytes, _TAIL))) != tail:
                raise MismatchError(
                    f"The output file {path!r} does not hold what this run wrote up to byte {nbytes}: it was changed by "
                    "another program. Nothing was changed. Put the file back, or write to another name.",
                    file=path,
                )
    if size > nbytes:
        with open(path, "r+b") as f:
            check()
            f.truncate(nbytes)
            os.fsync(f.fileno())


def _renew(path: str, check: Callable[[], None]) -> None:
    """Have the file's bytes in a file of the same name that nobody has open. Rejected: to look for others' lines later, which
    can't be told from one's own. StorageError."""
    path = os.path.realpath(path)
    copy = f"{path}.{os.getpid()}.holdfast"
    try:
        shutil.copyfile(path, copy)
        shutil.copymode(path, copy)
        with open(copy, "rb") as f:
            os.fsync(f.fileno())
        check()
        os.replace(copy, path)
        _sync_directory(path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(copy)
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"The output file {path!r} could not be made anew, apart from the holder that the run was taken from: "
            f"{error.strerror}. It is as it was.", file=path,
        ) from error  # fmt: skip


def _cut_out(path: str, start: int, end: int, check: Callable[[], None]) -> None:
    """Remove the bytes from `start` to `end`: what is behind them the program has written since it opened the file."""
    if end > start:
        with open(path, "r+b") as f:
            f.seek(end)
            rest = f.read()
            check()
            f.seek(start)
            f.write(rest)
            f.truncate()
            f.flush()
            os.fsync(f.fileno())


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
