"""Plan and salvage on one node, serially: what memory holds is brought to the run's store, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.catalog import read_catalog
from holdfast.config import load
from holdfast.errors import DamageError, RunInUseError
from holdfast.group import SerialGroup
from holdfast.run.levels.foresight import deal, foresee
from holdfast.run.levels.salvage import Telling, salvage
from holdfast.run.maintenance import verify
from holdfast.store import open_store

TESTS = Path(__file__).resolve().parent.parent
SOURCES = str(Path(holdfast.__file__).resolve().parent.parent)
STEPS = 20

# Most of the state never changes: versions refer to others.
PROGRAM = """
import os, signal, sys
import numpy as np
import holdfast

killed, far = int(sys.argv[1]), int(sys.argv[2])
levels = [holdfast.memory(os.environ["MEMORY"]), holdfast.global_(every=holdfast.versions(far))]
with holdfast.open("run", levels=levels) as run:
    still = run.protect("still", np.arange(300_000.0))
    u = run.protect("u", np.zeros(1000))
    for step in run.steps(20, every=holdfast.steps(1)):
        u += step * still[step]
        if step == killed:
            run._x.writer.arrive()
            keeper = run._x.levels.placing.keeper
            assert keeper.finish(30)
            os.kill(os.getpid(), signal.SIGKILL)
print("from", run.restored and run.restored.version, "result", float(u.sum()).hex())
"""
RESULT = float(1000 * sum(step * step for step in range(STEPS))).hex()


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    root = tmp_path / "memory"
    root.mkdir()
    monkeypatch.setenv("MEMORY", str(root))
    return root


def program(killed: int, far: int = 100) -> str:
    words = [sys.executable, "program.py", str(killed), str(far)]
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == (-signal.SIGKILL if killed >= 0 else 0), done.stderr
    return done.stdout


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def rescue(self, **options: Any) -> dict[str, Any]:
        telling = Telling(self.lines.append, lambda done, total: self.steps.append((done, total)))
        return salvage(SerialGroup(), "run", load(options), False, telling)


def rescue() -> dict[str, Any]:
    return Told().rescue()


def expect() -> dict[str, Any]:
    return foresee(SerialGroup(), "run", [1], None, 60.0)


def tree(*roots: Path | str) -> dict[str, int]:
    files = [p for root in roots for p in Path(root).rglob("*") if p.is_file()]
    return {str(p): p.stat().st_mtime_ns for p in files}


def catalog():
    return read_catalog(open_store("run", create=False, read_only=True))


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))


def data_of(memory: Path, version: int) -> Path:
    (found,) = memory.rglob(f"{version:08d}-*/data/r000000")
    return found


def test_what_was_in_memory_alone_is_resumed_from_without_it(memory):
    program(7)
    assert catalog().lineage == []
    before = tree("run", memory)
    foreseen = expect()
    assert (foreseen["version"], foreseen["ranks"]) == (7, 1)
    assert "own node's memory" in " ".join(foreseen["lines"])
    assert tree("run", memory) == before
    told = Told()
    result = told.rescue()
    assert (result["version"], result["step"], result["attempt"]) == (7, 7, 2)
    # What it refers to came first.
    versions = [one["version"] for one in result["copied"]]
    assert versions == sorted(versions) and len(versions) > 1 and versions[-1] == 7
    done, total = told.steps[-1]
    assert done == total == sum(one["bytes"] for one in result["copied"])
    assert any("copies" in line for line in told.lines)
    assert verify("run") == []
    head = catalog().lineage[0]
    assert (head.number, head.step, head.attempt) == (7, 7, 1)
    attempt = catalog().attempts[-1]
    assert (attempt.kind, attempt.sealed, attempt.base.version.name) == ("salvage", True, head.name)
    assert (attempt.end.outcome, attempt.places) == ("closed", catalog().attempts[0].places)
    shutil.rmtree(memory / f"holdfast-{os.geteuid()}")
    assert program(-1).split() == ["from", "7", "result", RESULT]


def test_memory_is_still_what_the_next_start_reads(memory):
    program(7)
    rescue()
    assert program(11).strip() == ""
    assert catalog().lineage[0].number == 7
    assert rescue()["version"] == 11
    assert program(-1).split() == ["from", "11", "result", RESULT]


@pytest.mark.parametrize("far", [1, 100])
def test_nothing_to_salvage_changes_nothing(memory, far):
    program(5, far)
    if far == 100:
        rescue()
    before = tree("run", memory)
    told = Told()
    result = told.rescue()
    assert (result["version"], result["attempt"], result["copied"]) == (None, None, [])
    assert "has version 5 already" in result["message"]
    assert tree("run", memory) == before
    shutil.rmtree(memory / f"holdfast-{os.geteuid()}")
    assert "nothing to salvage" in rescue()["message"]
    assert sorted(tree("run")) == sorted(name for name in before if name.startswith("run"))


def test_a_run_of_which_nothing_is_left(memory):
    program(5)
    shutil.rmtree(memory / f"holdfast-{os.geteuid()}")
    before = tree("run")
    result = rescue()
    assert (result["version"], "there is no version" in result["message"]) == (None, True)
    assert "nothing can be had from it" in result["asked"][0]["line"]
    assert expect()["version"] is None
    assert tree("run") == before


def test_a_run_in_use_is_left_alone(memory):
    program(5)
    before = tree("run", memory)
    with holdfast.open("run") as run:
        names = set(tree("run", memory))
        with pytest.raises(RunInUseError, match=r"attempt 2 lives here.*wait for it|Wait for it"):
            rescue()
        assert set(tree("run", memory)) == names > {name for name in before if "/ahead/" not in name}
        assert "attempt 2 lives here" in expect()["in_use"]
        del run


def test_damage_in_memory_makes_it_the_version_before(memory):
    """Of a run whose store has an older version: that one is told, and nothing is changed; of another, damage is told."""
    program(5, 4)  # version 4 is in the store, version 5 in memory alone
    assert catalog().lineage[0].number in (1, 4)
    stored = catalog().lineage[0].number
    flip(data_of(memory, 5), 5000)
    told = Told()
    result = told.rescue()
    assert (result["version"], result["copied"]) == (None, [])
    assert "Another source, or an older version, is looked for" in " ".join(told.lines)
    assert f"has version {stored} already" in result["message"] and "newer ones can't be had" in result["message"]
    assert "damaged at byte 0" in " ".join(result["lines"])
    assert not [v for v in catalog().versions if v.status == "fragment"]  # it was copied aside
    assert os.listdir("run/incoming") == []
    assert program(-1).split()[1] == str(stored)


def test_indexes_that_are_not_what_was_committed(memory, monkeypatch):
    from holdfast.run.levels import storing

    program(5)
    with monkeypatch.context() as patch:
        patch.setattr(storing, "digest_hex", lambda data: "0" * 32)
        with pytest.raises(DamageError, match="its indexes are other ones"):
            rescue()
    assert catalog().lineage == [] and catalog().attempts[-1].end.outcome == "failed"
    assert rescue()["version"] == 5


# Each storage call of a salvage that changes something is once the one before which it is killed, or within which, if it is
# a write; a second salvage then succeeds.
KILLS = """
import json, os, shutil, sys
from faults import Faults
from holdfast.catalog import read_catalog
from holdfast.config import load
from holdfast.group import SerialGroup
from holdfast.run.levels.salvage import Telling, salvage
from holdfast.run.maintenance import verify
from holdfast.store import open_store

quiet = Telling(lambda line: None, lambda done, total: None)

def rescue():
    return salvage(SerialGroup(), "run", load({}), False, quiet)

def again():
    for name in ("run", "memory"):
        shutil.rmtree(name, ignore_errors=True)
        shutil.copytree("saved/" + name, name)

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def trace():
    with Faults() as seen:
        rescue()
    json.dump([call.name for call in seen.calls], open("calls", "w"))

again()
assert child(trace) == 0
calls = json.load(open("calls"))
names = {"kill": ("link", "mkdir", "fallocate", "unlink"), "torn": ("pwrite",)}[sys.argv[1]]
changing = [i + 1 for i, name in enumerate(calls) if name in names]
outcomes = []
for at in changing:
    again()
    def killed():
        with Faults(sys.argv[1], at=at):
            rescue()
    code = child(killed)
    assert code in (-9, 0), (at, calls[at - 1], code)
    before = {v.number: v.status for v in read_catalog(open_store("run", create=False, read_only=True)).versions}
    second = rescue()
    found = read_catalog(open_store("run", create=False, read_only=True))
    assert found.lineage and found.lineage[0].number == 7, (at, calls[at - 1], second["message"])
    assert verify("run") == [], at
    assert not [v for v in found.versions if v.status in ("damaged", "fragment")], (at, found.versions)
    outcomes.append([code, before.get(7) == "current", second["version"]])
print(json.dumps({"outcomes": outcomes}))
"""


@pytest.mark.parametrize("mode", ["kill", "torn"])
def test_a_kill_at_each_change(memory, mode):
    program(7)
    Path("saved").mkdir()
    shutil.move("run", "saved/run")
    shutil.move("memory", "saved/memory")
    Path("kills.py").write_text(KILLS)
    environment = {**os.environ, "PYTHONPATH": f"{SOURCES}:{TESTS}"}
    done = subprocess.run(
        [sys.executable, "kills.py", mode], env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    codes, stored, second = zip(*found["outcomes"], strict=True)
    assert len(codes) > 10 and set(codes) == {-9}
    # Killed early there was all to do; killed when only base and end were to come, nothing.
    assert second[0] == 7 and second[-1] is None and not stored[0] and stored[-1]
    assert all((then is None) == had for had, then in zip(stored, second, strict=True))


def test_ranks_are_dealt_as_a_start_deals_them():
    assert deal(4, [2, 2]) == [0, 0, 1, 1]
    assert deal(3, [2, 2]) == [0, 0, 1]
    assert deal(6, [1, 3]) == [0, 1, 1, 1, 1, 1]
    assert deal(1, [1, 1, 1]) == [0]
