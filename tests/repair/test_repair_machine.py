"""The repair's state machine in a world without MPI: deaths at any step, in any order, on any number of processes.

Each process is a thread, the world lets one of them run at a time and decides, by a seed, who goes on at each point where they
meet, who dies there, and who is told of it: a collective step ends well on some processes and fails on others, as with MPI.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import RepairError
from holdfast.group.repair.machine import NO_ROLE, Card, Lost, Plan, assign, repair

STEPS = ("shrink", "roll call", "make", "confirm")


class Death(BaseException):
    """The process that it is raised in dies."""


class World:
    """Processes that meet in collective steps.

    dies: {(process, step, n)}: it dies when it comes to that step for the n-th time, before its part in it (False) or right
    after (True). seed: of the luck that decides who learns of a failure during a step.
    """

    def __init__(self, processes: int, dies: dict[tuple[int, str, int], bool], seed: int, fragile: int) -> None:
        self.alive = frozenset(range(processes))
        self.fragile = fragile  # how often a step may fail on one process alone
        self.dies = dies
        self.luck = random.Random(seed)
        self.changed = threading.Condition()
        self.shrinking: dict[int, list[int] | None] = {}  # process: crew it is given
        self.crews: list[Crew] = []

    def die(self, process: int) -> None:
        with self.changed:
            self.alive -= {process}
            self._release()
            self.changed.notify_all()
        raise Death

    def shrink(self, process: int) -> Crew:
        with self.changed:
            self.shrinking[process] = None
            self._release()
            self.changed.notify_all()
            self._wait(lambda: self.shrinking.get(process) is not None)
            number = self.shrinking.pop(process)
            assert number is not None
            if self.fails_alone():
                raise Lost("Shrink failed here, and not on others")
            return self.crews[number[0]]

    def fails_alone(self) -> bool:
        """Whether a step fails on one process although nothing is wrong: its deadline has passed, or MPI is at fault."""
        if self.fragile and self.luck.random() < 0.3:
            self.fragile -= 1
            return True
        return False

    def _release(self) -> None:
        """All that live are in Shrink, none has been released before: they are the next crew."""
        waiting = {p for p, given in self.shrinking.items() if given is None and p in self.alive}
        if waiting and waiting == self.alive:
            self.crews.append(Crew(self, sorted(waiting)))
            for process in waiting:
                self.shrinking[process] = [len(self.crews) - 1]
            self.changed.notify_all()

    def _wait(self, ready: Any) -> None:
        assert self.changed.wait_for(ready, 20), "a process waits for ever"


class Crew:
    """A communicator: collective steps on it need all of its members, alive and not called off."""

    def __init__(self, world: World, members: list[int]) -> None:
        self.world, self.members = world, members
        self.revoked = False
        self.calls: dict[str, dict[int, Any]] = {}

    def meet(self, what: str, process: int, value: Any) -> list[Any]:
        """Everyone's values, in order; Lost if somebody is gone or it is called off before all have come, and sometimes even if
        all had come before somebody died."""
        world = self.world
        with world.changed:
            given = self.calls.setdefault(what, {})
            given[process] = value
            world.changed.notify_all()
            world._wait(lambda: len(given) == len(self.members) or self._broken())
            unlucky = (self._broken() and world.luck.random() < 0.5) or world.fails_alone()
            if len(given) < len(self.members) or unlucky:
                raise Lost(f"{what} failed")
            return [given[member] for member in self.members]

    def compute(self, process: int) -> bool:
        """Compute until all of the crew do, or until it is called off: then False."""
        with self.world.changed:
            computing = self.calls.setdefault("computing", {})
            computing[process] = True
            self.world.changed.notify_all()
            self.world._wait(lambda: self._called_off() or len(computing) == len(self.members))
            return not self._called_off()

    def _broken(self) -> bool:
        """Called off, or a deadline will pass: somebody waits in Shrink for those who wait here."""
        elsewhere = {p for p, given in self.world.shrinking.items() if given is None} & set(self.members)
        return self._called_off() or bool(elsewhere)

    def _called_off(self) -> bool:
        return self.revoked or not set(self.members) <= self.world.alive

    def revoke(self) -> None:
        with self.world.changed:
            self.revoked = True
            self.world.changed.notify_all()


class Means:
    """`machine.Means` of one process in the world."""

    def __init__(self, world: World, process: int, processes: int) -> None:
        self.world, self.process = world, process
        self.confirmed: Sequence[int] = range(processes)
        self.crew: Any = None
        self.counts: dict[str, int] = {}

    @contextlib.contextmanager
    def at(self, step: str) -> Iterator[None]:
        number = self.counts[step] = self.counts.get(step, 0) + 1
        after = self.world.dies.get((self.process, step, number))
        if after is False:
            self.world.die(self.process)
        try:
            yield
        finally:
            if after is True:
                self.world.die(self.process)

    def revoke(self) -> None:
        if self.crew is not None:
            self.crew.revoke()

    def gone(self) -> tuple[int, int]:
        with self.world.changed:
            return len(self.confirmed) - len(self.world.alive & set(self.confirmed)), 0

    def shrink(self) -> None:
        with self.at("shrink"):
            self.crew = self.world.shrink(self.process)

    def me(self) -> int:
        place: int = self.crew.members.index(self.process)
        return place

    def roll_call(self, card: Card, seconds: float) -> list[Card]:
        with self.at("roll call"):
            return list(self.crew.meet("roll call", self.process, card))

    def make(self, roles: Sequence[int]) -> Any:
        with self.at("make"):
            given = self.crew.meet("make", self.process, roles[self.me()])
            assert all(role == mine for role, mine in zip(roles, given, strict=True))
            return tuple(sorted(role for role in given if role != NO_ROLE)) if roles[self.me()] != NO_ROLE else None

    def confirm(self, digest: int, seconds: float) -> bool:
        with self.at("confirm"):
            return len(set(self.crew.meet("confirm", self.process, digest))) == 1


class Process:
    """What `crew.Crew` does with the machine: repairs, goes on, and repairs again when it is called back."""

    def __init__(self, world: World, number: int, ranks: int, processes: int) -> None:
        self.world, self.number, self.ranks = world, number, ranks
        self.card = Card(number if number < ranks else NO_ROLE, 0, processes)
        self.comm: Any = None
        self.end = ""
        self.means = Means(world, number, processes)
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            while True:
                done = repair(
                    self.means, self.card, self.ranks, step_seconds=20, whole_seconds=60,
                    step=lambda what, seconds: contextlib.nullcontext(),
                )  # fmt: skip
                self.card, self.comm, self.means.confirmed = done.card, done.comm, self.means.crew.members
                if self.means.crew.compute(self.number):
                    self.end = "computing"
                    return
                self.means.crew.revoke()
        except Death:
            self.end = "dead"
        except RepairError:
            self.end = "gave up"
            with contextlib.suppress(Death):
                self.world.die(self.number)
        except BaseException as error:
            self.end = f"{type(error).__name__}: {error}"
            with contextlib.suppress(Death):
                self.world.die(self.number)


def play(
    ranks: int, spares: int, first: set[int], dies: dict[tuple[int, str, int], bool], seed: int, fragile: int = 0
) -> list[Process]:
    world = World(ranks + spares, dies, seed, fragile)
    processes = [Process(world, number, ranks, ranks + spares) for number in range(ranks + spares)]
    world.alive -= first
    for process in processes:
        if process.number in first:
            process.end = "dead"
        else:
            process.thread.start()
    for process in processes:
        if process.end != "dead" or process.number not in first:
            process.thread.join(30)
            assert not process.thread.is_alive(), f"process {process.number} hangs"
    return processes


def judge(processes: list[Process], ranks: int) -> str:
    """All living have the same outcome; if they compute, every role is held once, in a communicator of all roles."""
    ends = {p.end for p in processes if p.end != "dead"}
    assert ends <= {"computing", "gave up"} and len(ends) <= 1, [p.end for p in processes]
    if ends != {"computing"}:
        return "gave up"
    alive = [p for p in processes if p.end == "computing"]
    assert sorted(p.card.role for p in alive if p.card.role != NO_ROLE) == list(range(ranks))
    assert len({(p.card.repairs, p.card.counted) for p in alive}) == 1 and alive[0].card.counted == len(alive)
    assert all(p.comm == (tuple(range(ranks)) if p.card.role != NO_ROLE else None) for p in alive)
    return "computing"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", range(6))
def test_a_second_death_at_any_step_is_repaired_with_the_other_spare(victim: int, step: str, after: bool) -> None:
    for seed in range(3):
        processes = play(4, 2, {1}, {(victim, step, 1): after} if victim != 1 else {}, seed)
        assert judge(processes, 4) == "computing"
        moved = [p for p in processes if p.end == "computing" and p.number != p.card.role != NO_ROLE]
        assert all(p.number >= 4 for p in moved)  # who had a role keeps it


@pytest.mark.parametrize("step", STEPS)
def test_more_deaths_than_spares_end_all(step: str) -> None:
    for seed in range(3):
        processes = play(6, 1, {2}, {(4, step, 1): False}, seed)
        assert judge(processes, 6) == "gave up"
        assert [p.end for p in processes].count("gave up") == 5


@pytest.mark.parametrize("fragile", [1, 2, 3])
def test_steps_that_fail_on_one_process_alone_call_the_others_back(fragile: int) -> None:
    for seed in range(20):
        assert judge(play(3, 1, {1}, {}, seed, fragile), 3) == "computing"


@given(
    ranks=st.integers(1, 4),
    spares=st.integers(0, 3),
    first=st.sets(st.integers(0, 6), max_size=2),
    deaths=st.dictionaries(
        st.tuples(st.integers(0, 6), st.sampled_from(STEPS), st.integers(1, 3)), st.booleans(), max_size=4
    ),
    seed=st.integers(0, 1 << 16),
    fragile=st.integers(0, 3),
)
@settings(max_examples=80)
def test_any_deaths_leave_all_alike(
    ranks: int, spares: int, first: set[int], deaths: dict[tuple[int, str, int], bool], seed: int, fragile: int
) -> None:
    first = {p for p in first if p < ranks + spares}
    processes = play(ranks, spares, first, deaths, seed, fragile)
    outcome = judge(processes, ranks)
    dead = [p for p in processes if p.end == "dead"]
    if not dead:
        assert outcome == "computing"
    if len(dead) > spares:
        assert outcome == "gave up"


# -- decisions ------------------------------------------------------------------------------


def test_the_first_spares_take_the_lost_roles_in_order() -> None:
    cards = [Card(role, 0, 7) for role in (3, 0, NO_ROLE, NO_ROLE, NO_ROLE)]
    assert assign(cards, 4) == Plan(roles=(3, 0, 1, 2, NO_ROLE), lost=(1, 2), repairs=1)


def test_half_of_a_crew_is_no_quorum() -> None:
    cards = [Card(0, 3, 4), Card(NO_ROLE, 3, 4)]
    with pytest.raises(RepairError, match="2 of 4 processes are left"):
        assign(cards, 2)
    assert assign([*cards, Card(NO_ROLE, 0, 6)], 2).repairs == 4  # of those who know of the last repair


def test_spares_that_are_dead_for_certain_are_not_counted() -> None:
    left = [Card(0, 0, 6, 0b01), Card(NO_ROLE, 0, 6, 0b11)]  # of 2 ranks and 4 spares; a node knows of one, another of two
    assert assign([*left, Card(NO_ROLE, 0, 6)], 2).roles == (0, 1, NO_ROLE)
    with pytest.raises(RepairError, match="2 of 4 processes are left"):
        assign(left, 2)
    # What was known before the last repair says nothing of the crew that it left.
    assert assign([Card(0, 1, 3), Card(1, 1, 3), Card(NO_ROLE, 0, 6, 0b11)], 2).repairs == 2
    with pytest.raises(RepairError, match="1 of 3 processes"):
        assign([Card(0, 1, 3)], 1)


def test_who_died_with_a_rank_is_looked_for_once_all_that_live_have_come() -> None:
    """Two of four are left, one rank and one spare. That the other spare is dead for certain is known only behind Shrink."""
    order: list[str] = []

    class Two:
        """Means of the rank that lives."""

        def revoke(self) -> None: ...

        def gone(self) -> tuple[int, int]:
            return 2, 1

        def shrink(self) -> None:
            order.append("shrink")

        def me(self) -> int:
            return 0

        def roll_call(self, card: Card, seconds: float) -> list[Card]:
            return [card, Card(NO_ROLE, 0, 4)]

        def make(self, roles: Sequence[int]) -> Any:
            return "comm"

        def confirm(self, digest: int, seconds: float) -> bool:
            return True

    def dead() -> int:
        order.append("dead")
        return 1

    def step(what: str, seconds: float) -> Any:
        return contextlib.nullcontext()

    found = repair(Two(), Card(0, 0, 4), 2, step_seconds=1.0, whole_seconds=1.0, step=step, dead=dead)
    assert found.roles == (0, 1) and found.lost == (1,) and order == ["shrink", "dead"]
    with pytest.raises(RepairError, match="2 of 4 processes"):
        repair(Two(), Card(0, 0, 4), 2, step_seconds=1.0, whole_seconds=1.0, step=step)


def test_spares_alone_are_no_quorum_however_many() -> None:
    """Cut off, they are more than half of a crew whose ranks have lost nobody that they need."""
    with pytest.raises(RepairError, match="none of the 3 processes that are left is a rank"):
        assign([Card(NO_ROLE, 0, 5)] * 3, 2)
    assert assign([Card(NO_ROLE, 0, 5)] * 2 + [Card(1, 0, 5)], 2).roles == (0, NO_ROLE, 1)


def test_too_few_spares_are_counted_in_the_message() -> None:
    with pytest.raises(RepairError, match=r"2 of 4 ranks are lost \(1, 3\), and there is 1 spare\."):
        assign([Card(role, 0, 5) for role in (0, 2, NO_ROLE)], 4)


class Never:
    """Means with which a repair never succeeds; time passes by a second in each roll call."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps: list[tuple[str, float]] = []

    def revoke(self) -> None: ...
    def gone(self) -> tuple[int, int]:
        return 0, 0

    def shrink(self) -> None: ...
    def me(self) -> int:
        return 0

    def roll_call(self, card: Card, seconds: float) -> list[Card]:
        self.now += seconds
        raise Lost("others have not come in 1 s")

    def make(self, roles: Sequence[int]) -> Any:
        raise AssertionError

    def confirm(self, digest: int, seconds: float) -> bool:
        raise AssertionError

    @contextlib.contextmanager
    def step(self, what: str, seconds: float) -> Iterator[None]:
        self.steps.append((what, seconds))
        yield


def test_tries_end_when_the_whole_time_is_over() -> None:
    means = Never()
    with pytest.raises(RepairError, match=r"in 3\.5 s \(4 tries: others have not come in 1 s\)"):
        repair(means, Card(0, 0, 2), 1, step_seconds=1, whole_seconds=3.5, step=means.step, clock=lambda: means.now)
    shrinks = [seconds for what, seconds in means.steps if "Shrink" in what]
    assert shrinks == [3.5, 2.5, 1.5, 0.5]  # the whole time that is left: others may come late


class Crowd(Never):
    """Means of a process that knows of so many deaths that there is no need to ask."""

    spares = 0

    def gone(self) -> tuple[int, int]:
        return 3, self.spares


def test_half_of_the_crew_known_to_be_dead_is_enough_to_know() -> None:
    means = Crowd()
    with pytest.raises(RepairError, match="3 of 6 processes are left: no more than half"):
        repair(means, Card(0, 0, 6), 4, step_seconds=1, whole_seconds=1, step=means.step)
    assert len(means.steps) == 1
    means.spares = 1  # somebody else may know for certain that it is dead
    with pytest.raises(RepairError, match="have not come together"):
        repair(means, Card(0, 0, 6), 4, step_seconds=1, whole_seconds=1, step=means.step, clock=lambda: means.now)
