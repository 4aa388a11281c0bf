"""Opening a run: options, ranks, the place, who else has it, a fence, and what there is to resume from."""

from __future__ import annotations

import json
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..catalog import Snapshot, find_holder, known_places
from ..config import Options, load
from ..errors import ConfigError, DamageError, MismatchError, RunInUseError, UsageError
from ..format import decode_record, encode_record
from ..format.keys import RUN_KEY, attempt_key
from ..format.records import FORMAT, RECORD_LIMIT
from ..group import SERIAL, Group, at_root, from_root, launcher_ranks, make_background, make_group, spare_processes
from ..policy import Keep
from ..store import KeyMissingError, Store, open_store
from .execution import Execution
from .fencing import Heartbeat, fence
from .handle import Handle
from .reporting import report_begun
from .resume import Resume
from .run import Run
from .watching import Watching

if TYPE_CHECKING:
    from ..health import Event
    from .levels import Levels

log = logging.getLogger("holdfast")


def open(
    url: str | os.PathLike[str],
    *,
    comm: Any = None,
    params: Mapping[str, Any] | None = None,
    keep: Keep | None = None,
    on_error: Literal["raise", "warn"] | None = None,
    takeover: bool | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    mode: Literal["a", "r"] = "a",
    **options: Any,
) -> Run:
    """Open the run at `url`, a directory or `file://` URL, and take its next attempt (collective over `comm`).

    comm: an mpi4py communicator, or `holdfast.SERIAL`; None means serial, and is an error under a launcher with
    several ranks. params: a plain dict that says which computation this is; a resume with other values is an
    error (`params_changed="accept"` takes them). keep: which versions retention leaves (default the last 2). on_error: what a
    failed checkpoint does, "raise" (default) or "warn". takeover: take the run from a holder that lives. config: an
    option file's path, or a mapping. mode: "a" resumes or begins, "r" reads and never writes. Further options: `signals`,
    `params_changed`, `objects_changed`, `ranks_changed`, `timeout`, `lease`, `threads`, `capture`, `staging`, `arena`,
    `incremental`, `max_chain`, `overlap`, `engine`, `time_limit`, `stall_timeout`, `levels` (see `holdfast.config.Options`);
    all can stand in `holdfast.toml` and as HOLDFAST_* in the environment.

    Raises ConfigError, UsageError, RunInUseError, MismatchError (params, ranks), StorageError, DamageError.
    """
    return open_run(url, comm, params, config, mode, {"keep": keep, "on_error": on_error, "takeover": takeover, **options})


class Before(NamedTuple):
    """What a process knows of the executions before, where `launch` opens the run. `repairs`: how often the ranks' group has
    been repaired, after which it takes the place of its own attempt, the number of which is `attempt` (0: not known here);
    `health`: what this process has found out until then."""

    repairs: int = 0
    attempt: int = 0
    health: Sequence[Event] = ()


def open_run(
    url: str | os.PathLike[str],
    comm: Any = None,
    params: Mapping[str, Any] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    mode: str = "a",
    options: Mapping[str, Any] | None = None,
    before: Before | None = None,
) -> Run:
    """What `open` does. `before`: None where the program itself opens the run."""
    if not isinstance(url, (str, os.PathLike)):
        raise UsageError(f"holdfast.open({url!r}): a path or a file:// URL is needed.")
    chosen = load(dict(options or {}), config)
    if before is None and mode == "a" and spare_processes():
        raise UsageError(
            "This program was started with spares (holdfast run --spares), which only holdfast.launch can put in the place of "
            "lost ranks. Nothing was started. Call holdfast.launch(main, url), or leave --spares out."
        )
    if mode not in ("a", "r"):
        raise ConfigError(f"holdfast.open(mode={mode!r}): 'a' (resume or begin) or 'r' (read only) is needed.")
    if comm is None and mode == "a" and (n := launcher_ranks()) > 1:
        raise UsageError(
            f"This program was started with {n} ranks, and holdfast.open was not told how to reach them. "
            "Pass comm=MPI.COMM_WORLD "
            "(from mpi4py import MPI) if they are one run, or comm=holdfast.SERIAL if each rank has a run of its own."
        )
    group = make_group(comm, chosen.timeout)
    if mode == "r":
        return Run(_open_readonly(url, group, chosen))
    return Run(_open(url, group, chosen, _plain(params), before or Before()))


def _open_readonly(url: str | os.PathLike[str], group: Group, options: Options) -> Execution:
    store = open_store(url, create=False, read_only=True)
    snapshot = Snapshot(store)
    if not snapshot.attempts and not snapshot.names["checkpoint"]:
        raise UsageError(f"There is no run at {os.fspath(url)!r}.", file=os.fspath(url))
    resume = Resume(store, group, _candidates(snapshot), options.threads, options.objects_changed == "error")
    return Execution(_where(store), store, group, None, options, resume, None, 0, 0)


def _open(
    url: str | os.PathLike[str],
    group: Group,
    options: Options,
    params: dict[str, Any] | None,
    before: Before,
) -> Execution:
    watching = Watching()
    watching.recall(before.health)
    group = watching.mark(group)
    # Rank 0 makes the place and looks; the others open it when it is there.
    # Who has taken a lost one's place, rank 0's too, knows of no attempt before.
    told = at_root(
        group,
        "opening the run",
        before.attempt,
        lambda attempts: _prepare(url, options, before._replace(attempt=max(attempts))),
    )
    assert isinstance(told, dict)
    where, known = told["where"], [(kind, root) for kind, root in told["places"]]
    error: Exception | None = None
    store: Store | None = None
    try:
        store = open_store(where, create=False)
    except Exception as failed:
        error = failed
    levels: Levels | None = None
    if options.levels is not None or group.size > 1 or known:
        from .levels import climb  # most serial programs have none

        levels = climb(group, store, options, told["run"], where, known, error)
    elif error is not None:
        raise error
    assert store is not None
    reading = levels.store if levels is not None else store
    found = from_root(group, "looking what there is", lambda: _look(reading, options, params, group.size))
    assert isinstance(found, dict)
    roots = levels.roots if levels is not None else ()
    attempt = fence(store, group, found["first"], above=found["attempt"], places=roots)
    # Looked at again: only what is there *after* our fence can't be joined by what an earlier holder still commits.
    # Numbers too: what it committed meanwhile has had its own.
    if levels is not None:
        levels.fence(attempt, sweep=True)
    again = from_root(group, "looking again", lambda: _look(reading, options, params, group.size))
    assert isinstance(again, dict)
    candidates = [(name, digest) for name, digest in again["candidates"]]
    recovery = levels.recovery if levels is not None else None
    resume = Resume(reading, group, candidates, options.threads, options.objects_changed == "error", recovery)
    background = make_background(group, options.timeout) if options.overlap != "off" else None
    if background is None and options.overlap != "off" and group.rank == 0:
        log.warning(
            "MPI was not initialised with THREAD_MULTIPLE: versions can't be committed beside the program, which "
            "waits for each checkpoint until it is durable."
        )
    execution = Execution(
        where, store, group, background, options, resume, again["params"], attempt, again["next"]
    )
    if levels is not None:
        execution.levels = levels
        levels.begin(execution.writer)
    if group.rank == 0:
        heartbeat = Heartbeat(store, lambda: execution.writer.attempt, options.lease)
        execution.closers.append(heartbeat.stop)
        report_begun(where, attempt)
    execution.watching = watching
    execution.files.shared = bool(told["taken"])
    if group.size > 1 or options.stall_timeout is not None:
        _watch(execution, told["run"])
    return execution


def _watch(execution: Execution, run: str) -> None:
    """Stand on this node's board until the execution ends, or is forgotten (local)."""
    watching, writer = execution.watching, weakref.ref(execution.writer)

    def flying() -> Handle | None:
        w = writer()
        return None if w is None else w.flying

    watching.join(run, execution.writer.attempt, execution.group.rank, execution.options.stall_timeout, flying)
    # At exit `execution` sees to it itself, before MPI ends.
    weakref.finalize(execution, watching.stop).atexit = False


def _prepare(url: str | os.PathLike[str], options: Options, before: Before) -> dict[str, Any]:
    """On rank 0: the directory, the run's identity, and nobody else in it. Returns its absolute path, the run's id, and the
    places on nodes that its attempts had."""
    store = open_store(url, create=True)
    where = _where(store)
    if before.attempt and not store.exists(attempt_key(before.attempt, "json")):  # the lease is put again and again
        raise DamageError(
            f"Attempt {before.attempt}, which this job has begun there, is not in {where!r}: the directory was emptied or "
            "exchanged, or what was mounted there is gone. Nothing was changed; the job does not go on, it would begin anew. "
            "Bring the directory back and start the program again.",
            file=where,
        )
    if not store.exists(RUN_KEY) and not store.list("attempts") and (others := store.strangers()):
        raise UsageError(
            f"{where!r} is not empty and holds no run ({others[0]!r} is there). Nothing was changed. "
            "Name a directory of its own for the run, such as runs/heat.",
            file=where,
        )
    repaired = before.repairs > 0
    if not repaired:  # else an attempt of this job has done it
        store.sync_root()
    run = _identify(store)
    holder = find_holder(store, options.lease, repaired)
    if holder is not None:
        grace = os.environ.get("HOLDFAST_SUPERVISED")
        if grace and holder.living:
            # Ranks whose supervisor is gone, found by the next supervisor's program: asked for a last checkpoint, ended.
            from ..catalog.eviction import abandoned, evict

            left = [p for p in holder.living if p.pid != os.getpid() and abandoned(p)]
            if left:
                log.warning(
                    "%d process%s that a killed supervisor has left hold%s the run: asked for a last checkpoint, then ended",
                    len(left), "es" * (len(left) != 1), "s" * (len(left) == 1),
                )  # fmt: skip
            evict(left, float(grace))
            holder = find_holder(store, options.lease)
        if holder is not None and not options.takeover:
            raise holder.error(where)
    places = [list(place) for place in known_places(store)]
    return {"where": where, "run": run, "places": places, "taken": holder is not None}


def _identify(store: Store) -> str:
    """The run's id, from its identity file, which is made anew if it is missing or damaged. ConfigError for a newer format."""
    try:
        body, _, complaints = decode_record(store.get(RUN_KEY, RECORD_LIMIT), RUN_KEY)
        if body.get("format") != FORMAT:
            raise ConfigError(
                f"The run has format {body.get('format')!r}; this Holdfast reads and writes format {FORMAT}. "
                "Nothing was changed. Use the version of Holdfast that made it.",
                file=RUN_KEY,
            )
        if not complaints:
            return str(body.get("run", ""))
    except KeyMissingError:
        body = {"format": FORMAT, "run": os.urandom(16).hex(), "created": time.time()}
    except DamageError:
        body = {"format": FORMAT, "run": os.urandom(16).hex(), "created": time.time()}
        store.delete(RUN_KEY)
    else:
        store.delete(RUN_KEY)
    store.put(RUN_KEY, encode_record(body)[0])
    return str(body.get("run", ""))


def _look(store: Store, options: Options, params: dict[str, Any] | None, ranks: int) -> dict[str, Any]:
    """On rank 0: candidates to resume from, the next version's number, parameters; MismatchError."""
    snapshot = Snapshot(store)
    sealed = snapshot.sealed
    base = sealed.base if sealed else None
    if snapshot.lost_base:
        raise DamageError(
            f"The base of attempt {sealed.number if sealed else 0} can't be read, and no version tells it. "
            "Nothing was changed. "
            "Look with `holdfast ls` and choose a version with `holdfast rollback`.",
            file="attempts",
        )
    stored = base.params if base else None
    if params is not None and stored is not None and params != stored and options.params_changed == "error":
        raise MismatchError(_difference(stored, params))
    candidates = _candidates(snapshot)
    _check_ranks(snapshot, ranks, options)
    number = snapshot.next_number()
    return {
        "candidates": [list(c) for c in candidates],
        "first": number + (1 if find_holder(store, options.lease) else 0),
        "next": number,
        "attempt": snapshot.newest_attempt,
        "params": params if params is not None else stored,
    }


def _candidates(snapshot: Snapshot) -> list[tuple[str, str]]:
    """The lineage, newest first, without fragments: (name, digest that its commit must have or "")."""
    # What is missing altogether is named first: to be told, and to be no new beginning if nothing else is there.
    return [(entry.name, getattr(entry, "digest", "")) for entry in snapshot.missing] + [
        (entry.name, getattr(entry, "digest", ""))
        for entry in snapshot.lineage
        if hasattr(entry, "digest")
        or snapshot.store.exists(f"versions/{entry.name}/commit")
        or entry.name == snapshot.last_told  # its commit is lost: to be named, not passed by as if it had never been
    ]


def _check_ranks(snapshot: Snapshot, ranks: int, options: Options) -> None:
    for entry in snapshot.lineage:
        try:
            commit, _ = snapshot.counting(entry)
        except (DamageError, KeyMissingError):
            continue
        if commit.ranks != ranks and options.ranks_changed == "error":
            raise MismatchError(
                f"Version {commit.version} was written by {commit.ranks} ranks; this program has {ranks}. Nothing was "
                f"changed. Start it with {commit.ranks} ranks, or accept with holdfast.open(..., ranks_changed='accept'): "
                "sharded arrays are then cut anew, replicated objects restored, and what belonged to single ranks keeps the "
                "program's own value.",
                version=commit.version,
            )
        return


def _plain(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`params` as it will come back from the store: what JSON can hold."""
    if params is None:
        return None
    try:
        text = json.dumps(dict(params), allow_nan=False, ensure_ascii=False)
        plain = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise UsageError(f"holdfast.open(params=...): only plain values can be stored ({error}).") from None
    assert isinstance(plain, dict)
    return plain


def _difference(stored: dict[str, Any], given: dict[str, Any]) -> str:
    lines = []
    for key in sorted({*stored, *given}):
        if key not in given or key not in stored or stored[key] != given[key]:
            old = repr(stored[key]) if key in stored else "nothing"
            new = repr(given[key]) if key in given else "nothing"
            lines.append(f"  {key}: stored {old}, given {new}")
    return (
        "The run was made with other parameters:\n" + "\n".join(lines) + "\nNothing was changed. Start the program with the "
        "stored ones, use another run, or accept with holdfast.open(..., params_changed='accept')."
    )


def _where(store: Store) -> str:
    return str(store.location)


__all__ = ["SERIAL", "RunInUseError", "open"]
