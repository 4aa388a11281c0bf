"""For tests of the helper process: states as units, what was stored of them, programs that may not hang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.engine.units import UNIT, Block, Piece, Unit, Written
from holdfast.format import digest
from holdfast.store import open_store

HERE = Path(__file__).parent


def as_bytes(array: Any) -> Any:
    return array.view(np.uint8).reshape(-1)


def units_of(arrays: Sequence[Any], known: Sequence[bytes] | None = None) -> list[tuple[int, Unit]]:
    """Each array in units of its own, `known` the digests of all units in order."""
    found: list[tuple[int, Unit]] = []
    for i, array in enumerate(arrays):
        memory = as_bytes(array)
        for start in range(0, memory.nbytes, UNIT):
            piece = memory[start : start + UNIT]
            before = None if known is None else known[len(found)]
            block = Block(0, piece.nbytes, i, start, None, before)
            found.append((len(found), Unit(-(-piece.nbytes // 4096) * 4096, [Piece(0, piece)], [block], "cow")))
    return found


def packed(pieces: Sequence[Any], align: int = 8) -> Unit:
    """One unit of many pieces, with gaps between them."""
    at, placed = 0, []
    for p in pieces:
        placed.append(Piece(at, as_bytes(p)))
        at = -(-(at + p.nbytes) // align) * align
    return Unit(-(-at // 4096) * 4096, placed, [Block(0, at, 0, 0)], "cow")


def image(unit: Unit) -> bytes:
    """What a unit is to be in the file, as its memory is now."""
    out = np.zeros(unit.nbytes, np.uint8)
    for at, memory in unit.pieces:
        out[at : at + memory.nbytes] = memory
    return out.tobytes()


def images(units: Sequence[tuple[int, Unit]]) -> list[bytes]:
    return [image(u) for _, u in units]


def check_stored(
    root: Path, key: str, units: Sequence[tuple[int, Unit]], results: list[Written], want: list[bytes]
) -> None:
    """Each unit stands in the file as in `want`, with the right digests."""
    with open_store(root, create=False).open(key) as reader:
        size = reader.nbytes
        assert size == sum(u.nbytes for (_, u), r in zip(units, results, strict=True) if r.offset is not None)
        for (number, unit), result, content in zip(units, results, want, strict=True):
            assert result.offset is not None and result.offset + unit.nbytes <= size
            out = np.empty(unit.nbytes, np.uint8)
            reader.read(result.offset, out)
            assert out.tobytes() == content, f"unit {number} is not as it was when it was frozen"
            assert list(result.digests) == [digest(out[b.at : b.at + b.nbytes]) for b in unit.blocks]


def program(code: str, tmp_path: Path, timeout: float = 30.0) -> str:
    """Run a program of its own, which may not hang: what it prints. It has `root`, and all of this module and
    `Helper`."""
    head = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); root = {str(tmp_path)!r}\n"
        "import os, signal, subprocess, threading, time\n"
        "import numpy as np\n"
        "from snapshots import *\n"
        "from holdfast.engine.helper import *\n"
        "open_store(root, create=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
