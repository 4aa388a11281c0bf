"""What small things cost: a step, the import, opening a run with many versions of many objects."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from result import Result

import holdfast

STEPS = 100_000
HERE = Path(__file__).parent


def steps(place: Path) -> list[Result]:
    """A step without a checkpoint: mean over 10^5, serial and on 2 ranks (the slower rank)."""
    serial = statistics.median(step_microseconds(place / "steps", None) for _ in range(5))
    found = [Result("step, serial", "no checkpoint due", "µs", serial, 2.0)]
    mpirun = Path(sys.executable).with_name("mpirun")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    output = subprocess.run(
        [mpirun, "--oversubscribe", "-n", "2", sys.executable, __file__, str(place / "steps2")],
        env=os.environ | root,
        timeout=300,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    per_rank = [float(line.split()[1]) for line in output.splitlines() if line.startswith("microseconds ")]
    if len(per_rank) != 2:
        raise SystemExit(f"the 2-rank measurement printed no two figures:\n{output}")
    return [*found, Result("step, 2 ranks", "no checkpoint due", "µs", max(per_rank), 20.0)]


def step_microseconds(url: Path, comm: object) -> float:
    """Mean microseconds of an empty step (collective)."""
    if getattr(comm, "rank", 0) == 0:
        shutil.rmtree(url, ignore_errors=True)
    if comm is not None:
        comm.Barrier()  # type: ignore[attr-defined]
    with holdfast.open(url, comm=comm) as run:
        u = run.protect("u", np.zeros(3))
        run.ready()
        began = time.perf_counter()
        for _ in run.steps(STEPS, every=holdfast.seconds(3600)):
            pass
        took = time.perf_counter() - began
        u[:] = took  # the array is the program's: nobody else referring to it would be an error
        return took / STEPS * 1e6


def importing() -> list[Result]:
    """`import holdfast` beyond NumPy, in fresh processes."""
    code = "import time, numpy; t = time.perf_counter(); import holdfast; print((time.perf_counter() - t) * 1e3)"
    # As an installed package is imported: from bytecode, which the first process writes.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout)
        for _ in range(12)
    ]
    return [Result("import holdfast", "beyond NumPy, median of 11 processes", "ms", statistics.median(times[1:]), 50.0)]


def opening(place: Path) -> list[Result]:
    """Opening a run that has 100 versions of 10 000 small objects."""
    url = place / "many"
    rng = np.random.default_rng(0)
    objects = {f"object {i}": rng.random(8) for i in range(10_000)}
    shutil.rmtree(url, ignore_errors=True)
    with holdfast.open(url, keep=holdfast.Keep(last=100)) as run:
        for name, obj in objects.items():
            run.protect(name, obj)
        run.ready()
        began = time.perf_counter()
        for _ in range(100):
            run.checkpoint()
        each = (time.perf_counter() - began) / 100
        run.close()
    opens = []
    for _ in range(7):
        began = time.perf_counter()
        run = holdfast.open(url, keep=holdfast.Keep(last=100))
        opens.append(time.perf_counter() - began)
        run.close()
    run = holdfast.open(url, keep=holdfast.Keep(last=100))
    began = time.perf_counter()
    for name, obj in objects.items():
        run.protect(name, obj)
    run.ready()
    restore = time.perf_counter() - began
    run.close()
    shutil.rmtree(url)
    return [
        Result("open, 100 versions of 10 000 objects", "holdfast.open", "ms", statistics.median(opens) * 1e3, 50.0),
        Result("checkpoint of 10 000 small objects", "blocking, durable", "ms", each * 1e3),
        Result("restore of 10 000 small objects", "protect and ready", "ms", restore * 1e3),
    ]


if __name__ == "__main__":
    from mpi4py import MPI

    found = statistics.median(step_microseconds(Path(sys.argv[1]), MPI.COMM_WORLD) for _ in range(5))
    print("microseconds", found, flush=True)
