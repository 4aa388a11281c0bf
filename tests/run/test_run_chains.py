"""Resuming versions that have blocks in the files of older ones: whole, and with a link that is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.catalog import read_commit
from holdfast.engine import read_part
from holdfast.run import maintenance
from holdfast.store import open_store

MiB = 1 << 20
NAMES = [f"{n:08d}-a000001" for n in range(1, 6)]


def opened(url: Path, **options: Any) -> tuple[Any, np.ndarray]:
    run = holdfast.open(url, keep=holdfast.Keep(last=9), incremental="blocks", signals=False, takeover=True, **options)
    return run, run.protect("u", np.zeros(12 * MiB, np.uint8))


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints 1 to 5; block 0 is always in version 1, block 1 in the version, block 2 in 1, from version 4 on in 4.

    All of one chain: as in a run with much room, whose spare is not looked at here."""
    monkeypatch.setattr("holdfast.run.chain._ROOM", 9.0)
    run, u = opened(tmp_path / "run")
    run.ready()
    u[:] = 7
    for k in range(1, 6):
        u[5 * MiB] = k
        if k == 4:
            u[9 * MiB] = k
        run._x.writer.arrive()
        run._x.writer.chain = replace(run._x.writer.chain, spared=True)
        run.checkpoint()
    run.close()
    return tmp_path / "run"


def resumed(url: Path) -> tuple[Any, np.ndarray]:
    run, u = opened(url)
    run.ready()
    run.close()
    return run.restored, u


def flip(url: Path, version: int, block: int) -> None:
    """A bit of that block of `u`, wherever the version has it in its own file."""
    store = open_store(str(url), create=False, read_only=True)
    part = read_part(store, read_commit(store, "checkpoint", NAMES[version])[0], 0)
    extent = next(e for e in part.objects[0].buffers[0].extents if e.start == block * 4 * MiB)
    assert extent.source == 0
    path = url / "versions" / NAMES[version] / "data/r000000"
    data = bytearray(path.read_bytes())
    data[extent.offset] ^= 1
    path.write_bytes(data)


def expected(k: int) -> np.ndarray:
    u = np.full(12 * MiB, 7, np.uint8)
    u[5 * MiB] = k
    u[9 * MiB] = 4 if k >= 4 else 7
    return u


def test_the_newest_is_put_together(url: Path) -> None:
    restored, u = resumed(url)
    assert restored.version == 5 and restored.skipped == ()
    assert np.array_equal(u, expected(5))


@pytest.mark.parametrize("file", ["commit", "data/r000000"])
def test_a_broken_link_is_passed_over_and_named(url: Path, file: str) -> None:
    (url / "versions" / NAMES[3] / file).unlink()
    restored, u = resumed(url)
    assert restored.version == 3 and np.array_equal(u, expected(3))
    assert [name for name, _ in restored.skipped] == [NAMES[4], NAMES[3]][: len(restored.skipped)]
    assert NAMES[3] in dict(restored.skipped)[NAMES[4]], "it tells what was missing"


def test_versions_that_do_not_need_it_are_whole(url: Path) -> None:
    flip(url, 1, 1)
    assert {d.version for d in maintenance.verify(url)} == {2}
    restored, u = resumed(url)
    assert restored.version == 5 and np.array_equal(u, expected(5))


def test_if_all_share_what_is_damaged_none_is_whole(url: Path) -> None:
    flip(url, 0, 0)
    run, _ = opened(url)
    with pytest.raises(holdfast.NoWholeVersionError, match="00000001-a000001"):
        run.ready()
    run.close()


def test_a_rollback_to_an_older_one_of_the_chain(url: Path) -> None:
    maintenance.rollback(url, 2, takeover=True)
    restored, u = resumed(url)
    assert restored.version == 2 and np.array_equal(u, expected(2))
