"""Salvage: after a job died, the newest state that its nodes still hold is brought to the run's own store.

One process for each surviving node. An attempt is taken, so that nobody else writes; what is missing is moved and rebuilt as a
recovery does it; then the newest whole version, after those it refers to, is copied, and the base sealed on it. Killed at any
point: what was being copied counts for nothing and is removed by the next salvage or start, what has its name is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ...catalog import Base, End, find_holder, put_base, put_end, read_linked
from ...catalog.incoming import remove_incoming
from ...config import Options
from ...errors import DamageError, HoldfastError
from ...format import Link, parse_version
from ...group import Group, from_root, together
from ...group.serial import SerialGroup
from ...store import KeyMissingError, Store
from ...units import bytes_text
from ..fencing import Heartbeat, fence
from .nodes import fence_places
from .outlook import Outlook, identify, newer, open_all
from .storing import Storing
from .sweeping import sweep_places
from .view import as_store

if TYPE_CHECKING:
    from ...group.channel import Channel
    from ...recovery import RecoveryPlan

log = logging.getLogger("holdfast")


class Telling(NamedTuple):
    """For people, on process 0. `say(line)`; `progress(done, total)`: bytes."""

    say: Callable[[str], None]
    progress: Callable[[int, int], None]


class Chosen(NamedTuple):
    """What is to be brought to the run's store: `plan`, of what is not there yet; `homes`: for each rank the process that has
    it or is to have it; `why`: where there is nothing to do, why, in words, and `plan` is None."""

    plan: RecoveryPlan | None
    homes: tuple[int, ...]
    why: str


def salvage(group: Group, url: str, options: Options, takeover: bool, told: Telling) -> dict[str, Any]:
    """Bring the newest version that can be had to the run's own store (collective, one process for each node): on process 0
    `{version, step, copied: [{version, bytes}], attempt, plan, lines, asked, message}`; `version` is None where there was
    nothing to do, and then nothing was changed.

    Raises on all processes alike: RunInUseError if a holder lives and `takeover` is false; FencedError if a later attempt came;
    StorageError, DamageError, RankError: versions are as they were, and a second salvage goes on.
    """
    reading, of = identify(group, url)
    # Before anything is asked of the nodes: their places are the holder's.
    above = from_root(group, "looking for a holder", lambda: _no_holder(reading, url, options, takeover))
    job = _Salvage(group, Outlook(group, reading, of), options, told)
    job.outlook.look()
    job.tell_asked()
    chosen = job.choose()
    if chosen.plan is None:
        return job.result(chosen, None, [])
    return job.carry_through(1 if above else 0)


def _no_holder(store: Store, url: str, options: Options, takeover: bool) -> bool:
    holder = find_holder(store, options.lease)
    if holder is not None and not takeover:
        raise holder.error(url)
    return holder is not None


class _Salvage:
    """Of one process."""

    def __init__(self, group: Group, outlook: Outlook, options: Options, told: Telling) -> None:
        self.group, self.outlook, self.options, self.told = group, outlook, options, told
        self.store = outlook.store
        self.lines: list[str] = []
        self.last: dict[str, Any] = {}  # on process 0: the plan that was made last
        self._channel: Channel | None = None

    # -- from fence to seal (collective) -------------------------------------------------------------

    def carry_through(self, ahead: int) -> dict[str, Any]:
        """Take an attempt, do what there is to do, seal it. `ahead`: numbers left to a holder that lives."""
        group, of = self.group, self.outlook.of
        self.store = self.outlook.store = open_all(group, of.where, read_only=False)
        first = from_root(group, "looking what there is", lambda: self.outlook.snapshot().next_number() + ahead)
        assert isinstance(first, int)
        attempt = fence(self.store, group, first, "salvage", places=of.known)
        end = End("failed", 0.0)
        heartbeat = Heartbeat(self.store, lambda: attempt, self.options.lease) if group.rank == 0 else None
        try:
            result = self._work(attempt)
            end = End("closed", 0.0)
            return result
        except BaseException as error:
            end = end._replace(error=f"{type(error).__name__}: {error}"[:2000])
            raise
        finally:
            if heartbeat is not None:
                heartbeat.stop()
            if group.rank == 0:
                self._end(attempt, end)

    def _end(self, attempt: int, end: End) -> None:
        try:
            put_end(self.store, attempt, end._replace(time=time.time()))
        except HoldfastError as error:  # what is raised tells more
            log.debug("the end of attempt %d was not recorded: %s", attempt, error.message)

    def _work(self, attempt: int) -> dict[str, Any]:
        self._look_again(attempt)
        while True:
            chosen = self.choose()
            if chosen.plan is None:  # another salvage was faster, or what there was has turned out to be damaged
                return self.result(chosen, attempt, [])
            before = set(self.outlook.bad)
            error: DamageError | None = None
            try:
                self._bring(chosen)
                copied = self._copy_all(chosen, attempt)
                break
            except DamageError as failed:
                self._blame(failed)
                error = failed
            self._share_bad()
            if self.outlook.bad == before:  # nothing to leave out: it would be the same again
                raise error
            self._note(f"{error.message} Another source, or an older version, is looked for.")
            self.outlook.look()
        from_root(self.group, "sealing the base", lambda: self._seal(chosen, attempt))
        return self.result(chosen, attempt, copied)

    def _look_again(self, attempt: int) -> None:
        """Only what is there after the fence can't be joined by what an earlier holder still commits."""
        self.outlook.look(make=True)
        fence_places(self.group, self.outlook.places.values(), self.outlook.leads, attempt)
        sweep_places(self.outlook.places.values(), self.outlook.leads)
        if self.group.rank == 0:
            self._tidy(attempt)
        self.outlook.look()

    def _tidy(self, attempt: int) -> None:
        """What earlier attempts were copying goes: it may take the room that is needed."""
        try:
            remove_incoming(self.store, attempt)
        except HoldfastError as error:  # a later attempt is met again right away
            log.debug("what earlier attempts were copying was not removed: %s", error.message)

    # -- which version (collective) --------------------------------------------------------------------

    def choose(self) -> Chosen:
        """The newest version that can be had, if the run's own store lacks it."""
        from ...recovery import RecoveryPlan

        told = from_root(self.group, "planning the salvage", self._choose)
        assert isinstance(told, list)
        wire, homes, why = told
        return Chosen(RecoveryPlan.from_wire(wire) if wire else None, tuple(homes), str(why))

    def _choose(self) -> list[Any]:
        """On process 0: [the plan, homes, why not]."""
        from ...recovery import RecoveryPlan

        candidates, lost = self.outlook.candidates()
        self.last = {}
        if not candidates:
            why = ["there is no version, in the run's own store or on the nodes that were asked.", *newer(lost, None)]
            return [b"", [], " ".join(why)]
        found = self.outlook.plan(candidates, self._homes(candidates[0].link, candidates[0].ranks)[0])
        known = {c.link: c for c in candidates}
        if found.version is not None and not known[found.version].stored:
            # What can be had does not hang on where the ranks are at home, but how much has to be moved does.
            names, homes = self._homes(found.version, known[found.version].ranks)
            found = self.outlook.plan(candidates, names)
        self.last = found.to_body()
        beyond = newer(lost, found.version)
        self._note(*found.lines(), *beyond)
        if found.version is None:
            return [b"", [], "no version can be had."]
        if known[found.version].stored:
            number = _number(found.version)
            more = "; newer ones can't be had" if found.passed or beyond or self.outlook.bad else ""
            return [b"", [], f"the run's own store has version {number} already, the newest that can be had{more}."]
        takes = tuple(take for take in found.takes if not known[take.link].stored)
        missing = RecoveryPlan(found.nodes, takes, found.passed, found.notes)
        return [missing.to_wire(), homes, ""]

    def _homes(self, link: Link, ranks: int) -> tuple[list[str], list[int]]:
        """(nodes' names, processes) at which the ranks are at home: where they have what they hold; those that are lost are
        dealt evenly over nodes that hold anything."""
        outlook = self.outlook
        holdings = outlook.holdings
        assert holdings is not None
        homes = [""] * ranks
        for place in ("local", "memory"):  # the latter, if it has both
            holders = holdings.of.get((link.name, link.digest, place))
            if holders is not None:
                for rank, node in zip(holders.ranks[::-1].tolist(), holders.nodes[::-1].tolist(), strict=True):
                    if rank < ranks:
                        homes[rank] = holdings.nodes[node]
        alive = [one.node for one in outlook.asked if one.versions] or [outlook.node]
        counts = {node: homes.count(node) for node in alive}
        for rank in range(ranks):
            if not homes[rank]:
                homes[rank] = min(alive, key=lambda node: counts[node])
                counts[homes[rank]] += 1
        process = {node: outlook.nodes.of.index(node) for node in set(homes)}
        return homes, [process[node] for node in homes]

    # -- bringing it to its homes (collective) --------------------------------------------------------

    def _bring(self, chosen: Chosen) -> None:
        plan, group, outlook = chosen.plan, self.group, self.outlook
        assert plan is not None
        counts = plan.counts()
        if not (counts["move"] or counts["rebuild"]):
            return  # parities alone are of no use to the run's store
        from ...recovery import carry_out

        error: Exception | None = None
        try:
            carry_out(
                plan, outlook.places, self._data_channel(), homes=chosen.homes, nodes=outlook.nodes.of, domain=outlook.domain,
                commits=outlook.view.commits, timeout=self.options.timeout, tell=self._say,
            )  # fmt: skip
        except Exception as failed:
            if isinstance(failed, DamageError):
                self._blame(failed)
            error = failed
        together(group, "bringing versions to their nodes", error=error)

    def _data_channel(self) -> Channel:
        if self._channel is None:
            from ...group.channel import MPIChannel, SerialChannel

            if isinstance(self.group, SerialGroup):
                self._channel = SerialChannel()
            else:
                comm: Any = self.group.comm
                self._channel = MPIChannel(comm, self.options.timeout)
        return self._channel

    def _blame(self, error: DamageError) -> None:
        """What could not be read is not planned with again."""
        source = getattr(error, "source", None)
        if source is not None:
            self.outlook.bad.add((source.place, source.version, source.rank, source.node))

    def _share_bad(self) -> None:
        told = together(self.group, "telling what is damaged", [list(one) for one in sorted(self.outlook.bad)])
        every = [one for some in told if isinstance(some, list) for one in some]
        self.outlook.bad |= {(str(k), str(v), int(r), str(n)) for k, v, r, n in every}

    # -- and from there to the run's store (collective) -------------------------------------------------

    def _copy_all(self, chosen: Chosen, attempt: int) -> list[dict[str, Any]]:
        """What was copied, oldest first."""
        assert chosen.plan is not None
        takes = [(read_linked(as_store(self.outlook.view), take.link), take.link) for take in reversed(chosen.plan.takes)]
        total = sum(commit.nbytes for commit, _ in takes)
        self._say(f"copies {bytes_text(total)} to {self.outlook.of.where}")
        storing = Storing(self.group, self.outlook, self.store, attempt, self.told.progress, total)
        copied = []
        try:
            for commit, link in takes:
                storing.copy(commit, link, chosen.homes)
                copied.append({"version": commit.version, "bytes": commit.nbytes})
        except DamageError as failed:
            if storing.failed is not None:
                self._blame(storing.failed)
            raise failed
        return copied

    def _seal(self, chosen: Chosen, attempt: int) -> None:
        """On process 0: the next start goes on from it."""
        assert chosen.plan is not None and chosen.plan.version is not None
        tip = chosen.plan.version
        snapshot = self.outlook.snapshot()
        chain = [tip]
        entries = [entry.name for entry in snapshot.lineage]
        for entry in snapshot.lineage[entries.index(tip.name) + 1 :]:
            try:
                chain.append(snapshot.counting(entry)[1])
            except (DamageError, KeyMissingError):
                continue
        params = snapshot.sealed.base.params if snapshot.sealed and snapshot.sealed.base else None
        ranks = read_linked(self.store, tip).ranks
        put_base(self.store, attempt, Base(tip, tuple(chain[1:]), snapshot.counting_records(chain), params, ranks))

    # -- what is told (on process 0) --------------------------------------------------------------------

    def _note(self, *lines: str) -> None:
        """What belongs to the result, once."""
        for line in lines:
            if line not in self.lines:
                self.lines.append(line)
                self._say(line)

    def _say(self, line: str) -> None:
        if self.group.rank == 0:
            self.told.say(line)

    def tell_asked(self) -> None:
        """Which nodes were asked, and what each has."""
        for one in self.outlook.asked:
            self._say(one.line())

    def result(self, chosen: Chosen, attempt: int | None, copied: list[dict[str, Any]]) -> dict[str, Any]:
        """What became of it; nothing in it but on process 0."""
        if self.group.rank != 0:
            return {}
        version, step = None, None
        message = f"nothing to salvage: {chosen.why}"
        if chosen.plan is not None and chosen.plan.version is not None:
            commit = read_linked(self.store, chosen.plan.version)
            version, step = commit.version, commit.step
            at = f" (step {step})" if step is not None else ""
            message = f"the next start goes on from version {version}{at}, which is in the run's own store now"
        return {
            "version": version,
            "step": step,
            "copied": copied,
            "attempt": attempt,
            "plan": self.last,
            "lines": self.lines,
            "asked": [{**one._asdict(), "line": one.line()} for one in self.outlook.asked],
            "message": message,
        }


def _number(link: Link) -> int:
    return (parse_version(link.name) or (0, 0))[0]
