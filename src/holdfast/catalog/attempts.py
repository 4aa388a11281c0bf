"""Attempts: the fence, the lease, the sealed base, the end (docs/format.md, sections 3 and 8)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import DamageError, FencedError, RunInUseError, StorageError
from ..format import RECORD_LIMIT, Link, attempt_key, decode_record, encode_record, parse_attempt
from ..format.keys import MAX_NUMBER, RUN_KEY
from ..format.records import count, field, seconds
from ..store import KeyExistsError, KeyMissingError, Store
from .process import Process

CHAIN = 1000  # versions of the lineage that a base names

# Words of `holdfast run` to the ranks of its program, no options of the library: a name for this start of the program, and
# (separated by commas) those of its earlier starts that are over, because the launcher that it started has left.
EXECUTION = "_HOLDFAST_EXECUTION"
ENDED = "_HOLDFAST_ENDED"


class End(NamedTuple):
    """How an attempt ended: `complete`, `interrupted`, `failed` (its last checkpoint, or an exception) or `closed`."""

    outcome: str
    time: float
    version: int | None = None
    step: int | None = None
    signal: str | None = None
    error: str | None = None


class Base(NamedTuple):
    """What an attempt goes on from, settled by agreement and sealed; `version` None: from the beginning."""

    version: Link | None
    chain: tuple[Link, ...]
    records: tuple[str, ...]
    params: dict[str, Any] | None
    ranks: int


class Attempt(NamedTuple):
    """One execution of the run. `damaged` says what is wrong with its records; it fences all the same."""

    number: int
    kind: str = "run"
    created: float = 0.0
    first_version: int = 1
    ranks: int = 0
    holder: Process | None = None
    processes: tuple[Process, ...] = ()
    sealed: bool = False
    base: Base | None = None
    end: End | None = None
    damaged: str | None = None
    where: str | None = None  # the directory as the holder knew it
    places: tuple[tuple[str, str], ...] = ()  # kind and directory of the places that nodes had for it
    execution: str | None = None  # the supervisor's name for the start of the program that it belongs to


def list_attempts(store: Store) -> dict[int, set[str]]:
    """Which files each attempt has, by number. Content does not matter: a damaged fence is a fence."""
    found: dict[int, set[str]] = {}
    for name in store.list("attempts"):
        parsed = parse_attempt(name)
        if parsed:
            found.setdefault(parsed[0], set()).add(parsed[1])
    return found


def read_attempt(store: Store, number: int, suffixes: set[str]) -> Attempt:
    """All that is known of an attempt; what can't be read is said in `damaged`."""
    complaints: list[str] = []
    values: dict[str, Any] = {"number": number, "sealed": "base" in suffixes}
    for suffix in ("json", "base", "end"):
        key = attempt_key(number, suffix)
        if suffix not in suffixes:
            if suffix == "json":
                complaints.append(f"{key} is missing")
            continue
        try:
            body, _, bad = decode_record(store.get(key, RECORD_LIMIT), key)
            complaints += bad
            values |= parse_attempt_record(body, number, suffix, key)
        except (DamageError, KeyMissingError) as error:
            complaints.append(error.message)
    return Attempt(**values, damaged="; ".join(complaints) or None)


def parse_attempt_record(body: dict[str, Any], number: int, suffix: str, key: str) -> dict[str, Any]:
    """What the record `suffix` of attempt `number` says, as members of `Attempt`; DamageError if it is malformed."""
    if count(body, "attempt", key) != number:
        raise DamageError(f"{key}: this record belongs to another attempt", file=key)
    parse = {"json": _fence_values, "base": _base_value, "end": _end_value}.get(suffix)
    try:
        return parse(body, key) if parse is not None else {}
    except DamageError as error:
        raise error if error.file else DamageError(f"{key}: {error.message}", file=key) from None


def _fence_values(body: dict[str, Any], key: str) -> dict[str, Any]:
    return {
        "kind": field(body, "kind", str, key),
        "created": seconds(body, "created", key),
        "first_version": count(body, "first_version", key, least=1),
        "ranks": count(body, "ranks", key, least=1),
        "holder": Process.parse(body.get("holder")),
        "where": where if isinstance(where := body.get("where"), str) else None,
        "execution": execution if isinstance(execution := body.get("execution"), str) else None,
        "processes": tuple(map(Process.parse, field(body, "processes", list, key))),
        "places": tuple(_place(value, key) for value in body.get("places") or ()),
    }


def _place(value: Any, key: str) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(word, str) for word in value):
        raise DamageError(f"{key}: member 'places' is malformed", file=key)
    return value[0], value[1]


def _base_value(body: dict[str, Any], key: str) -> dict[str, Any]:
    chain = tuple(link for link in map(Link.parse, field(body, "chain", list, key)) if link)
    records = tuple(r for r in field(body, "records", list, key) if isinstance(r, str))
    params = field(body, "params", (dict, type(None)), key)
    return {"base": Base(Link.parse(body.get("version")), chain, records, params, count(body, "ranks", key, least=1))}


def _end_value(body: dict[str, Any], key: str) -> dict[str, Any]:
    def text(name: str) -> Any:
        return field(body, name, (str, type(None)), key)

    end = End(
        field(body, "outcome", str, key),
        seconds(body, "time", key),
        count(body, "version", key, none=True),
        count(body, "step", key, none=True),
        text("signal"),
        text("error"),
    )
    return {"end": end}


def known_places(store: Store, last: int = 8) -> list[tuple[str, str]]:
    """(kind, directory) of the places on nodes that the newest attempts had, each kind once, the newest's. What can't be read
    is passed over: the places are then those that the program names."""
    found: dict[str, str] = {}
    attempts = list_attempts(store)
    for number in sorted(attempts, reverse=True)[:last]:
        for kind, root in read_attempt(store, number, attempts[number] & {"json"}).places:
            found.setdefault(kind, root)
    return list(found.items())


# -- who holds the run ----------------------------------------------------------------------


class Holder(NamedTuple):
    """The holder of a run that is in use: its attempt, those of its processes that live here, and a sentence."""

    attempt: int
    living: tuple[Process, ...]
    text: str

    def error(self, where: str) -> RunInUseError:
        return RunInUseError(
            f"The run {where} is in use: {self.text}. Nothing was changed. Wait for it, end it, "
            "or take the run from it with takeover=True (it gets FencedError at its next checkpoint).",
            file=where,
        )


def find_holder(store: Store, lease: float, repaired: bool = False) -> Holder | None:
    """Who holds the run, or None if it is free. `repaired`: it is free, too, if the holder belongs to the same start of the
    program: a group of ranks that has been repaired takes the place of its own attempt.

    On this host a process either lives or it does not. Of a holder on another host only its lease tells:
    it counts as living until the lease has not been refreshed for `lease` seconds, by the store's clock, unless our
    own supervisor has seen the end of the launcher that it belonged to. A rank that outlives its launcher all the same, cut
    off from it, is fenced off like any other writer: waiting for its lease would add time, not safety.
    """
    found = list_attempts(store)
    if not found:
        return None
    number = max(found)
    if "end" in found[number]:
        return None
    attempt = read_attempt(store, number, found[number])
    if attempt.where is not None and store.is_copy(attempt.where, RUN_KEY):
        return None  # with its records it has copied its holder's, who holds the original
    if repaired and attempt.execution is not None and attempt.execution == os.environ.get(EXECUTION):
        return None
    everyone = {p for p in (attempt.holder, *attempt.processes) if p is not None}
    living = tuple(sorted((p for p in everyone if p.here and p.alive), key=lambda p: p.pid))
    if living:
        pids = ", ".join(str(p.pid) for p in living[:8]) + (", …" if len(living) > 8 else "")
        return Holder(number, living, f"attempt {number} lives here, process {pids} on {living[0].host}")
    if everyone and all(p.here for p in everyone):
        return None
    if attempt.execution is not None and attempt.execution in os.environ.get(ENDED, "").split(","):
        return None
    try:
        age = store.age(attempt_key(number, "lease"))
    except KeyMissingError:
        return None  # it died before it had a lease, and so before it wrote anything
    if age >= lease:
        return None
    host = attempt.holder.host if attempt.holder else "an unknown host"
    text = f"attempt {number} on {host} gave a sign {age:.0f} s ago (its lease ends after {lease:.0f} s without one)"
    return Holder(number, (), text)


# -- the four records -----------------------------------------------------------------------


def put_fence(
    store: Store,
    kind: str,
    ranks: int,
    holder: dict[str, Any],
    processes: Sequence[dict[str, Any]],
    first_version: int,
    above: int = 0,
    places: Sequence[tuple[str, str]] = (),
) -> int:
    """Fence off all earlier attempts; the new attempt's number, greater than `above`. Of two at once the later wins."""
    for _ in range(100):
        number = max([*list_attempts(store), above]) + 1
        if number > MAX_NUMBER:
            raise DamageError(f"Attempt numbers end at {MAX_NUMBER}; the run's are damaged.", file="attempts")
        body = {
            "attempt": number,
            "kind": kind,
            "created": time.time(),
            "first_version": first_version,
            "ranks": ranks,
            "holder": holder,
            "processes": list(processes),
            "where": store.location,
            **({"places": [list(place) for place in places]} if places else {}),
        }
        if execution := os.environ.get(EXECUTION):
            body["execution"] = execution
        with contextlib.suppress(KeyExistsError):
            store.put(attempt_key(number, "json"), encode_record(body)[0])
            store.put(attempt_key(number, "lease"), encode_record({"attempt": number})[0])
            return number
    raise StorageError("No attempt could be fenced: 100 others were faster. Start again.", file="attempts")


def check_fence(store: Store, number: int) -> None:
    """FencedError if a later attempt exists."""
    found = list_attempts(store)
    if number not in found:
        raise StorageError(
            f"The record of attempt {number} is gone: the run's directory was deleted or replaced while it was in use. Nothing "
            "that this process writes there counts. End this process.",
            file=attempt_key(number, "json"),
        )
    newest = max(found)
    if newest > number:
        raise FencedError(
            f"Attempt {number} is fenced off: attempt {newest} has taken the run over. Nothing that this process "
            "writes from now on counts. Versions it reported before are safe. End this process."
        )


def put_base(store: Store, number: int, base: Base) -> None:
    """Seal the base of attempt `number`; FencedError if it has been fenced off before or meanwhile."""
    check_fence(store, number)
    for link in (base.version, *base.chain):
        if link is not None:
            # The commit of a writer that died may be visible and yet not durable: what is built on must be.
            with contextlib.suppress(KeyMissingError):
                store.sync(f"versions/{link.name}")
    body = {
        "attempt": number,
        "sealed": time.time(),
        "version": base.version.plain() if base.version else None,
        "chain": [link.plain() for link in base.chain[:CHAIN]],
        "records": list(base.records),
        "params": base.params,
        "ranks": base.ranks,
    }
    store.put(attempt_key(number, "base"), encode_record(body)[0])
    check_fence(store, number)


def put_end(store: Store, number: int, end: End) -> None:
    """Record how attempt `number` ended, once; a second end is ignored."""
    body = {
        "attempt": number,
        "outcome": end.outcome,
        "time": end.time,
        "version": end.version,
        "step": end.step,
        "signal": end.signal,
        "error": end.error,
    }
    with contextlib.suppress(KeyExistsError):
        store.put(attempt_key(number, "end"), encode_record(body)[0])
