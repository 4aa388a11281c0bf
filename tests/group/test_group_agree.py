"""Agreement without MPI: one rank, and any number of ranks as threads of this process."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdfast.errors import (
    CheckpointError,
    DamageError,
    DeadlineError,
    FencedError,
    HoldfastError,
    MismatchError,
    RankError,
    RunInUseError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from holdfast.group import SerialGroup, agree, at_root, from_root, together
from holdfast.group.waiting import ranks_text, wait_until


class ThreadGroup:
    """One of `size` ranks that are threads: messages are queues, a rank in `away` never speaks."""

    def __init__(self, rank: int, size: int, queues: dict[tuple[int, int], queue.Queue[bytes]]) -> None:
        self.rank, self.size, self.queues, self.comm = rank, size, queues, None

    def _receive(self, source: int, what: str, patience: int) -> bytes:
        try:
            return self.queues[source, self.rank].get(timeout=1.0 * patience)
        except queue.Empty:
            raise DeadlineError(f"{what}: rank {source} stayed away") from None

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        assert self.rank in members
        if self.rank != members[0]:
            self.queues[self.rank, members[0]].put(data)
            return None
        return [data if m == self.rank else self._receive(m, what, patience) for m in members]

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        assert self.rank in members
        if self.rank != members[0]:
            return self._receive(members[0], what, patience)
        assert data is not None
        for m in members[1:]:
            self.queues[self.rank, m].put(data)
        return data


def on_ranks(size: int, fn: Callable[[ThreadGroup], object], away: frozenset[int] = frozenset()) -> list[object]:
    """What `fn` returned or raised on each rank."""
    queues: dict[tuple[int, int], queue.Queue[bytes]] = defaultdict(queue.Queue)
    results: list[object] = [None] * size

    def one(rank: int) -> None:
        try:
            results[rank] = fn(ThreadGroup(rank, size, queues))
        except HoldfastError as e:
            results[rank] = e

    threads = [threading.Thread(target=one, args=(r,), daemon=True) for r in range(size) if r not in away]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
        assert not t.is_alive()
    return results


def same(errors: list[object]) -> HoldfastError:
    """The one error that all ranks raised."""
    first = errors[0]
    assert isinstance(first, HoldfastError)
    for e in errors:
        assert isinstance(e, HoldfastError)
        assert type(e) is type(first)
        assert (e.to_wire(), e.causes, str(e)) == (first.to_wire(), first.causes, str(first))
    return first


# -- one rank -------------------------------------------------------------------------------


def test_one_rank_gets_its_data_as_others_would() -> None:
    data = {"a": (1, 2.5, None), 7: b"x", "s": "\udcff", "n": np.int64(3), "b": np.bool_(True)}
    assert together(SerialGroup(), "a test", data) == [{"a": [1, 2.5, None], 7: b"x", "s": "\udcff", "n": 3, "b": True}]
    assert from_root(SerialGroup(), "a test", lambda: (1, 2)) == [1, 2]


def test_one_rank_raises_its_own_error_itself() -> None:
    error = StorageError("no space. All safe. Free some.", file="versions/x")
    with pytest.raises(StorageError) as caught:
        together(SerialGroup(), "a test", error=error)
    assert caught.value is error
    assert [(c.rank, c.type) for c in error.causes] == [(0, "StorageError")]
    assert str(error) == "no space. All safe. Free some."


@pytest.mark.parametrize("value", [object(), 2**70, {1: {2, 3}}, np.zeros(3), np.longdouble(1)])
def test_what_can_not_be_sent_is_an_error_and_no_hang(value: object) -> None:
    with pytest.raises(UsageError, match="rank 0 has to say can't be sent"):
        together(SerialGroup(), "a test", value)
    with pytest.raises(UsageError, match="rank 0 has to say can't be sent"):
        from_root(SerialGroup(), "a test", lambda: value)


def test_foreign_errors_become_rank_errors() -> None:
    cause = ZeroDivisionError("by zero")

    def fail() -> object:
        raise cause

    for call in (lambda: from_root(SerialGroup(), "a test", fail), lambda: together(SerialGroup(), "a test", 1, cause)):
        with pytest.raises(RankError, match=r"a test: failed.*\n.*rank 0: ZeroDivisionError: by zero") as caught:
            call()
        assert caught.value.__cause__ is cause


def test_interrupts_are_not_swallowed() -> None:
    def interrupt() -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_root(SerialGroup(), "a test", interrupt)


# -- many ranks -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9, 17])
def test_all_levels_of_the_tree(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "FAN", 2)
    expected = [f"rank {r}" for r in range(size)]
    assert on_ranks(size, lambda g: together(g, "a test", f"rank {g.rank}")) == [expected] * size
    assert on_ranks(size, lambda g: from_root(g, "a test", lambda: "root")) == ["root"] * size


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_what_all_say_comes_together_on_rank_0(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "FAN", 2)
    ran: list[int] = []

    def call(group: ThreadGroup) -> object:
        def fn(told: list[object]) -> object:
            ran.append(group.rank)
            return (len(told), told)

        return at_root(group, "a test", [group.rank, None], fn)

    assert on_ranks(size, call) == [[size, [[r, None] for r in range(size)]]] * size
    assert ran == [0]


@pytest.mark.parametrize("culprit", range(4))
def test_errors_of_ranks_and_of_what_runs_on_rank_0_are_everyones(culprit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "FAN", 2)

    def fail(told: list[object]) -> object:
        raise DamageError("torn", file="x")

    def call(group: ThreadGroup) -> object:
        error = StorageError("disk full", file="y") if group.rank == culprit else None
        return at_root(group, "a test", 1, fail, error)

    error = same(on_ranks(3, call))
    if culprit < 3:  # then nothing runs
        assert (type(error), error.rank, error.file) == (StorageError, culprit, "y")
    else:
        assert (type(error), [c.rank for c in error.causes], error.file) == (DamageError, [0], "x")
    with pytest.raises(UsageError, match="rank 0 has to say can't be sent"):
        at_root(SerialGroup(), "a test", 1, lambda told: object())


def test_the_tree_of_100_000_ranks_has_three_levels() -> None:
    assert agree._strides(100_000) == [1, 64, 4096]
    assert agree._cohort(4096, 100_000, 64) == range(4096, 8192, 64)
    assert agree._cohort(99_999, 100_000, 1) == range(99_968, 100_000)
    assert agree._cohort(65, 100_000, 64) is None


@pytest.mark.parametrize("culprit", range(5))
def test_one_rank_fails_all_raise_its_error(culprit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "FAN", 2)

    def fn(group: ThreadGroup) -> object:
        error = StorageError("disk full", file="versions/x", version=4) if group.rank == culprit else None
        return together(group, "a test", 1, error)

    error = same(on_ranks(5, fn))
    assert type(error) is StorageError
    assert (error.rank, error.file, error.version) == (culprit, "versions/x", 4)
    assert [c.rank for c in error.causes] == [culprit]


def test_a_foreign_error_is_chained_where_it_was() -> None:
    def fn(group: ThreadGroup) -> object:
        return together(group, "a test", error=OSError("gone") if group.rank > 0 else None)

    errors = on_ranks(3, fn)
    error = same(errors)
    assert type(error) is RankError
    assert [str(c) for c in error.causes] == ["rank 1: OSError: gone", "rank 2: OSError: gone"]
    assert "failed on rank 1 and 1 more of 3" in str(error)
    assert [type(e.__cause__) for e in errors] == [type(None), OSError, OSError]  # type: ignore[attr-defined]


def test_an_error_of_all_ranks_keeps_its_places() -> None:
    error = same(on_ranks(3, lambda g: together(g, "a test", error=MismatchError("other shape", object="u"))))
    assert (type(error), error.object, error.rank, len(error.causes)) == (MismatchError, "u", None, 3)


URGENCY = [
    FencedError("m"), RunInUseError("m"), UnsupportedError("m"), MismatchError("m"), DamageError("m"),
    StorageError("m"), CheckpointError("m"), ValueError("m"),
]  # fmt: skip


@pytest.mark.parametrize("first", range(len(URGENCY) - 1))
def test_the_most_urgent_error_speaks_for_all(first: int) -> None:
    # The most urgent is on the last rank, so that the order of ranks would give another.
    errors = [*URGENCY[:first:-1], URGENCY[first]]
    error = same(on_ranks(len(errors), lambda g: together(g, "a test", error=type(errors[g.rank])("m"))))
    assert type(error) is type(URGENCY[first])
    assert len(error.causes) == len(errors)


def test_agreed_errors_agreed_again_keep_their_causes() -> None:
    def fn(group: ThreadGroup) -> object:
        try:
            return together(group, "inner", error=StorageError("disk full") if group.rank == 1 else None)
        except StorageError as e:
            return together(group, "outer", error=e)

    error = same(on_ranks(3, fn))
    assert [(c.rank, c.type) for c in error.causes] == [(1, "StorageError")]
    assert error.rank == 1


def test_a_place_that_is_no_string_does_not_keep_an_error_from_being_sent() -> None:
    def fn(group: ThreadGroup) -> object:
        bad = StorageError("x", file=Path("a/\udcff"))  # type: ignore[arg-type]
        return together(group, "a test", error=bad if group.rank else None)

    assert same(on_ranks(2, fn)).file == "a/\udcff"


@pytest.mark.parametrize("away", [1, 2, 3])
def test_a_rank_that_stays_away_is_named_to_all_others(away: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "FAN", 2)
    results = on_ranks(4, lambda g: together(g, "a test", g.rank), away=frozenset([away]))
    there = [r for rank, r in enumerate(results) if rank != away]
    # Rank 3 reports to rank 2, and hears from nobody else.
    if away == 2:
        assert "rank 2 stayed away" in str(there.pop())
    error = same(there)
    assert type(error) is DeadlineError
    assert f"rank {away} stayed away" in str(error)


# -- waiting --------------------------------------------------------------------------------


def test_wait_until_ends_by_its_deadline_and_asks_at_least_once() -> None:
    asked = []
    assert wait_until(lambda: not asked.append(1), 0.0)
    assert not wait_until(lambda: bool(asked.append(1)), 0.02)
    # Sleeping, not spinning: after 200 us a question per 50 us at most, then fewer.
    assert 10 < len(asked) < 5000


def test_ranks_text() -> None:
    assert ranks_text([3]) == "rank 3"
    assert ranks_text([5, 0, 2, 1]) == "ranks 0-2, 5"
    assert ranks_text(range(0, 40, 2)).endswith("12, 14, ...")
