"""The run as a program sees it: what each call means, and whether it can be made. What it does is beside this."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import state
from ..errors import UsageError
from ..policy import Every
from . import protecting
from .execution import Execution
from .handle import Handle
from .loops import DEFAULT
from .objects import Shard
from .resume import Restored
from .transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..catalog import Version
    from ..health import Event

T = TypeVar("T")


class Run:
    """One execution of a run, made by `holdfast.open` or handed to the main function by `holdfast.launch`.

    *Collective* calls are made by all ranks, in the same order; *local* ones by any. As a context manager: leaving the
    block normally completes the run, an exception leaves it resumable.
    """

    def __init__(self, execution: Execution) -> None:
        self._x = execution
        self._namespace: state.State | None = None

    # -- what the state is -----------------------------------------------------------------------

    def protect(
        self,
        name: str,
        obj: T,
        *,
        shard: Shard | None = None,
        replicated: bool = False,
        pickle: bool = False,
        capture: str = "auto",
    ) -> T:
        """Declare `obj` part of the state under `name` and return it (local).

        If the run has a version to resume from, `obj` is filled from it at once; the value is provisional until
        `steps` or `ready`, and exactly the stored one from then on. `obj` stays the same object. `shard`: the part of
        a global array that this rank holds; without one each rank's value is its own. The same name again within one
        execution binds it to another object without restoring. `pickle=True` accepts what only pickle can store. `capture`: how
        this object is frozen at a checkpoint, `copy`, `cow`, `reference` or `direct` (see the guide); `auto`: as the run's
        option says. `replicated=True`: every rank protects the same value under this name, before the loop; it is written once,
        its blocks shared out over the ranks, and a rank whose value differs is an error at the checkpoint.

        Raises UnsupportedError for a kind that can't be protected (the message names the ways out). A stored object that
        does not fit is reported by `steps` or `ready`, on all ranks at once; after those, MismatchError here.
        """
        self._check("protect", writes=False)
        protecting.protect(self._x, name, obj, shard, replicated, pickle, capture)
        return obj

    def state(self, **values: Any) -> state.State:
        """A namespace whose attributes are state, of any kind and size, free to be rebound: `s.u = f(s.u)` (local).

        The arguments are initial values; stored ones replace them at once (provisional until `steps` or `ready`).
        There is one namespace in a run, stored as the object "state": a second call adds to it.
        """
        if self._namespace is not None:
            for key, value in values.items():
                if not hasattr(self._namespace, key):
                    setattr(self._namespace, key, value)
            return self._namespace
        namespace = state.State()
        for key, value in values.items():
            setattr(namespace, key, value)
        self._namespace = self.protect("state", namespace)
        return namespace

    def rng(self, seed: int, name: str = "rng") -> np.random.Generator:
        """A protected random generator, its own stream on each rank, from `SeedSequence(seed)` (local). Several in one program
        need a `name` each."""
        if name in self._x.objects:
            raise UsageError(f"run.rng: there is an object {name!r} already: give each generator a name of its own, name=...")
        sequence = np.random.SeedSequence(seed, spawn_key=(self._x.group.rank,))
        return self.protect(name, np.random.default_rng(sequence))

    def file(self, path: str | os.PathLike[str], mode: str = "a", **options: Any) -> IO[Any]:
        """Open an output file that belongs to the state (local); `mode` "a" or "w", with "b" for bytes.

        On a resume it is cut back to its length at the restored version, so that no line is there twice. Further
        arguments go to `open`. What was in the file before the run first opened it with "a" stays. Only appending is
        undone: what is overwritten in the middle can't be restored. A relative path is remembered as it is given, so that a
        run and its files can be moved together. Raises MismatchError if the file is shorter than the version knows, or
        was changed by someone else.
        """
        self._check("file")
        self._x.used = True
        return protecting.open_file(self._x, path, mode, options)

    def drop(self, name: str) -> None:
        """Give up the object `name`, protected or only stored: the next versions do not hold it (local)."""
        self._check("drop")
        protecting.drop(self._x, name)

    # -- where it is -----------------------------------------------------------------------------

    def ready(self) -> None:
        """Settle what this execution goes on from (collective; `steps` calls it).

        One version for all ranks, the newest that is whole on all of them; every protected object holds exactly its
        state afterwards. Raises on all ranks alike: MismatchError (missing, new, differing objects), NoWholeVersionError,
        FencedError.
        """
        self._check("ready", writes=False)
        self._x.used = True
        self._x.settle()

    @property
    def resumed(self) -> bool:
        """Whether there is a version to resume from (local; provisional until `steps` or `ready`)."""
        return self._x.restored is not None if self._x.settled else self._x.resume.commit is not None

    @property
    def restored(self) -> Restored | None:
        """What this execution went on from; None at the beginning, or before `steps` or `ready` (local)."""
        return self._x.restored

    @property
    def step(self) -> int | None:
        """The step that the innermost loop is in, or the steps completed when none runs; None before any (local)."""
        return self._x.step

    @property
    def comm(self) -> Any:
        """What the program computes with: the communicator given, or `holdfast.SERIAL`."""
        return self._x.group.comm

    @property
    def url(self) -> str:
        """Where the run is kept: an absolute path."""
        return self._x.url

    @property
    def attempt(self) -> int:
        """The number of this attempt; 0 if the run was opened for reading."""
        return self._x.writer.attempt

    @property
    def repairs(self) -> int:
        """How often lost ranks were replaced by spares since the program started (see `holdfast.launch`)."""
        return self._x.repairs

    @property
    def health(self) -> tuple[Event, ...]:
        """What has been found out about the ranks of this node and the job, oldest first, also before a repair (local).

        Behind a repair all ranks begin with the same events, those of any of them (the last 32 of each).

        Each has `kind` (died, stopped, stalled, silent, launcher gone), `rank` (None: nobody's in particular), `host`,
        `detail`, `at` (Unix time, seconds) and `stacks`; `str(event)` is a line for people. Empty where one rank runs without
        `stall_timeout`.
        """
        return self._x.watching.events

    def on_health(self, hook: Callable[[Event], object]) -> None:
        """Have `hook(event)` called for each event from now on (local; per execution: `main` does it again after a repair).

        It is called in a thread of its own beside the program, on every rank of the node on which something was found out,
        and must return soon: no collective calls, no calls of this run. What it raises is logged.
        """
        if not callable(hook):
            raise UsageError(f"run.on_health({hook!r}): a function of one argument, the event, is needed.")
        self._x.watching.on_event(hook)

    @property
    def versions(self) -> list[Version]:
        """Every version there is, newest first: number, kind, status, step, parent, attempt, time, bytes (local).

        One that this program has in flight has the status that it has reached: `captured` or `written`."""
        from .loading import list_stored

        return list_stored(self._x)

    # -- loop and checkpoints ---------------------------------------------------------------------

    def steps(self, n: int | None = None, *, every: Every | None = None, name: str = "steps") -> Iterator[int]:
        """Yield step numbers up to `n` (None: without end), from the step after the restored version (collective).

        Between iterations, checkpoints are taken as `every` says (default: every 60 seconds) and signals are heeded:
        SIGTERM, SIGINT and SIGUSR1 lead to a last checkpoint and `Interrupted`. `name` tells loops apart.
        """
        self._check("steps")
        if n is not None and (not isinstance(n, (int, np.integer)) or n < 0):
            raise UsageError(f"run.steps({n!r}): a number of steps, or None for no end, is needed.")
        choices = "holdfast.steps(100), seconds(60), auto() or overhead(0.02)"
        if every is not None and not isinstance(every, Every):
            raise UsageError(f"run.steps(every={every!r}): {choices} is needed.")
        if every is not None and every.versions is not None:
            raise UsageError(
                "run.steps(every=holdfast.versions(...)): a loop can't count its own checkpoints to say when it takes one. Use "
                f"{choices}; versions(n) is for a level, such as holdfast.global_(every=holdfast.versions({every.versions}))."
            )
        self._x.used = True
        return self._x.loops.iterate(self._x, None if n is None else int(n), every or DEFAULT, name)

    def checkpoint(self, wait: bool = True) -> Handle:
        """Take a checkpoint (collective). In a loop's body it takes effect at the next loop head, where the state is
        whole; outside of loops at once.

        `wait`: whether the program waits, there, until it is durable; else it goes on as soon as its state is captured, and
        `handle.wait()` waits for what is wanted. Raises CheckpointError or, with on_error="warn", warns; FencedError. What a
        checkpoint that nobody waited for failed with is raised by the next call, or at a loop head, on all ranks alike.
        """
        self._check("checkpoint")
        if not isinstance(wait, bool):
            raise UsageError(f"run.checkpoint(wait={wait!r}): True or False is needed; handle.wait(timeout=...) takes seconds.")
        self._x.used = True
        x = self._x
        x.settle()
        return x.ask(wait)

    def transaction(self, label: str) -> Transaction:
        """A record: what is `put` inside the `with` block, committed on all ranks or not at all (collective)."""
        self._check("transaction")
        self._x.used = True
        return Transaction(self._x, label)

    def rollback(self, version: int) -> None:
        """Go back to any kept checkpoint, by its number (collective); in a loop's body, at the next loop head.

        Protected objects, output files and loop positions become those of the version. Later versions stay listed as
        abandoned until pruned; their numbers never come back. UsageError if there is no such version.
        """
        self._check("rollback")
        self._x.used = True
        from .rollback import roll_back

        roll_back(self._x, version)

    def load(self, name: str, version: int | None = None, *, rank: int | None = None) -> Any:
        """A stored object, as a new object, without protecting it (local).

        `version`: a checkpoint's or record's number; None: the newest checkpoint that counts and holds `name`, else the newest
        such record. `rank`: whose value; None: this rank's own if the ranks are as many as then, else the
        global array of a sharded object. KeyError-like UsageError if there is no such object; DamageError.
        """
        if self._x.closed:
            raise UsageError("run.load: the run is closed.")
        from .loading import load

        return load(self._x, name, version, rank)

    # -- leaving ----------------------------------------------------------------------------------

    def complete(self) -> None:
        """Take a last version and mark the run complete (collective). Leaving the `with` block normally does it.

        On a run that was complete already and in which nothing was run, nothing is written.
        """
        self._check("complete")
        self._x.complete()

    def close(self) -> None:
        """Release the run without marking it complete (local, but all ranks should). Safe to call again."""
        self._x.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        x = self._x
        try:
            if error is None and x.used and not x.closed and not x.readonly and not x.forked:
                x.complete()
        except BaseException as last:
            x.end("failed", error=f"{type(last).__name__}: {last}")
            raise
        finally:
            if error is not None:
                x.step = x.step if x.loops.broken_step is None else x.loops.broken_step
                x.end("failed", error=f"{type(error).__name__}: {error}")
            x.close()

    def _check(self, call: str, writes: bool = True) -> None:
        progress = self._x.watching.progress
        if progress is not None:
            progress()
        if self._x.closed:
            raise UsageError(f"run.{call}: the run is closed.")
        if self._x.forked:
            raise UsageError(f"run.{call}: the run belongs to the process that opened it, of which this one is a child.")
        if writes and self._x.readonly:
            raise UsageError(f"run.{call}: the run was opened with mode='r', which never writes. Open it with mode='a'.")
