"""A serial program killed by SIGKILL at random times, with the ledger. Cheap: each start is a fork of one that has imported.

    python -m campaign.serial_kills DIRECTORY KILLS SEED        # one JSON object on stdout
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from .forks import Child
from .ledger import Ledger, newest_durable
from .small import Program, Truth

STEPS, ELEMENTS = 60, 10_000
DEADLINE = 60.0  # seconds for any one wait


def campaign(base: Path, kills: int, seed: int) -> dict[str, Any]:
    """Runs, each killed again and again until it is complete, until there have been `kills` kills."""
    chance = random.Random(seed)
    truth = Truth(STEPS, ELEMENTS)
    base.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"seed": seed, "kills": 0, "runs": 0, "resumes": 0, "durable": 0, "problems": []}
    while result["kills"] < kills:
        where = base / "work"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        ledger = Ledger(base / f"ledger{result['runs']}")
        wanted = min(kills - result["kills"], 5)
        problems = _one_run(where, ledger, truth, chance, wanted)
        result["kills"] += wanted
        result["runs"] += 1
        result["resumes"] += sum(line["version"] is not None for line in ledger.of("resumed"))
        result["durable"] += len(ledger.of("durable"))
        result["problems"] += [f"run {result['runs']}: {problem}" for problem in problems]
    return result


def _one_run(where: Path, ledger: Ledger, truth: Truth, chance: random.Random, kills: int) -> list[str]:
    """Kill, resume, kill, ..., finish; what was wrong."""
    problems = []
    for _ in range(kills):
        child = Child(lambda: _execute(where, ledger, slow=True))
        if chance.random() < 0.5:  # at any moment of its start
            time.sleep(chance.uniform(0, 0.05))
        else:  # as it works: after two more versions, so that the run can't be over
            seen, until = len(ledger.of("durable")), time.monotonic() + DEADLINE
            while len(ledger.of("durable")) < seen + 2 and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.03))
        child.kill()
        if child.end() != -9:
            problems.append("the program ended before it was killed: it was not disturbed")
    final = Child(lambda: _execute(where, ledger, slow=False)).result()
    if final != truth.digests[STEPS] or (where / "output.csv").read_text() != truth.output:
        problems.append("ended with another state or output file")
    return problems + audit(ledger.lines(), truth)


def _execute(where: Path, ledger: Ledger, slow: bool) -> str:
    program = Program(where, STEPS, ELEMENTS, ledger)
    program.settle()
    if slow:
        with program.run:
            program.loop(tail=lambda step: time.sleep(0.002))
        return program.state.digest()
    return program.finish()


def audit(lines: list[dict[str, Any]], truth: Truth) -> list[str]:
    """What in a ledger contradicts: one process after the other, so a line counts for all that come after it."""
    problems = []
    for i, line in enumerate(lines):
        if line["event"] != "resumed":
            continue
        newest = newest_durable(lines[:i])
        if newest and (line["version"] or 0) < newest["version"]:
            problems.append(f"version {newest['version']} was durable, {line['version']} restored")
        if line["digest"] != truth.digests[line["step"]]:
            problems.append(f"restored another state than that of step {line['step']}")
        if line["skipped"]:
            problems.append(f"passed over {line['skipped']}")
    return problems


if __name__ == "__main__":
    print(json.dumps(campaign(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
