"""Layered buffers read back: against a model of bytes; and chains of versions, whole, damaged, broken."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.catalog import Commit
from holdfast.engine import PartReader, open_part
from holdfast.engine.verify import Verifier, verify_version
from holdfast.errors import DamageError
from holdfast.format import (
    BLOCK,
    DataSource,
    Extent,
    Link,
    Part,
    SourceTable,
    StoredBuffer,
    StoredObject,
    adopt,
    digest,
    digest_hex,
    lay_over,
    pack_runs,
    version_name,
    versions_used,
)
from holdfast.format.blocks import round_up
from holdfast.format.index import encode_group, encode_root
from holdfast.format.keys import data_name
from holdfast.store import open_store
from holdfast.store.posix import PosixStore

_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def place(in_memory: bool) -> Iterator[Any]:
    """A store; one whose files are looked at where they stand, as those of a node's memory are, or are read."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        yield PosixStore(path, create=True, write_once=in_memory)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return open_store(str(tmp_path / "run"), create=True)


class Chain:
    """Versions of one rank with one object, written by hand: each holds `state`, a whole buffer at first, changes then."""

    def __init__(self, store: Any, state: np.ndarray) -> None:
        self.store, self.state = store, state
        self.parts: list[Part] = []
        self.commits: list[Commit] = []
        self.links: list[Link] = []

    def full(self) -> None:
        extents, at = [], 0
        for start in range(0, self.state.nbytes, BLOCK):
            block = self.state[start : start + BLOCK]
            extents.append((at, Extent(0, at, block.nbytes, digest(block), start), block))
            at = round_up(at + block.nbytes)
        self.put([(o, b) for o, _, b in extents], at, StoredBuffer(self.state.nbytes, tuple(e for _, e, _ in extents)), ())

    def change(self, runs: list[tuple[int, int]], content: np.ndarray, packed: bool = True) -> None:
        """A version with other bytes in these runs, which follow one another in `content`."""
        at = 0
        for start, nbytes in runs:
            self.state[start : start + nbytes] = content[at : at + nbytes]
            at += nbytes
        content = content[:at]
        new = Extent(0, 0, at, digest(content), runs[0][0], pack_runs(runs) if packed or len(runs) > 1 else None)
        table = SourceTable()
        old = adopt(table, self.parts[-1], self.links[-1], self.parts[-1].objects[0].buffers[0])
        part = Part(0, round_up(at), (self.object(lay_over(old, [new])),), ())
        part = table.compact(part)
        self.put([(0, content)], round_up(at), part.objects[0].buffers[0], part.sources)

    @staticmethod
    def object(buffer: StoredBuffer) -> StoredObject:
        return StoredObject("u", "array", False, None, b"t", (buffer,))

    def put(self, data: list[Any], nbytes: int, buffer: StoredBuffer, sources: tuple[DataSource, ...]) -> None:
        number = len(self.parts) + 1
        name = version_name(number, 1)
        with self.store.create(f"versions/{name}/{data_name(0)}", nbytes) as writer:
            writer.write(0, bytes(nbytes))
            for offset, block in data:
                writer.write(offset, np.ascontiguousarray(block))
            writer.finish()
        part = Part(0, nbytes, (self.object(buffer),), (), sources)
        group_file, group = encode_group(0, [part.encode()])
        root = encode_root([group])
        self.store.put(f"versions/{name}/index/g000000", group_file)
        self.store.put(f"versions/{name}/index/root", root)
        refs = tuple(sorted(versions_used(part), reverse=True))
        parent = self.links[-1] if self.links else None
        commit = Commit("checkpoint", number, 1, parent, None, number, {}, False, "policy", 1, 1, nbytes, 1.0, 0.0,
                        len(root), digest_hex(root), part.state, refs)  # fmt: skip
        record, name_of = commit.encode()
        self.store.put(f"versions/{name}/commit", record)
        self.parts.append(part)
        self.commits.append(commit)
        self.links.append(Link(name, name_of))

    def read(self, number: int, threads: int = 2) -> np.ndarray:
        with open_part(self.store, self.commits[number - 1], 0, threads) as reader:
            buffer = reader.objects["u"].buffers[0]
            out = np.full(buffer.nbytes, 255, np.uint8)
            reader.source(reader.objects["u"]).read(0, out)
            with open_part(self.store, self.commits[number - 1], 0, threads) as fresh:  # which has not read it
                for one in (reader, fresh):
                    assert one.same(buffer, out, "u")
                    out[out.nbytes // 2] ^= 1
                    assert not one.same(buffer, out, "u")
                    out[out.nbytes // 2] ^= 1
            return out

    def path(self, number: int, file: str = "data/r000000") -> Path:
        return Path(self.store.location) / "versions" / version_name(number, 1) / file

    def flip(self, number: int, at: int, file: str = "data/r000000") -> None:
        data = bytearray(self.path(number, file).read_bytes())
        data[at] ^= 1
        self.path(number, file).write_bytes(data)


POOL = np.random.default_rng(5).integers(1, 255, 6 * BLOCK, np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([5000, 300_000, BLOCK + 12_345, 3 * BLOCK]),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([1, 512, 4096, 70_000]), st.integers(0, 2**32)), max_size=5),
    st.integers(1, 3),
    st.booleans(),
)
def test_layers_read_as_bytes_laid_over_bytes(
    nbytes: int, changes: list[tuple[int, int, int]], threads: int, in_memory: bool
) -> None:
    with place(in_memory) as store:
        chain = Chain(store, POOL[:nbytes].copy())
        chain.full()
        states = [chain.state.copy()]
        for count, length, seed in changes:
            rng = np.random.default_rng(seed)
            step = length + int(rng.integers(0, 5))
            starts = np.sort(rng.choice(nbytes // step, min(count, nbytes // step, BLOCK // length), replace=False)) * step
            if len(starts) == 0:
                continue
            chain.change([(int(s), length) for s in starts], rng.integers(0, 255, length * len(starts), np.uint8))
            states.append(chain.state.copy())
        for number, state in enumerate(states, 1):
            assert np.array_equal(chain.read(number, threads), state), f"version {number}"
        verifier = Verifier(store, threads)
        assert [d for commit in chain.commits for d in verifier.version(commit, lambda n: None)] == []


def three(store: Any) -> Chain:
    """A full version of three blocks; one with other pages in the second; one with another third block."""
    chain = Chain(store, POOL[: 3 * BLOCK].copy())
    chain.full()
    chain.change([(BLOCK, 4096), (BLOCK + 65_536, 8192)], POOL[5 * BLOCK :])
    chain.change([(2 * BLOCK, BLOCK)], POOL[4 * BLOCK :], packed=False)
    return chain


def test_only_what_is_seen_is_read_and_only_once(store: Any) -> None:
    chain = three(store)
    assert [len(c.refs) for c in chain.commits] == [0, 1, 2]
    with open_part(store, chain.commits[2], 0, 3) as reader:
        seen: list[tuple[int, int, int]] = []
        read = reader.files.read
        reader.files.read = lambda k, at, out: (seen.append((k, at, out.nbytes)), read(k, at, out))[1]
        reader.read(reader.objects["u"].buffers[0], np.empty(3 * BLOCK, np.uint8), "u")
    sizes = {reader.files.keys[k]: 0 for k, _, _ in seen}
    for k, _, nbytes in seen:
        sizes[reader.files.keys[k]] += nbytes
    path = [f"versions/{link.name}/data/r000000" for link in chain.links]
    assert sizes == {path[0]: 2 * BLOCK, path[1]: 12_288, path[2]: BLOCK}


def test_thousands_of_pages_in_an_extent_are_one_request(store: Any) -> None:
    chain = Chain(store, POOL[:BLOCK].copy())
    chain.full()
    chain.change([(1024 * i, 512) for i in range(4096)], POOL[5 * BLOCK :])
    with open_part(store, chain.commits[1], 0, 2) as reader:
        seen = []
        read = reader.files.read
        reader.files.read = lambda k, at, out: (seen.append(k), read(k, at, out))[1]
        out = np.empty(BLOCK, np.uint8)
        reader.read(reader.objects["u"].buffers[0], out, "u")
        assert len(seen) == 2 and np.array_equal(out, chain.state)


# -- damage and broken links -------------------------------------------------------------------


def damages(chain: Chain) -> dict[int, list[Any]]:
    verifier = Verifier(chain.store, 2)
    return {c.version: list(verifier.version(c, lambda n: None)) for c in chain.commits}


def test_damage_in_a_shared_block_is_told_of_each_version_that_has_it(store: Any) -> None:
    chain = three(store)
    chain.flip(1, 100)
    found = damages(chain)
    for number, some in found.items():
        (damage,) = some
        assert (damage.version, damage.file, damage.offset) == (number, f"{chain.commits[0].path}/data/r000000", 0)
        assert (damage.object, damage.rank) == ("u", 0)
    for commit in chain.commits:
        with open_part(store, commit, 0, 2) as reader, pytest.raises(DamageError) as caught:
            reader.read(reader.objects["u"].buffers[0], None, "u")
        assert caught.value.file == f"{chain.commits[0].path}/data/r000000" and caught.value.object == "u"
        assert caught.value.version in (None, 1)


def test_damage_that_is_hidden_is_that_of_the_older_one_alone(store: Any) -> None:
    chain = three(store)
    chain.flip(1, 2 * BLOCK + 7)  # the third block, which version 3 has anew
    assert [len(d) for d in damages(chain).values()] == [1, 1, 0]
    assert np.array_equal(chain.read(3), chain.state)


def test_shared_blocks_are_read_once(store: Any) -> None:
    chain = three(store)
    seen: list[int] = []
    verifier = Verifier(store, 2)
    for commit in chain.commits:
        assert list(verifier.version(commit, seen.append)) == []
    assert sum(seen) == 3 * BLOCK + 12_288 + BLOCK
    seen = []
    assert list(verify_version(store, chain.commits[2], 2, seen.append)) == []
    assert sum(seen) == 2 * BLOCK + 12_288 + BLOCK


def test_own_files_alone(store: Any) -> None:
    chain = three(store)
    chain.flip(1, 100)
    store.delete(f"{chain.commits[0].path}/commit")
    verifier = Verifier(store, 2, own=True)
    assert list(verifier.version(chain.commits[2], lambda n: None)) == []
    chain.flip(3, 100)
    assert len(list(Verifier(store, 2, own=True).version(chain.commits[2], lambda n: None))) == 1


@pytest.mark.parametrize("how", ["deleted", "another", "damaged", "data missing", "data cut"])
def test_a_broken_link_names_the_version_that_is_missing(store: Any, how: str) -> None:
    chain = three(store)
    commit, data = chain.path(2, "commit"), chain.path(2)
    if how == "deleted":
        commit.unlink()
    elif how == "another":
        other = chain.commits[1]._replace(created=2.0).encode()[0]
        commit.write_bytes(other)
    elif how == "damaged":
        commit.write_bytes(b"x" * 900)
    elif how == "data missing":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:4096])
    with open_part(store, chain.commits[2], 0, 2) as reader, pytest.raises(DamageError) as caught:
        reader.read(reader.objects["u"].buffers[0], np.empty(3 * BLOCK, np.uint8), "u")
    assert caught.value.version == 2 and "versions/00000002-a000001" in caught.value.message
    assert caught.value.message.startswith("versions/00000003-a000001") or "refers to" in caught.value.message
    (damage,) = verify_version(store, chain.commits[2], 2, lambda n: None)
    assert damage.version == 3 and damage.file is not None and damage.file.startswith("versions/00000002-a000001/")
    assert np.array_equal(chain.read(1)[:BLOCK], POOL[:BLOCK]), "what does not need it is whole"
    assert list(verify_version(store, chain.commits[0], 2, lambda n: None)) == []


def test_lengths_are_believed_only_when_all_files_are_there(store: Any) -> None:
    chain = three(store)
    chain.path(1).unlink()
    with open_part(store, chain.commits[2], 0, 2) as reader, pytest.raises(DamageError, match="is missing"):
        reader.source(reader.objects["u"])


def test_an_index_that_refers_to_more_than_its_commit_is_damage(store: Any) -> None:
    chain = three(store)
    with pytest.raises(DamageError, match="does not name"):
        open_part(store, chain.commits[2]._replace(refs=chain.commits[2].refs[:1]), 0, 2)


def test_a_source_that_is_not_of_this_version_is_refused(store: Any) -> None:
    """An empty digest stands for the version itself, not for any other: nobody would have looked at that one's commit."""
    chain = three(store)
    source = DataSource(chain.links[0].name, "", 0, chain.parts[0].nbytes)
    part = chain.parts[2]._replace(sources=(source, *chain.parts[2].sources[1:]), rank=1)
    with PartReader(store, f"{chain.commits[2].path}/data/r000000", part, 1) as reader:
        with pytest.raises(DamageError, match="as its index says"):
            reader.read(part.objects[0].buffers[0], None, "u")


def test_trust_holds_for_all_files_that_it_is_read_from(store: Any) -> None:
    chain = three(store)
    for key in ("versions/00000001-a000001/data/r000000", "versions/00000002-a000001/commit"):
        path = Path(store.location) / key
        for mode, trusted in ((0o666, False), (0o644, True)):
            path.chmod(mode)
            with open_part(store, chain.commits[2], 0, 1) as reader:
                assert reader.trusted is trusted
    with open_part(store, chain.commits[0], 0, 1) as reader:
        chain.path(2, "commit").chmod(0o666)
        assert reader.trusted


def test_blocks_of_another_rank_of_the_same_version(store: Any) -> None:
    """As replicated objects are stored: each rank's index has all extents."""
    name, content = version_name(1, 1), POOL[: 2 * BLOCK]
    for rank in (0, 1):
        with store.create(f"versions/{name}/{data_name(rank)}", BLOCK) as writer:
            writer.write(0, content[rank * BLOCK : (rank + 1) * BLOCK])
            writer.finish()
    digests = [digest(content[:BLOCK]), digest(content[BLOCK:])]
    for rank in (0, 1):
        extents = tuple(Extent(int(rank != k), 0, BLOCK, digests[k], k * BLOCK) for k in (0, 1))
        other = DataSource(name, "", 1 - rank, BLOCK)
        part = Part(rank, BLOCK, (Chain.object(StoredBuffer(2 * BLOCK, extents)),), (), (other,))
        assert Part.decode(part.encode(), rank, "f") == part
        with PartReader(store, f"versions/{name}/{data_name(rank)}", part, 2) as reader:
            out = np.empty(2 * BLOCK, np.uint8)
            reader.read(part.objects[0].buffers[0], out, "u")
            assert np.array_equal(out, content)


def test_staging_is_bounded_and_files_are_closed(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.engine import requests

    made = []
    real = requests.aligned_empty
    monkeypatch.setattr(requests, "aligned_empty", lambda n: (made.append(n), real(n))[1])
    chain = three(store)
    reader = open_part(store, chain.commits[2], 0, 64)
    for _ in range(3):
        reader.read(reader.objects["u"].buffers[0], None, "u")
    assert sum(made) <= 64 << 20
    readers = list(reader.files._readers.values())
    assert len(readers) == 3
    reader.close()
    for one in readers:
        with pytest.raises(Exception, match="closed"):
            one.read(0, np.empty(1, np.uint8))
    reader.read(reader.objects["u"].buffers[0], None, "u")  # they come again when they are needed
    reader.close()
