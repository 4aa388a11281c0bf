"""How much slower a program computes beside the engine: while a version is flushed, and under the tracker."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ours
import states
from job import Context, main
from row import MiB, Row, median

IDLE = 0.4  # seconds of the loop alone, before and after each flush


def matmul() -> Callable[[], object]:
    rng = np.random.default_rng(4)
    a, b, c = rng.random((1000, 1000)), rng.random((1000, 1000)), np.empty((1000, 1000))
    return lambda: np.matmul(a, b, out=c)


def stream() -> Callable[[], object]:
    x = np.zeros(32 * MiB // 8)
    return lambda: np.add(x, 1.0, out=x)


def pure_python() -> Callable[[], object]:
    def work() -> int:
        total = 0
        for i in range(100_000):
            total += i & 7
        return total

    return work


def while_flushing(
    program: str, metric: str, make: Callable[[], Callable[[], object]], options: dict[str, Any]
) -> Callable[[Context], list[Row]]:
    """Seconds of a unit of work between a checkpoint's return and its being durable, beside that of the loop alone."""

    def case(context: Context) -> list[Row]:
        arrays, work = states.few_large(context.nbytes), make()
        # All of it is written each time: what is flushed is the whole state, whatever the engine finds unchanged.
        run = ours.begin(context.place / "run", arrays, **{**options, "incremental": "off"})
        flushing, alone = [], []
        for _ in range(context.rounds):
            ours.settle(run)
            before = _unit(work, _clock(IDLE))
            handle = run.checkpoint(wait=False)
            flushing.append(_unit(work, lambda handle=handle: not handle.durable))  # type: ignore[misc]
            handle.wait("durable", timeout=ours.DEADLINE)
            ours.settle(run)
            alone.append((before + _unit(work, _clock(IDLE))) / 2)
        run.close()
        return [Row(program, context.size, metric, "s", median(flushing), median(alone), "the loop alone")]

    return case


def _clock(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


def _unit(work: Callable[[], object], go_on: Callable[[], bool]) -> float:
    """Mean seconds of a unit of work, of as many as begin while `go_on()`."""
    count, began = 0, time.perf_counter()
    while go_on():
        work()
        count += 1
    if count < 3:
        raise SystemExit(f"the flush was over after {count} units of work: too short to measure anything")
    return (time.perf_counter() - began) / count


def rewriting(context: Context) -> list[Row]:
    """Seconds in which a program rewrites its whole state between checkpoints, with the tracker (`auto`) and not (`blocks`).

    Each time a run and arrays of their own: a tracker splits huge pages, and they stay split. The first two intervals are
    not counted: `auto` learns there.
    """
    sessions: dict[str, list[float]] = {"auto": [], "blocks": []}
    order = ["auto", "blocks", "blocks", "auto"] * max(1, context.rounds // 2)
    for mode in order:
        arrays = states.few_large(context.nbytes)
        url = context.place / "run"
        run = ours.begin(url, arrays, capture="copy", incremental=mode)
        times = []
        for _ in range(8):
            ours.settle(run)
            began = time.perf_counter()
            for _ in range(3):
                states.rewrite(arrays)
            times.append(time.perf_counter() - began)
            ours.take(run)
        run.close()
        shutil.rmtree(url)
        # The mean of a session, not its median: what `auto` costs now and then must count.
        sessions[mode].append(float(np.mean(times[2:])))
    value, limit = median(sessions["auto"]), median(sessions["blocks"])
    return [Row("holdfast auto", context.size, "time, all rewritten", "s", value, limit, "without a tracker")]


CASES: dict[str, Callable[[Context], list[Row]]] = {
    "matmul": while_flushing("holdfast auto", "time of matmul", matmul, ours.AUTO),
    "matmul-one": while_flushing("holdfast auto", "time of matmul, one thread", matmul, ours.AUTO),
    "stream": while_flushing("holdfast auto", "time of a stream", stream, ours.AUTO),
    "python-thread": while_flushing("holdfast auto", "time of pure Python", pure_python, ours.AUTO),
    "python": while_flushing("holdfast process", "time of pure Python", pure_python, ours.PROCESS),
    "rewriting": rewriting,
}

if __name__ == "__main__":
    main(CASES)
