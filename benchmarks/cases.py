"""Holdfast with few large arrays: full and incremental checkpoints, restores. Run by `job.run`, a process for each case."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ours
import states
from job import Context, main
from limits import Limits
from meters import Memory, forget, warm
from ours import Figures
from row import MiB, Row, median


def limits_of(context: Context, arrays: states.State) -> Limits:
    return Limits(context.place, list(arrays.values()), context.writes, context.reads)


def rows_of(program: str, context: Context, figures: list[Figures], limits: Limits, kind: str = "private") -> list[Row]:
    """The rows of a full checkpoint; memcpy is that into memory of `kind`."""
    size, state = context.size, limits.nbytes
    best, memcpy = f"best raw write: {limits.write_way}", f"memcpy, {kind} memory"
    written, copied = limits.write_seconds, limits.copy_seconds(kind)
    return [
        Row(program, size, "stall", "s", median(f.stall for f in figures), copied, memcpy),
        Row(program, size, "captured → durable", "s", median(f.after for f in figures), written, best),
        Row(program, size, "durable", "s", median(f.durable for f in figures), written, best),
        Row(program, size, "bytes", "B", median(f.bytes for f in figures), state, "the state"),
        Row(program, size, "CPU", "s", median(f.cpu for f in figures), limits.write_cpu, best),
    ]


def full(program: str, options: dict[str, Any], kind: str = "private") -> Callable[[Context], list[Row]]:
    """All of the state is rewritten before each checkpoint: everything has changed."""

    def case(context: Context) -> list[Row]:
        arrays = states.few_large(context.nbytes)
        url = context.place / "run"
        limits = limits_of(context, arrays)
        bound = context.more.get("staging")
        with Memory() as memory:
            run = ours.begin(url, arrays, **options, **({"staging": f"{bound // MiB}MiB"} if bound else {}))
            states.rewrite(arrays)
            ours.take(run)
        figures = []
        for _ in range(context.rounds):
            limits.copy(kind)
            limits.write()
            states.rewrite(arrays)
            figures.append(ours.checkpoint(run))
        run.close()
        limit, of = (bound, "the bound") if bound else (limits.nbytes, "the state")
        extra = Row(program, context.size, "extra memory", "B", memory.extra, limit, of)
        return [*rows_of(program, context, figures, limits, kind), extra]

    return case


def incremental(mode: str, options: dict[str, Any]) -> Callable[[Context], list[Row]]:
    """A second checkpoint after nothing, 1 % or everything was changed. `full` is the last of these."""
    changes: dict[str, Callable[[states.State, np.random.Generator], int]] = {
        "0 %": lambda arrays, rng: 0,
        "1 % contiguous": states.dirty_contiguous,
        "1 % scattered": states.dirty_scattered,
        "100 %": lambda arrays, rng: states.rewrite(arrays),
    }

    def case(context: Context) -> list[Row]:
        arrays, rng = states.few_large(context.nbytes), np.random.default_rng(3)
        limits = limits_of(context, arrays)
        run = ours.begin(context.place / "run", arrays, **options)
        figures: dict[str, list[Figures]] = {change: [] for change in changes}
        dirty: dict[str, int] = {}
        states.rewrite(arrays)
        ours.take(run)
        for _ in range(context.rounds):
            limits.copy()
            limits.write()
            for change, apply in changes.items():
                dirty[change] = apply(arrays, rng)
                figures[change].append(ours.checkpoint(run))
        run.close()
        whole = median(f.durable for f in figures["100 %"])
        rows = rows_of(f"holdfast {mode}, 100 % dirty", context, figures.pop("100 %"), limits)
        for change, found in figures.items():
            program, changed = f"holdfast {mode}, {change} dirty", dirty[change] or None
            rows += [
                Row(
                    program, context.size, "stall", "s", median(f.stall for f in found), limits.copy_seconds(), "memcpy"
                ),
                Row(
                    program, context.size, "durable", "s", median(f.durable for f in found), whole, "a full checkpoint"
                ),
                Row(program, context.size, "bytes", "B", median(f.bytes for f in found), changed, "the dirty bytes"),
                Row(
                    program, context.size, "CPU", "s", median(f.cpu for f in found), limits.write_cpu, "best raw write"
                ),
            ]
        return rows

    return case


def restore(context: Context) -> list[Row]:
    """From a cold cache into fresh arrays, from a warm one into arrays that were touched, every byte verified."""
    arrays = states.few_large(context.nbytes)
    url = context.place / "run"
    ours.begin(url, arrays, **ours.COPY).close()
    limits = limits_of(context, arrays)
    cold, cold_filled, warmed, warmed_filled = [], [], [], []
    with Memory() as memory:
        restored = ours.restore(url, None, arrays)[2]
    if not all(np.array_equal(arrays[name], restored[name]) for name in arrays):
        raise SystemExit("the restored arrays differ from those written")
    for array in restored.values():
        array.fill(1.0)
    for _ in range(context.rounds):
        limits.copy()
        # Raw and cold first, one after the other: where the machine is a guest, its host may remember what was read last.
        limits.read()
        forget(url)
        filled, settled, fresh = ours.restore(url, None, arrays)
        cold.append(settled)
        cold_filled.append(filled)
        del fresh
        warm(url)
        filled, settled, _ = ours.restore(url, restored, arrays)
        warmed.append(settled)
        warmed_filled.append(filled)
    limits.done()
    extra = max(0, memory.extra - states.nbytes(arrays))
    read, best = limits.read_seconds, f"best raw read into fresh memory: {limits.read_way}"
    copied, size, program = limits.copy_seconds(), context.size, "holdfast auto"
    return [
        Row(program, size, "cold restore", "s", median(cold), read, best),
        Row(program, size, "cold restore, arrays filled", "s", median(cold_filled), read, best),
        Row(program, size, "warm restore", "s", median(warmed), copied, "memcpy, private memory"),
        Row(program, size, "warm restore, arrays filled", "s", median(warmed_filled), copied, "memcpy, private memory"),
        Row(program, size, "extra memory, restore", "B", extra, limits.nbytes, "the state"),
    ]


def reference(context: Context) -> list[Row]:
    """Arrays that nobody can write into are held, not copied."""
    arrays = states.few_large(context.nbytes)
    limits = limits_of(context, arrays)
    with Memory() as memory:
        run = ours.begin_readonly(context.place / "run", arrays, **ours.REFERENCE)
    figures = []
    for _ in range(context.rounds):
        limits.copy()
        limits.write()
        figures.append(ours.checkpoint(run))
    run.close()
    extra = Row("holdfast reference", context.size, "extra memory", "B", memory.extra, limits.nbytes, "the state")
    return [*rows_of("holdfast reference", context, figures, limits), extra]


def cow_rewritten(context: Context) -> list[Row]:
    """The program rewrites all its state right after the call: what call and rewriting take beyond rewriting alone."""
    arrays = states.few_large(context.nbytes)
    limits = limits_of(context, arrays)
    run = ours.begin(context.place / "run", arrays, **ours.COW)
    slower = []
    for _ in range(context.rounds):
        limits.copy()
        limits.write()
        ours.settle(run)
        alone = _seconds(lambda: states.rewrite(arrays))
        began = time.perf_counter()
        handle = run.checkpoint(wait=False)
        states.rewrite(arrays)
        slower.append(time.perf_counter() - began - alone)
        handle.wait("durable", timeout=ours.DEADLINE)
    run.close()
    limit = max(3 * limits.copy_seconds(), 1.15 * limits.write_seconds)
    of = "the larger of 3 x memcpy and 1.15 x best raw write"
    return [Row("holdfast cow", context.size, "slow-down, all rewritten", "s", median(slower), limit, of)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


CASES: dict[str, Callable[[Context], list[Row]]] = {
    "auto": full("holdfast auto", ours.AUTO),
    "copy": full("holdfast copy", ours.COPY),
    "shared": full("holdfast copy, shared arena", ours.SHARED, "shared"),
    "bounded": full("holdfast copy, bounded staging", ours.COPY),
    "cow": full("holdfast cow", ours.COW),
    "pages": incremental("pages", ours.PAGES),
    "blocks": incremental("blocks", ours.BLOCKS),
    "restore": restore,
    "reference": reference,
    "cow-rewritten": cow_rewritten,
}

if __name__ == "__main__":
    main(CASES)
