"""A peer with the state that Holdfast has too, measured the same way. Runs in the peers' environment: no Holdfast there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import states
from job import Context, main
from limits import Limits
from meters import Cpu, Memory, forget, fsync_tree, sizes, warm
from peers import PEERS, Peer
from row import Row, median


def case(name: str) -> Callable[[Context], list[Row]]:
    """Save, durable by our fsync, load from a cold and from a warm cache."""

    def measure(context: Context) -> list[Row]:
        peer = PEERS[name]()
        peer.start()
        try:
            return _small(name, peer, context) if context.more.get("small") else _large(name, peer, context)
        finally:
            peer.stop()

    return measure


def _large(name: str, peer: Peer, context: Context) -> list[Row]:
    arrays = states.few_large(context.nbytes)
    limits = Limits(context.place, list(arrays.values()), context.writes, context.reads)
    url, size = context.place / "peer", context.size
    found: list[tuple[float, ...]] = []  # (call, durable, CPU, cold, warm) of each round
    extra = extra_load = written = 0
    # A round that is not timed comes first, for memory and for what is made once, unless a round is too dear.
    for number in range(context.rounds + (not context.more.get("dear"))):
        first = number == 0
        timed = not first or bool(context.more.get("dear"))
        if timed:
            limits.copy()
            limits.write()
        with _metered(first) as memory:
            call, whole, cpu = _save(peer, url, arrays)
        extra = memory.extra if first else extra
        written = sum(sizes(url).values())
        if timed:
            limits.read()
        forget(url)
        with _metered(first) as memory:
            began = time.perf_counter()
            loaded = peer.load(url, arrays)
            from_cold = time.perf_counter() - began
        extra_load = max(0, memory.extra - limits.nbytes) if first else extra_load
        # A quarter of a dear state is enough to see that the peer is used rightly.
        keys = [key for key in arrays if key not in ("large 1", "large 2", "large 3") or not context.more.get("dear")]
        if first and not all(np.array_equal(arrays[key], loaded[key]) for key in keys):
            raise SystemExit("what was loaded differs from what was saved")
        del loaded
        warm(url)
        began = time.perf_counter()
        peer.load(url, arrays)
        from_warm = time.perf_counter() - began
        shutil.rmtree(url)
        if timed:
            found.append((call, whole, cpu, from_cold, from_warm))
    limits.done()
    stall, durable, used, cold, warmed = (median(column) for column in zip(*found, strict=True))
    best, memcpy = f"best raw write: {limits.write_way}", "memcpy, private memory"
    return [
        Row(name, size, "stall", "s", stall, limits.copy_seconds(), memcpy),
        Row(name, size, "durable", "s", durable, limits.write_seconds, best),
        Row(name, size, "cold restore", "s", cold, limits.read_seconds, f"best raw read: {limits.read_way}"),
        Row(name, size, "warm restore", "s", warmed, limits.copy_seconds(), memcpy),
        Row(name, size, "extra memory", "B", extra, limits.nbytes, "the state"),
        Row(name, size, "extra memory, restore", "B", extra_load, limits.nbytes, "the state"),
        Row(name, size, "bytes", "B", written, limits.nbytes, "the state"),
        Row(name, size, "CPU", "s", used, limits.write_cpu, best),
    ]


def _small(name: str, peer: Peer, context: Context) -> list[Row]:
    values = states.many_small()
    # Text has no form in most of them; scalars are arrays of no dimension.
    arrays = {key: np.asarray(value) for key, value in values.items() if not isinstance(value, str)}
    url, program = context.place / "peer", f"{name}, 200 small arrays"
    found = []
    for _ in range(context.rounds + 1):
        found.append((*_save(peer, url, arrays), sum(sizes(url).values())))
        shutil.rmtree(url)
    stall, durable, cpu, written = (median(column) for column in zip(*found[1:], strict=True))
    return [
        Row(program, "", "stall", "s", stall),
        Row(program, "", "durable", "s", durable),
        Row(program, "", "bytes", "B", written, sum(a.nbytes for a in arrays.values()), "the state"),
        Row(program, "", "CPU", "s", cpu),
    ]


def _save(peer: Peer, url: Path, arrays: states.State) -> tuple[float, float, float]:
    """Seconds of the call, until durable, and of CPU."""
    with Cpu() as cpu:
        began = time.perf_counter()
        url.mkdir()
        peer.save(url, arrays)
        call = time.perf_counter() - began
        peer.finish()
        fsync_tree(url)
        whole = time.perf_counter() - began
    return call, whole, cpu.seconds


class _Unmetered:
    extra = 0

    def __enter__(self) -> _Unmetered:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _metered(wanted: bool) -> Memory | _Unmetered:
    return Memory() if wanted else _Unmetered()


if __name__ == "__main__":
    main({name: case(name) for name in PEERS})
