"""The program's side of one data file that the helper writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import HoldfastError
from ..units import Unit, Written
from .failures import CaptureError, HelperLostError
from .wire import pack_unit, split_digests

if TYPE_CHECKING:
    from .client import Helper


class HelperWriting:
    """A data file that the helper writes. Calls may come from several threads, but `finish` and `abort` from one."""

    def __init__(self, helper: Helper, number: int) -> None:
        self._helper, self._number = helper, number
        self._lock = threading.Lock()
        self._held: dict[
            int, tuple[Unit, Callable[[], None] | None]
        ] = {}  # memory must stay where it is while it is read
        self._answers: dict[str, list[Any]] = {}
        self._waiting: list[tuple[int, Unit]] | None = []  # put before it was to begin
        self.over = False

    def freeze(self, units: Sequence[tuple[int, Unit]], timeout: float) -> None:
        """Freeze the memory of these units, once for a file: when it returns the program may write to all of it, and
        what is stored is the state of this moment.

        No thread of the program may write to it during the call. CaptureError if it can't be done, or not within
        `timeout` seconds: nothing is protected then. Otherwise the file's own error, if writing has failed already.
        """
        helper = self._helper
        if helper.why_no_freeze is not None:
            raise CaptureError(helper.why_no_freeze)
        with self._lock:
            self._held.update((number, (unit, None)) for number, unit in units)
        self._answers.pop("frozen", None)
        try:
            helper.send(["freeze", self._number, [pack_unit(number, unit) for number, unit in units]])
            if not helper.wait(lambda: "frozen" in self._answers, timeout):
                # else it might still freeze it, and nobody would know
                helper.give_up(f"did not freeze memory within {timeout:.4g} s and was ended")
                raise CaptureError(f"the helper did not do it within {timeout:.4g} s, and was ended")
        except HelperLostError as error:
            raise CaptureError(error.message) from error
        why, wire = self._answers["frozen"]
        if why is not None:
            with self._lock:
                for number, _ in units:
                    del self._held[number]
            raise CaptureError(why)
        if wire is not None:
            raise HoldfastError.from_wire(wire)

    def put(self, number: int, unit: Unit, release: Callable[[], None]) -> None:
        """Have a unit written whose memory does not change until `release` is called, from another thread, in any
        case. CaptureError if the helper can't read that memory; HelperLostError."""
        if not self._helper.can_read(unit):
            raise CaptureError("the helper may not read the program's memory: only shared memory will do")
        with self._lock:
            self._held[number] = (unit, release)
            waiting = self._waiting
            if waiting is not None:
                # Told when it is to begin: while the program copies, the helper is to leave it the processors.
                waiting.append((number, unit))
                return
        self._helper.send(["put", self._number, pack_unit(number, unit)])

    def begin(self) -> None:
        """Start writing what was put. `freeze` and `finish` do so too."""
        self._tell()
        self._helper.send(["go", self._number])

    def _tell(self) -> None:
        """Tell the helper of what was put before it was to begin."""
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for number, unit in sorted(waiting, key=lambda one: one[0]):
            self._helper.send(["put", self._number, pack_unit(number, unit)])

    def finish(self) -> tuple[list[Written], int]:
        """Wait until all units are written and the file is durable: what became of each, by number, and the file's
        size in bytes.

        Raises the helper's error as it was raised there (StorageError and the like), or HelperLostError.
        """
        self._tell()
        self._helper.send(["finish", self._number])
        self._helper.wait(self._ended)
        self._end()
        if "failed" in self._answers:
            if self._answers["failed"][1]:
                self._helper.give_up("had a write that hangs and was ended")
            raise HoldfastError.from_wire(self._answers["failed"][0])
        size, results = self._answers["finished"]
        return [Written(offset, split_digests(digests)) for _, offset, digests in sorted(results)], size

    def abort(self) -> None:
        """Give the file up: it is removed, and all memory is free again. Raises nothing; does nothing after
        `finish`."""
        if self.over:
            return
        helper = self._helper
        with suppress(HoldfastError):
            helper.send(["abort", self._number])
            if not helper.wait(self._ended, helper.silence):
                helper.give_up("had a write that hangs and was ended")
        self._end()

    def _ended(self) -> bool:
        return "finished" in self._answers or "failed" in self._answers

    def _end(self) -> None:
        self.over = True
        self.release_all()

    # -- called by the listener ----------------------------------------------------------------

    def told(self, kind: str, rest: list[Any]) -> None:
        if rest[0] != self._number:
            return
        if kind == "released":
            with self._lock:
                _, release = self._held.pop(rest[1], (None, None))
            if release is not None:
                release()
        else:
            self._answers[kind] = rest[1:]

    def release_all(self) -> None:
        """The helper reads no memory any more."""
        with self._lock:
            held, self._held = self._held, {}
        for _, release in held.values():
            if release is not None:
                release()
