"""Power loss, in a model: what is sure to be on disk at each moment, and what a start makes of what is left (invariants 1, 3).

The calls of a whole start with one checkpoint are recorded once, bytes included; `fs_disk` then says what a power loss
behind any of them can leave.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fs_program
import pytest
from fs_disk import Disk
from fs_losses import Recovery, adversary, breaks, losses, without
from fs_power import Scene
from fs_recording import Op
from fs_running import run_campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@dataclass
class Recorded:
    scenes: dict[str, Scene]
    inherited: list[tuple[str, Scene]]
    recovery: Recovery


@pytest.fixture(scope="module")
def recorded(ground: Path) -> Iterator[Recorded]:
    run_campaign("fs_power", ground, "small", share=1)
    with (ground / "recorded.pickle").open("rb") as f:
        known = pickle.load(f)
    with pytest.MonkeyPatch.context() as patch:
        fs_program.shrink(patch.setattr)
        yield Recorded(known["scenes"], known["inherited"], Recovery(known["work"], known["truth"]))


@pytest.fixture(scope="module", params=["pages", "chain"])
def flight(request: pytest.FixtureRequest, ground: Path) -> Iterator[tuple[str, Scene, Recovery]]:
    """Versions written beside the program: of blocks and pages that others have the rest of; or whole again, and the chain
    before it is deleted. (variant, what was done, recovery)."""
    where = ground.with_name(f"flights-{request.param}")
    run_campaign("fs_power", where, "small", "flights", share=1, variant=request.param)
    with (where / "recorded.pickle").open("rb") as f:
        known = pickle.load(f)
    with pytest.MonkeyPatch.context() as patch:
        fs_program.shrink(patch.setattr)
        patch.setattr(fs_program, "_options", fs_program.VARIANTS[request.param][0])
        yield request.param, known["scenes"]["flights"], Recovery(known["work"], known["truth"])


def test_flights(flight: tuple[str, Scene, Recovery], say: list[str]) -> None:
    """Order; what is left after each operation; and each fsync of a version is needed, also by those that refer to it."""
    name, scene, recovery = flight
    assert breaks(scene, scene.ops) is None
    assert len(scene.reported) == (3 if name == "pages" else 2)
    deleted = [op for op in scene.ops if op.name == "unlink" and op.path.endswith("/commit")]
    assert len(deleted) == (2 if name == "chain" else 0)
    disk = Disk(scene.begin, scene.ops)
    points = losses(scene, disk)
    for n, reached in points:
        wrong = recovery.wrong(scene, disk, n, reached)
        assert wrong is None, f"power lost after {n} operations, {scene.ops[max(n - 1, 0)]}: {wrong}"
    syncs = [j for j, op in enumerate(scene.ops) if op.name == "fsync" and "/versions/" in op.path and " _seal " not in op.site]
    found = {j: _forgotten(recovery, scene, j) for j in syncs}
    undetected = [_label(scene.ops[j]) for j, kind in found.items() if kind is None]
    say.append(f"power loss, flights ({name}): {len(points)} losses, all resumed; {len(syncs)} fsyncs of versions removed "
               f"in turn, {len(syncs) - len(undetected)} noticed")  # fmt: skip
    assert not undetected


SCENES = ("resumed", "fresh")


@pytest.mark.parametrize("name", SCENES)
def test_order_of_writing(recorded: Recorded, name: str) -> None:
    """Data, fsync, directory, index, root, commit, each durable before the next; fence before base before version."""
    scene = recorded.scenes[name]
    assert breaks(scene, scene.ops) is None
    assert len([op for op in scene.ops if op.name == "fsync"]) >= 20
    if name == "resumed":
        assert any(op.name == "unlink" and op.path.endswith("/commit") for op in scene.ops), "nothing was deleted"


@pytest.mark.parametrize("name", SCENES)
def test_every_prefix_is_resumable(recorded: Recorded, name: str, say: list[str]) -> None:
    scene = recorded.scenes[name]
    disk = Disk(scene.begin, scene.ops)
    points = losses(scene, disk)
    for n, reached in points:
        wrong = recorded.recovery.wrong(scene, disk, n, reached)
        assert wrong is None, f"power lost after {n} operations, {scene.ops[max(n - 1, 0)]}: {wrong}"
    say.append(f"power loss, {name}: {len(points)} losses, after each of {len(scene.ops)} operations, all resumed")


@pytest.mark.parametrize("name", SCENES)
def test_any_part_of_what_is_not_synced_may_be_there(recorded: Recorded, name: str) -> None:
    scene = recorded.scenes[name]
    disk = Disk(scene.begin, scene.ops)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def lose(data: st.DataObject) -> None:
        n = data.draw(st.integers(0, len(scene.ops)))
        some = disk.open(n)
        reached = disk.sure(n) | (data.draw(st.sets(st.sampled_from(some))) if some else set())
        assert recorded.recovery.wrong(scene, disk, n, reached) is None

    lose()


# Forgotten, these harm nobody in any scene; why they are there nevertheless.
EXPLAINED: dict[str, str] = {}


def test_each_fsync_is_needed(recorded: Recorded, say: list[str]) -> None:
    """Forgotten, each makes the order wrong, or a power loss take what was reported; if not after an orderly beginning,
    then after a process that was killed before it had made its last names durable."""
    idle: set[str] = set()
    for name, scene in recorded.scenes.items():
        syncs = [j for j, op in enumerate(scene.ops) if op.name in ("fsync", "outfile")]
        found = {j: _forgotten(recorded.recovery, scene, j) for j in syncs}
        kinds = list(found.values())
        idle |= {_label(scene.ops[j]) for j, kind in found.items() if kind is None}
        say.append(f"power loss, {name}: {len(syncs)} fsyncs removed in turn; a start goes wrong after "
                   f"{kinds.count('start')}, the order is wrong after {kinds.count('order')} more")  # fmt: skip
    undetected = set(idle)
    for _, scene in recorded.inherited:
        for j, op in enumerate(scene.ops):
            if op.name == "fsync" and _label(op) in undetected and _forgotten(recorded.recovery, scene, j):
                undetected.discard(_label(op))
    say.append(f"power loss after a kill: {len(idle) - len(undetected)} of {len(idle)} other fsyncs are needed there")
    assert undetected == set(EXPLAINED), f"nobody notices: {undetected}; only {set(EXPLAINED)} is explained"


def _forgotten(recovery: Recovery, scene: Scene, j: int) -> str | None:
    """What notices that the `j`-th operation is missing: a "start" after a loss, the "order" alone, None: nothing."""
    whole = Disk(scene.begin, scene.ops)
    if scene.ops[j].name == "fsync" and whole.sure(j + 1) == whole.sure(j):
        return None  # there was nothing left to make durable
    less = without(scene, j)
    disk = Disk(less.begin, less.ops)
    if any(recovery.wrong(less, disk, n, reached) for n, reached in adversary(scene, j)):
        return "start"
    return "order" if breaks(less, less.ops) else None


def _label(op: Op) -> str:
    """Where an fsync stands in the library, and of what kind of path it is; whichever of the writing threads came to it."""
    below = re.sub(r"/(\d+-a\d+)", "/V", op.path.partition("/work")[2])
    site = re.sub(r"^.*\b_work (?=_write )", "", op.site)
    return f"{below or '/'}: {site}"


def test_what_a_dead_process_left_unsynced(recorded: Recorded, say: list[str]) -> None:
    """A process is killed behind each change of a name; the next one builds on it, reports, and then the power goes."""
    checked = 0
    for point, scene in recorded.inherited:
        assert (wrong := breaks(scene, scene.ops)) is None, f"{point}: {wrong}"
        disk = Disk(scene.begin, scene.ops)
        first = next(at for at, _ in reversed(scene.reported))
        bases = [n + 1 for n, op in enumerate(scene.ops) if op.name == "link" and op.to.endswith(".base")]
        for n in {*bases, first, len(scene.ops)}:
            assert (wrong := recorded.recovery.wrong(scene, disk, n, disk.sure(n))) is None, f"{point}: {wrong}"
            checked += 1
    say.append(f"power loss after a kill: {len(recorded.inherited)} kills, {checked} losses")
