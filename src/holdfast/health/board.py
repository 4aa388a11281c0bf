"""The board of a node: a small file in its memory on which each process has a slot, and reads those of the others.

A process claims the next free slot when it joins, under the file's lock, so that nobody has to hand out numbers: spares
join as ranks do. The file is made under another name and linked when its header is whole; what stands under its name and
says another run, attempt, user, boot or pid namespace is not touched. Its room is allocated before it is mapped: a write
never finds memory full.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import stat
import time
import weakref
from array import array
from contextlib import suppress
from time import monotonic_ns

from ..errors import DeadlineError, StorageError, UsageError
from ..store.owned import own_directory
from . import layout
from .layout import BYTES, COUNT_AT, HEADER, NO_RANK, NODES_AT, SLOT, SLOTS, Identity, Slot
from .leftovers import left_alone, remove, remove_leftovers
from .phases import CALLING, COMPUTING, LEFT, STANDING
from .processes import this_process

NODE_MEMORY = "HOLDFAST_NODE_MEMORY"  # as in run/levels/nodes.py, which stands above; tests/health compares
_WORDS = SLOT // 8
_POLL = 0.001
_PROGRESS, _PROGRESS_AT, _STEP = layout.PROGRESS, layout.PROGRESS_AT, layout.STEP  # found sooner, at each loop head


def memory_root() -> str:
    """Where this node has files in memory."""
    return os.environ.get(NODE_MEMORY) or "/dev/shm"


class Board:
    """This process's slot, and sight of the others'. Local to a process, which joins by `join`; any thread may call.

    `path`: of the file; `pid`, `start`: this process; `slot`: its index. What a child made by fork writes goes nowhere.
    """

    def __init__(self, path: str, identity: Identity, memory: mmap.mmap, slot: int, process: tuple[int, int]) -> None:
        self.path, self.identity, self.slot = path, identity, slot
        self.pid, self.start = process
        self._memory: mmap.mmap | None = memory
        self._words = memoryview(memory).cast("q")
        self._own = self._words[(HEADER + slot * SLOT) // 8 :][:_WORDS]
        _open_boards.add(self)

    @classmethod
    def join(cls, root: str, run: str, attempt: int, rank: int = NO_RANK, *, timeout: float = 10.0) -> Board:
        """Take a slot on the board of this node's processes of that attempt, which is made if it is not there (each process
        for itself; what attempts that are over left is removed).

        `root`: a directory in memory (`memory_root()`); `run`: 32 hexadecimal digits; `rank`: NO_RANK for a spare. Raises
        StorageError where the memory is not to be had or what stands there is not ours, DeadlineError if another process
        holds the file's lock for `timeout` seconds, UsageError for a `run` that is none.
        """
        if not re.fullmatch(r"[0-9a-f]{32}", run):
            raise UsageError(f"There is no board for a run {run!r:.80}; nothing was changed.")
        identity = Identity.here(run, attempt)
        place = os.path.abspath(root), f"holdfast-{identity.uid}/boards"
        folder = own_directory(*place, create=True)
        path = f"{folder}/{identity.name}"
        remove_leftovers(folder, identity)
        deadline = time.monotonic() + timeout
        try:
            while True:
                try:
                    fd = _open_or_make(path, identity)
                except FileNotFoundError:  # who left the last board of all has removed the folder
                    if time.monotonic() >= deadline:
                        raise
                    own_directory(*place, create=True)
                    continue
                try:
                    _lock(fd, path, deadline)
                    if _same_file(fd, path):  # else one that is over was removed meanwhile
                        return cls(path, identity, *_claim(fd, path, identity, rank))
                finally:
                    fcntl.flock(fd, fcntl.LOCK_UN)  # the mapping has a descriptor of its own, and would keep it locked
                    os.close(fd)
        except OSError as error:
            raise StorageError(
                f"The ranks of this node can't watch each other: {path}: {error.strerror or error}. Nothing was changed; the "
                "program can go on. Free memory there, or name another directory in memory by HOLDFAST_NODE_MEMORY.",
                file=path,
            ) from error

    def put(self, pid: int, start: int, *, timeout: float = 1.0) -> None:
        """Give a slot to a spare of this node, which knows of no run and so can't join: others look after it, it does not beat.
        StorageError and DeadlineError as of `join`."""
        fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _lock(fd, self.path, time.monotonic() + timeout)
            _take_slot(self._words, self.path, NO_RANK, STANDING, (pid, start))
        finally:
            os.close(fd)

    def progress(self, step: int = -1) -> None:
        """The program has moved on; `step`: the loop's, where it has one. For loop heads: it costs less than a
        microsecond."""
        own = self._own
        own[_PROGRESS] += 1
        own[_PROGRESS_AT] = monotonic_ns()
        if step >= 0:
            own[_STEP] = step

    def note(self, nbytes: int) -> None:
        """Bytes have moved, which is progress."""
        self._own[layout.NBYTES] += nbytes
        self.progress()

    def beat(self) -> None:
        """This process lives. By its beat thread alone."""
        own = self._own
        own[layout.BEATS] += 1
        own[layout.BEAT_AT] = monotonic_ns()

    def enter(self, phase: int) -> int:
        """What it is in from now on, a number of phases.py; what it was in. Progress too."""
        own = self._own
        before = int(own[layout.PHASE])
        own[layout.PHASE] = phase
        self.progress()
        return before

    def call(self, entering: bool) -> None:
        """The program's own thread goes into a call in which it waits for other ranks, or comes out of it. For every such call:
        it costs less than half a microsecond."""
        own = self._own
        if entering:
            if own[layout.PHASE] == COMPUTING:
                own[layout.PHASE] = CALLING
        elif own[layout.PHASE] == CALLING:
            own[layout.PHASE] = COMPUTING
        own[_PROGRESS_AT] = monotonic_ns()

    def calling(self, is_it: bool) -> None:
        """Whether the program's thread has just been seen to wait in a call of MPI. By its beat thread alone."""
        self._own[layout.CALL_AT] = monotonic_ns() if is_it else 0

    def call_away(self) -> None:
        """The program's thread is in a call that was told, and does something else. By its beat thread alone; should that be
        over just now and another call begun, this one is seen by `calling`."""
        self._own[layout.PHASE] = COMPUTING

    @property
    def still(self) -> float:
        """Seconds since this process's progress."""
        return (monotonic_ns() - int(self._own[_PROGRESS_AT])) * 1e-9

    @property
    def phase(self) -> int:
        """What this process is in."""
        return int(self._own[layout.PHASE])

    def take_rank(self, rank: int) -> None:
        """Another rank is this process's from now on, as after a repair."""
        self._own[layout.RANK] = rank

    def take_signal(self, number: int) -> None:
        """The signal that has this process write its stacks; 0: none."""
        self._own[layout.SIGNAL] = number

    def mark(self, slot: int, verdict: int) -> None:
        """What was found of another process, for all to see. By any process; the last one is seen."""
        words = self._words
        at = (HEADER + slot * SLOT) // 8
        words[at + layout.VERDICT_AT] = monotonic_ns()
        words[at + layout.VERDICT] = verdict

    def read(self) -> list[Slot]:
        """All slots that have been claimed, in order; empty after `leave`. One copy of the memory: cheap."""
        memory = self._memory
        if memory is None:
            return []
        count = min(max(int(self._words[COUNT_AT // 8]), 0), SLOTS)
        return layout.read_slots(memory[HEADER : HEADER + count * SLOT])

    @property
    def node(self) -> str:
        """The same for processes of this board alone, wherever they are told of it."""
        return f"{self.identity.boot}-{self.identity.pidns}-{os.path.realpath(self.path)}"

    def nodes(self, count: int) -> memoryview[int]:
        """Two words for each of the job's nodes, of whom there may be NODES (far.py). Zero at first."""
        return self._words[NODES_AT // 8 :][: 2 * count]

    def leave(self, timeout: float = 1.0) -> None:
        """Nothing is expected of this process from now on. The last one removes the file; where another holds the lock longer
        than `timeout` seconds, the next start does. May be called again; never raises."""
        if self._memory is None:
            return
        self._own[layout.PHASE] = LEFT
        self._let_go()
        with suppress(OSError, DeadlineError):
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _lock(fd, self.path, time.monotonic() + timeout)
                if _same_file(fd, self.path) and left_alone(fd, self.identity):
                    remove(self.path)
                    os.rmdir(os.path.dirname(self.path))  # if it was the last board: nothing is left in memory
            finally:
                os.close(fd)

    def _let_go(self) -> None:
        # The mapping ends when the last view of it does: another thread may be about to write through one.
        self._words = memoryview(array("q", bytes(BYTES)))
        self._own = self._words[:_WORDS]
        self._memory = None
        _open_boards.discard(self)


_open_boards: weakref.WeakSet[Board] = weakref.WeakSet()


def _in_child() -> None:
    """A child made by fork shares the mapping: it would write its parent's slot."""
    for board in list(_open_boards):
        board._let_go()


os.register_at_fork(after_in_child=_in_child)


def _open_or_make(path: str, identity: Identity) -> int:
    """A descriptor of the board, which is linked when it is whole."""
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        new = "{}.{}-{}.new".format(path, *this_process())
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, BYTES)
            os.pwrite(fd, identity.header(), 0)
            # Locked before anyone can see it: without a slot it looks like one that is over.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(new, path)
            return fd
        except FileExistsError:  # another process of this node was first
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
        finally:
            os.unlink(new)


def _lock(fd: int, path: str, deadline: float) -> None:
    """Whoever holds it may be stopped: polled, since a blocking call can't have a deadline."""
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise DeadlineError(
                    f"{path} is locked by another process of this node that does not let go of it: it may be stopped. Nothing "
                    "was changed. Look for a stopped rank of this run, end it, and start again."
                ) from None
        time.sleep(_POLL)


def _same_file(fd: int, path: str) -> bool:
    """Whether the file still has its name."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


def _claim(fd: int, path: str, identity: Identity, rank: int) -> tuple[mmap.mmap, int, tuple[int, int]]:
    """The file mapped, a slot's index, this process; the lock is held."""
    found = os.fstat(fd)
    private = stat.S_ISREG(found.st_mode) and found.st_uid == identity.uid and not found.st_mode & 0o077
    if not private or found.st_size != BYTES or os.pread(fd, COUNT_AT, 0) != identity.header():
        raise StorageError(
            f"{path} is not the board of this run, attempt, user and boot; it was neither used nor changed. Remove it; until "
            "then the ranks of this node don't watch each other.",
            file=path,
        )
    os.posix_fallocate(fd, 0, BYTES)  # also if another made it: holes would be found out by SIGBUS
    memory = mmap.mmap(fd, BYTES)
    process = this_process()
    return memory, _take_slot(memoryview(memory).cast("q"), path, rank, COMPUTING, process), process


def _take_slot(words: memoryview[int], path: str, rank: int, phase: int, process: tuple[int, int]) -> int:
    """The index of the next free slot, which is that process's from now on; the lock is held."""
    slot = int(words[COUNT_AT // 8])
    if not 0 <= slot < SLOTS:
        raise StorageError(
            f"{path} has no slot left of {SLOTS}. Nothing was changed; this process is not watched, the program can go on.",
            file=path,
        )
    own = words[(HEADER + slot * SLOT) // 8 :][:_WORDS]
    pid, start = process
    now = monotonic_ns()
    first = {
        layout.START: start,
        layout.RANK: rank,
        layout.PHASE: phase,
        layout.BEAT_AT: now,
        layout.PROGRESS_AT: now,
    }
    for word, value in {**first, layout.STEP: -1, layout.PID: pid}.items():
        own[word] = value
    words[COUNT_AT // 8] = slot + 1
    return slot
