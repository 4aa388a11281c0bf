"""What `make demo` runs: the heat equation on 4 ranks, one of which is killed in the middle.

    python examples/demo.py

The same simulation runs twice under `holdfast run`: once undisturbed, once with a SIGKILL to a rank. The demonstration
watches what the second leaves on storage, and succeeds (exit status 0) only if a living rank was killed, the
supervisor started the program again, it went on from a version and not from the beginning, and the final fields are
the same bit for bit. It reads the run's records as docs/format.md describes them; no part of Holdfast is imported.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import xxhash

RANKS, SIZE, STEPS, EVERY, PAUSE = 4, 512, 400, 40, 0.004
DEADLINE = 90.0  # seconds for each of the two runs
Record = dict[str, Any]
HEAT = Path(__file__).resolve().with_name("heat.py")


class Failure(Exception):
    """Something that had to hold did not."""


def main() -> int:
    print(f"Heat equation, {SIZE} x {SIZE} points, {STEPS} steps, {RANKS} ranks, a checkpoint every {EVERY} steps.\n")
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as name:
        here = Path(name).resolve()
        try:
            print("1. Undisturbed, for comparison.")
            with Simulation(here / "undisturbed", pause=0.0) as calm:
                calm.finish()

            print("\n2. The same again, and a rank is killed in the middle.")
            with Simulation(here / "killed", pause=PAUSE) as killed:
                kill_a_rank(killed)
                killed.finish()

            print("\n3. What happened.")
            account(killed)
            compare(calm.field, killed.field)
        except Failure as failure:
            print(f"\nThe demonstration failed: {failure}", file=sys.stderr)
            return 1
    print("\nThe killed run and the undisturbed run end with the same field, bit for bit.")
    return 0


class Simulation:
    """`holdfast run -n 4 -- python heat.py` in a folder of its own, its output passed on line by line.

    `commits`: the commit record of each version seen so far, by name. Old versions are deleted as new ones come, so
    they are collected as the run goes. `lines`: the output so far. Leaving the `with` block ends what still runs.
    """

    def __init__(self, folder: Path, pause: float) -> None:
        folder.mkdir()
        self.folder = folder
        self.run, self.field = folder / "runs" / "heat", folder / "runs" / "heat.npy"  # as heat.py has it by default
        self.commits: dict[str, Record] = {}
        self.lines: list[str] = []
        program = ["python", str(HEAT), f"--size={SIZE}", f"--steps={STEPS}", f"--every={EVERY}", f"--pause={pause}"]
        holdfast = str(Path(sys.executable).with_name("holdfast"))
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [holdfast, "run", "-n", str(RANKS), "--", *program],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self._pass_on, daemon=True)
        self.reader.start()

    def _pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            print(f"   | {self.lines[-1]}", flush=True)

    def watch(self) -> None:
        """Collect new versions; to be called at least every few hundred milliseconds. `Failure` after the deadline."""
        for commit in self.run.glob("versions/*/commit"):
            if commit.parent.name not in self.commits and (found := read_record(commit)) is not None:
                self.commits[commit.parent.name] = found
        if time.monotonic() - self.began > DEADLINE:
            raise Failure(f"not done after {DEADLINE:.0f} s")
        time.sleep(0.01)

    def finish(self) -> None:
        """Wait for the end, which must be exit status 0."""
        while self.process.poll() is None:
            self.watch()
        self.watch()
        self.reader.join(timeout=5.0)
        if self.process.returncode != 0:
            raise Failure(f"`holdfast run` ended with status {self.process.returncode}")
        print(f"   done in {time.monotonic() - self.began:.1f} s")

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # ask, insist, end
            if self.process.poll() is not None:
                return
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                continue


def kill_a_rank(simulation: Simulation) -> None:
    """SIGKILL to a random rank of the first attempt, at a random moment after the third version is committed."""
    moment = None
    while moment is None or time.monotonic() < moment:
        simulation.watch()
        if simulation.process.poll() is not None:
            raise Failure("the run was over before a rank could be killed")
        if moment is None and len(simulation.commits) >= 3:
            moment = time.monotonic() + random.uniform(0.0, EVERY * PAUSE)
    rank = random.randrange(RANKS)
    pid = must_read(simulation.run / "attempts" / "000001.json")["processes"][rank]["pid"]
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        raise Failure(f"rank {rank} (process {pid}) was gone before it could be killed") from None
    print(f"   {len(simulation.commits)} versions are committed: SIGKILL to rank {rank}, process {pid}", flush=True)


def account(simulation: Simulation) -> None:
    """Print what the records of the run tell; `Failure` if it was not killed once and resumed from a version."""
    fences = sorted(path.name for path in simulation.run.glob("attempts/*.json"))
    if fences != ["000001.json", "000002.json"]:
        raise Failure(f"expected 2 attempts, found {', '.join(fences)}")
    base = must_read(simulation.run / "attempts" / "000002.base")
    if base["version"] is None:
        raise Failure("attempt 2 began from the beginning, not from a version")
    origin = simulation.commits[base["version"]["name"]]
    said = re.compile(r"heat: resumes at step \d+ from version (\d+), read from (.*)")
    resumes = [match.groups() for line in simulation.lines if (match := said.search(line))]
    if [int(version) for version, _ in resumes] != [origin["version"]]:
        raise Failure(f"the program says that it resumed from {resumes}, the record says version {origin['version']}")

    source = os.path.relpath(resumes[0][1], simulation.folder)
    commits = sorted(simulation.commits.values(), key=lambda commit: commit["version"])
    before = sum(commit["attempt"] == 1 for commit in commits)
    stalls = [commit["seconds"] * 1000 for commit in commits]
    size = median(commit["bytes"] for commit in commits)
    lost = base["sealed"] - origin["created"]
    rows = [
        ("versions written", f"{len(commits)}: {before} before the kill, {len(commits) - before} after it"),
        ("stall per checkpoint", f"{median(stalls):.1f} ms (median), {max(stalls):.1f} ms (largest)"),
        ("bytes", f"{size / 2**20:.2f} MiB per version, {sum(c['bytes'] for c in commits) / 2**20:.1f} MiB in all"),
        ("restored from", f"version {origin['version']} (step {origin['step']}), read from {source}"),
        ("time lost", f"{lost:.2f} s, from that version's commit to the resumption by attempt 2"),
    ]
    for what, text in rows:
        print(f"   {what:22}{text}")


def compare(calm: Path, killed: Path) -> None:
    """Both final fields are read and compared; `Failure` if a single bit differs."""
    a, b = np.load(calm), np.load(killed)
    same = a.shape == b.shape == (SIZE, SIZE) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if not same or not a.any():
        raise Failure("the final fields differ")
    print(f"   {'final field':22}{SIZE} x {SIZE} {a.dtype}, xxh3 {xxhash.xxh3_128_hexdigest(a.tobytes())}, both")


def read_record(path: Path) -> Record | None:
    """A record file's content: the first line whose digest holds (docs/format.md, section 3). None if there is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:  # its version was deleted meanwhile
        return None
    for line in lines:
        digest, _, text = line.partition(b" ")
        if xxhash.xxh3_128_hexdigest(text).encode() == digest:
            found: Record = json.loads(text)
            return found
    return None


def must_read(path: Path) -> Record:
    record = read_record(path)
    if record is None:
        raise Failure(f"{path.name} is missing or damaged")
    return record


if __name__ == "__main__":
    sys.exit(main())
