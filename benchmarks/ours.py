"""Holdfast as a program uses it, with a stopwatch: the one place of the bench that knows its options."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from meters import Cpu, sizes

import holdfast

LAST = 2  # versions kept
DEADLINE = 300.0  # seconds that a version may take to become durable

# What the cases say, as arguments of `holdfast.open`.
COPY = {"capture": "copy", "incremental": "off"}
SHARED = {"capture": "copy", "incremental": "off", "engine": "process", "config": {"arena": "shared"}}
COW = {"capture": "cow", "incremental": "off"}
REFERENCE = {"capture": "reference", "incremental": "off"}
PAGES = {"capture": "copy", "incremental": "pages"}
BLOCKS = {"capture": "copy", "incremental": "blocks"}
AUTO: dict[str, Any] = {}
PROCESS = {"engine": "process"}


@dataclass(frozen=True)
class Figures:
    """One checkpoint. Seconds: `stall`, of the call; `after`, from its return until durable; `cpu`, of both, all
    processes; `began`, by `time.perf_counter`. `bytes`: sizes of the files that the version has."""

    began: float
    stall: float
    after: float
    cpu: float
    bytes: int

    @property
    def durable(self) -> float:
        return self.stall + self.after


def open_run(url: Path, **options: Any) -> Any:
    return holdfast.open(url, keep=holdfast.Keep(last=LAST), **options)


def begin(url: Path, arrays: Mapping[str, Any], **options: Any) -> Any:
    """A run that protects `arrays`, with its arena made and a first version durable."""
    run = open_run(url, **options)
    for name, array in arrays.items():
        run.protect(name, array)
    run.ready()
    take(run)
    return run


def begin_readonly(url: Path, arrays: Mapping[str, np.ndarray], **options: Any) -> Any:
    """The same for arrays that nobody can write into: they can't be filled in place, so they live in the namespace."""
    for array in arrays.values():
        array.flags.writeable = False
    run = open_run(url, **options)
    run.state(**{name.replace(" ", "_"): array for name, array in arrays.items()})
    run.ready()
    take(run)
    return run


def take(run: Any) -> None:
    """A checkpoint that is not measured."""
    run.checkpoint(wait=False).wait("durable", timeout=DEADLINE)


def checkpoint(run: Any) -> Figures:
    """One checkpoint, measured on a quiet disk."""
    settle(run)
    before = set(sizes(Path(run.url)))
    with Cpu() as cpu:
        began = time.perf_counter()
        handle = run.checkpoint(wait=False)
        back = time.perf_counter()
        handle.wait("durable", timeout=DEADLINE)
        durable = time.perf_counter()
    written = sum(n for file, n in sizes(Path(run.url)).items() if file not in before)
    return Figures(began, back - began, durable - back, cpu.seconds, written)


def settle(run: Any) -> None:
    """Wait until surplus versions are deleted, which happens beside the program, and the file system has digested it."""
    settle_disk(Path(run.url))


def settle_disk(url: Path) -> None:
    deadline, known = time.monotonic() + 10.0, -1
    while time.monotonic() < deadline:
        found = len(sizes(url))
        if found == known:
            break
        known = found
        time.sleep(0.05)
    os.sync()


def restore(
    url: Path, arrays: Mapping[str, np.ndarray] | None, shapes: Mapping[str, np.ndarray]
) -> tuple[float, float, Any]:
    """Resume into `arrays`, or into fresh ones like `shapes`: seconds until they are filled, until the program may go on
    (the version is settled by all ranks and holds), and the arrays."""
    began = time.perf_counter()
    run = open_run(url)
    filled = {name: np.empty_like(a) for name, a in shapes.items()} if arrays is None else arrays
    for name, array in filled.items():
        run.protect(name, array)
    full = time.perf_counter()
    run.ready()
    settled = time.perf_counter()
    if not run.resumed:
        raise SystemExit("nothing was restored")
    run.close()
    return full - began, settled - began, filled
