"""One GiB, durable, and back from a cold cache: each round beside the raw disk."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import numpy as np
from limits import WAYS, Way, aligned, forget, memcpy, raw_read, raw_write
from result import Result

import holdfast

GiB = 1 << 30
ARRAYS = 4  # a few large ones


def measure(place: Path, rounds: int) -> list[Result]:
    """Blocking checkpoint to durable, and verified restore into fresh arrays, as ratios to the best raw way."""
    data = aligned(GiB)
    data[:] = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8).repeat(GiB >> 20)
    arrays = [data[i * (GiB // ARRAYS) : (i + 1) * (GiB // ARRAYS)].view(float).copy() for i in range(ARRAYS)]
    copy = aligned(GiB)
    copy[:] = 0

    raw = place / "raw"
    writes = {way: raw_write(raw, data, way) for way in WAYS}
    reads = {way: raw_read(raw, way) for way in WAYS}
    best_write, best_read = _best(writes), _best(reads)
    writing: dict[str, list[float]] = {"ours": [], "limit": [], "memcpy": []}
    reading: dict[str, list[float]] = {"ours": [], "limit": [], "ready": []}
    url = place / "run"
    for _ in range(rounds):
        writing["memcpy"].append(memcpy(copy, data))
        # The limit is the best of the three fastest ways, now: which of them is fastest drifts with the machine.
        writing["limit"].append(min(raw_write(raw, data, way) for way in best_write))
        shutil.rmtree(url, ignore_errors=True)
        with holdfast.open(url) as run:
            for i, array in enumerate(arrays):
                run.protect(f"a{i}", array)
            run.ready()
            run.checkpoint()  # the first makes directories and warms nothing else
            began = time.perf_counter()
            run.checkpoint()
            writing["ours"].append(time.perf_counter() - began)
            run.close()
        reading["limit"].append(min(raw_read(raw, way) for way in best_read))
        forget(url)
        began = time.perf_counter()
        run = holdfast.open(url)
        fresh = [np.empty(array.shape) for array in arrays]
        for i, array in enumerate(fresh):
            run.protect(f"a{i}", array)
        filled = time.perf_counter() - began
        run.ready()
        reading["ready"].append(time.perf_counter() - began)
        reading["ours"].append(filled)
        if not all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in zip(arrays, fresh, strict=True)):
            raise SystemExit("the restored arrays differ from those written")
        run.close()
        del fresh
    raw.unlink()
    shutil.rmtree(url)

    def median(values: list[float]) -> float:
        return statistics.median(values)

    def ratio(found: dict[str, list[float]], name: str, to: str) -> float:
        return median([a / b for a, b in zip(found[name], found[to], strict=True)])

    return [
        Result("raw write 1 GiB", f"best way: {best_write[0]}", "s", median(writing["limit"])),
        Result("raw read 1 GiB", f"best way, cold, fresh memory: {best_read[0]}", "s", median(reading["limit"])),
        Result("memcpy 1 GiB", "warm, one thread", "s", median(writing["memcpy"])),
        Result(
            "checkpoint 1 GiB", "blocking, durable", "s", median(writing["ours"]), 1.5, ratio(writing, "ours", "limit")
        ),
        Result(
            "restore 1 GiB",
            "cold, fresh arrays, verified",
            "s",
            median(reading["ours"]),
            1.5,
            ratio(reading, "ours", "limit"),
        ),
        Result(
            "restore 1 GiB, settled",
            "the same and `ready`, which digests all again",
            "s",
            median(reading["ready"]),
            None,
            ratio(reading, "ready", "limit"),
        ),
    ]


def _best(times: dict[Way, float]) -> list[Way]:
    return sorted(times, key=times.__getitem__)[:3]
