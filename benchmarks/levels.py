"""Levels: how soon a state is back from the node's memory, and whether redundancy behind the program makes it wait longer.

Restarts are processes of their own, as a program's are, the one before killed; each prints a line: seconds of a memcpy of the
state by one thread, from opening until the run is open, and until the state is back.

The second case starts `mpirun`; run by that, it prints a line: for each round, seconds that the program waited for a version in
memory alone and for one that is protected as well (the slowest rank), and seconds until that was protected.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from job import Context, main
from row import MiB, Row, median

import holdfast
from holdfast.levels import Level

HERE = Path(__file__).parent
RANKS = 4
BETWEEN = 1.0  # seconds of computing between two checkpoints, the same for both kinds: in them the next version's file is made
NEVER = holdfast.global_(every=holdfast.versions(1 << 30))


def filled(nbytes: int, seed: int) -> Any:
    block = np.random.default_rng(seed).integers(0, 256, MiB, np.uint8)
    return np.resize(block, nbytes)


def memory_restart(context: Context) -> list[Row]:
    place = context.place / "run"
    # Where bytecode is not kept, each process would compile the library again, which an installed one does not.
    env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(context.place / "bytecode")
    try:
        _killed("--begin", place, context.nbytes, env)
        _killed("--restart", place, context.nbytes, env)  # not measured
        lines = [_killed("--restart", place, context.nbytes, env) for _ in range(context.rounds)]
    finally:
        for stale in Path("/dev/shm", f"holdfast-{os.geteuid()}").glob("*/place.json"):
            if str(place) in stale.read_text():
                shutil.rmtree(stale.parent)
    copied, opened, restored = (median(column) for column in zip(*map(json.loads, lines), strict=True))
    program, size = "memory level", context.size
    return [
        Row(program, size, "restart", "s", restored, copied, "memcpy"),
        Row(program, size, "restart, the run being open", "s", restored - opened, copied, "memcpy"),
    ]


def _killed(what: str, place: Path, nbytes: int, env: dict[str, str]) -> str:
    """The last line of a process of this script that ends by killing itself."""
    command = [sys.executable, str(HERE / "levels.py"), what, str(place), str(nbytes)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=120)
    if done.returncode != -signal.SIGKILL:
        raise SystemExit(f"{what[2:]} ended with status {done.returncode}")
    return (done.stdout.splitlines() or [""])[-1]


def begin(place: Path, nbytes: int) -> None:
    """A program that is killed when its state is in the node's memory."""
    u = filled(nbytes, 0)
    run = holdfast.open(place, levels=[holdfast.memory(), NEVER], signals=False)
    run.protect("u", u)
    for step in run.steps(3, every=holdfast.steps(1)):
        u[step] += 1
        if step == 2:
            break
    run._x.writer.arrive()
    os.kill(os.getpid(), signal.SIGKILL)


def restart(place: Path, nbytes: int) -> None:
    """The same program, started again."""
    expected, u, copies = filled(nbytes, 0), np.ones(nbytes, np.uint8), []
    for _ in range(3):
        began = time.perf_counter()
        np.copyto(u, expected)
        copies.append(time.perf_counter() - began)
    u[:] = 0
    began = time.perf_counter()
    run = holdfast.open(place, levels=[holdfast.memory(), NEVER], signals=False)
    opened = time.perf_counter()
    run.protect("u", u)
    run.ready()
    restored = time.perf_counter()
    if run.restored is None or dict(run.restored.read)["global"]:
        raise SystemExit(f"not restored from memory: {run.restored}")
    if not np.array_equal(u[3:], expected[3:]):
        raise SystemExit("what was restored differs")
    print(json.dumps([median(copies), opened - began, restored - began]), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def protected(context: Context) -> list[Row]:
    from small import mpirun

    script = [sys.executable, str(HERE / "levels.py"), "--rank", str(context.place)]
    output = mpirun(RANKS, [*script, str(context.nbytes // RANKS), str(context.rounds)])
    found = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    alone, stall = median(found["alone"]), median(found["stall"])
    program = f"memory and xor, {RANKS} ranks"
    return [
        Row(program, context.size, "stall", "s", stall, alone, "without redundancy"),
        Row(program, context.size, "protected", "s", median(found["durable"]), median(found["memcpy"]), "memcpy by all ranks"),
    ]


def rank(place: Path, nbytes: int, rounds: int) -> None:
    """One rank, a node of its own by its environment."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    memory = Path("/dev/shm") / f"bench-{place.name}-{os.path.basename(place.parent)}" / f"node{comm.rank}"
    memory.mkdir(parents=True, exist_ok=True)
    os.environ["HOLDFAST_NODE_MEMORY"], os.environ["HOLDFAST_FAILURE_DOMAIN"] = str(memory), f"node{comm.rank}"
    found: dict[str, list[float]] = {"alone": [], "stall": [], "durable": [], "memcpy": []}
    u, copy = filled(nbytes, comm.rank), np.ones(nbytes, np.uint8)
    try:
        measure(comm, place, u, copy, rounds, found)
    finally:
        comm.Barrier()
        shutil.rmtree(memory, ignore_errors=True)
    if comm.rank == 0:
        shutil.rmtree(memory.parent, ignore_errors=True)
        print(json.dumps(found), flush=True)


def measure(comm: Any, place: Path, u: Any, copy: Any, rounds: int, found: dict[str, list[float]]) -> None:
    from mpi4py import MPI

    runs: dict[str, holdfast.Run] = {}
    kinds: tuple[tuple[str, list[Level]], ...] = (
        ("alone", [holdfast.memory(), NEVER]),
        ("stall", [holdfast.memory(), holdfast.xor(), NEVER]),
    )
    loops = {}
    for name, levels in kinds:
        runs[name] = holdfast.open(place / name, comm=comm, levels=levels, signals=False)
        runs[name].protect("u", u)
        loops[name] = runs[name].steps(every=holdfast.steps(1))
        next(loops[name])
    for i in range(rounds + 1):  # the first of each is not counted: memory is touched for the first time
        for name, _ in kinds:
            until = time.perf_counter() + BETWEEN
            while time.perf_counter() < until:
                u += 1
            comm.Barrier()
            began = time.perf_counter()
            next(loops[name])  # the head of the loop, where the checkpoint is taken
            stall = comm.allreduce(time.perf_counter() - began, MPI.MAX)
            runs[name]._x.writer.arrive()
            comm.Barrier()
            if i:
                found[name].append(stall)
                if name == "stall":
                    found["durable"].append(comm.allreduce(time.perf_counter() - began, MPI.MAX))
        comm.Barrier()
        began = time.perf_counter()
        np.copyto(copy, u)
        comm.Barrier()
        if i:
            found["memcpy"].append(comm.allreduce(time.perf_counter() - began, MPI.MAX))
    for run in runs.values():
        run.close()


CASES: dict[str, Callable[[Context], list[Row]]] = {"memory-restart": memory_restart, "levels-stall": protected}

if __name__ == "__main__":
    if sys.argv[1] in ("--begin", "--restart"):
        {"--begin": begin, "--restart": restart}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "--rank":
        rank(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(CASES)
