"""Signs of life between nodes: how news spread, who is told to be silent and when, and of whom nothing is said."""

from __future__ import annotations

import time
from array import array
from pathlib import Path

import pytest
from health_support import RUN
from test_health_runs import MPIRUN, lines, start

from holdfast.health import Board, far
from holdfast.health.far import LEFT_COUNT, Far, Silence, Table, limits, partners
from holdfast.health.judging import SELF
from holdfast.health.phases import LEFT

SECOND = 1_000_000_000
CALL_OFF = 30.0


class Job:
    """Nodes with a process each, which take their turns once a second; time is what is passed."""

    def __init__(self, nodes: int) -> None:
        self.now, self.nodes = 1000 * SECOND, nodes
        self.hops = (nodes - 1).bit_length()
        self.tables = [Table(array("q", bytes(16 * nodes)), nodes, own) for own in range(nodes)]
        self.told: list[list[tuple[str, int, float]]] = [[] for _ in range(nodes)]
        self.silences = [self._silence(own) for own in range(nodes)]
        self.inboxes: list[list[bytes]] = [[] for _ in range(nodes)]
        self.side = [0] * nodes

    def _silence(self, own: int) -> Silence:
        def tell(what: str, found: dict[int, float]) -> None:
            self.told[own] += [(what, node, seconds) for node, seconds in found.items()]

        kinds = [(far.SILENT, lambda found: tell("silent", found)), (CALL_OFF, lambda found: tell("call off", found))]
        return Silence(self.tables[own], kinds, self.now)

    def turns(self, count: int, running: set[int] | None = None) -> None:
        """`running`: all by default."""
        ranks = [[node] for node in range(self.nodes)]
        for _ in range(count):
            self.now += SECOND
            for node in range(self.nodes) if running is None else sorted(running):
                inbox, self.inboxes[node] = self.inboxes[node], []
                for data in inbox:
                    self.tables[node].merge(data, self.now)
                for other in partners(self.tables[node].count(self.now), node, ranks):
                    if self.side[other] == self.side[node]:
                        self.inboxes[other].append(self.tables[node].message())
                self.silences[node].look(self.now)

    def said(self, node: int) -> list[tuple[str, int]]:
        return [(what, other) for what, other, _ in self.told[node]]


@pytest.mark.parametrize("nodes", [2, 3, 5, 8, 33])
def test_news_are_everywhere_after_a_few_turns(nodes: int) -> None:
    job = Job(nodes)
    for _ in range(3 * job.hops):
        job.turns(1)
    counts = [array("q", table.message()) for table in job.tables]
    assert min(min(of) for of in counts) >= 3 * job.hops - 2 * job.hops  # at most as many turns behind
    job.turns(100)
    assert job.told == [[] for _ in range(nodes)]


@pytest.mark.parametrize("nodes", [2, 6, 17])
def test_all_tell_who_is_silent_in_time_and_once(nodes: int) -> None:
    job = Job(nodes)
    job.turns(20)
    others = set(range(nodes)) - {1}
    job.turns(int(far.SILENT) - job.hops, others)  # the last that was heard of it is at most so old
    assert not any(job.told)
    job.turns(2 * job.hops + 2, others)
    assert all(job.said(node) == [("silent", 1)] and job.silences[node].silent == {1} for node in others)
    job.turns(60, others)
    assert all(job.said(node) == [("silent", 1), ("call off", 1)] for node in others)
    assert all(far.SILENT <= job.told[node][0][2] < far.SILENT + 1 < CALL_OFF <= job.told[node][1][2] for node in others)
    job.turns(20)  # it was suspended, and says nothing of the others
    assert job.said(1) == [] and not any(silence.silent for silence in job.silences)
    job.turns(int(far.SILENT) + job.hops, others)
    assert all(job.said(node)[2:] == [("silent", 1)] for node in others), "of a second silence too"


@pytest.mark.parametrize("side", ["01", "0010110", "0" * 20 + "1" * 20, "01" * 12])
def test_two_halves_tell_of_each_other_alone(side: str) -> None:
    job = Job(len(side))
    job.turns(20)
    job.side = [int(one) for one in side]
    job.turns(50)
    for node, own in enumerate(job.side):
        others = {other for other in range(job.nodes) if job.side[other] != own}
        assert {other for what, other in job.said(node) if what == "silent"} == others
        assert len(job.said(node)) == 2 * len(others)


def test_of_a_job_that_is_suspended_nothing_is_said() -> None:
    job = Job(4)
    job.turns(20)
    job.now += 3600 * SECOND
    job.turns(30)
    assert not any(job.told)


def test_of_who_has_left_nothing_is_expected() -> None:
    job = Job(5)
    job.turns(20)
    job.tables[3].leave(job.now)
    job.inboxes[0].append(job.tables[3].message())
    job.turns(100, {0, 1, 2, 4})
    assert not any(job.told)
    assert job.tables[3].count(job.now) == LEFT_COUNT  # a process of it that goes on a little


def test_what_is_no_message_is_nothing() -> None:
    table = Table(array("q", bytes(32)), 2, 0)
    for data in (b"", b"x", bytes(8), bytes(24)):
        table.merge(data, 5)
    assert table.heard(1) == 0
    table.merge(array("q", [99, 3]).tobytes(), 5)
    assert (table.heard(1), table.heard(0)) == (5, 0), "of itself it knows more than others"


def test_messages_go_to_all_ranks_of_all_other_nodes() -> None:
    ranks = [[0, 4], [1, 5, 6], [2], [3]]
    to = [partners(turn, 0, ranks) for turn in range(12)]
    assert set().union(*to) == {1, 2, 3, 5, 6} and all(len(each) <= 2 for each in to)
    assert partners(7, 1, [[0], [1]]) == {0}


def test_a_repair_is_called_for_only_where_standing_still_is_limited() -> None:
    def nothing(found: dict[int, float]) -> None: ...

    assert [limit for limit, _ in limits(None, nothing, nothing)] == [far.SILENT]
    assert [limit for limit, _ in limits(60.0, nothing, None)] == [far.SILENT]
    assert [limit for limit, _ in limits(60.0, nothing, nothing)] == [far.SILENT, 60.0 + SELF]
    assert [limit for limit, _ in limits(1.0, nothing, nothing)] == [far.SILENT, far.SILENT]


class Box:
    """A post that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, rank: int, data: bytes) -> None:
        self.sent.append(rank)

    def receive(self) -> list[bytes]:
        return []


def test_the_first_of_a_node_that_beats_sends_and_the_last_says_goodbye(node: Path) -> None:
    boards = [Board.join(str(node), RUN, 1, rank) for rank in range(2)]
    boxes = [Box(), Box()]
    first, second = (Far(board, box, 0, [[0, 1], [2]], []) for board, box in zip(boards, boxes, strict=True))
    now = time.monotonic_ns()
    first.once(now)
    second.once(now)
    assert (boxes[0].sent, boxes[1].sent) == ([2], [])
    second.once(now + 2 * SECOND)  # the first may hold the GIL
    assert boxes[1].sent == [2]
    assert list(boards[0].nodes(2)) == [2, now + 2 * SECOND, 0, 0], "one count for all of the node"

    first.start()
    first.stop()
    assert boards[0].read()[0].phase == LEFT and boards[0].nodes(2)[0] < LEFT_COUNT
    second.start()
    second.stop()
    assert boards[1].nodes(2)[0] == LEFT_COUNT
    for board in boards:
        board.leave()


# Two stand-ins for nodes on one host; both ranks of the second are stopped for a while.
NODES = """
import os, signal, time
from mpi4py import MPI
world = MPI.COMM_WORLD
node = world.rank // 2
os.environ["HOLDFAST_NODE_MEMORY"] += f"/{node}"
os.makedirs(os.environ["HOLDFAST_NODE_MEMORY"], exist_ok=True)
import numpy as np, holdfast
from holdfast.health import far
far.PERIOD, far.SILENT = 0.2, 1.5
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def main(run):
    run.on_health(lambda event: say("hook", world.rank, event.kind, event.rank))
    u = run.protect("u", np.ones(4))
    pids = world.allgather(os.getpid())
    for step in run.steps(2):
        if step == 1 and node == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        end = time.monotonic() + 20
        while step == 1 and node == 0 and len(run.health) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        if step == 1 and world.rank == 0:
            for pid in pids[2:]:
                os.kill(pid, signal.SIGCONT)
    world.Barrier()
    time.sleep(0.5 * node)
holdfast.launch(main, "run", comm=world)
time.sleep(2.0 * (1 - node))
say("end", world.rank)
"""


def test_ranks_of_a_node_of_which_nothing_is_heard_are_told(tmp_path: Path, node: Path) -> None:
    done = start(tmp_path, node, NODES, str(MPIRUN), "--oversubscribe", "-n", "4")
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0 and len(lines(done.stdout, "end")) == 4, told
    found = sorted(tuple(words) for words in lines(done.stdout, "hook"))
    assert found == [(rank, "silent", other) for rank in "01" for other in "23"], told
    assert done.stderr.count("no sign of ranks 2-3 on ") == 1, told
    assert not list(node.rglob("boards*")), told
