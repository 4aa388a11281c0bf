"""The next version's data file, made ahead in the node's memory: the program's state is captured into it, and lies there.

Memory that is touched for the first time when it is copied to costs several times the copy. So the file is made and faulted in
beside the program, when the version before has come to its place and what it supersedes has gone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

from ...capture import kernel
from ...catalog.places import Place
from ...engine.workers import Worker, step_back
from ...errors import HoldfastError
from ...format.keys import AHEAD_FOLDER
from ...store.aligned import address
from ...store.memoryfile import MemoryFile
from .sweeping import MOMENT

log = logging.getLogger("holdfast")

_SETTLING = 5.0  # seconds from the start in which files of earlier attempts may still take room
_PATIENCE = 2.0  # seconds that such room is waited for
_STEP = 16 << 20  # bytes that are faulted in before somebody may ask for the file again


class Ahead:
    """For one rank; in a place that is no memory there is never such a file. `worker`: the thread that makes one."""

    def __init__(self, place: Place, rank: int) -> None:
        self._place, self._rank = place, rank
        self._file: MemoryFile | None = None
        self._lock = threading.Lock()
        self._taking = threading.Event()  # the program waits for the file: it is taken as it is
        self._closed = False
        self.worker: Worker | None = None
        self.possible = place.kind == "memory"  # until it turns out that the place is no memory
        self._settled = time.monotonic() + _SETTLING

    def take(self, nbytes: int) -> MemoryFile | None:
        """A file of at least `nbytes` bytes, the one made ahead if it will do; None where there is no room, or no memory
        (local)."""
        self._taking.set()
        with self._lock:
            self._taking.clear()
            file, self._file = self._file, None
            if file is not None and file.nbytes >= nbytes:
                return file
            if file is not None:
                file.abort()
            return self._make(nbytes)

    def prepare(self, nbytes: int) -> None:
        """Have a file of `nbytes` bytes ready (beside the program)."""
        with self._lock:
            if nbytes <= 0 or self._closed or self._taking.is_set():
                return
            if self._file is not None and self._file.nbytes < nbytes:
                self._file.abort()
                self._file = None
            self._file = self._file or self._make(nbytes)
            if self._file is not None:
                self._fault_in(self._file)

    def prepare_beside(self, nbytes: int) -> None:
        """The same in a thread of its own."""

        def run() -> None:
            step_back()
            self.prepare(nbytes)

        self.worker = Worker(run)
        try:
            self.worker.start()
        except RuntimeError:  # on the way out of the interpreter
            log.debug("no thread for the next version's file")

    def close(self) -> None:
        """Give it back; there will be none any more."""
        self._closed = True
        self._taking.set()
        with self._lock:
            if self._file is not None:
                self._file.abort()
                self._file = None

    def close_later(self) -> None:
        """The same in a moment, in a thread of its own: it takes the kernel a quarter of the time of copying that memory, and a
        program that has lost ranks waits to be back."""
        self._closed = True
        self._taking.set()

        def run() -> None:
            time.sleep(MOMENT)
            step_back()
            self.close()

        try:
            Worker(run).start()
        except RuntimeError:  # no thread can be had
            self.close()

    def _make(self, nbytes: int) -> MemoryFile | None:
        key = f"{AHEAD_FOLDER}/r{self._rank:06d}-{os.urandom(4).hex()}"
        if self._closed or not self.possible:
            return None
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                file = self._place.store.create_in_memory(key, nbytes)
                self.possible = file is not None
                return file
            except HoldfastError as error:  # the version says what there is to say when it finds no room
                if time.monotonic() > min(until, self._settled) or not self._others():
                    log.debug("no file ahead for the next version: %s", error.message)
                    return None
            time.sleep(0.02)

    def _others(self) -> bool:
        """Whether there are files that may be an earlier attempt's, which are being removed."""
        with suppress(HoldfastError):
            return bool(self._place.store.list(AHEAD_FOLDER))
        return False

    def _fault_in(self, file: MemoryFile) -> None:
        memory = file.view
        for at in range(0, memory.nbytes, _STEP):
            if self._taking.is_set():
                return
            try:
                kernel.populate(address(memory) + at, min(_STEP, memory.nbytes - at))
            except OSError as error:  # its room is had: it is only slower
                log.debug("the next version's file was not faulted in: %s", error)
                return
