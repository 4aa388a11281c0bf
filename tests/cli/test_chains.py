"""What the commands say of versions that share blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import holdfast
from holdfast.catalog import read_commit
from holdfast.engine import read_part
from holdfast.store import open_store

MiB = 1 << 20


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Checkpoints 1 to 4 of 12 MiB, each with another block written anew, as in the middle of a run with much room."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("holdfast.run.chain._ROOM", 9.0)
    run = holdfast.open("chain", keep=holdfast.Keep(last=9), incremental="blocks", signals=False)
    u = run.protect("u", np.ones(12 * MiB, np.uint8))
    for k in range(4):
        run.ready()
        run._x.writer.arrive()
        run._x.writer.chain = replace(run._x.writer.chain, spared=True)
        u[4 * MiB * (k % 3)] = k + 2
        run.checkpoint()
    run.close()
    return "chain"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_ls(chain, invoke, document):
    found = {v["number"]: v for v in document("ls", chain)["versions"]}
    assert [found[n]["state"] for n in (1, 2, 3, 4)] == [12 * MiB] * 4
    assert [found[n]["bytes"] for n in (1, 2, 3, 4)] == [12 * MiB, *[4 * MiB] * 3]
    assert [found[n]["refs"] for n in (1, 2, 3, 4)] == [[], [1], [2, 1], [3, 2]]
    assert [found[n]["chain"] for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert [found[n]["held"] for n in (1, 2, 3, 4)] == ["held by 3", "held by 4", None, None]
    lines = invoke("ls", chain).stdout.splitlines()
    row = next(line for line in lines if line.split()[0] == "2").split()
    assert " ".join(row).count("12.0 MiB 4.0 MiB 2") == 1 and " ".join(row).endswith("held by 4")


def test_show(chain, invoke, document):
    (rank,) = document("show", chain)["contents"]
    (u,) = rank["objects"]
    assert sorted((p["version"], p["rank"], p["bytes"]) for p in u["places"]) == [
        (2, 0, 4 * MiB),
        (3, 0, 4 * MiB),
        (4, 0, 4 * MiB),
    ]
    text = invoke("show", chain).stdout
    assert "stored in" in text and "version 3: 4.0 MiB" in text
    assert "stored in" not in invoke("show", chain, 1).stdout


def test_verify_tells_of_all_that_share_what_is_damaged(chain, document):
    store = open_store("chain", create=False, read_only=True)
    part = read_part(store, read_commit(store, "checkpoint", "00000001-a000001")[0], 0)
    at = part.objects[0].buffers[0].extents[2].offset  # of the third block, which version 2 shares and version 3 has anew
    flip(Path("chain/versions/00000001-a000001/data/r000000"), at + 1000)
    damages = document("verify", chain, code=1)["damages"]
    assert [d["version"] for d in damages] == [2, 1]
    assert {(d["file"], d["offset"], d["object"], d["rank"]) for d in damages} == {
        ("versions/00000001-a000001/data/r000000", at, "u", 0)
    }
    assert document("verify", chain, 3)["whole"] and document("verify", chain, 4)["whole"]
    assert not document("verify", chain, 2, code=1)["whole"]


def test_verify_tells_of_a_broken_link(chain, document):
    Path("chain/versions/00000002-a000001/commit").unlink()
    damages = document("verify", chain, code=1)["damages"]
    assert {d["version"] for d in damages} == {2, 3, 4}
    assert all("00000002-a000001" in d["message"] for d in damages)
    assert document("verify", chain, 1)["whole"]


def test_prune_leaves_every_version_whole(chain, document, invoke):
    """4 needs 3 and 2, and 3, which stays for that, needs 1."""
    assert document("prune", chain, "--keep", 1)["removed"] == []
    assert document("verify", chain)["whole"]
