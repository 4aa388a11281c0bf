"""What the ranks do while one of them is stopped: between them, all calls of the library that talk to other ranks.

Each scene is called on all ranks of a team, in a directory of its own, with the communicator to use. What it does before
`begin()` is its past, in which nobody is stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import holdfast

TIMEOUT = float(os.environ.get("STOPPED_TIMEOUT", "1"))  # seconds that the ranks wait for each other
PAST = 30.0
SIZE = 40_000  # so that a rank's parity takes several blocks, and nothing takes long
EACH = holdfast.steps(1)
BEHIND = holdfast.global_(every=holdfast.versions(2))

Begin = Callable[[], Any]
Scene = Callable[[Path, Any, Begin], None]


def fresh(base: Path, comm: Any, begin: Begin) -> None:
    """A new run: versions in flight, waited for, replicated objects, a record, a rollback, the end."""
    with holdfast.open(base / "run", comm=begin(), timeout=TIMEOUT) as run:
        state, shared = run.protect("u", np.zeros(SIZE)), run.protect("w", np.zeros(10_000), replicated=True)
        run.ready()
        for step in run.steps(4, every=EACH):
            state += step + comm.rank
            shared += step
            if step == 1:
                handle = run.checkpoint(wait=False)
        handle.wait(timeout=20 * TIMEOUT)
        with run.transaction("measured") as record:
            record.put("mean", float(state.mean()))
        run.rollback(2)
        for step in run.steps(5, every=EACH):
            state += step


def resumed(base: Path, comm: Any, begin: Begin) -> None:
    """A resume from the run's store, a checkpoint outside of loops, and a signal that asks for the last one."""
    past(base, comm)
    run = holdfast.open(base / "run", comm=begin(), timeout=TIMEOUT, takeover=True)
    try:
        state = run.protect("u", np.zeros(SIZE))
        step = came_from(run, state)
        run.checkpoint()
        run.checkpoint(wait=False).wait("durable", timeout=20 * TIMEOUT)
        for now in run.steps(100, every=EACH):
            state += now
            if now == step + 1 and comm.rank == comm.size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        run.close()


def levels(base: Path, comm: Any, begin: Begin) -> None:
    """Versions in the nodes' memory with parity over the others, copied to the run's store behind the program."""
    at_node(base, f"node{comm.rank}")
    asked = (holdfast.memory(), holdfast.xor(), BEHIND)
    with holdfast.open(base / "run", comm=begin(), timeout=TIMEOUT, levels=asked) as run:
        state = run.protect("u", np.zeros(SIZE))
        for step in run.steps(4, every=EACH):
            state += step + comm.rank


def rebuilt(base: Path, comm: Any, begin: Begin) -> None:
    """A node was lost, and what it had is computed from the others; nodes have swapped their names, and send what they have."""
    at_node(base, f"node{comm.rank}")
    asked = (holdfast.memory(), holdfast.xor(), holdfast.global_(every=holdfast.versions(1000)))
    past(base, comm, levels=asked)
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(base / "nodes" / "node1")
    comm.Barrier()
    at_node(base, f"node{(comm.rank + 1) % comm.size}")
    run = holdfast.open(base / "run", comm=begin(), timeout=TIMEOUT, takeover=True, levels=asked)
    try:
        state = run.protect("u", np.zeros(SIZE))
        for step in run.steps(came_from(run, state) + 2, every=EACH):
            state += step
    finally:
        run.close()


def salvaged(base: Path, comm: Any, begin: Begin) -> None:
    """What lies on nodes is looked at and brought to the run's store, as `holdfast plan` and `holdfast salvage` do it."""
    from holdfast.config import load
    from holdfast.group import make_group
    from holdfast.run.levels.foresight import foresee
    from holdfast.run.levels.salvage import Telling, salvage

    at_node(base, f"node{comm.rank}")
    past(base, comm, levels=(holdfast.memory(), holdfast.xor(), holdfast.global_(every=holdfast.versions(1000))))
    comm.Barrier()
    telling = Telling(lambda line: None, lambda done, total: None)
    group = make_group(begin(), TIMEOUT)
    foresee(group, str(base / "run"), [1] * comm.size, None, 60.0)
    salvage(group, str(base / "run"), load({"timeout": TIMEOUT}), True, telling)


SCENES: dict[str, Scene] = {
    "fresh": fresh, "resumed": resumed, "levels": levels, "rebuilt": rebuilt, "salvaged": salvaged,
}  # fmt: skip


def past(base: Path, comm: Any, **options: Any) -> None:
    """An execution of the run that has ended without a word, at step 3."""
    run = holdfast.open(base / "run", comm=comm, timeout=PAST, **options)
    state = run.protect("u", np.zeros(SIZE))
    for step in run.steps(4, every=EACH):
        if step == 3:
            break
        state += step
    x = run._x
    x.arrive()
    if x.levels is not None:
        x.levels.drain(PAST)
    x.interrupts.restore()
    x.loops.finish()
    x.resume.close()
    assert x.writer.carry is not None
    x.writer.carry.close()
    for closer in x.closers:
        closer()
    x.watching.stop()
    comm.Barrier()


def came_from(run: holdfast.Run, state: Any) -> int:
    """The step that the run goes on from, with the state of that step."""
    run.ready()
    assert run.restored is not None and run.restored.step is not None
    assert state[0] == state[-1] == run.restored.step * (run.restored.step - 1) // 2, (run.restored, state[0])
    return run.restored.step


def at_node(base: Path, name: str) -> None:
    """This rank is on the stand-in node of that name from now on."""
    memory = base / "nodes" / name
    memory.mkdir(parents=True, exist_ok=True)
    os.environ["HOLDFAST_NODE_MEMORY"], os.environ["HOLDFAST_FAILURE_DOMAIN"] = str(memory), name
