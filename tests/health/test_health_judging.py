"""The judge: what it says, when at the earliest and at the latest, and of whom never."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.health import Limits, Memory, Own, Seen, Verdict, judge
from holdfast.health.judging import LATE, PERIOD, SELF
from holdfast.health.phases import CALLING, CHECKPOINT, COMPUTING, LEAVING, LEFT, RESTORE, WAITING

LIMITS = Limits(stopped=2.0, stall=5.0, silent=10.0)
ME = Own(slot=0)
HEALTHY = st.sampled_from("RSDI")
SOON = st.floats(0.02, LATE * 0.99)  # between two looks, of a watcher that is not held up


def one(slot: int = 1, now: float = 0.0, **what: object) -> Seen:
    """A process in good health at `now`."""
    usual = {
        "rank": slot,
        "phase": COMPUTING,
        "beats": int(now / PERIOD),
        "beat_at": now,
        "progress_at": now,
        "state": "S",
    }
    return Seen(**{"slot": slot, "pid": 100 + slot, "start": 7, "found": 7, **usual, **what})  # type: ignore[arg-type]


def kinds(verdicts: Iterable[Verdict]) -> list[tuple[str, int]]:
    return [(v.kind, v.seen.slot) for v in verdicts]


class Watch:
    """Looks one after the other, from time 100 on."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits, self.now, self.memory = limits, 100.0, Memory()
        self.cpu = 0.0

    def look(self, after: float, *seen: Seen, cpu: float = 0.0, suspended: bool = False) -> list[tuple[str, int]]:
        self.now += after
        self.cpu += cpu
        verdicts, self.memory = judge(seen, self.now, self.limits, self.memory, Own(0, self.cpu, suspended))
        return kinds(verdicts)


@given(st.data(), st.lists(st.floats(0.01, 30.0), max_size=30), st.integers(1, 5))
def test_nothing_is_said_of_those_in_good_health(data: st.DataObject, gaps: list[float], count: int) -> None:
    """Whatever the watcher's own delays, the state letters and missing beats."""
    watch = Watch()
    for gap in gaps:
        at = watch.now + gap
        seen = [
            one(i, at, progress_at=at - data.draw(st.floats(0, 4.9)), beat_at=data.draw(st.floats(0, at)),
                state=data.draw(st.none() | HEALTHY), beats=data.draw(st.integers(0, 1000)))
            for i in range(count)
        ]  # fmt: skip
        assert watch.look(gap, *seen) == []


@given(st.data(), SOON, st.floats(LATE, 1e6), st.floats(0, 1.9), st.integers(2, 5))
def test_a_suspended_job_is_left_alone(data: st.DataObject, gap: float, pause: float, lag: float, count: int) -> None:
    """All stand still, the watcher with them; the others go on a little earlier or later than it does."""
    watch = Watch()
    for _ in range(3):
        assert watch.look(gap, *(one(i, watch.now + gap) for i in range(count))) == []
    last = watch.now
    late = [i for i in range(1, count) if data.draw(st.booleans())]
    if data.draw(st.booleans()):  # some were seen to be stopped before the watcher was
        assert watch.look(gap, *(one(i, last, state="T" if i in late else "R") for i in range(count))) == []
    resumed = last + pause
    for step in range(10):
        at = watch.now + (pause if step == 0 else PERIOD)
        seen = []
        for i in range(count):
            if i in late and at < resumed + lag:
                seen.append(one(i, last, state="T"))
            else:  # not all have come to a loop head again
                seen.append(one(i, last, beats=int(last / PERIOD) + data.draw(st.integers(0, 3)), beat_at=at))
        assert watch.look(pause if step == 0 else PERIOD, *seen) == []


@given(st.lists(SOON, min_size=1, max_size=80))
def test_stopped_is_said_once_and_in_time(gaps: list[float]) -> None:
    watch = Watch()
    said = []
    since: float | None = None
    for gap in gaps:
        for what in watch.look(gap, one(0, watch.now), one(1, 100.0, state="T")):
            assert since is not None and watch.now - since >= LIMITS.stopped
            said.append(what)
        since = watch.now if since is None else since
        assert len(said) == (watch.now - since >= LIMITS.stopped)
    assert set(said) <= {("stopped", 1)}


@given(st.lists(SOON, min_size=1, max_size=80), st.floats(0, 300))
def test_stalled_is_said_once_and_in_time(gaps: list[float], before: float) -> None:
    """At the second look after its time, which does not begin before the watcher does."""
    watch = Watch()
    progress, began = 100.0 - before, 0.0
    over, said = 0, []
    for gap in gaps:
        said += watch.look(gap, one(0, watch.now + gap), one(1, watch.now + gap, progress_at=progress, step=4))
        began = began or watch.now
        over += watch.now - max(progress, began) >= 5.0
        assert len(said) == (over >= 2)
    assert set(said) <= {("stalled", 1)}


@given(
    st.lists(
        st.tuples(st.floats(0.01, 100.0), st.sampled_from(["gone", "zombie", "other", "well", "unseen"])), max_size=30
    )
)
def test_died_is_said_once_at_the_first_sight_of_it(looks: list[tuple[float, str]]) -> None:
    states = {"gone": ("", 0), "zombie": ("Z", 7), "other": ("R", 8), "well": ("R", 7), "unseen": (None, 0)}
    watch = Watch()
    said, dead = [], False
    for gap, what in looks:
        state, found = states[what]
        said += watch.look(gap, one(0, watch.now + gap), one(1, watch.now + gap, state=state, found=found))
        dead = dead or what in ("gone", "zombie", "other")
        assert said == [("died", 1)] * dead


_ANY = st.builds(
    Seen, slot=st.integers(0, 3), pid=st.integers(0, 3), start=st.integers(0, 2), rank=st.integers(-1, 3),
    phase=st.integers(0, 7), beats=st.integers(0, 99), beat_at=st.floats(0, 200), progress_at=st.floats(0, 1e9),
    step=st.integers(-1, 3), state=st.none() | st.sampled_from(["", "?", *"RSDTtZXIP"]), found=st.integers(0, 2),
    told=st.sampled_from(["", "died", "stopped", "stalled", "silent", "storage"]), told_at=st.floats(0, 200),
)  # fmt: skip
_LOOKS = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20), st.booleans(), st.lists(_ANY, max_size=4)), max_size=20)


@given(_LOOKS, st.none() | st.floats(0.1, 10))
def test_whatever_is_seen_it_judges(looks: list[tuple[float, float, bool, list[Seen]]], stall: float | None) -> None:
    """Torn and foreign words too: it never raises, says nothing of who has left, and has no memory but the one it is
    given."""
    now, cpu, memory = 0.0, 0.0, Memory()
    for gap, used, suspended, seen in looks:
        now, cpu = now + gap, cpu + used
        limits, own = LIMITS._replace(stall=stall), Own(0, cpu, suspended)
        kept = Memory(*memory)
        verdicts, after = judge(seen, now, limits, memory, own)
        assert (verdicts, after) == judge(list(seen), now, limits, kept, own)
        for verdict in verdicts:
            assert verdict.kind in ("died", "stopped", "stalled", "silent")
            assert verdict.seen.phase != LEFT and verdict.seen.pid and verdict.seen.start
            assert stall is not None or verdict.kind != "stalled" or verdict.seen.told == "stalled"
            assert not suspended or verdict.kind in ("died", "silent") or verdict.seen.told == verdict.kind
        said = Counter((v.seen.pid, v.seen.start, v.kind) for v in verdicts)
        assert all(n == 1 for n in said.values())
        assert not any(((pid, start), kind) in memory.told for pid, start, kind in said)
        memory = after


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({}, True),
        ({"step": 9}, True),
        ({"phase": CHECKPOINT}, True),
        ({"phase": RESTORE, "state": "R"}, True),
        ({"state": "D"}, True),
        ({"state": "D", "phase": CHECKPOINT}, False),  # storage has deadlines of its own
        ({"state": "D", "phase": RESTORE}, False),
        ({"phase": WAITING}, False),
        ({"phase": LEAVING}, False),
        ({"rank": -1}, False),  # a spare
        ({"phase": LEFT}, False),
        ({"state": "t"}, False),  # a debugger's
        ({"state": None}, False),  # another watcher's
        ({"state": "?"}, False),
    ],
)
def test_who_may_be_called_stalled(what: dict[str, object], expected: bool) -> None:
    watch = Watch()
    said = []
    for _ in range(80):
        said += watch.look(PERIOD, one(0, watch.now), one(1, watch.now, **{"progress_at": 50.0, **what}))
    assert said == [("stalled", 1)] * expected


def test_a_debugger_and_storage_are_not_a_stop() -> None:
    watch = Watch(Limits())
    for state in "tDIPK":
        for _ in range(50):
            assert watch.look(PERIOD, one(0, watch.now), one(1, watch.now, state=state)) == []


def test_what_the_launcher_suspends_is_not_judged() -> None:
    watch = Watch()
    for _ in range(100):
        assert watch.look(PERIOD, one(0, watch.now), one(1, 100.0, state="T"), one(2, 100.0), suspended=True) == []
    for _ in range(19):  # it is continued: times begin anew
        assert watch.look(PERIOD, one(0, watch.now), one(1, 100.0, state="T")) == []
    assert watch.look(0.5, one(0, watch.now), one(1, 100.0, state="T")) == [("stopped", 1)]


@pytest.mark.parametrize(("cpu", "beats"), [(1.0, 0), (0.0, 15)], ids=["it computed", "others beat"])
def test_a_watcher_that_is_held_up_goes_on_counting(cpu: float, beats: int) -> None:
    """Its program has steps of 1.5 s that hold the GIL."""
    watch = Watch()
    said = []
    for turn in range(6):
        seen = one(0, watch.now), one(1, watch.now, progress_at=100.0, beats=turn * beats)
        said += watch.look(1.5, *seen, cpu=cpu)
    assert said == [("stalled", 1)]


def test_only_the_hindmost_are_blamed_and_the_others_begin_anew() -> None:
    """Those at a later step may wait for it in a call of the program's own."""
    watch = Watch()
    stuck = [one(0, 100.0, step=6), one(1, 100.0, step=6), one(2, 100.0, step=5), one(3, 100.0, step=6)]
    said, at = [], 0.0
    for _ in range(80):
        new = watch.look(PERIOD, *(s._replace(beat_at=watch.now) for s in stuck))
        said += new
        at = watch.now if new else at
        if new == [("stalled", 2)]:
            stuck[2] = stuck[2]._replace(state="", told="stalled", told_at=watch.now)
    assert said == [("stalled", 2), ("died", 2)]
    for _ in range(80):
        said += watch.look(PERIOD, *(s._replace(beat_at=watch.now) for s in stuck))
    assert said[2:4] == [("stalled", 1), ("stalled", 3)] and watch.now - at > LIMITS.stall  # type: ignore[operator]


def test_ones_own_hang_is_left_to_others_if_there_are() -> None:
    for others, patience in (([], 0.0), ([one(1)], SELF)):
        watch = Watch()
        began = watch.now
        while not (said := watch.look(PERIOD, one(0, began), *(o._replace(progress_at=watch.now) for o in others))):
            assert watch.now - began < 10
        assert said == [("stalled", 0)]
        assert LIMITS.stall is not None and patience <= watch.now - began - LIMITS.stall <= patience + 3 * PERIOD


def test_what_another_watcher_found_is_told_but_not_acted_on() -> None:
    verdicts, memory = judge([one(1, 5.0, told="stopped", told_at=4.9, state="T")], 5.0, LIMITS, Memory(), ME)
    assert [(v.kind, v.first) for v in verdicts] == [("stopped", False)]
    verdicts, memory = judge([one(1, 5.1, told="stopped", told_at=4.9, state="", found=0)], 5.1, LIMITS, memory, ME)
    assert [(v.kind, v.first) for v in verdicts] == [("died", True)]
    assert "after it was found stopped" in verdicts[0].detail
    # It was dead before this watcher looked: both are told.
    verdicts, _ = judge([one(1, 5.1, told="stalled", told_at=4.9, state="Z")], 5.1, LIMITS, Memory(), ME)
    assert kinds(verdicts) == [("stalled", 1), ("died", 1)]


def test_who_gives_no_sign_and_cant_be_looked_at() -> None:
    watch = Watch()
    said = []
    for _ in range(150):
        said += watch.look(PERIOD, one(0, watch.now), one(1, 100.0, state="?", found=0))
    assert said == [("silent", 1)]


def test_who_waits_in_a_call_of_mpi_is_judged_later_and_not_besides_another() -> None:
    """Three wait at the same step for one that hangs: only that one is blamed."""
    watch = Watch(Limits(stall=5.0))
    watch.look(0.0)

    def seen(phase: int = COMPUTING) -> list[Seen]:
        at = watch.now + 0.1
        calling = [one(i, at, step=3, progress_at=99.9, phase=CALLING) for i in (0, 1, 2)]
        return [*calling, one(3, at, step=3, progress_at=100.0, phase=phase)]

    told = [watch.look(0.1, *seen(), cpu=0.1) for _ in range(60)]
    assert [t for t in told if t] == [[("stalled", 3)]]


def test_ranks_that_wait_for_each_other_in_mpi_are_all_blamed() -> None:
    watch = Watch(Limits(stall=5.0))
    watch.look(0.0)
    told = {}
    for _ in range(100):
        at = watch.now + 0.1
        seen = [one(i, at, step=3, progress_at=100.0, phase=CALLING) for i in range(3)]
        for kind, slot in watch.look(0.1, *seen, cpu=0.1):
            told[kind, slot] = watch.now - 100.0
    assert set(told) == {("stalled", 0), ("stalled", 1), ("stalled", 2)}
    assert all(5.0 + SELF <= when <= 5.0 + SELF + 0.5 for when in told.values())
