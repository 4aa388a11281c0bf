"""Part C, power loss: a run on ext4 on a disk that logs writes and flushes; the log replayed cut by cut.
Checkpoints are written beside the program, and refer to earlier ones for what has not changed.

At each cut the image is mounted (ext4 recovers its journal), the run resumed and finished. Whatever the ledger, on
another disk, holds as reported durable by then must be there, or a newer whole version, and every restored
state must be the undisturbed one of its step. The control: the same without the fsyncs of versions must lose some, else
the cuts prove nothing.

    unshare --mount --propagation private python -m campaign.powerloss DIRECTORY --seed S [--quick]

in a mount namespace of its own, so that nothing stays mounted whatever becomes of the campaign. Needs root, /dev/fuse,
loop devices and mkfs.ext4. Prints progress on stderr, one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from holdfast.store import syscalls

from .blocklog import __file__ as BLOCKLOG
from .forks import Child
from .ledger import Ledger, newest_durable
from .replay import Cut, Log
from .small import Program, Truth

STEPS = 14  # versions of steps 2, 4, ..., 12, and the last one, of step 14, which says "complete"
ELEMENTS = 160_000  # more than a MiB: only the pages that have changed are written, and versions refer to earlier ones
OPTIONS = {"incremental": "pages", "max_chain": 4}
MIB = 32  # of the disk


class Bench:
    """A directory with the disk's image, its log, and the places where they are mounted."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.image, self.disk, self.mount = base / "begin.img", base / "disk", base / "mnt"
        for place in (self.disk, self.mount):
            place.mkdir(parents=True, exist_ok=True)
        self.truth = Truth(STEPS, ELEMENTS)

    def record(self, name: str, fsync: bool) -> tuple[Log, Ledger]:
        """Run the program once on a fresh disk that logs; `fsync` False: without those of versions."""
        image, log = self.base / f"{name}.img", self.base / f"{name}.log"
        ledger = Ledger(self.base / f"{name}.ledger")
        with image.open("wb") as f:
            f.truncate(MIB << 20)
        features = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        call("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E", features, str(image))
        shutil.copyfile(image, self.image)
        server = subprocess.Popen(
            [sys.executable, BLOCKLOG, str(self.disk), str(image), str(log)], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise RuntimeError("the logging disk did not start")
        try:
            call("mount", "-o", "loop", str(self.disk / "disk.img"), str(self.mount))
            try:
                Child(lambda: self._write(ledger, log, fsync)).result()
            finally:
                unmount(self.mount)
        finally:
            unmount(self.disk)
            server.wait(30)
        return Log(log, self.image), ledger

    def _write(self, ledger: Ledger, log: Path, fsync: bool) -> str:
        def position() -> dict[str, Any]:
            return {"log": log.stat().st_size}

        if not fsync:
            real = syscalls.fsync
            below = f"{self.mount}/run/versions"
            syscalls.fsync = lambda fd: None if os.readlink(f"/proc/self/fd/{fd}").startswith(below) else real(fd)
        ledger.append("begin", **position())
        program = Program(self.mount, STEPS, ELEMENTS, ledger, position, **OPTIONS)
        with program.run:
            program.loop(tail=lambda step: time.sleep(0.01))  # versions are in flight while steps are computed
        return program.state.digest()

    def probe(self, image: bytearray, scratch: Path) -> dict[str, Any]:
        """Mount the image, resume the run, finish it."""
        scratch.write_bytes(image)
        call("mount", "-o", "loop", str(scratch), str(self.mount))
        try:
            return dict(Child(self._resume).result())
        finally:
            unmount(self.mount)

    def _resume(self) -> dict[str, Any]:
        program = Program(self.mount, STEPS, ELEMENTS, **OPTIONS)
        found = program.settle()
        found["final"] = program.finish()
        found["output"] = (self.mount / "output.csv").read_text()
        return found

    def judge(self, cut: Cut, ledger: Ledger, found: dict[str, Any]) -> list[str]:
        """What is wrong with what a resume at this cut found."""
        promised = newest_durable([line for line in ledger.lines() if line.get("log", 0) <= cut.end])
        problems = []
        if promised and (found["version"] or 0) < promised["version"]:
            problems.append(f"version {promised['version']} was reported durable, {found['version']} restored")
        if found["digest"] != self.truth.digests[found["step"]]:
            problems.append(f"restored another state than that of step {found['step']}")
        if found["final"] != self.truth.digests[STEPS] or found["output"] != self.truth.output:
            problems.append("ended with another state or output file")
        return problems


def call(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")


def unmount(place: Path) -> None:
    """A moment's patience: what has just been closed may still hold it."""
    for left in reversed(range(50)):
        try:
            call("umount", str(place))
            return
        except RuntimeError:
            if not left:
                raise
            time.sleep(0.1)


def campaign(base: Path, seed: int, quick: bool) -> dict[str, Any]:
    """Both recordings, all cuts."""
    bench = Bench(base)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else base) as folder:
        scratch = Path(folder) / "cut.img"
        sound = _replay(bench, scratch, random.Random(seed), fsync=True, every=4 if quick else 1, each=1 if quick else 3)
        control = _replay(bench, scratch, random.Random(seed), fsync=False, every=1, each=3 if quick else 10)
    problems = sound["problems"]
    if not control["lost"] + control["refused"]:
        problems.append("control: without fsync nothing was lost: the cuts prove nothing")
    if control["wrong"]:
        problems.append("control: without fsync versions are lost, but none may be restored wrong")
    return {
        "cuts": sound["cuts"], "writes": sound["writes"], "flushes": sound["flushes"], "reported": sound["reported"],
        "restored": sound["restored"], "passed_over": sound["passed_over"],
        "control": {"cuts": sum(control["cuts"].values()), **{k: control[k] for k in ("lost", "refused", "wrong")}},
        "problems": problems,
    }  # fmt: skip


def _replay(
    bench: Bench, scratch: Path, chance: random.Random, *, fsync: bool, every: int, each: int
) -> dict[str, Any]:
    """One recording and every `every`-th of its cuts."""
    log, ledger = bench.record("sound" if fsync else "control", fsync)
    begin = ledger.of("begin")[0]["log"]
    cuts = list(log.cuts(begin, each, chance))[::every]
    counts: Counter[str] = Counter()
    restored: Counter[str] = Counter()
    problems: list[str] = []
    passed_over = refused = 0
    for cut, image in log.images(iter(cuts), chance):
        counts[cut.kind] += 1
        try:
            found = bench.probe(image, scratch)
            restored[str(found["version"])] += 1
            passed_over += bool(found["skipped"])
            wrong = bench.judge(cut, ledger, found)
        except (RuntimeError, TimeoutError) as error:
            wrong = [str(error).strip().splitlines()[-1]]
            refused += 1
        problems += [f"{cut.kind} after {cut.entries} entries: {why}" for why in wrong]
        if sum(counts.values()) % 50 == 0:
            name = "fsync" if fsync else "control without fsync"
            print(f"power loss, {name}: {sum(counts.values())} of {len(cuts)} cuts", file=sys.stderr, flush=True)
    return {
        "cuts": dict(counts), "writes": len(log.entries) - len(log.flushes), "flushes": len(log.flushes),
        "reported": len(ledger.of("durable")), "restored": dict(restored), "passed_over": passed_over,
        "refused": refused, "wrong": sum("another state than" in problem for problem in problems),
        "lost": sum("was reported durable" in problem for problem in problems), "problems": problems,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Power loss, replayed. To be run in a mount namespace of its own.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    print(json.dumps(campaign(args.directory, args.seed, args.quick)))


if __name__ == "__main__":
    main()
