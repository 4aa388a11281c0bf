"""Intervals that follow from measured costs, and landings of versions in flight, agreed over real messages."""

from __future__ import annotations

import time

import numpy as np
from mpi4py import MPI
from test_run_state import leave, reopen

import holdfast
from holdfast.group import make_group
from holdfast.policy import Every
from holdfast.run.interval import Costs
from holdfast.run.pacing import Decision, Pacer
from holdfast.run.signals import Interrupts


def same(comm, value):
    """The value, which is the same on all ranks."""
    values = comm.allgather(value)
    assert all(v == values[0] for v in values), values
    return value


def test_a_landing_is_taken_over_at_one_step(comm):
    """One rank's flight is over long before the others'."""
    group = make_group(comm, 30.0)
    over = [False]
    pacer = Pacer(Every(steps=1000), group, Interrupts(), 0, landed=lambda: over[0])
    pacer.watch(object())
    heard = []
    for step in range(200):
        decision = pacer.decide(step, False)
        if decision is not None:
            assert decision == Decision("", 0, True)
            heard.append(step)
            pacer.watch(None)
            over[0] = False
        if step == 40 and comm.rank == comm.size - 1:
            over[0] = True
        time.sleep(0.0005 * (1 + (step + comm.rank) % 2))
    pacer.finish()
    assert len(same(comm, heard)) == 1 and 40 < heard[0] <= 40 + 33
    group.close()


def test_the_dearest_rank_sets_the_pace(comm):
    """Rank 0 has next to nothing to wait for."""
    group = make_group(comm, 30.0)
    costs = Costs()
    costs.took(1e-5 if comm.rank < comm.size - 1 else 0.01)
    pacer = Pacer(holdfast.overhead(0.005), group, Interrupts(), 0, costs)
    taken = []
    began = time.monotonic()
    for step in range(250):
        decision = pacer.decide(step, False)
        if decision is not None:
            taken.append(step)
            pacer.taken(step)
        time.sleep(0.01)
    pacer.finish()
    seconds = comm.allreduce(time.monotonic() - began, op=MPI.MAX)
    # One in 2 s; if the first rank had its way, one a second.
    assert 1 <= len(same(comm, taken)) <= seconds / 1.99
    group.close()


def test_a_loop_by_itself(comm, shared_tmp):
    run = reopen(comm, shared_tmp, keep=holdfast.Keep(last=100))
    u = run.protect("u", np.zeros(1))
    began = time.monotonic()
    for _ in run.steps(60, every=holdfast.auto(2.0, shortest=0.05)):
        u += 1
        time.sleep(0.01)
    seconds = comm.allreduce(time.monotonic() - began, op=MPI.MAX)
    steps = same(comm, [v.step for v in run.versions if v.kind == "checkpoint"])
    assert 1 <= len(steps) <= seconds / 0.05
    leave(run)
