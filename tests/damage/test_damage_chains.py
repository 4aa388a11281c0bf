"""Damage where versions share blocks: each file of a run with chains flipped, cut, emptied, removed (invariants 4 and 5).

Which versions need the damaged bytes is told by their indexes. Those that do not are whole; those that do are passed over, for
the newest that does not; never a wrong value; `verify` names the versions and the file; what is written next stands on whole
blocks alone.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.catalog import Snapshot
from holdfast.engine import open_part
from holdfast.errors import DamageError
from holdfast.run import maintenance
from holdfast.store import open_store

STEPS = 9
NAMES = ("a", "b", "c")


def arrays() -> dict[str, Any]:
    return {name: np.arange(1 << 17, dtype=float) + i for i, name in enumerate(NAMES)}


def advance(state: dict[str, Any], step: int) -> None:
    """A few pages of one of the three."""
    state[NAMES[step % 3]][step * 512 :: 1 << 14] += step + 1.0


def truth() -> list[dict[str, bytes]]:
    """The state after each number of steps."""
    state = arrays()
    found = [{k: v.tobytes() for k, v in state.items()}]
    for step in range(STEPS):
        advance(state, step)
        found.append({k: v.tobytes() for k, v in state.items()})
    return found


Use = tuple[str, int, int]  # a data file, where, how many bytes


@dataclass
class Chained:
    """`versions`: names, newest first, to the number of steps; `needs`: for each the files without which it is not; `uses`: the
    extents that it reads."""

    url: Path
    versions: dict[str, int]
    needs: dict[str, set[str]]
    uses: dict[str, list[Use]]
    truth: list[dict[str, bytes]]

    def hit(self, file: str, at: int | None = None) -> set[str]:
        """The versions that the loss of a file, or of the byte at `at` of a data file, takes."""
        if at is None:
            return {v for v, files in self.needs.items() if file in files}
        return {v for v, uses in self.uses.items() if any(f == file and o <= at < o + n for f, o, n in uses)}

    def check(self, url: Path, file: str, hit: set[str]) -> None:
        damages = maintenance.verify(url)
        numbers = {int(name[:8]) for name in hit}
        assert {d.version for d in damages} - {None} == numbers, f"{file}: {damages}"
        if hit:
            assert any(d.file == file for d in damages), f"{file} is not named: {damages}"
        whole = [name for name in self.versions if name not in hit]
        run = holdfast.open(url, signals=False, takeover=True, overlap="off")
        state = {name: run.protect(name, np.zeros(1 << 17)) for name in NAMES}
        try:
            if not whole:
                with pytest.raises(holdfast.NoWholeVersionError):
                    run.ready()
                return
            run.ready()
            assert run.restored is not None
            steps = self.versions[whole[0]]
            assert (run.restored.version, run.restored.step) == (int(whole[0][:8]), steps), f"{file}: {run.restored}"
            assert {k: v.tobytes() for k, v in state.items()} == self.truth[steps], f"{file}: a wrong value"
            assert {name for name, _ in run.restored.skipped} == {n for n in hit if n > whole[0]}, file
            advance(state, steps)
            handle = run.checkpoint()
            assert maintenance.verify(url, handle.version) == [], f"{file}: the next version does not stand"
        finally:
            run.close()


@pytest.fixture(scope="module", params=["blocks", "pages"])
def chained(request: pytest.FixtureRequest, fast_session: Path) -> Iterator[Chained]:
    url = fast_session / f"chained-{request.param}"
    keep = holdfast.Keep(last=4)
    run = holdfast.open(url, signals=False, overlap="off", incremental=request.param, max_chain=4, keep=keep)
    state = {name: run.protect(name, value) for name, value in arrays().items()}
    for step in run.steps(100, every=holdfast.steps(1)):
        if step == STEPS:
            break
        advance(state, step)
    run.close()
    store = open_store(str(url), create=False, read_only=True)
    snapshot = Snapshot(store)
    names = sorted((n.name for n in snapshot.names["checkpoint"]), reverse=True)
    found = Chained(url, {}, {}, {}, truth())
    for name in names:
        commit = snapshot.commit("checkpoint", name)[0]
        own = f"versions/{name}"
        with open_part(store, commit, 0, 1) as reader:
            part = reader.part
        files = [f"{own}/data/r000000", *(f"versions/{s.version}/data/r{s.rank:06d}" for s in part.sources)]
        found.versions[name] = commit.step or 0
        found.uses[name] = [(files[e.source], e.offset, e.nbytes) for o in part.objects for b in o.buffers for e in b.extents]
        records = {f"versions/{link.name}/commit" for link in commit.refs}
        found.needs[name] = {*files, *records, f"{own}/commit", f"{own}/index/root", f"{own}/index/g000000"}
    assert len(names) >= 5 and any(len(files) >= 7 for files in found.needs.values()), "no chains"
    assert any(len(files) == 4 for files in found.needs.values()), "no version that stands alone"
    yield found
    shutil.rmtree(url)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


LOSSES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


def copy(chained: Chained, fast: Path) -> Path:
    return Path(shutil.copytree(chained.url, fast / "run"))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_file_is_lost(chained: Chained, fast: Path, loss: str) -> None:
    for file in sorted(set().union(*chained.needs.values())):
        if file.endswith("/commit") and loss != "empty":
            continue  # a cut takes one of its lines; a missing one is the next test's
        url = copy(chained, fast)
        LOSSES[loss](url / file)
        chained.check(url, file, chained.hit(file))
        shutil.rmtree(url)


def test_a_byte_flips(chained: Chained, fast: Path) -> None:
    """In each data file: in each extent that a version uses, and where only older versions do."""
    choose = random.Random(4)
    places = {(f, o + choose.randrange(n)) for uses in chained.uses.values() for f, o, n in uses}
    for file, at in sorted(choose.sample(sorted(places), min(24, len(places)))):
        url = copy(chained, fast)
        data = bytearray((url / file).read_bytes())
        data[at] ^= 1 << choose.randrange(8)
        (url / file).write_bytes(data)
        chained.check(url, file, chained.hit(file, at))
        shutil.rmtree(url)


def test_the_commit_of_a_version_that_others_need(chained: Chained, fast: Path) -> None:
    """Missing, or another than was meant: what stands there now can't be told to be what the blocks were taken from."""
    for name in chained.versions:
        file = f"versions/{name}/commit"
        users = chained.hit(file) - {name}
        if not users:
            continue
        for damage in ("missing", "of another version"):
            url = copy(chained, fast)
            if damage == "missing":
                (url / file).unlink()
            else:
                other = next(n for n in chained.versions if n != name)
                shutil.copy(url / f"versions/{other}/commit", url / file)
            _check_users(chained, url, name, users)
            shutil.rmtree(url)


def test_a_whole_version_is_missing(chained: Chained, fast: Path) -> None:
    for name in chained.versions:
        url = copy(chained, fast)
        shutil.rmtree(url / "versions" / name)
        _check_users(chained, url, name, chained.hit(f"versions/{name}/commit") - {name})
        shutil.rmtree(url)


def _check_users(chained: Chained, url: Path, name: str, users: set[str]) -> None:
    """Version `name` is gone, and takes those with it that need it. That it is gone itself nobody may be able to tell."""
    damages = maintenance.verify(url)
    assert {d.version for d in damages} - {None, int(name[:8])} == {int(u[:8]) for u in users}, damages
    whole = [v for v in chained.versions if v not in users and v != name]
    run = holdfast.open(url, mode="r")
    try:
        state = {k: run.protect(k, np.zeros(1 << 17)) for k in NAMES}
        if not whole:
            with pytest.raises(DamageError):
                run.ready()
            return
        run.ready()
        assert run.restored is not None and run.restored.version == int(whole[0][:8])
        assert {k: v.tobytes() for k, v in state.items()} == chained.truth[chained.versions[whole[0]]]
    finally:
        run.close()
