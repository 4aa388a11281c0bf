"""Model of the repair of a group in place: revoke, shrink, roll call, quorum, assign, make, confirm; and what may go wrong.

Processes are the crew, those with roles first, then spares. Faults, each as often as the size says, at any moment: a kill; a
stop (SIGSTOP), which health ends by killing; a call of a repair that never returns, which the process's own watchdog ends; a
cut of the network into two halves, which hold each other for dead (one half may be a process alone, which others hold for dead
and which comes back). Everyone learns of a death or a revocation when it is its turn, so at different times. What MPI promises
is what is assumed, and no more: a shrink gives all who live the same group, and may have one in it that has died meanwhile;
every other call may succeed here and fail there. The code shrinks the communicator that the crew was formed with, over and over
(group/repair/machine.py); a crew's number here is the number of that shrink.

A state is (processes, crews, faults, alarm, store):
processes  (status, phase, crew, confirmed, role, side); `crew`: the newest that it knows, `confirmed`: the one it works in
crews      (members, revoked, work revoked, next, entered, called, made, confirmed, answers): of one communicator of a crew and
           of the roles' communicator made from it; sets are bits; `revoked` and `next` by side
faults     kills, stops, hangs, cuts that may come yet
alarm      whether a watchdog has fired although no call hung
store      (newest fence, the writer that looked last, whose versions it saw, whose were reported, writers), see `_storing`
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .explorer import State, Step, replace

ALIVE, DEAD, LEFT, STOPPED, HUNG = "alive", "dead", "left", "stopped", "hung"
WORK, STAND, SHRINK, CALL, MAKE, CONFIRM = "works", "stands by", "shrink", "roll call", "make", "confirm"
REPAIRING = (SHRINK, CALL, MAKE, CONFIRM)
NONE = -1


@dataclass(frozen=True)
class Rules:
    """The protocol; each field that differs from its default is a mutation of it."""

    quorum: bool = True  # only more than half of the crew that was counted last goes on
    counts_out: str = "the dead"  # of spares those that are dead for certain, as their node sees; "the silent": cut off, too
    confirm: bool = True  # nobody goes on before all have made the new communicator
    roll_call: bool = True  # roles are given out by what all say; else by the deaths that each knows of
    one_with_a_role: bool = True  # only a crew with somebody who had a role before goes on: the others may work, unaware
    reentrant: bool = True  # a repair that meets another failure begins again at the shrink
    revokes_failed: bool = True  # ... and revokes what was made, so that the others do so too
    shrinks_newest: bool = True  # ... and shrinks the newest crew; else the one that was confirmed last
    watchdog: bool = True
    health: bool = True  # what is stopped is killed
    watches: bool = True  # who works sees that the crew is called, whatever communicator it is waiting on (crew.Watcher)
    spares_look: bool = True  # spares see deaths of those with roles, and do not wait to be called (crew.stand_by)
    fences: bool = True  # the repaired group takes an attempt of its own
    looks_after: bool = True  # who commits looks for a later fence before it reports


class Size(NamedTuple):
    roles: int
    spares: int
    kills: int = 0
    stops: int = 0
    hangs: int = 0
    cuts: int = 0
    store: bool = False


class Proc(NamedTuple):
    status: str
    phase: str
    crew: int
    confirmed: int
    role: int
    side: int


class Crew(NamedTuple):
    members: int
    revoked: tuple[bool, bool]
    work_revoked: tuple[bool, bool]
    next: tuple[int, int]
    entered: int
    called: tuple[Any, ...]  # by process: (role, confirmed, spares that it counts out), None if it has not said
    made: int
    confirmed: int
    answers: tuple[Any, ...]  # by process: the roles that it has worked out, None before


class RepairModel:
    """See the module. It ends where, on each side, all who live work in one group with every role once, or nobody lives."""

    def __init__(self, size: Size, rules: Rules | None = None) -> None:
        self.size, self.rules = size, rules or Rules()
        self.count = size.roles + size.spares
        faults = [f"{n} {what}" for n, what in zip(size[2:6], ("kills", "stops", "hangs", "cuts"), strict=True) if n]
        self.name = f"repair, {size.roles} roles + {size.spares} spares, {', '.join(faults)}"
        self.properties: dict[str, Callable[[State], bool]] = {
            "one group goes on": self._one_group,
            "all go on with the same answer": self._same_answer,
            "a watchdog fires only where a call hangs": lambda state: not state[3],
            "no report behind a later seal": self._no_late_report,
        }

    def initial(self) -> Iterator[State]:
        procs = tuple(
            Proc(ALIVE, WORK if p < self.size.roles else STAND, 0, 0, p if p < self.size.roles else NONE, 0)
            for p in range(self.count)
        )
        everyone = (1 << self.count) - 1
        roles = tuple(p.role for p in procs)
        first = self._crew(everyone)._replace(made=everyone, confirmed=everyone, answers=(roles,) * self.count)
        yield procs, (first,), tuple(self.size[2:6]), False, (1, 0, 0, 0, ((0, 0, 1, "ready"),)) if self.size.store else ()

    def _crew(self, members: int) -> Crew:
        nobody = (None,) * self.count
        return Crew(members, (False, False), (False, False), (NONE, NONE), 0, nobody, 0, 0, nobody)

    # -- what is good ----------------------------------------------------------------------------

    def _steady(self, state: State, side: int) -> int:
        """The crew in which the side works, with all roles and nobody missing; NONE if there is none."""
        procs = state[0]
        working = [p for p in procs if p.status == ALIVE and p.side == side and p.phase == WORK]
        if not working:
            return NONE
        crew: int = working[0].confirmed
        if sorted(p.role for p in working) != list(range(self.size.roles)) or any(p.confirmed != crew for p in working):
            return NONE
        return crew

    def _one_group(self, state: State) -> bool:
        return NONE in (self._steady(state, 0), self._steady(state, 1))

    def _same_answer(self, state: State) -> bool:
        procs, crews = state[0], state[1]
        for number, crew in enumerate(crews):
            here = [i for i, p in enumerate(procs) if p.status == ALIVE and p.confirmed == number]
            at_work = [i for i in here if crew.confirmed >> i & 1]
            if len({crew.answers[i] for i in at_work}) > 1:
                return False
            roles = [procs[i].role for i in at_work if procs[i].role != NONE]
            if len(roles) != len(set(roles)):
                return False
        return True

    @staticmethod
    def _no_late_report(state: State) -> bool:
        if not state[4]:
            return True
        _, newest, seen, reported, _ = state[4]
        return not reported & ~(seen | (1 << newest if newest != NONE else 0))

    def ends(self, state: State) -> bool:
        procs: tuple[Proc, ...] = state[0]
        for side in (0, 1):
            here = [p for p in procs if p.side == side and p.status not in (DEAD, LEFT)]
            if any(p.status != ALIVE or p.phase not in (WORK, STAND) for p in here):
                return False
            if here and (self._steady(state, side) == NONE or len({p.confirmed for p in here}) > 1):
                return False
        return True

    # -- steps -----------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[Step]:
        procs, crews, faults, alarm, store = state
        moved = False
        for i, p in enumerate(procs):
            if p.status == STOPPED and self.rules.health:
                moved = True
                yield f"health kills {i}, which is stopped", self._with(state, i, p._replace(status=DEAD))
            elif p.status == HUNG and self.rules.watchdog:
                moved = True
                yield f"{i}'s watchdog ends it, hung in {p.phase}", self._with(state, i, p._replace(status=LEFT))
            elif p.status == ALIVE:
                for step in getattr(self, "_" + p.phase.replace(" ", "_"))(state, i, p):
                    moved = True
                    yield step
        if not moved and self.rules.watchdog and not self.ends(state):
            # Time passes only where nothing else can happen: a deadline that is too early is a kill, and those are explored.
            hung = any(p.status in (STOPPED, HUNG) for p in procs)
            for i, p in enumerate(procs):
                if p.status == ALIVE and p.phase in REPAIRING:
                    left = replace(procs, i, p._replace(status=LEFT))
                    yield f"{i}'s watchdog ends it, waiting in {p.phase}", (left, crews, faults, alarm or not hung, store)
        yield from self._faults(state)
        if store:
            yield from self._storing(state)

    def _faults(self, state: State) -> Iterator[Step]:
        procs, crews, (kills, stops, hangs, cuts), alarm, store = state
        for i, p in enumerate(procs):
            if p.status != ALIVE:
                continue
            if kills:
                killed = replace(procs, i, p._replace(status=DEAD))
                yield f"{i} is killed", (killed, crews, (kills - 1, stops, hangs, cuts), alarm, store)
            if stops:
                stopped = replace(procs, i, p._replace(status=STOPPED))
                yield f"{i} is stopped", (stopped, crews, (kills, stops - 1, hangs, cuts), alarm, store)
            if hangs and p.phase in REPAIRING:
                hung = replace(procs, i, p._replace(status=HUNG))
                yield f"{i} hangs in {p.phase}", (hung, crews, (kills, stops, hangs - 1, cuts), alarm, store)
        if cuts:
            for half in range(1, (1 << self.count) - 1):
                if half & 1:  # the halves have no names
                    apart = tuple(p._replace(side=half >> i & 1) for i, p in enumerate(procs))
                    text = f"the network is cut: {[i for i in range(self.count) if half >> i & 1]} are on one side"
                    yield text, (apart, crews, (kills, stops, hangs, cuts - 1), alarm, store)

    def _with(self, state: State, i: int, p: Proc, number: int | None = None, crew: Crew | None = None) -> State:
        procs, crews, faults, alarm, store = state
        if crew is not None:
            assert number is not None
            crews = replace(crews, number, crew)
        return replace(procs, i, p), crews, faults, alarm, store

    def _lost(self, procs: tuple[Proc, ...], members: int, side: int) -> bool:
        """Whether, seen from a side, one of the members is dead."""
        return any(
            members >> i & 1 and (p.status in (DEAD, LEFT) or p.side != side) for i, p in enumerate(procs)
        )

    def _begin(self, state: State, i: int, p: Proc, why: str, *, work: bool = True) -> Step:
        """Revoke the crew's communicator, and that of the roles if it has one (`work`); enter the shrink."""
        number = p.crew
        crew = state[1][number]
        side = p.side
        if self.rules.revokes_failed or p.phase in (WORK, STAND):
            crew = _revoke(crew, state[0], side, work and bool(crew.made >> i & 1))
        into = number if self.rules.shrinks_newest else p.confirmed
        if into == number:
            crew = crew._replace(entered=crew.entered | 1 << i)
            return f"{i} {why}, revokes and shrinks", self._with(state, i, p._replace(phase=SHRINK), number, crew)
        after = self._with(state, i, p._replace(phase=SHRINK, crew=into), number, crew)
        older = after[1][into]
        older = older._replace(entered=older.entered | 1 << i)
        return f"{i} {why}, revokes and shrinks", self._with(after, i, after[0][i], into, older)

    def _works(self, state: State, i: int, p: Proc) -> Iterator[Step]:
        crew: Crew = state[1][p.confirmed]
        workers = sum(1 << q for q, role in enumerate(crew.answers[i]) if role != NONE)
        if crew.work_revoked[p.side] or (crew.revoked[p.side] and self.rules.watches):
            yield self._begin(state, i, p, "is interrupted")
        elif self._lost(state[0], workers, p.side):
            yield self._begin(state, i, p, "sees a death")

    def _stands_by(self, state: State, i: int, p: Proc) -> Iterator[Step]:
        crew: Crew = state[1][p.crew]
        if crew.revoked[p.side]:
            yield self._begin(state, i, p, "is called")
        elif self.rules.spares_look:
            roles = [q for q, role in enumerate(crew.answers[i]) if role != NONE]
            if any(self._lost(state[0], 1 << q, p.side) for q in roles):
                yield self._begin(state, i, p, "sees a death")

    def _shrink(self, state: State, i: int, p: Proc) -> Iterator[Step]:
        procs, crews = state[0], state[1]
        crew: Crew = crews[p.crew]
        following = crew.next[p.side]
        if following != NONE:
            yield self._enter_call(state, i, p, following)
            return
        for q, other in enumerate(procs):
            lives = crew.members >> q & 1 and other.side == p.side and other.status not in (DEAD, LEFT)
            if lives and not (other.status == ALIVE and crew.entered >> q & 1):
                return  # it is waited for
        living = sum(
            1 << q for q, o in enumerate(procs) if crew.members >> q & 1 and o.side == p.side and o.status == ALIVE
        )
        dying = [q for q, o in enumerate(procs) if crew.entered >> q & 1 and o.side == p.side and o.status in (DEAD, LEFT)]
        for group in (living, living | sum(1 << q for q in dying)) if dying else (living,):
            sides = (p.side,) if len({o.side for o in procs}) > 1 else (0, 1)
            first, second = (len(crews) if s in sides else n for s, n in enumerate(crew.next))
            shrunk = crew._replace(next=(first, second))
            child = (procs, (*replace(crews, p.crew, shrunk), self._crew(group)), *state[2:])
            text, after = self._enter_call(child, i, p, len(crews))
            yield f"{text} of {group.bit_count()}", after

    def _enter_call(self, state: State, i: int, p: Proc, number: int) -> Step:
        crew: Crew = state[1][number]
        called = replace(crew.called, i, (p.role, p.confirmed, self._counted_out(state, p)))
        after = self._with(state, i, p._replace(phase=CALL, crew=number), number, crew._replace(called=called))
        return f"{i} enters the roll call", after

    def _counted_out(self, state: State, p: Proc) -> int:
        """Spares of the crew that the process confirmed last that no quorum has to count: as many as anybody can know of. Who
        knows of fewer gives up more often, no more."""
        procs, confirmed = state[0], state[1][p.confirmed]
        roles = next(answer for answer in confirmed.answers if answer is not None)
        return sum(
            1 << q
            for q, other in enumerate(procs)
            if confirmed.members >> q & 1
            and roles[q] == NONE
            and (other.status in (DEAD, LEFT) or (self.rules.counts_out == "the silent" and other.side != p.side))
        )

    def _failed(self, state: State, i: int, p: Proc) -> Step | None:
        """What the call of a step does when it fails: because someone has died, or all of it was revoked."""
        crew: Crew = state[1][p.crew]
        if not self.rules.reentrant or not (crew.revoked[p.side] or self._lost(state[0], crew.members, p.side)):
            return None
        return self._begin(state, i, p, f"fails in {p.phase}")

    def _roll_call(self, state: State, i: int, p: Proc) -> Iterator[Step]:
        crew: Crew = state[1][p.crew]
        if (failed := self._failed(state, i, p)) is not None:
            yield failed
        members = [q for q in range(self.count) if crew.members >> q & 1]
        if any(crew.called[q] is None for q in members):
            return
        answer = self._assign(state, i, p, members)
        if answer is None:
            yield f"{i} finds that this can't be repaired, and leaves", self._with(state, i, p._replace(status=LEFT))
            return
        known = crew._replace(answers=replace(crew.answers, i, answer))
        yield f"{i} works out the roles and makes", self._with(state, i, p._replace(phase=MAKE), p.crew, known)

    def _assign(self, state: State, i: int, p: Proc, members: list[int]) -> Any:
        """The role of each process, NONE without; None if there is no quorum or no spare."""
        crews = state[1]
        crew: Crew = crews[p.crew]
        newest = max(crew.called[q][1] for q in members)  # what has been confirmed last, if only by some
        out = functools.reduce(operator.or_, (crew.called[q][2] for q in members if crew.called[q][1] == newest))
        if self.rules.quorum and 2 * len(members) <= (crews[newest].members & ~out).bit_count():
            return None
        roles = [crew.called[q][0] if q in members else NONE for q in range(self.count)]
        if self.rules.one_with_a_role and all(role == NONE for role in roles):
            return None
        if not self.rules.roll_call:
            # By what it knew before: those with a role in the group in which it worked last, and who of them is dead.
            roles = [role if q in members else NONE for q, role in enumerate(crews[p.confirmed].answers[i])]
        lacking = [role for role in range(self.size.roles) if role not in roles]
        spares = [q for q in members if roles[q] == NONE]
        if len(spares) < len(lacking):
            return None
        for q, role in zip(spares, lacking, strict=False):
            roles[q] = role
        return tuple(roles)

    def _make(self, state: State, i: int, p: Proc) -> Iterator[Step]:
        crew: Crew = state[1][p.crew]
        if (failed := self._failed(state, i, p)) is not None:
            yield failed
        if any(crew.members >> q & 1 and crew.answers[q] is None for q in range(self.count)):
            return  # one has not come to it yet
        made = crew._replace(made=crew.made | 1 << i)
        if self.rules.confirm:
            yield f"{i} has made, and confirms", self._with(state, i, p._replace(phase=CONFIRM), p.crew, made)
        else:
            yield self._go_on(self._with(state, i, p, p.crew, made), i, p)

    def _confirm(self, state: State, i: int, p: Proc) -> Iterator[Step]:
        crew: Crew = state[1][p.crew]
        if (failed := self._failed(state, i, p)) is not None:
            yield failed
        if crew.members & ~crew.made:
            return
        yield self._go_on(state, i, p)

    def _go_on(self, state: State, i: int, p: Proc) -> Step:
        crew: Crew = state[1][p.crew]
        role = crew.answers[i][i]
        phase = WORK if role != NONE else STAND
        confirmed = crew._replace(confirmed=crew.confirmed | 1 << i)
        after = self._with(state, i, p._replace(phase=phase, confirmed=p.crew, role=role), p.crew, confirmed)
        return f"{i} goes on" + (f" as rank {role}" if role != NONE else " as a spare"), after

    # -- the store: rank 0 of a group commits between two looks for a fence; that of a repaired one takes an attempt first ---

    def _storing(self, state: State) -> Iterator[Step]:
        """`writers`: (process, crew in which it writes, attempt, step), one for each group whose rank 0 has begun.

        The half that was cut off, and one that was held for dead and comes back, reach the store as well: nothing but the fence
        keeps them from it."""
        procs, crews, faults, alarm, (fence, newest, seen, reported, writers) = state

        def after(text: str, *store: Any) -> Step:
            return text, (procs, crews, faults, alarm, store)

        for i, p in enumerate(procs):
            if p.status == ALIVE and p.phase == WORK and p.role == 0 and (i, p.confirmed) not in [w[:2] for w in writers]:
                attempt = fence + 1 if p.confirmed and self.rules.fences else fence
                begun = (*writers, (i, p.confirmed, attempt, "looks"))
                yield after(f"{i} writes as attempt {attempt}", attempt, newest, seen, reported, begun)
        for k, (i, crew, attempt, step) in enumerate(writers):
            p = procs[i]
            late = fence > attempt

            def to(following: str, w: int = k, writer: Any = (i, crew, attempt)) -> Any:
                return replace(writers, w, (*writer, following))

            if p.status != ALIVE:
                continue
            if step == "looks" and late:
                yield after(f"{i} is fenced off", fence, newest, seen, reported, to("out"))
            elif step == "looks":
                there = seen | sum(1 << j for j, w in enumerate(writers) if w[3] in ("put", "told", "late"))
                yield after(f"{i} looks what there is, and seals", fence, k, there, reported, to("ready"))
            elif step == "ready" and p.phase == WORK and p.confirmed == crew:
                here = [q for q in procs if q.status == ALIVE and q.phase == WORK and q.confirmed == crew and q.side == p.side]
                if late:
                    yield after(f"{i} finds a later fence", fence, newest, seen, reported, to("out"))
                elif len(here) >= self.size.roles:  # it has heard from all
                    yield after(f"{i} has all data and finds no later fence", fence, newest, seen, reported, to("commits"))
            elif step == "commits":
                yield after(f"{i} commits", fence, newest, seen, reported, to("put"))
            elif step == "put" and late and self.rules.looks_after:
                yield after(f"{i} finds a later fence after its commit", fence, newest, seen, reported, to("late"))
            elif step == "put":
                yield after(f"{i} reports its version", fence, newest, seen, reported | 1 << k, to("told"))


def _revoke(crew: Crew, procs: tuple[Proc, ...], side: int, work: bool) -> Crew:
    sides = (side,) if len({p.side for p in procs}) > 1 else (0, 1)
    first, second = (old or s in sides for s, old in enumerate(crew.revoked))
    one, other = (old or (work and s in sides) for s, old in enumerate(crew.work_revoked))
    return crew._replace(revoked=(first, second), work_revoked=(one, other))
