"""A run does anything in any order: checkpoint, crash, resume, roll back, record, prune, lose its newest version.

The model knows which state must come back; whatever happened, a resume gives exactly that one, and no number comes twice.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import holdfast
from holdfast.run import maintenance

_MEMORY = Path("/dev/shm")


@dataclass
class Known:
    """A version as the model has it: its state, what it was made from, and what has become of it."""

    value: int
    parent: int | None
    name: str
    broken: bool = False


class Machine(RuleBasedStateMachine):
    @initialize(keep=st.integers(1, 3))
    def begin(self, keep: int) -> None:
        self.top = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        self.url = self.top / "run"
        self.keep = holdfast.Keep(last=keep)
        self.versions: dict[int, Known] = {}  # those that exist
        self.tip: int | None = None  # the newest of the lineage
        self.used: set[int] = set()  # every number that any version or record has had
        self.records: dict[int, int] = {}
        self.attempts = 0
        self.run: Any = None
        self.crashed: list[Any] = []
        self.resume()

    def teardown(self) -> None:
        for run in [*(run for run, _ in getattr(self, "crashed", [])), getattr(self, "run", None)]:
            if run is not None:
                run.close()
        shutil.rmtree(getattr(self, "top", "/nonexistent"), ignore_errors=True)

    # -- what the model expects -------------------------------------------------------------

    def lineage(self) -> list[int]:
        found, at = [], self.tip
        while at is not None and at in self.versions:
            found.append(at)
            at = self.versions[at].parent
        return found

    def new(self, number: int) -> None:
        assert number not in self.used, "a number came back"
        assert number > max(self.used, default=0)
        self.used.add(number)

    # -- rules ------------------------------------------------------------------------------

    def resume(self) -> None:
        """Start again; which state comes back is checked here."""
        whole = [n for n in self.lineage() if not self.versions[n].broken]
        run = holdfast.open(self.url, keep=self.keep, takeover=True, signals=False)
        self.attempts += 1
        assert run.attempt == self.attempts
        self.array = run.protect("u", np.zeros(30_000))
        self.state = run.state(value=0)
        if self.lineage() and not whole:
            with pytest.raises(holdfast.NoWholeVersionError):
                run.ready()
            run.close()
            self.run = None
            return
        run.ready()
        skipped = [n for n in self.lineage() if not whole or n > whole[0]]
        self.tip = whole[0] if whole else None
        restored = run.restored
        assert (restored.version if restored else None) == self.tip
        assert [int(name[:8]) for name, _ in (restored.skipped if restored else ())] == skipped
        expected = self.versions[self.tip].value if self.tip is not None else 0
        assert self.state.value == expected and (self.array == expected).all()
        self.value = expected
        self.run = run

    @precondition(lambda self: self.run is None)
    @rule()
    def start(self) -> None:
        self.resume()

    @precondition(lambda self: self.run is not None)
    @rule(change=st.integers(1, 99))
    def checkpoint(self, change: int) -> None:
        self.value += change
        self.array[:] = self.value
        self.state.value = self.value
        handle = self.run.checkpoint()
        assert handle.durable
        self.new(handle.version)
        name = f"{handle.version:08d}-a{self.run.attempt:06d}"
        self.versions[handle.version] = Known(self.value, self.tip, name)
        self.tip = handle.version
        for number in self.lineage()[self.keep.last :]:
            del self.versions[number]

    @precondition(lambda self: self.run is not None)
    @rule()
    def crash(self) -> None:
        """The process goes on living, but the run has no end: as after SIGKILL."""
        self.crashed.append((self.run, self.array))
        self.run = None

    @precondition(lambda self: self.crashed and self.run is not None)
    @rule()
    def a_crashed_writer_wakes_up(self) -> None:
        old, _array = self.crashed.pop()
        with pytest.raises(holdfast.FencedError):
            old.checkpoint()
        old.close()

    @precondition(lambda self: self.run is not None)
    @rule()
    def close(self) -> None:
        self.run.close()
        self.run = None

    @precondition(lambda self: self.run is not None)
    @rule(value=st.integers())
    def record(self, value: int) -> None:
        with self.run.transaction("r") as txn:
            txn.put("value", value)
        self.new(txn.version)
        self.records[txn.version] = value
        assert self.run.load("value", txn.version) == value

    @precondition(lambda self: self.run is not None and any(not v.broken for v in self.versions.values()))
    @rule(data=st.data())
    def roll_back(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(n for n, v in self.versions.items() if not v.broken)))
        self.run.rollback(number)
        self.attempts += 1
        self.tip = number
        self.value = self.versions[number].value
        assert self.state.value == self.value and (self.array == self.value).all()

    @precondition(lambda self: self.run is None)
    @rule(damaged=st.booleans())
    def prune(self, damaged: bool) -> None:
        # What is damaged in the lineage within `keep` is not known to prune, which reads commits there: it stays.
        removed = maintenance.prune(self.url, keep=self.keep, takeover=True, damaged=damaged)
        self.attempts += 1
        kept = set(self.lineage()[: self.keep.last])
        gone = {int(r.name[:8]) for r in removed if r.status != "fragment"} - set(self.records)
        expected = {n for n, v in self.versions.items() if n not in kept and (damaged or not v.broken or n in self.lineage())}
        assert gone == expected
        for number in gone:
            del self.versions[number]
        for r in removed:
            self.records.pop(int(r.name[:8]), None)

    @precondition(lambda self: self.run is None and self.tip in self.versions)
    @rule(at=st.integers(0, 240_000 - 1))
    def damage_the_newest(self, at: int) -> None:
        known = self.versions[self.tip]
        path = self.url / "versions" / known.name / "data/r000000"
        data = bytearray(path.read_bytes())
        if known.broken:
            return
        data[at] ^= 1
        path.write_bytes(data)
        known.broken = True

    @precondition(lambda self: self.run is not None)
    @rule()
    def killed_before_its_commit(self) -> None:
        """A version is written, but for the last step; the process is gone."""
        before = set((self.url / "versions").iterdir()) if (self.url / "versions").exists() else set()
        unseen = self.run._x.store

        class Killed(BaseException):
            pass

        put = unseen.put

        def stop(key: str, content: bytes) -> None:
            if key.endswith("/commit"):
                raise Killed
            put(key, content)

        unseen.put = stop
        with pytest.raises(Killed):
            self.run.checkpoint()
        unseen.put = put
        fragments = set((self.url / "versions").iterdir()) - before
        assert len(fragments) == 1
        self.crashed.append((self.run, self.array))
        self.run = None

    @invariant()
    def what_exists_is_what_the_model_says(self) -> None:
        if not hasattr(self, "url") or not self.url.exists():
            return
        with holdfast.open(self.url, mode="r") as run:
            listed = {v.number: v for v in run.versions if v.kind == "checkpoint" and v.status != "fragment"}
            assert set(listed) == set(self.versions)
            if self.run is not None:  # sealed: what counts is settled
                assert {n for n, v in listed.items() if v.status == "current"} == set(self.lineage())


def test_any_order_of_events_gives_the_right_state() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
