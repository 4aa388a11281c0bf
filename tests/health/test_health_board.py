"""The board as a file: whose it is, what is refused, how it ends; and what its calls cost."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import pytest
from health_support import RUN, Rank

from holdfast.errors import DeadlineError, StorageError, UsageError
from holdfast.health import NO_RANK, PHASES, Beat, Board, Event, Limits, board, layout, leftovers, memory_root
from holdfast.health.layout import BYTES, Identity
from holdfast.health.phases import LEFT
from holdfast.run.levels import nodes


@pytest.fixture
def mine(node: Path) -> Board:
    return Board.join(str(node), RUN, 1, 0)


def raw(joined: Board) -> os.stat_result:
    return os.stat(joined.path)


def test_where_it_is(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert board.NODE_MEMORY == nodes.MEMORY
    for value in (str(node), ""):
        monkeypatch.setenv(nodes.MEMORY, value)
        assert memory_root() == nodes.memory_root()


def test_what_is_written_is_read_by_others(node: Path, mine: Board) -> None:
    other = Board.join(str(node), RUN, 1)
    assert (mine.slot, other.slot) == (0, 1) and mine.path == other.path
    first, second = other.read()
    assert (first.pid, first.start, first.rank, first.step) == (os.getpid(), mine.start, 0, -1)
    assert second.rank == NO_RANK and second.signal == 0
    before = time.monotonic_ns()
    mine.progress(17)
    mine.note(1 << 40)
    mine.beat()
    mine.take_rank(3)
    mine.take_signal(52)
    assert mine.enter(2) == 0
    other.mark(0, 4)
    found, untouched = other.read()
    assert (found.rank, found.signal, found.phase, found.step, found.nbytes, found.verdict) == (
        3,
        52,
        2,
        17,
        1 << 40,
        4,
    )
    assert (found.beats, found.progress) == (1, 3)
    assert all(before <= at <= time.monotonic_ns() for at in (found.beat_at, found.progress_at, found.verdict_at))
    assert untouched == second


def test_it_is_private_and_has_its_room(mine: Board) -> None:
    found = raw(mine)
    assert found.st_mode & 0o7777 == 0o600 and found.st_nlink == 1
    assert found.st_size == BYTES and found.st_blocks * 512 >= BYTES, "a hole would be found out by SIGBUS"
    assert os.stat(os.path.dirname(mine.path)).st_mode & 0o777 == 0o700


def test_the_last_to_leave_removes_it(node: Path, mine: Board) -> None:
    other = Board.join(str(node), RUN, 1)
    mine.leave()
    mine.leave()
    mine.progress(5)  # a thread of the program's may come late
    mine.note(5)
    mine.beat()
    assert mine.read() == [] and mine.enter(1) == 0
    assert [s.phase for s in other.read()] == [LEFT, 0] and other.read()[0].step == -1
    other.leave()
    assert not os.path.exists(os.path.dirname(mine.path)), "nothing is left in memory"


def test_who_joins_while_the_folder_is_removed_makes_it_again(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.health import board

    def remove_too(folder: str, ours: object) -> None:
        os.rmdir(folder)  # the last one of another board leaves just now

    monkeypatch.setattr(board, "remove_leftovers", remove_too)
    joined = Board.join(str(node), RUN, 1)
    assert [s.phase for s in joined.read()] == [0]
    joined.leave()


def test_a_thread_that_writes_while_it_is_left_is_not_harmed(mine: Board) -> None:
    errors: list[BaseException] = []
    over = threading.Event()

    def write() -> None:
        try:
            while not over.is_set():
                mine.progress(1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.05)
    mine.leave()
    time.sleep(0.05)
    over.set()
    thread.join()
    assert not errors


@pytest.mark.parametrize(
    "change",
    [
        {"run": "f" * 32}, {"attempt": 2}, {"uid": os.geteuid() + 1}, {"pidns": 5},
    ],
    ids=["run", "attempt", "user", "pids"],
)  # fmt: skip
def test_a_board_that_says_it_is_anothers_is_not_taken(node: Path, mine: Board, change: dict[str, object]) -> None:
    other = mine.identity._replace(**change)  # type: ignore[arg-type]
    assert Identity.parse(mine.identity.header()) == mine.identity != Identity.parse(other.header()) == other
    Path(mine.path).write_bytes(other.header().ljust(BYTES, b"\0"))
    with pytest.raises(StorageError, match="is not the board of this run"):
        Board.join(str(node), RUN, 1, 1)
    assert Path(mine.path).read_bytes() == other.header().ljust(BYTES, b"\0")


def _fifo(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


STRANGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * (BYTES // 256)),
    "short": lambda path: os.truncate(path, BYTES - 1),
    "readable": lambda path: path.chmod(0o644),
    "link": lambda path: (path.rename(path.with_name("away")), path.symlink_to("away")),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "socket": lambda path: (path.unlink(), _fifo(path)),
}


@pytest.mark.parametrize("how", STRANGE)
def test_what_is_no_board_of_ours_is_refused_and_left(node: Path, mine: Board, how: str) -> None:
    STRANGE[how](Path(mine.path))
    before = os.lstat(mine.path)
    with pytest.raises(StorageError, match="watch each other"):
        Board.join(str(node), RUN, 1, 1)
    after = os.lstat(mine.path)
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


def test_what_cant_be(node: Path, mine: Board) -> None:
    for run in ("", "../x", "F" * 32, RUN + "\n"):
        with pytest.raises(UsageError):
            Board.join(str(node), run, 1)
    with pytest.raises(UsageError):
        Beat(mine, print).enter(PHASES[LEFT])
    with open(mine.path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="is locked"):
            Board.join(str(node), RUN, 1, timeout=0.2)
        mine.leave(timeout=0.2)
        assert time.monotonic() - began < 2.0


def test_no_slot_is_left(node: Path, mine: Board) -> None:
    with open(mine.path, "r+b") as file:
        file.seek(layout.COUNT_AT)
        file.write(layout.SLOTS.to_bytes(8, "little"))
    with pytest.raises(StorageError, match="no slot left"):
        Board.join(str(node), RUN, 1)


def test_what_is_left_over(node: Path, mine: Board) -> None:
    """An earlier boot's goes, even of the same name; another namespace's pids say nothing; who lives, stays."""
    folder = Path(mine.path).parent
    slots = Path(mine.path).read_bytes()[layout.COUNT_AT :]

    def put(identity: Identity) -> Path:
        path = folder / identity.name
        path.write_bytes(identity.header() + slots)
        path.with_name(f"{path.name}.1-2.stacks").write_text("")
        return path

    living = put(mine.identity._replace(attempt=2))
    elsewhere = put(mine.identity._replace(attempt=3, pidns=5))
    earlier = put(mine.identity._replace(attempt=4, boot="another"))
    namesake = put(mine.identity._replace(boot="another"))
    torn = folder / f"{RUN}-9-{mine.identity.pidns}.{os.getpid()}-1.new"
    torn.write_text("")
    leftovers.remove_leftovers(str(folder), mine.identity)
    assert [p.exists() for p in (living, elsewhere, earlier, namesake, torn)] == [True, True, False, False, False]
    assert len(os.listdir(folder)) == 4, "of each that stays its stacks"
    assert Board.join(str(node), RUN, 1).slot == 0


def test_what_it_costs(node: Path, start: Callable[..., list[Rank]]) -> None:
    """Bounds are wide, for a machine that has other things to do; the figures are printed."""
    joined = [Board.join(str(node), "e" * 32, 1, rank) for rank in range(64)]
    first = joined[0]
    call = min(timeit.repeat(lambda: first.progress(1), number=10_000, repeat=5)) / 10_000
    told: list[Event] = []
    beat = Beat(first, told.append, limits=Limits(stall=60.0), stacks=False)
    spent = []
    for _ in range(10):
        for other in joined:
            other.beat()
        began = time.thread_time()
        beat._once()
        spent.append(time.thread_time() - began)
    print(
        f"progress: {call * 1e9:.0f} ns; a look at 64 ranks: {min(spent) * 1e3:.2f} ms, {min(spent) * 10:.2%} of a core"
    )
    assert call < 5e-6 and min(spent) < 2e-3 and not told
    for other in joined:
        other.leave()
    began = time.monotonic()
    ranks = start(2)
    time.sleep(1.0)
    for rank in ranks:
        rank.tell("leave")
    while not all(rank.said("left") for rank in ranks):
        assert time.monotonic() - began < 20
        time.sleep(0.02)
        for rank in ranks:
            rank.listen()
    share = [rank.said("left") / (time.monotonic() - began) for rank in ranks]
    print("share of a core of the thread in each of two ranks:", [f"{s:.2%}" for s in share])
    assert max(share) < 0.03
