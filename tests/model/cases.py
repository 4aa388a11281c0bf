"""What is explored: the protocol, and mutations of it that must be caught, among them what the code has done before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from . import placing, repairing, storing
from .explorer import ENDS, STUCK, Explored, Model, explore


class Case(NamedTuple):
    """A model and what is expected of it: the property that must be found broken, None if all must hold. `what`: for people."""

    what: str
    model: Callable[[], Model]
    broken: str | None = None

    def explore(self) -> Explored:
        return explore(self.model())

    def right(self, found: Explored) -> bool:
        return (found.broken.property if found.broken else None) == self.broken


def _case(module: Any, what: str, size: Any, broken: str | None = None, **rules: Any) -> Case:
    kind = {storing: storing.StoreModel, repairing: repairing.RepairModel, placing: placing.PlaceModel}[module]
    return Case(what, lambda: kind(size, module.Rules(**rules)), broken)


def _store(what: str, size: storing.Size, broken: str | None = None, **rules: Any) -> Case:
    return _case(storing, what, size, broken, **rules)


def _repair(what: str, size: repairing.Size, broken: str | None = None, **rules: Any) -> Case:
    return _case(repairing, what, size, broken, **rules)


def _places(what: str, size: placing.Size, broken: str | None = None, **rules: Any) -> Case:
    return _case(placing, what, size, broken, **rules)


Writers, Crew, Nodes = storing.Size, repairing.Size, placing.Size

PROTOCOL = [
    _store("store: 2 writers, 2 versions each", Writers((2, 2))),
    _store("store: 2 writers, power loss", Writers((2, 2), power=1)),
    _store("store: 2 writers, rollback", Writers((2, 1), rollback=True)),
    _store("store: 2 writers, a put fails though it was done", Writers((2, 2), put_fails=True)),
    _store("store: 3 writers, no retention", Writers((1, 1, 1), retain=False)),
    _repair("repair: 3 + 1 spare, 2 kills", Crew(3, 1, kills=2)),
    _repair("repair: 3 + 2 spares, 2 kills", Crew(3, 2, kills=2)),
    _repair("repair: 2 + 2 spares, 3 kills", Crew(2, 2, kills=3)),
    _repair("repair: 2 + 2 spares, 2 kills, nobody watches", Crew(2, 2, kills=2), watches=False),
    _repair("repair: 2 + 2 spares, a kill, a stop, a hang", Crew(2, 2, kills=1, stops=1, hangs=1)),
    _repair("repair: 2 + 3 spares, the network cut", Crew(2, 3, cuts=1)),
    _repair("repair: 1 + 3 spares, a kill, a cut", Crew(1, 3, kills=1, cuts=1)),
    _repair("repair: 2 + 1 spare, a kill, a cut, both halves at the store", Crew(2, 1, kills=1, cuts=1, store=True)),
    _repair("repair: 2 + 2 spares, a cut, both halves at the store", Crew(2, 2, cuts=1, store=True)),
    _places("places: a version, 2 losses, 2 salvages", Nodes(1, 2, 2)),
    _places("places: 2 versions, a loss, a salvage", Nodes(2, 1, 1)),
]

_WHOLE, _DURABLE, _CONFLICT = "a commit proves all data", "nothing reported is lost", "reports do not contradict"
_BEHIND = "what a seal leaves behind stays behind"
_WATCHDOG, _ONE, _ANSWER = "a watchdog fires only where a call hangs", "one group goes on", "all go on with the same answer"
_LATE = "no report behind a later seal"
_PROVES, _STORE = "a commit on a node proves all ranks' data", "a commit in the store proves all data"
_STORED = "what is durable is in the store"
_SURVIVES, _PROTECTED = "a committed version survives the job", "a protected version survives a node"

MUTATIONS = [
    _store("the commit before all data", Writers((2, 1)), _WHOLE, data_first=False),
    _store("data without fsync", Writers((2, 1)), _WHOLE, data_synced=False),
    _store("a commit without fsync", Writers((2, 1), power=1), _DURABLE, commit_synced=False),
    _store("no look for a fence before the commit", Writers((2, 1)), _WHOLE, look_before=False),
    _store("no look for a fence after the commit", Writers((2, 1)), _DURABLE, look_after=False),
    _store("a fence that overwrites", Writers((0, 1, 1), retain=False), _DURABLE, absent=False),
    _store("no second look after the fence", Writers((2, 1)), _DURABLE, look_again=False),
    _store("a base without fsync of what it names", Writers((2, 1), power=1), _DURABLE, base_synced=False),
    _store("versions before the seal", Writers((2, 1)), _DURABLE, sealed=False),
    _store("the newest fence counts, sealed or not", Writers((2, 1)), _DURABLE, newest="fenced"),
    _store("the largest number is the newest", Writers((2, 1)), _BEHIND, lineage=False),
    _store("data deleted before the commit", Writers((2, 1)), _WHOLE, commit_goes_first=False),
    _store("retention without regard to references", Writers((2, 1)), _DURABLE, keeps_refs=False),
    _store("retention before the look after the commit", Writers((2, 1)), _DURABLE, retain_when_told=False),
    _store("a version that refers behind a rollback", Writers((2, 1), rollback=True), _DURABLE, whole_after_rollback=False),
    _store("fragments with a root cleaned up", Writers((2, 1)), _WHOLE, cleans_rooted=True),
    _store("a writer removes the version whose put failed", Writers((2, 1), put_fails=True), _DURABLE, failed_removed=True),
    _repair("no quorum", Crew(2, 2, cuts=1), _ONE, quorum=False),
    _repair("a spare that is cut off is counted out", Crew(2, 2, cuts=1), _ONE, counts_out="the silent"),
    _repair("spares alone are a quorum", Crew(2, 3, cuts=1), _ONE, one_with_a_role=False),
    _repair("nobody confirms, nobody watches", Crew(2, 2, kills=2), _WATCHDOG, confirm=False, watches=False),
    _repair("roles without a roll call: one is taken twice", Crew(2, 2, kills=2), _ANSWER, roll_call=False),
    _repair("a repair that does not begin again", Crew(2, 2, kills=2), _WATCHDOG, reentrant=False),
    _repair("a repair that begins again alone", Crew(2, 2, kills=2), _WATCHDOG, revokes_failed=False),
    _repair("the confirmed crew is shrunk again, not the newest", Crew(2, 2, kills=2), ENDS, shrinks_newest=False),
    _repair("no watchdog", Crew(2, 1, kills=1, hangs=1), STUCK, watchdog=False),
    _repair("a stopped process is left alone", Crew(2, 1, stops=1), STUCK, health=False),
    _repair("spares wait to be called", Crew(2, 2, kills=2), STUCK, spares_look=False),
    _repair("a repaired group without an attempt of its own", Crew(2, 1, cuts=1, store=True), _LATE, fences=False),
    _repair("a cut off half does not look after its commit", Crew(2, 1, cuts=1, store=True), _LATE, looks_after=False),
    _places("a node's commit before all have their data", Nodes(1, 1, 1), _PROVES, agreement=False),
    _places("older versions go before there is parity", Nodes(2, 1, 0), _PROTECTED, parity_before_retain=False),
    _places("a copy's commit before all data", Nodes(1, 1, 1), _STORE, data_first=False),
    _places("a keeper that does not look for a fence", Nodes(2, 1, 1), _STORE, keeper_looks=False),
    _places("a salvage without an attempt", Nodes(2, 1, 1), _SURVIVES, salvage_fences=False),
    _places("a keeper clears what a salvage has stored", Nodes(1, 1, 1), _STORED, keeper="in place"),
    _places("a keeper's late commit in a salvage", Nodes(1, 1, 1), _STORE, keeper="in place, at once", salvage="in place"),
    _places("a salvage's late commit in the next one", Nodes(1, 1, 2), _STORE, salvage="in place"),
    _places("what is aside is emptied where it is", Nodes(1, 1, 2), _STORE, moves_away=False),
]
