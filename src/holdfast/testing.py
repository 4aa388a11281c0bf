"""Conformance kits for plugins: a store of one's own is a store if it passes `StoreTests`.

    class TestMyStore(holdfast.testing.StoreTests):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path)

        def raw_put(self, store, key, data): ...      # around the store under test
        def raw_get(self, store, key): ...

Needs pytest, which Holdfast itself does not.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from holdfast.errors import DamageError, StorageError, UsageError
from holdfast.store import Capabilities, KeyExistsError, KeyMissingError, Store
from holdfast.store.aligned import empty

BAD_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.tmp-1", "a b", "a\n", "a\0b",
    "-a", "_a", "ä", "a/" + "x" * 256, "a\\b", "a:b", "~",
]  # fmt: skip


def _pattern(nbytes: int, seed: int = 1) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    data = empty(nbytes)
    data[:] = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
    return data


class StoreTests:
    """What every store must do. Subclass it, override `store`, `raw_put` and `raw_get`; pytest finds the rest."""

    @pytest.fixture
    def store(self) -> Store:
        """A new, empty store, open for writing."""
        raise NotImplementedError("override the fixture `store`")

    def raw_put(self, store: Store, key: str, data: bytes) -> None:
        """Put `data` where the store keeps `key`, without its help, over what is there."""
        raise NotImplementedError("override raw_put")

    def raw_get(self, store: Store, key: str) -> bytes:
        """What is kept for `key`, without the store's help."""
        raise NotImplementedError("override raw_get")

    # -- small objects

    def test_has_capabilities(self, store: Store) -> None:
        capabilities = store.capabilities
        assert isinstance(capabilities, Capabilities)
        assert capabilities.atomic_create
        assert capabilities.max_object_bytes is None or capabilities.max_object_bytes >= 1 << 30

    @pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 100_001])
    def test_put_stores_what_get_returns(self, store: Store, nbytes: int) -> None:
        data = _pattern(nbytes).tobytes()
        store.put("a/b/c.json", data)
        assert store.get("a/b/c.json", 100_001) == data
        assert self.raw_get(store, "a/b/c.json") == data
        assert store.size("a/b/c.json") == nbytes

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_put_takes_any_bytes(self, store: Store, kind: Callable[[bytes], bytes]) -> None:
        store.put("k", kind(b"abc"))
        assert store.get("k", 3) == b"abc"

    def test_get_returns_what_is_there(self, store: Store) -> None:
        self.raw_put(store, "a/raw", b"from outside")
        assert store.get("a/raw", 100) == b"from outside"

    def test_put_never_overwrites(self, store: Store) -> None:
        store.put("a/k", b"first")
        with pytest.raises(KeyExistsError) as caught:
            store.put("a/k", b"second")
        assert caught.value.file == "a/k"
        assert self.raw_get(store, "a/k") == b"first"
        assert store.leftovers("a") == []

    def test_get_of_nothing(self, store: Store) -> None:
        store.put("a/k", b"")
        for key in ("a/other", "b/k", "x"):
            with pytest.raises(KeyMissingError) as caught:
                store.get(key, 10)
            assert caught.value.file == key

    def test_get_refuses_more_than_its_limit(self, store: Store) -> None:
        self.raw_put(store, "k", b"12345")
        assert store.get("k", 5) == b"12345"
        with pytest.raises(DamageError) as caught:
            store.get("k", 4)
        assert caught.value.file == "k"

    def test_put_has_one_winner(self, store: Store) -> None:
        won: list[int] = []
        others: list[BaseException] = []
        start = threading.Barrier(6)

        def contend(number: int) -> None:
            start.wait(30)
            try:
                store.put("race/k", b"%d" % number * 1000)
                won.append(number)
            except KeyExistsError as error:
                others.append(error)

        threads = [threading.Thread(target=contend, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == 1
        assert len(others) == 5
        assert self.raw_get(store, "race/k") == b"%d" % won[0] * 1000

    # -- keys

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_refuses_what_is_no_key(self, store: Store, key: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.put(key, b""),
            lambda: store.get(key, 10),
            lambda: store.create(key, 10),
            lambda: store.open(key),
            lambda: store.size(key),
            lambda: store.exists(key),
            lambda: store.delete(key),
            lambda: store.delete_tree(key),
            lambda: store.delete_unless(key, "k"),
            lambda: store.move(key, "k"),
            lambda: store.move("k", key),
            lambda: store.touch(key),
            lambda: store.age(key),
            lambda: store.owner_is_me(key),
        ]
        if key:  # the root is a prefix
            calls += [lambda: store.list(key), lambda: store.tree(key), lambda: store.leftovers(key)]
        for call in calls:
            with pytest.raises(StorageError, match="not a key"):
                call()
        assert store.list("") == []

    def test_takes_the_longest_component(self, store: Store) -> None:
        key = "a/" + "x" * 200  # with what a store may add to a name of its own
        store.put(key, b"1")
        assert store.list("a") == ["x" * 200]

    # -- large objects

    @pytest.mark.parametrize("nbytes", [0, 1, 4096, 12_288, 1_000_003])
    def test_create_write_finish(self, store: Store, nbytes: int) -> None:
        data = _pattern(nbytes)
        with store.create("v/data/r0", nbytes) as writer:
            assert writer.nbytes == nbytes
            middle = nbytes // 2 // 4096 * 4096
            writer.write(middle, data[middle:])
            writer.write(0, data[:middle])
            writer.finish()
        assert self.raw_get(store, "v/data/r0") == data.tobytes()
        assert store.size("v/data/r0") == nbytes

    def test_writes_from_anywhere_to_anywhere(self, store: Store) -> None:
        data = _pattern(50_000)
        with store.create("k", 50_000) as writer:
            writer.write(0, data[:8192])
            writer.write(8192, data[8192:8193])
            writer.write(8193, memoryview(data[8193:20_480].tobytes()))
            writer.write(20_480, data[20_480:20_480])
            writer.write(20_480, data[20_480:45_056])
            writer.write(45_056, data[45_056:])
            writer.finish()
        assert self.raw_get(store, "k") == data.tobytes()

    def test_threads_write_one_object(self, store: Store) -> None:
        block = 64 << 10
        data = _pattern(16 * block)
        with store.create("k", data.nbytes) as writer:
            threads = [
                threading.Thread(target=lambda n=n: writer.write(n * block, data[n * block : (n + 1) * block]))
                for n in range(16)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            writer.finish()
        assert self.raw_get(store, "k") == data.tobytes()

    def test_create_never_overwrites(self, store: Store) -> None:
        store.put("k", b"first")
        with pytest.raises(KeyExistsError):
            store.create("k", 10)
        assert self.raw_get(store, "k") == b"first"
        with store.create("l", 1) as writer:
            writer.write(0, b"x")
            writer.finish()
        with pytest.raises(KeyExistsError):
            store.put("l", b"second")
        assert self.raw_get(store, "l") == b"x"

    def test_what_is_not_finished_is_not_there(self, store: Store) -> None:
        with store.create("a/k", 8192) as writer:
            writer.write(0, _pattern(4096))
        assert not store.exists("a/k")
        with pytest.raises(ZeroDivisionError), store.create("a/k", 8192) as writer:
            _ = 1 // 0
        assert not store.exists("a/k")
        writer.abort()
        store.put("a/k", b"free again")

    def test_abort_after_finish_does_nothing(self, store: Store) -> None:
        writer = store.create("k", 1)
        writer.write(0, b"x")
        writer.finish()
        writer.abort()
        assert self.raw_get(store, "k") == b"x"

    def test_closed_handles_refuse(self, store: Store) -> None:
        with store.create("k", 1) as writer:
            writer.write(0, b"x")
            writer.finish()
        with pytest.raises(UsageError):
            writer.write(0, b"y")
        with pytest.raises(UsageError):
            writer.finish()
        reader = store.open("k")
        reader.close()
        reader.close()
        with pytest.raises(UsageError):
            reader.read(0, np.empty(1, np.uint8))

    @pytest.mark.parametrize("shift", [0, 1, 4096])
    def test_reads_any_range(self, store: Store, shift: int) -> None:
        data = _pattern(40_960 + 17)
        self.raw_put(store, "d/k", data.tobytes())
        memory = empty(50_000)
        with store.open("d/k") as reader:
            assert reader.nbytes == data.nbytes
            for offset, nbytes in [
                (0, 40_960),
                (4096, 8192),
                (1, 4096),
                (4096, 100),
                (40_960, 17),
                (0, data.nbytes),
                (5, 0),
            ]:
                memory[:] = 0
                out = memory[shift : shift + nbytes]
                reader.read(offset, out)
                assert np.array_equal(out, data[offset : offset + nbytes])
                assert not memory[shift + nbytes :].any()

    def test_read_past_the_end_is_damage(self, store: Store) -> None:
        self.raw_put(store, "k", bytes(10_000))
        with store.open("k") as reader:
            for offset, nbytes in [(0, 10_001), (8192, 4096), (10_000, 1), (1 << 40, 1), (-1, 1)]:
                with pytest.raises(DamageError) as caught:
                    reader.read(offset, empty(nbytes))
                assert caught.value.file == "k"

    def test_read_fills_only_plain_bytes(self, store: Store) -> None:
        self.raw_put(store, "k", bytes(100))
        with store.open("k") as reader:
            wrong: list[Any] = [np.empty(2, np.int16), np.empty((2, 2), np.uint8), np.empty(8, np.uint8)[::2]]
            for out in wrong:
                with pytest.raises(UsageError):
                    reader.read(0, out)

    def test_open_of_nothing(self, store: Store) -> None:
        with pytest.raises(KeyMissingError):
            store.open("a/b")
        with pytest.raises(KeyMissingError):
            store.size("a/b")
        assert not store.exists("a/b")

    # -- names

    def test_lists_names_directly_below(self, store: Store) -> None:
        for key in ("v/2/data/r0", "v/2/commit", "v/10/commit", "top"):
            store.put(key, b"12")
        assert store.list("") == ["top", "v"]
        assert store.list("v") == ["10", "2"]
        assert store.list("v/2") == ["commit", "data"]
        assert store.list("v/3") == store.list("w/x/y") == []

    def test_tree_has_all_below(self, store: Store) -> None:
        for key in ("v/2/data/r0", "v/2/commit", "v/10/commit", "top"):
            store.put(key, key.encode())
        assert list(store.tree("v")) == [("v/10/commit", 11), ("v/2/commit", 10), ("v/2/data/r0", 11)]
        assert [key for key, _ in store.tree("")] == ["top", "v/10/commit", "v/2/commit", "v/2/data/r0"]
        assert list(store.tree("nothing/here")) == []

    # -- deletion

    def test_delete_is_for_good_and_repeatable(self, store: Store) -> None:
        store.put("a/k", b"1")
        store.put("a/l", b"2")
        store.delete("a/k")
        assert not store.exists("a/k")
        store.delete("a/k")
        store.delete("b/c/d")
        assert store.list("a") == ["l"]
        store.put("a/k", b"3")
        assert self.raw_get(store, "a/k") == b"3"

    def test_delete_tree(self, store: Store) -> None:
        for key in ("v/1/data/r0", "v/1/commit", "v/12/commit", "w"):
            store.put(key, b"")
        store.delete_tree("v/1")
        assert store.list("v") == ["12"]
        store.delete_tree("v/1")
        store.delete_tree("x/y")
        store.delete_tree("w")
        assert store.list("") == ["v"]
        store.put("v/1/data/r0", b"again")
        assert store.get("v/1/data/r0", 10) == b"again"

    def test_trees_are_deleted_by_two_at_once(self, store: Store) -> None:
        for n in range(40):
            store.put(f"v/{n % 5}/{n}", b"")
        failed: list[BaseException] = []

        def remove() -> None:
            try:
                store.delete_tree("v")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=remove) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failed == []
        assert store.list("") == []

    def test_delete_unless(self, store: Store) -> None:
        for key in ("v/1/data/r0", "v/1/index", "v/2/data/r0", "v/2/commit"):
            store.put(key, key.encode())
        assert store.delete_unless("v/1", "commit")
        assert not store.delete_unless("v/2", "commit")
        assert store.delete_unless("v/3", "commit")
        assert store.delete_unless("x/y/z", "commit")
        assert [key for key, _ in store.tree("")] == ["v/2/commit", "v/2/data/r0"]
        store.put("v/1/data/r0", b"again")
        assert self.raw_get(store, "v/1/data/r0") == b"again"

    # -- whole names

    def test_move_takes_all_to_a_free_name(self, store: Store) -> None:
        for key in ("in/1/v/data/r0", "in/1/v/commit", "in/1/w/k"):
            store.put(key, key.encode())
        with store.create("in/1/v/large", 10_000) as writer:
            writer.write(0, _pattern(10_000))
            writer.finish()
        store.move("in/1/v", "v/1")
        assert store.get("v/1/commit", 100) == self.raw_get(store, "v/1/commit") == b"in/1/v/commit"
        assert self.raw_get(store, "v/1/large") == _pattern(10_000).tobytes()
        assert [key for key, _ in store.tree("")] == ["in/1/w/k", "v/1/commit", "v/1/data/r0", "v/1/large"]
        assert not store.exists("in/1/v/commit")
        store.put("in/1/v/commit", b"anew")  # both names can be written to again
        store.put("v/1/more", b"1")
        assert store.list("in/1") == ["v", "w"]

    def test_move_never_replaces(self, store: Store) -> None:
        for key in ("a/k", "b/l", "c"):
            store.put(key, key.encode())
        for target in ("b", "c"):
            with pytest.raises(KeyExistsError) as caught:
                store.move("a", target)
            assert caught.value.file == target
        assert [key for key, _ in store.tree("")] == ["a/k", "b/l", "c"]

    def test_move_of_nothing(self, store: Store) -> None:
        store.put("a/k", b"")
        for source in ("b", "a/c", "x/y"):
            with pytest.raises(KeyMissingError) as caught:
                store.move(source, "z")
            assert caught.value.file == source
        assert store.list("") == ["a"]

    def test_move_has_one_winner(self, store: Store) -> None:
        for n in range(4):
            store.put(f"in/{n}/k", b"%d" % n)
        won: list[int] = []
        others: list[BaseException] = []
        start = threading.Barrier(4)

        def contend(number: int) -> None:
            start.wait(30)
            try:
                store.move(f"in/{number}", "v/1")
                won.append(number)
            except KeyExistsError as error:
                others.append(error)

        threads = [threading.Thread(target=contend, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (len(won), len(others)) == (1, 3)
        assert self.raw_get(store, "v/1/k") == b"%d" % won[0]
        assert store.list("v/1") == ["k"]
        assert store.list("in") == [str(n) for n in range(4) if n not in won]

    # -- time, durability, owner

    def test_age_counts_from_the_last_touch(self, store: Store) -> None:
        store.put("a/lease", b"")
        time.sleep(0.3)
        old = store.age("a/lease")
        assert 0.25 <= old < 60
        store.touch("a/lease")
        assert 0 <= store.age("a/lease") < old
        assert store.list("a") == ["lease"]
        assert store.leftovers("a") == []
        for call in (store.age, store.touch):
            with pytest.raises(KeyMissingError):
                call("a/none")
        assert store.list("a") == ["lease"]

    def test_syncs(self, store: Store) -> None:
        store.put("a/k", b"")
        store.sync("a")
        store.sync("")
        store.sync_root()
        with pytest.raises(KeyMissingError):
            store.sync("b")

    def test_no_leftovers_of_work_that_ended(self, store: Store) -> None:
        store.put("a/k", b"")
        assert store.leftovers("a") == store.leftovers("") == store.leftovers("none") == []
        store.remove_leftovers("a")
        assert store.list("a") == ["k"]

    def test_what_i_wrote_is_mine(self, store: Store) -> None:
        store.put("k", b"")
        assert store.owner_is_me("k")
        with pytest.raises(KeyMissingError):
            store.owner_is_me("l")

    def test_works_in_a_forked_child(self, store: Store) -> None:
        store.put("a/parent", b"p")
        child = os.fork()
        if child == 0:
            try:
                store.put("a/child", store.get("a/parent", 1))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.get("a/child", 1) == b"p"
