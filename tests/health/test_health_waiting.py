"""Whether a thread waits in a call of MPI: by the name of what its topmost frame calls, whatever the call looks like."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from health_support import RUN

from holdfast.health import Beat, Board, Limits, waiting
from holdfast.health.phases import CALLING, CHECKPOINT, COMPUTING
from holdfast.health.waiting import WAITERS, called


class Comm:
    """All that is called on it notes what its caller seems to call; what is got from it is itself."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def __getattr__(self, name: str) -> Any:
        return self if name in ("Request", "mpi") else self._note

    def __getitem__(self, key: object) -> Comm:
        return self

    def _note(self, *args: object, **kw: object) -> Comm:
        frame = sys._getframe(1)
        self.seen.append(called(frame.f_code, frame.f_lasti))
        return self


def calls(comm: Any, x: Any, y: Any) -> None:
    """One on each line; the tuple of names below has them in order."""
    comm.Wait()
    comm.Allreduce([x, y], [y, x], op=x)
    comm.mpi.Request.Waitall([x, *[y]])
    [each.wait() for each in (comm,)]
    comm.Alltoallw(*[x, y], **dict(a=1))
    (y, x, comm.recv(source=(x + 1) % 3, tag=len([1]) * 2))
    comm.Split(x if y else 3, 0)
    comm.Gatherv(x and y, 0 if not x else (1 if y else 2))
    comm[0].Recv(f"{x} {y!r:>{3}}", lambda: comm.Send(x))
    (comm
     .Scan(x)
    )  # fmt: skip
    barrier = comm.Barrier
    barrier()
    {0: comm.Bcast}[0](x)


NAMES = ["Wait", "Allreduce", "Waitall", "wait", "Alltoallw", "recv", "Split", "Gatherv", "Recv", "Scan", "barrier", None]


def test_what_is_called_is_known_by_name() -> None:
    comm = Comm()
    calls(comm, 1, 2)
    assert comm.seen == NAMES
    assert called(calls.__code__, 0) is None and called(calls.__code__, 1 << 20) is None


def test_the_names_are_those_of_mpi4py() -> None:
    """As its stubs have them: importing it would start MPI in the process of all tests."""
    found = importlib.util.find_spec("mpi4py")
    assert found is not None and found.origin is not None
    stubs = Path(found.origin).with_name("MPI.pyi").read_text()
    assert [name for name in WAITERS if f"    def {name}(" not in stubs] == []


@pytest.mark.parametrize(
    ("method", "mpi", "expected"), [("Wait", True, True), ("acquire", True, False), ("Wait", False, False)]
)
def test_a_thread_in_a_function_in_c(method: str, mpi: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock's `acquire` stands for MPI's, which has no frame either."""
    if mpi:
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", ModuleType("mpi4py.MPI"))
    else:
        monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    lock = threading.Lock()
    request = SimpleNamespace(Wait=lock.acquire, acquire=lock.acquire)

    def program() -> None:
        if method == "Wait":
            request.Wait()
        else:
            request.acquire()

    with lock:
        thread = threading.Thread(target=program)
        thread.start()
        time.sleep(0.05)
        assert thread.ident is not None
        found = waiting.waits(thread.ident)
    thread.join()
    assert found is expected
    assert waiting.waits(thread.ident) is False  # it is no more


def test_who_was_seen_to_wait_counts_so_until_it_moves_or_is_seen_no_more(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Beat(Board.join(str(node), RUN, 1, 0), print, stacks=False)
    board = Board.join(str(node), RUN, 1, 1)

    def phase(later: float = 0.0) -> int:
        (seen,) = (s for s in watcher._look(board.read(), time.monotonic() + later) if s.slot == 1)
        return seen.phase

    assert phase() == COMPUTING
    board.calling(True)
    assert (phase(), phase(0.9), phase(1.1)) == (CALLING, CALLING, COMPUTING)  # its beat thread may be held up for ever
    board.progress()
    assert phase() == COMPUTING
    board.calling(True)
    board.enter(CHECKPOINT)
    assert phase() == CHECKPOINT

    # It looks at its own thread only when that has stood still for half of the time.
    board.enter(COMPUTING)
    asked: list[int] = []

    def waits(thread: int) -> bool:
        asked.append(thread)
        return True

    monkeypatch.setattr("holdfast.health.beat.waits", waits)
    own = Beat(board, print, limits=Limits(stall=0.2), stacks=False)
    own._sample(board)
    assert not asked and board.read()[1].call_at == 0
    time.sleep(0.11)
    own._sample(board)
    assert asked == [threading.get_ident()] and phase() == CALLING

    # In a call that was told, too: a signal's handler may run in the midst of it, and not come back.
    board.call(True)
    own._sample(board)
    time.sleep(0.11)
    own._sample(board)
    assert phase() == CALLING
    monkeypatch.setattr("holdfast.health.beat.waits", lambda thread: False)
    own._sample(board)
    assert phase() == COMPUTING
    board.call(False)
    assert phase() == COMPUTING
    watcher.stop()
    board.leave()
