"""Heat on 8 ranks on stand-in nodes with levels, a rank or nodes killed: a sample of part F of `make campaign`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from campaign.levels import play  # noqa: E402
from campaign.levels_scenes import NEVER, RS, Scene  # noqa: E402
from campaign.levels_truth import judge_resume  # noqa: E402

XOR = "memory,xor"
# A loss that the redundancy mends, with no spare for it (the ranks that live resume from their own memory), and one too many,
# with spares; the first on simulated nodes, wherever the tests are run.
SAMPLE = [
    (Scene(f"memory,{RS}", "memory", 2, ("node0", "node2"), False, NEVER), True),
    (Scene(XOR, "memory", 1, ("node1", "node3"), True, survives=False), False),
]


@pytest.mark.parametrize(("scene", "simulated"), SAMPLE, ids=lambda value: getattr(value, "name", ""))
def test_killed_and_resumed(scene, simulated, tmp_path):
    outcome = play(tmp_path / "scene", scene, simulated)
    assert not outcome.problems, "\n".join(outcome.problems)


# -- the judge itself --------------------------------------------------------------------------

BEFORE = [f"node{rank // 2}" for rank in range(8)]
SPARE = ["node4" if node == "node1" else node for node in BEFORE]


def log(version=6, far="0 B", passed="", **sources):
    """What a job writes that resumes after node1 was lost and node4 took its place."""
    told = {f"r{rank}": "memory, on its own node" for rank in range(8)}
    told |= {"r2": "memory, rebuilt by ranks 0, 4, 6", "r3": "memory, rebuilt by ranks 1, 5, 7"} | sources
    lines = [f"version 0000000{version + 1}-a000001 was passed over: {passed}"] if passed else []
    lines += [f"resumes from version {version} (step {4 * version})"]
    lines += [f"rank {name[1:]}: from {source}" for name, source in told.items() if source]
    lines += [f"all ranks together read 32.0 KiB from memory, 0 B from local, {far} from global"]
    return "".join(f"holdfast: {line}\n" for line in lines)


ONE = Scene(XOR, "memory", 1, ("node1",))


def test_the_judge_accepts_what_is_right():
    assert judge_resume(ONE, [BEFORE, SPARE], 6, [4], log()) == []
    assert judge_resume(ONE, [BEFORE, SPARE], 7, [4], log()) == []  # the newest had no parity yet


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no resume"),
        (log(version=4), "the nodes had 6"),
        (log(far="4.1 KiB"), "4.1 KiB were read from the run's own store"),
        (log(r5=""), "the sources of ranks"),
        (log(r0="memory, moved from node2"), "rank 0 from memory, moved from node2"),
        (log(r2="the run's own store"), "rank 2 from the run's own store; its node node1 is lost"),
        (log(r2="memory, on its own node"), "rank 2 from memory, on its own node; its node node1 is lost"),
        (log(r2="memory, rebuilt by ranks 0, 1, 4"), "members on the same node"),
        (log(r6="local, on its own node"), "rank 6 from local"),
    ],
)
def test_the_judge_finds(text, complaint):
    assert any(complaint in problem for problem in judge_resume(ONE, [BEFORE, SPARE], 6, [4], text))


STORED = {f"r{rank}": "the run's own store" for rank in range(8)}
TWO = "ranks 2-3, 6-7 can't be had: of the set of ranks 0, 2, 4, 6 (memory) 2 of 4 are lost, and 1 may be"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (log(version=4, far="32.0 KiB", passed=TWO, **STORED), ""),
        (log(version=4, far="32.0 KiB", **STORED), "version 5 was passed over; told is []"),
        (log(version=4, far="32.0 KiB", passed="ranks 2-3 can't be had", **STORED), "lost are ranks [2, 3, 6, 7]"),
        (log(version=3, far="32.0 KiB", passed=TWO, **STORED), "the run's own store had [2, 4]"),
        (log(version=4, passed=TWO, **STORED), "from the run's own store: 0 B"),
        (log(version=4, far="8.0 KiB", passed=TWO), "rank 2 from memory, rebuilt by ranks 0, 4, 6, which is lost"),
    ],
)
def test_the_judge_of_too_large_a_loss(text, complaint):
    scene = Scene(XOR, "memory", 1, ("node1", "node3"), survives=False)
    problems = judge_resume(scene, [BEFORE, SPARE], 5, [2, 4], text)
    assert not problems if not complaint else any(complaint in problem for problem in problems), problems
