"""What can go wrong, by what the user does next.

Every error says what happened, what is safe, and what to do. Those that concern a place carry
it (`object`, `rank`, `file`, `version`); those that several ranks agreed on carry each rank's
cause in `causes`. Errors travel between ranks as plain dicts (`to_wire`, `from_wire`), never as pickles.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple


class Cause(NamedTuple):
    """One rank's reason: who, which class of error, and what it said."""

    rank: int
    type: str
    message: str

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.type}: {self.message}"


class HoldfastError(Exception):
    """Base of all of Holdfast's errors. Raised as itself never.

    `object`: name of the protected object, `rank`: the rank, `file`: key or path, `version`: the
    version's number, each None where it does not apply; `causes`: what the ranks reported.
    """

    _known: ClassVar[dict[str, type[HoldfastError]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        HoldfastError._known[cls.__name__] = cls

    def __init__(
        self,
        message: str,
        *,
        object: str | None = None,
        rank: int | None = None,
        file: str | None = None,
        version: int | None = None,
        causes: tuple[Cause, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.object = object
        self.rank = rank
        self.file = file
        self.version = version
        self.causes = causes

    def __str__(self) -> str:
        others = [c for c in self.causes if c.message not in self.message]  # what it says already
        return "\n  ".join([self.message, *map(str, others)])

    def to_wire(self) -> dict[str, Any]:
        """A plain dict that `from_wire` turns into an equal error on another rank."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "object": self.object,
            "rank": self.rank,
            "file": self.file,
            "version": self.version,
            "offset": getattr(self, "offset", None),
        }

    @staticmethod
    def from_wire(wire: dict[str, Any], causes: tuple[Cause, ...] = ()) -> HoldfastError:
        """The error that `to_wire` described; an unknown type becomes a `RankError`."""
        cls = HoldfastError._known.get(wire["type"], RankError)
        places = {k: wire[k] for k in ("object", "rank", "file", "version")}
        if issubclass(cls, DamageError):
            places["offset"] = wire.get("offset")
        return cls(wire["message"], **places, causes=causes)


# -- change the program or its options ------------------------------------------------------


class UsageError(HoldfastError):
    """The library was called in a way that it does not support: change the call."""


class ConfigError(UsageError):
    """An option is unknown or has a value that it can't have: change the call, file or environment."""


class UnsupportedError(UsageError):
    """An object's kind can't be protected as it is: use one of the ways out that the message names."""


class StaleObjectError(UsageError):
    """A protected array is no longer referred to by the program, which has rebound its name:
    fill it in place, protect the name again after rebinding, or keep the value in `run.state`."""


class MismatchError(HoldfastError):
    """The program and the stored version disagree (ranks, parameters, names, shapes, types). Nothing
    stored was changed. Start the program that belongs to the run, or accept with the option named."""


# -- someone else has the run ---------------------------------------------------------------


class RunInUseError(HoldfastError):
    """Another process holds the run and lives: wait for it, end it, or pass `takeover=True`."""


class FencedError(HoldfastError):
    """A later attempt has taken the run over; what this one writes no longer counts: end this process."""


# -- storage --------------------------------------------------------------------------------


class StorageError(HoldfastError):
    """The store refused an operation (disk full, I/O error, rights): mend the place, then go on."""


class DamageError(HoldfastError):
    """Stored bytes are not what was written, or are missing: an older version may be whole.
    `file` and `offset` (bytes from its start) say where."""

    def __init__(self, message: str, *, offset: int | None = None, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.offset = offset


class NoWholeVersionError(DamageError):
    """The run has versions, but none that is whole on all ranks. Nothing was started or changed: restore the
    run's files from elsewhere, or roll back to a version chosen by hand, or use another run."""


class CheckpointError(HoldfastError):
    """A checkpoint or record was not committed; nothing of it counts. The version before is intact and the
    program's state untouched: mend the cause, the next checkpoint may succeed."""


# -- other ranks ----------------------------------------------------------------------------


class RankError(HoldfastError):
    """Another rank failed during a collective call; its cause is attached."""


class DeadlineError(HoldfastError):
    """A collective call was not finished by its deadline; the message names the ranks it waits for."""


class RepairError(HoldfastError):
    """The ranks that are left can't be made a whole group again: too few spares or processes, or no time. Committed versions
    are as they were: leave the process, the program is to be started again."""


# -- leaving --------------------------------------------------------------------------------

EXIT_COMPLETE = 0
EXIT_INTERRUPTED = 85
EXIT_INTERRUPTED_NO_PROGRESS = 86
EXIT_LAST_CHECKPOINT_FAILED = 87
EXIT_NO_PROGRESS = 88
EXIT_RESTARTS_EXHAUSTED = 89
EXIT_REPAIR = 90


class Interrupted(SystemExit):
    """Raised by `steps` after a signal or the time limit asked the program to leave and a last checkpoint was tried.

    A `SystemExit`: not caught by `except Exception`, ends the program with `code` (85: interrupted with
    progress and resumable; 86: without a new version; 87: the last checkpoint failed
    or came after the time limit). `signal`: the signal's name, or `time limit`; `version`: the last version, or None.
    """

    def __init__(self, code: int, signal: str, version: int | None) -> None:
        super().__init__(code)
        self.signal = signal
        self.version = version
