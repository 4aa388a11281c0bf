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
    best_write = _best({way: raw_write(raw, data, way) for way in WAYS})
    best_read = _best({way: raw_read(raw, way) for way in WAYS})
    # Which of the fastest ways is the best drifts with the machine: three stay in the race, each round, in turn with ours.
    writes: dict[Way, list[float]] = {way: [] for way in best_write}
    reads: dict[Way, list[float]] = {way: [] for way in best_read}
    copies, checkpoints, restores, settled = [], [], [], []
    url = place / "run"
    for _ in range(rounds):
        copies.append(memcpy(copy, data))
        for way in best_write:
            writes[way].append(raw_write(raw, data, way))
        shutil.rmtree(url, ignore_errors=True)
        with holdfast.open(url) as run:
            for i, array in enumerate(arrays):
                run.protect(f"a{i}", array)
            run.ready()
            run.checkpoint()  # makes room for the file system's own work after so much was deleted
            began = time.perf_counter()
            run.checkpoint()
            checkpoints.append(time.perf_counter() - began)
            run.close()
        for way in best_read:
            reads[way].append(raw_read(raw, way))
        forget(url)
        began = time.perf_counter()
        run = holdfast.open(url)
        fresh = [np.empty(array.shape) for array in arrays]
        for i, array in enumerate(fresh):
            run.protect(f"a{i}", array)
        restores.append(time.perf_counter() - began)
        run.ready()
        settled.append(time.perf_counter() - began)
        if not all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in zip(arrays, fresh, strict=True)):
            raise SystemExit("the restored arrays differ from those written")
        run.close()
        del fresh
    raw.unlink()
    shutil.rmtree(url)

    median = statistics.median
    write_way = min(best_write, key=lambda way: median(writes[way]))
    read_way = min(best_read, key=lambda way: median(reads[way]))
    write, read = median(writes[write_way]), median(reads[read_way])
    fresh_text = "cold, into fresh arrays, verified"
    return [
        Result("raw write 1 GiB", f"best way: {write_way}", "s", write),
        Result("raw read 1 GiB", f"best way, cold, into fresh memory: {read_way}", "s", read),
        Result("memcpy 1 GiB", "warm, one thread", "s", median(copies)),
        Result("checkpoint 1 GiB", "blocking, durable", "s", median(checkpoints), 1.5, median(checkpoints) / write),
        Result("restore 1 GiB", fresh_text, "s", median(restores), 1.5, median(restores) / read),
        Result("restore 1 GiB, settled", "with `ready`", "s", median(settled), None, median(settled) / read),
    ]


def _best(times: dict[Way, float]) -> list[Way]:
    return sorted(times, key=times.__getitem__)[:3]
