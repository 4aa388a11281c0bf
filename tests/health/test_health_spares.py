"""Spares: looked after by the ranks of their node; one that is lost is told, and its death is no reason to give up later."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from health_support import RUN
from test_health_beat import look
from test_health_runs import CLI, boards, lines, start

from holdfast.health import NO_RANK, Beat, Board, Event, Limits, Seen, judge, processes
from holdfast.health.judging import Memory, Own
from holdfast.health.phases import STANDING

# Of 2 ranks and 3 spares one spare is killed, one stopped; then a rank dies, when 3 of 5 are gone.
SPARES = """
import os, signal, sys, time
import numpy as np, holdfast
from mpi4py import MPI
from holdfast.group.repair.crew import crew_of
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def main(run):
    rank, crew = run.comm.rank, crew_of(run.comm)
    u = run.protect("u", np.ones(4))
    spares = [one.pid for one in crew.members if one.role < 0]
    if rank == 0 and not run.repairs:
        os.kill(spares[0], signal.SIGKILL)
        os.kill(spares[1], signal.SIGSTOP)
    seen = []
    for step in run.steps(1 << 30, every=holdfast.steps(50)):
        u += run.comm.allreduce(1.0)
        time.sleep(0.01)
        seen = [event.kind for event in run.health if event.kind == "spare lost"]
        if run.comm.allreduce(len(seen), op=MPI.MIN) == 2 and not run.repairs:
            if rank == 0:
                say("left", crew.spares)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        if run.repairs and step % 50 == 20:
            break
    say("end", rank, run.repairs, run.attempt, crew.spares, len(seen))
holdfast.launch(main, "run")
"""


# Of 2 ranks and 2 spares one of each is killed at one moment: half of all, but nobody who might live elsewhere.
TOGETHER = """
import os, signal, sys
import numpy as np, holdfast
from holdfast.group.repair.crew import crew_of
def main(run):
    rank, crew = run.comm.rank, crew_of(run.comm)
    u = run.protect("u", np.ones(1 << 16))
    for step in run.steps(60, every=holdfast.steps(10)):
        u += run.comm.allreduce(1.0)
        if step == 25 and not run.repairs and rank == 0:
            for role in (1, -1):
                os.kill(next(one.pid for one in crew.members if one.role == role), signal.SIGKILL)
    os.write(1, f"end {rank} {run.repairs} {crew.spares}\\n".encode())
holdfast.launch(main, "run")
"""


def test_a_spare_that_dies_with_a_rank_is_not_counted(tmp_path: Path, node: Path) -> None:
    done = start(tmp_path, node, TOGETHER, *CLI, "-n", "2", "--spares", "2")
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0 and sorted(lines(done.stdout, "end")) == [["0", "1", "0"], ["1", "1", "0"]], told


def test_lost_spares_are_told_and_not_counted(tmp_path: Path, node: Path) -> None:
    done = start(tmp_path, node, SPARES, *CLI, "-n", "2", "--spares", "3")
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    assert lines(done.stdout, "left") == [["1"]], told
    # In place: rank 0 still knows of both, and the spare that took rank 1's place has heard of them.
    assert sorted(lines(done.stdout, "end")) == [["0", "1", "2", "0", "2"], ["1", "1", "2", "0", "2"]], told
    assert len(re.findall(r"A spare on .* is gone: process \d+ is ", done.stderr)) == 1, told
    assert len(re.findall(r"A spare on .* is stopped .* It is killed", done.stderr)) == 1, told  # of its end nothing more
    assert "Rank 1 on" in done.stderr and boards(node) == [], told


def test_a_spare_on_the_board_is_looked_at_by_few_and_its_loss_is_told(node: Path) -> None:
    told: list[list[Event]] = [[] for _ in range(4)]
    dead: list[tuple[int, int]] = []
    beats = [
        Beat(Board.join(str(node), RUN, 1, i), told[i].append, limits=Limits(stopped=0.2), stacks=False,
             spare_died=lambda pid, start: dead.append((pid, start)))
        for i in range(4)
    ]  # fmt: skip
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as spare:
        began = processes.look(spare.pid).start
        beats[2].board.put(spare.pid, began)
        slots = beats[0].board.read()
        assert [(s.phase, s.rank, s.pid) for s in slots[4:]] == [(STANDING, NO_RANK, spare.pid)]
        later = slots[4].beat_at * 1e-9 + 60
        looked = [one for beat in beats for one in beat._look(slots, later) if one.slot == 4 and one.state is not None]
        assert len(looked) == 2  # a beat that is missing is no reason
        os.kill(spare.pid, signal.SIGSTOP)
        look(beats, lambda: all(len(events) == 2 for events in told))
    assert [[(e.kind, e.rank) for e in events] for events in told] == [[("stopped", None), ("spare lost", None)]] * 4
    assert dead == [(spare.pid, began)] * 4
    beats[0].board.put(os.getpid(), processes.look(os.getpid()).start)
    for beat in beats:
        beat.stop()
    assert not os.path.exists(beats[0].board.path), "a spare that lives keeps no board"


def test_nobody_waits_for_a_spare() -> None:
    """The ranks' times do not begin anew, as they do when one of them has died."""
    limits, memory, said = Limits(stall=1.0), Memory(), []
    for i in range(14):
        now = 10 + i / 10
        gone = Seen(2, 102, 7, NO_RANK, STANDING, 0, 0.0, 0.0, state="" if i > 5 else "S", found=7)
        ranks = [Seen(n, 100 + n, 7, n, 0, i, now, 10.0 if n else now, state="S", found=7) for n in (0, 1)]
        verdicts, memory = judge([*ranks, gone], now, limits, memory, Own(0, now))
        said += [(v.kind, v.seen.slot) for v in verdicts]
    assert said == [("died", 2), ("stalled", 1)]
