"""The same with spares (see `stopped.py`): who stops is found out and ended, and a spare takes its place.

One start of mpirun has as many stops as spares, one behind the other, each behind the repair of the one before: also in what
is done to restore. The program is `stopped_spares_program.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RANKS = 3
HANG = 30.0  # seconds without a note
EARLY_HANG = 50.0  # the same before the run is open: a verdict's deadline, twice a message's, and that for leaving together
SOON = 1.0  # seconds that ranks wait for each other where there are no spares
TICK = 0.02

Target = tuple[int, str, str, int]  # rank, who calls, what, the how-manieth

_PROGRAM = Path(__file__).with_name("stopped_spares_program.py")

# At a loop's head, in a version's flight, in its parity, in restoring behind a repair, in copying on.
TARGETS: tuple[Target, ...] = (
    (1, "run/pacing", "before Iallreduce", 2),
    (0, "run/resume", "before Isend", 1),
    (2, "redundancy/", "before Isend", 2),
    (0, "engine/placed", "before Isend", 3),
    (2, "recovery/messages", "after Irecv", 5),
    (1, "run/levels/placing:_protect", "before Irecv", 2),
    (0, "redundancy/", "after Irecv", 3),
    (1, "run/settling", "before Irecv", 1),
    (0, "run/levels/copier", "before Irecv", 1),
    (2, "run/levels/keeper", "before Isend", 1),
    (1, "engine/placed", "after Irecv", 2),
    (0, "run/settling:settle", "after Isend", 1),
)
# Before the run is open nobody looks after the others: their deadline ends the wait, and the program.
EARLY: tuple[Target, ...] = (
    (1, "run/opening", "before Irecv", 1),
    (0, "run/levels/", "before Isend", 2),
)


class Broken(Exception):
    """Open MPI itself crashed in a survivor while it repaired, as it does now and then (docs/reliability.md)."""


def play(targets: Sequence[Target]) -> tuple[list[float], list[str], list[str]]:
    """One start with these stops: (seconds from each stop until the program goes on behind its repair; points; problems). Of
    EARLY ones, alone: until the others have left with an error. Broken."""
    folder, output, process = _start(targets, len(targets))
    problems: list[str] = []
    try:
        last, count = time.monotonic(), 0
        while process.poll() is None:
            notes = _notes(folder)
            left = sum(note["what"] == "left" and note["type"] != "SystemExit" for note in notes)
            if left >= RANKS - (targets[0] in EARLY):
                break
            if len(notes) > count:
                last, count = time.monotonic(), len(notes)
            if time.monotonic() - last > (EARLY_HANG if targets[0] in EARLY else HANG):
                for pid in _living(folder):
                    os.kill(pid, signal.SIGUSR2)
                time.sleep(1)
                problems.append(f"hang: nobody has noted anything for {HANG:g} s")
                break
            time.sleep(TICK)
        notes = _notes(folder)
        text = output.read_text(errors="replace")
        if any(path.stat().st_size for path in folder.glob("*.stacks")) or "Segmentation fault" in text:
            raise Broken(text[-3000:])
        seconds, points = [], []
        if tuple(targets) == targets[:1] and targets[0] in EARLY:
            return _judge_early(notes, targets[0], text)
        for number, target in enumerate(targets):
            stops = [n for n in notes if n["what"] == "stopping" and n["repairs"] == number]
            again = [n["at"] for n in notes if n["what"] in ("step", "stopping") and n["repairs"] > number]
            if not stops or not again:
                problems.append(f"stop {number} {target}: {'no repair behind it' if stops else 'not come to'}")
                break
            seconds.append(min(again) - stops[0]["at"])
            points.append(f"rank {stops[0]['rank']} {stops[0]['point']}")
        done = [n for n in notes if n["what"] == "done"]
        if sorted(n["rank"] for n in done) != list(range(RANKS)):
            problems.append(f"ranks {sorted(n['rank'] for n in done)} came to the end")
        if problems:
            problems.append("\n".join([text[-6000:], *(str(n) for n in notes if n["what"] != "step")]))
        return seconds, points, problems
    finally:
        _end(folder, process)


def end_of_all(target: Target) -> tuple[float, list[str]]:
    """One stop in a start without spares: (seconds from the stop until everything has ended; problems)."""
    folder, output, process = _start([target], 0)
    try:
        until = time.monotonic() + HANG
        while process.poll() is None and time.monotonic() < until:
            time.sleep(TICK)
        text, stops = output.read_text(errors="replace"), [n for n in _notes(folder) if n["what"] == "stopping"]
        seconds = time.monotonic() - stops[0]["at"] if stops else 0.0
        problems = [] if stops else [f"stop {target}: not come to"]
        if not process.poll():
            problems.append(f"stop {target}: ended with {process.poll()}")
        if not re.search(rf"has waited .* s for (one or more of )?ranks? .*\b{target[0]}\b", text):
            problems.append(f"stop {target}: the rank is not named")
        if left := _living(folder):
            problems.append(f"stop {target}: processes {left} are left")
        return seconds, [*problems, text[-6000:]] if problems else []
    finally:
        _end(folder, process)


def _start(targets: Sequence[Target], spares: int) -> tuple[Path, Path, subprocess.Popen[bytes]]:
    """Folder, output and launcher."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-spares-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    (folder / "node").mkdir()
    (folder / "targets").write_text(json.dumps(targets))
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    assert found, "no mpirun beside this Python or in PATH"
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OPENBLAS_NUM_THREADS": "1"}
    env.update(OMPI_MCA_mpi_yield_when_idle="1", PYTHONUNBUFFERED="1", PRTE_MCA_prte_local_tmpdir_base=str(folder))
    if spares:
        env.update(HOLDFAST_SPARES=str(spares), _HOLDFAST_EXECUTION=folder.name)  # as a supervisor says it
    else:
        env["STOPPED_TIMEOUT"] = str(SOON)
    command = [found, *(["--with-ft", "ulfm"] if spares else []), "--oversubscribe", "--bind-to", "none"]
    command += ["-n", str(RANKS + spares), sys.executable, str(_PROGRAM), str(folder)]
    output = folder / "out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    return folder, output, process


def _end(folder: Path, process: subprocess.Popen[bytes]) -> None:
    for pid in _living(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


def _judge_early(notes: list[dict[str, Any]], target: Target, text: str) -> tuple[list[float], list[str], list[str]]:
    stops = [n for n in notes if n["what"] == "stopping"]
    left = [n for n in notes if n["what"] == "left" and n["type"] != "SystemExit"]
    if not stops:
        return [], [], [f"stop {target}: not come to: {text[-3000:]}"]
    silent = [n for n in left if f"rank {target[0]}" not in n["text"]]
    problems = [f"stop {target}: left with {n}" for n in silent]
    if len(left) != RANKS - 1:
        problems.append(f"stop {target}: {len(left)} ranks have left: {text[-3000:]}")
    return [n["at"] - stops[0]["at"] for n in left], [f"rank {target[0]} {stops[0]['point']}"], problems


def _notes(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # half a line
                found.append(json.loads(line))
    return sorted(found, key=lambda note: float(note["at"]))


def _living(folder: Path) -> list[int]:
    """Processes that were started here: ids are used again, so their command is looked at."""
    found = []
    for path in folder.glob("*.log"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in Path(f"/proc/{path.stem}/cmdline").read_bytes():
                found.append(int(path.stem))
    return found
