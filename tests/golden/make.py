"""Makes tests/golden/v1, once, with the library that first wrote format 1. It is not to be made again:

    python tests/golden/make.py NEW_DIRECTORY

A new version of the format gets a directory of its own, and the old ones stay.
"""

from __future__ import annotations

import getpass
import sys
from typing import Any

import numpy as np
from program import PAGES, arrays, changed_pages, generators, tree

import holdfast
from holdfast.catalog import Base, Commit, End, Snapshot, process, put_base, put_end
from holdfast.engine import publish, read_part
from holdfast.format import Extent, Link, Part, SourceTable, StoredBuffer, adopt, digest, lay_over, pack_runs
from holdfast.group import SerialGroup
from holdfast.run.fencing import fence
from holdfast.store import open_store


def attempt(url: str, upto: int) -> None:
    """Go on to `upto` completed steps, a checkpoint after each, and stop as after an error."""
    run = holdfast.open(url, keep=holdfast.Keep(last=2), params={"n": 3, "case": "golden"}, signals=False)
    held: dict[str, Any] = {name: run.protect(name, np.zeros_like(a)) for name, a in arrays(0).items()}
    shard = run.protect("shard", np.zeros((2, 3)), shard=holdfast.Shard((4, 3), (2, 0)))
    config = run.protect("tree", tree(0))
    rng, python = generators(0)
    run.protect("rng", rng)
    run.protect("python_rng", python)
    s = run.state(k=0)
    for step in run.steps(10, every=holdfast.steps(1)):
        if step == upto:
            break
        k = step + 1
        for name, value in arrays(k).items():
            held[name][...] = value
        shard[:] = k
        config.update(tree(k))
        rng.random()
        python.random()
        s.k = k
    if upto == 2:
        with run.transaction("spectrum") as txn:
            txn.put("spectrum", np.linspace(0, 1, 5))
    run.close()


def incremental(url: str) -> None:
    """A version in which a few pages of one array are new and all else is where version 4 has it, written by hand: a program
    would write so little anew altogether."""
    store = open_store(url, create=False)
    snapshot = Snapshot(store)
    base, link = snapshot.counting(snapshot.lineage[0])
    behind = [snapshot.counting(entry)[1] for entry in snapshot.lineage[1:]]
    assert snapshot.sealed is not None and snapshot.sealed.base is not None
    number = fence(store, SerialGroup(), snapshot.next_number(), "run")
    records = snapshot.counting_records([link, *behind])
    put_base(store, number, Base(link, tuple(behind), records, snapshot.sealed.base.params, 1))
    draft = base._replace(version=5, attempt=number, parent=link)
    publish(store, SerialGroup(), draft, lambda key: _pages(store, key, base, link))
    put_end(store, number, End("interrupted", 1.8e9, 5, 3))


def _pages(store: Any, key: str, base: Commit, link: Link) -> Part:
    values = changed_pages().view("u1")
    content = np.concatenate([values[start : start + nbytes] for start, nbytes in PAGES])
    with store.create(key, content.nbytes) as writer:
        writer.write(0, content)
        writer.finish()
    new = Extent(0, 0, content.nbytes, digest(content), PAGES[0][0], pack_runs(PAGES))
    before, table = read_part(store, base, 0), SourceTable()

    def later(name: str, buffer: StoredBuffer) -> StoredBuffer:
        adopted = adopt(table, before, link, buffer)
        return lay_over(adopted, [new]) if name == "pages" else adopted

    objects = tuple(o._replace(buffers=tuple(later(o.name, b) for b in o.buffers)) for o in before.objects)
    return table.compact(Part(0, content.nbytes, objects, before.files))


if __name__ == "__main__":
    # Whose machine it was does not belong into the format's memory.
    somewhere = process._Host("golden", "00000000-0000-4000-8000-000000000000", "pid:[1]")
    process._this_host = lambda: somewhere
    getpass.getuser = lambda: "user"
    sys.argv[0] = "make.py"
    attempt(sys.argv[1], 2)
    attempt(sys.argv[1], 3)
    incremental(sys.argv[1])
