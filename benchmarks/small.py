"""What small things cost: a step, the import, opening a run, a state of small arrays; and a rank on every core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ours
import states
from job import Context, main
from limits import Limits
from meters import Fsyncs, covered
from row import Row, median

import holdfast

STEPS = 100_000
HERE = Path(__file__).parent


def steps(context: Context) -> list[Row]:
    """A step without a checkpoint: mean over 10^5, serial and on 2 ranks (the slower rank)."""
    serial = median(step_seconds(context.place / f"steps{i}", None) for i in range(5))
    output = mpirun(2, [sys.executable, str(HERE / "small.py"), "--rank", str(context.place / "ranks")])
    per_rank = [float(line.split()[1]) for line in output.splitlines() if line.startswith("seconds ")]
    if len(per_rank) != 2:
        raise SystemExit(f"the 2-rank measurement printed no two figures: {output}")
    return [
        Row("step, serial", "", "no checkpoint due", "s", serial),
        Row("step, 2 ranks", "", "no checkpoint due", "s", max(per_rank)),
    ]


def mpirun(ranks: int, command: list[str]) -> str:
    """Standard output of `command` on so many ranks."""
    launcher = Path(sys.executable).with_name("mpirun")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    whole = [str(launcher) if launcher.exists() else "mpirun", "--oversubscribe", "-n", str(ranks), *command]
    process = subprocess.run(whole, env=os.environ | root, timeout=500, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr.strip().splitlines()[-1] if process.stderr.strip() else "mpirun failed")
    return process.stdout


def step_seconds(url: Path, comm: object) -> float:
    """Mean seconds of an empty step (collective)."""
    import numpy as np

    with holdfast.open(url, comm=comm) as run:
        u = run.protect("u", np.zeros(3))
        run.ready()
        began = time.perf_counter()
        for _ in run.steps(STEPS, every=holdfast.seconds(3600)):
            pass
        took = time.perf_counter() - began
        u[:] = took  # the array is the program's: nobody else referring to it would be an error
        return took / STEPS


def importing(context: Context) -> list[Row]:
    """`import holdfast` beyond NumPy, in fresh processes."""
    code = "import time, numpy; t = time.perf_counter(); import holdfast; print(time.perf_counter() - t)"
    # As an installed package is imported: from bytecode, which the first process writes.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout)
        for _ in range(12)
    ]
    return [Row("import holdfast", "", "beyond NumPy", "s", median(times[1:]))]


def opening(context: Context) -> list[Row]:
    """Opening a run that has 100 versions of 10 000 small objects."""
    import numpy as np

    url, keep = context.place / "many", holdfast.Keep(last=100)
    rng = np.random.default_rng(0)
    objects = {f"object {i}": rng.random(8) for i in range(10_000)}
    with holdfast.open(url, keep=keep) as run:
        for name, obj in objects.items():
            run.protect(name, obj)
        run.ready()
        began = time.perf_counter()
        for i in range(100):
            for obj in objects.values():
                obj[0] = i
            run.checkpoint()
        each = (time.perf_counter() - began) / 100
        run.close()
    opens = []
    for _ in range(7):
        began = time.perf_counter()
        run = holdfast.open(url, keep=keep)
        opens.append(time.perf_counter() - began)
        run.close()
    run = holdfast.open(url, keep=keep)
    began = time.perf_counter()
    for name, obj in objects.items():
        run.protect(name, obj)
    run.ready()
    restored = time.perf_counter() - began
    run.close()
    return [
        Row("open, 100 versions", "", "holdfast.open", "s", median(opens)),
        Row("10 000 small objects", "", "checkpoint, blocking", "s", each),
        Row("10 000 small objects", "", "restore", "s", restored),
    ]


def small_state(context: Context) -> list[Row]:
    """200 small arrays and scalars: what a checkpoint takes beyond what the disk takes for its fsyncs."""
    values = states.many_small()
    program = "holdfast, 200 small arrays"
    arrays = {name: v for name, v in values.items() if hasattr(v, "dtype")}
    run = ours.open_run(context.place / "run", **ours.AUTO)
    for name, array in arrays.items():
        run.protect(name, array)
    scalars = run.state(**{name: v for name, v in values.items() if name not in arrays})
    run.ready()
    ours.take(run)
    figures, beyond = [], []
    for i in range(4 * context.rounds):
        for array in arrays.values():
            array += 1
        scalars.count = i
        ours.settle(run)
        with Fsyncs() as fsyncs:
            figures.append(ours.checkpoint(run))
        began, took = figures[-1].began, figures[-1].durable
        beyond.append(took - covered(fsyncs.spans, began, began + took))
    run.close()
    return [
        Row(program, "", "stall", "s", median(f.stall for f in figures)),
        Row(program, "", "durable", "s", median(f.durable for f in figures)),
        Row(program, "", "durable beyond fsyncs", "s", median(beyond)),
        Row(program, "", "bytes", "B", median(f.bytes for f in figures), states.nbytes(arrays), "the state"),
        Row(program, "", "CPU", "s", median(f.cpu for f in figures)),
    ]


def every_core(context: Context) -> list[Row]:
    """A rank on every core: all of them copy at once, then all of them checkpoint at once."""
    ranks = len(os.sched_getaffinity(0))
    command = [
        sys.executable,
        str(HERE / "ranks.py"),
        str(context.place / "run"),
        str(context.nbytes),
        str(context.rounds),
    ]
    output = mpirun(ranks, command)
    line = next(line for line in output.splitlines() if line.startswith("rounds "))
    copied, stall, durable = (median(column) for column in zip(*json.loads(line[7:]), strict=True))
    limits = Limits(context.place, [], context.writes, [], context.nbytes)
    for _ in range(3):
        limits.write()
    program = "holdfast copy, a rank on every core"
    best = f"best raw write: {limits.write_way}"
    return [
        Row(program, context.size, "stall", "s", stall, copied, "memcpy, all ranks at once"),
        Row(program, context.size, "durable", "s", durable, limits.write_seconds, best),
    ]


CASES: dict[str, Callable[[Context], list[Row]]] = {
    "import": importing,
    "steps": steps,
    "opening": opening,
    "small": small_state,
    "every-core": every_core,
}

if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        from mpi4py import MPI

        print("seconds", median(step_seconds(Path(f"{sys.argv[2]}{i}"), MPI.COMM_WORLD) for i in range(5)), flush=True)
    else:
        main(CASES)
