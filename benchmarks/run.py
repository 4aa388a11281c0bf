"""`make bench`: measures what the documentation promises, beside the machine's limits and what others do.

Prints the tables, writes benchmarks/results.json, docs/benchmarks.md and its picture. Exit status 1 if a promise did not hold.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import environment
import job
import numpy as np
from job import HERE, Context, JobFailed, told
from limits import Way, aligned, contenders, survey
from peers import PEERS
from promises import judge
from report import Report, write
from row import GiB, MiB, Row, not_measured, size_text

import holdfast

RACE = 3  # raw ways that stay in the race beside each case of ours
MEMORY, DISK = 4.5, 6.0  # what a case may need, in sizes of its state


@dataclass(frozen=True)
class Task:
    """One process: `program` is what it is called if it fails, `nbytes` its state's size (0: it has none)."""

    program: str
    script: str
    case: str
    nbytes: int = 0
    rounds: int = 5
    timeout: float = 300.0
    race: int = RACE
    more: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    peer: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=Path(".bench"), help="directory on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="256 MiB, 2 rounds, no peers, no page: for development")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, help="measure what others do too (default: not if quick)"
    )
    parser.add_argument("--peers-up-to", type=float, default=4, help="GiB: the largest state that peers are measured with")
    parser.add_argument("--only", default="", help="cases, comma-separated: these alone, no page")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    args = parser.parse_args()
    sizes = [256 * MiB] if args.quick else [GiB, 4 * GiB]
    rounds = 2 if args.quick else args.rounds
    only = set(filter(None, args.only.split(",")))
    partial = args.quick or bool(only)

    args.place = args.place.resolve()
    args.place.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=args.place, prefix="run-"))
    began, load = time.time(), os.getloadavg()
    peers = not args.quick if args.peers is None else args.peers
    python, failed = environment.make(args.place / "env") if peers else (None, {})
    try:
        tasks = [
            t
            for t in plan(sizes, rounds, python is not None)
            if (not only or t.case in only) and not (t.peer and t.nbytes > args.peers_up_to * GiB)
        ]
        rows = measure(tasks, place, python, failed)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    texts = [size_text(n) for n in sizes]
    machine = describe(args.place) | {
        "load": f"{load[0]:.2f} at the beginning, {os.getloadavg()[0]:.2f} at the end, most of it the bench's own",
        "date": f"{time.strftime('%Y-%m-%d')}, {time.time() - began:.0f} s in all",
    }
    versions = {"Holdfast": holdfast.__version__, "Python": platform.python_version(), "NumPy": np.__version__}
    versions |= environment.versions(python) if python else {}
    report = Report(rows, judge(rows, texts), texts, machine, versions, rounds)
    if partial:
        write(report, args.place / "results.json", args.place / "benchmarks.md")
    else:
        write(report, args.out, args.page)
    print("\n".join(report.lines()))
    return int(any(not verdict.held for verdict in report.verdicts))


def plan(sizes: list[int], rounds: int, peers: bool) -> Iterator[Task]:
    """Every process of the bench, in order."""
    yield Task("import holdfast", "small.py", "import")
    yield Task("steps", "small.py", "steps")
    yield Task("opening", "small.py", "opening")
    yield Task("holdfast, 200 small arrays", "small.py", "small", rounds=rounds)
    yield Task("goodput", "goodput.py", "goodput")
    first = sizes[0]
    for nbytes in sizes:
        # What is large varies less and takes longer.
        times, race, timeout = (rounds, RACE, 300.0) if nbytes <= GiB else (min(rounds, 3), RACE - 1, 600.0)
        for program, case in (
            ("holdfast auto", "auto"),
            ("holdfast copy", "copy"),
            ("holdfast copy, shared arena", "shared"),
            ("holdfast cow", "cow"),
            ("holdfast reference", "reference"),
            ("holdfast cow, all rewritten", "cow-rewritten"),
            ("holdfast pages", "pages"),
            ("holdfast blocks", "blocks"),
            ("holdfast restore", "restore"),
        ):
            yield Task(program, "cases.py", case, nbytes, times, timeout, race)
        yield Task("holdfast copy, a rank on every core", "small.py", "every-core", nbytes, times, timeout, race)
    for program, case in (("xor n=4", "xor-4"), ("rs n=4, m=2", "rs-4"), ("rs n=8, m=2", "rs-8")):
        yield Task(f"redundancy, {program}", "redundancy.py", case, first, rounds)
    yield Task("memory level", "levels.py", "memory-restart", first, rounds)
    yield Task("memory and xor", "levels.py", "levels-stall", first, rounds)
    for kind in ("in-place", "relaunch", "hang"):
        yield Task(f"repair, {kind}", "repair.py", f"repair-{kind}", rounds=2 * rounds)
    yield Task("growth", "growth.py", "growth", timeout=600.0)
    bound = {"staging": first // 4}
    yield Task("holdfast copy, bounded staging", "cases.py", "bounded", first, rounds, more=bound)
    for case in ("matmul", "matmul-one", "stream", "python-thread", "python", "rewriting"):
        one = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if case == "matmul-one" else {}
        nbytes = min(first, 512 * MiB) if case == "rewriting" else first
        yield Task(f"slow-down, {case}", "slowdown.py", case, nbytes, rounds, env=one)
    for name in PEERS if peers else ():
        yield Task(f"{name}, 200 small arrays", "peer_cases.py", name, 0, rounds, 120.0, 2, {"small": True}, peer=True)
        for nbytes in sizes:
            dear = nbytes > GiB
            times = 1 if dear else min(rounds, 2)
            yield Task(name, "peer_cases.py", name, nbytes, times, 300.0, 2, {"dear": dear}, peer=True)


def measure(tasks: list[Task], place: Path, python: Path | None, failed: dict[str, str]) -> list[Row]:
    """Run the tasks one after the other. What gave no figures is a row that says why."""
    largest = max((t.nbytes for t in tasks), default=0)
    writes: list[Way] = []
    reads: list[Way] = []
    rows: list[Row] = []
    if largest or any(t.peer for t in tasks):
        told("memory: touched once, so that the machine has it")
        # Where the machine is itself a guest, the first touch of memory in its life costs seconds for each GiB.
        aligned(min(int(0.7 * available()), int(MEMORY * largest)) // MiB * MiB + MiB)[::4096] = 1
        told("raw ways to write and to read: all once")
        writes, reads = survey(place, min(largest or GiB, 512 * MiB))
    for number, task in enumerate(tasks, 1):
        size = size_text(task.nbytes) if task.nbytes else ""
        told(f"{number}/{len(tasks)} {task.program}{', ' + size if size else ''}")
        why = _missing(task, failed) or _too_large(task, place)
        if why is None:
            try:
                rows += _run(task, place, writes, reads, python)
            except JobFailed as error:
                why = str(error)
        if why is not None:
            told(f"  not measured: {why}")
            rows.append(not_measured(task.program, size, why))
    return rows


def _run(task: Task, place: Path, writes: list[Way], reads: list[Way], python: Path | None) -> list[Row]:
    own = Path(tempfile.mkdtemp(dir=place))
    context = Context(
        own, task.nbytes, task.rounds, contenders(writes, task.race), contenders(reads, task.race), task.more
    )
    # Options of the library that the shell has set must not decide what is measured.
    shell = {name: text for name, text in os.environ.items() if not name.startswith("HOLDFAST_")}
    began = time.monotonic()
    try:
        interpreter = python if task.peer and python else sys.executable
        rows: list[Row] = job.run(task.script, task.case, context, task.timeout, interpreter, shell | task.env)
    finally:
        shutil.rmtree(own, ignore_errors=True)
        os.sync()  # the deletion is no burden of the next case
    told(f"  {time.monotonic() - began:.0f} s")
    return rows


def _missing(task: Task, failed: dict[str, str]) -> str | None:
    for package in PEERS[task.case].package.split() if task.peer else ():
        if package in failed:
            return failed[package]
    return None


def _too_large(task: Task, place: Path) -> str | None:
    free, memory = shutil.disk_usage(place).free, available()
    if free < DISK * task.nbytes:
        return f"{size_text(int(DISK * task.nbytes))} of disk are needed, {free >> 30} GiB are free"
    if memory < MEMORY * task.nbytes:
        return f"{size_text(int(MEMORY * task.nbytes))} of memory are needed, {memory >> 30} GiB are available"
    return None


def available() -> int:
    """Bytes of memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def describe(place: Path) -> dict[str, str]:
    """The machine, in words."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in processors if line.startswith("model name")), "")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    at = place.resolve()
    mount = max((m for m in mounts if at.is_relative_to(m[1])), key=lambda m: len(m[1]))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GiB
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    huge = switch.read_text().strip() if switch.exists() else "unknown"
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {model}, {memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}, huge pages: {huge}",
        "file system": f"{mount[2]} on {Path(mount[0]).name}",
    }


if __name__ == "__main__":
    raise SystemExit(main())
