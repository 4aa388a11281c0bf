"""The cases of redundancy and growth give the figures that are promised, under the names under which they are looked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import growth
import pytest
import redundancy
import small
from job import Context
from promises import PROMISES, RS_4, RS_8, XOR_4, judge
from row import GiB, MiB
from run import plan


def context(nbytes: int = 0, **more: object) -> Context:
    return Context(Path("/absent"), nbytes, 2, [], [], more)


def measured(monkeypatch: pytest.MonkeyPatch, case: str, encode: float, extra: int, kept: float) -> list:
    """The rows of a case whose ranks have printed this: memcpy took a second."""
    asked = []

    def mpirun(ranks: int, command: list[str]) -> str:
        asked.append((ranks, command[command.index("--rank") + 1 :]))
        return "a warning\n" + json.dumps({"rounds": [[1.0, encode, 2.0]] * 3, "extra": extra, "kept": kept}) + "\n"

    monkeypatch.setattr(small, "mpirun", mpirun)
    rows = redundancy.CASES[case](context(GiB))
    n, m = int(case[-1]), 1 if case.startswith("xor") else 2
    assert asked == [(n, [str(n), str(m), str(GiB // n), "2"])]
    return rows


@pytest.mark.parametrize(
    ("case", "program", "slowest", "share"),
    [("xor-4", XOR_4, 2.85, 4 / 3), ("rs-4", RS_4, 6.66, 2), ("rs-8", RS_8, 0, 4 / 3)],
)
def test_redundancy(monkeypatch: pytest.MonkeyPatch, case: str, program: str, slowest: float, share: float) -> None:
    promises = [p for p in PROMISES if p.program == program]
    assert len(promises) == 2 + bool(slowest)
    good = measured(monkeypatch, case, slowest, 64 * MiB, 1.009 * share * GiB)
    assert [v.held for v in judge(good, ["1 GiB"], promises)] == [True] * len(promises)
    bad = measured(monkeypatch, case, slowest + 0.02, 64 * MiB + 1, 1.011 * share * GiB)
    assert [v.held for v in judge(bad, ["1 GiB"], promises)] == [False] * len(promises)


def test_a_member_of_the_bench_keeps_what_is_computed_in_place() -> None:
    import numpy as np

    member = redundancy.Memory(np.zeros(8, np.uint8), np.zeros(4, np.uint8), 4)
    block = member.room_for(True, 0, 1, 3)
    block[:] = 7
    member.write(True, 0, 1, block)
    member.write(False, 1, 0, np.full(4, 9, np.uint8))
    assert member.parity.tolist() == [0, 7, 7, 7] and member.stream.tolist() == [0] * 4 + [9] * 4


def test_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = growth.rows(context(ranks=[1000]))
    assert {r.program for r in rows} == {
        "growth, 1 000 ranks, nodes lost side by side", "growth, 1 000 ranks, nodes lost at random",
        "growth, index of 1 000 ranks",
    }  # fmt: skip
    assert all(r.value > 0 for r in rows)
    promises = [p for p in PROMISES if p.program.startswith("growth")]
    assert len(promises) == 3
    for seconds, root, held in ((9.9, MiB, True), (10.1, MiB + 1, False)):
        monkeypatch.setattr(growth, "measure", lambda *_, s=seconds: SimpleNamespace(seconds=s, report=1, message=1))
        monkeypatch.setattr(growth, "root_bytes", lambda ranks, b=root: b)
        assert [v.held for v in judge(growth.rows(context()), [], promises)] == [held] * 3


def test_each_case_can_be_named() -> None:
    tasks = {task.case: task for task in plan([GiB], 3, peers=False)}
    for case in ("xor-4", "rs-4", "rs-8"):
        assert tasks[case].script == "redundancy.py" and case in redundancy.CASES and tasks[case].nbytes == GiB
    assert tasks["growth"].script == "growth.py"
