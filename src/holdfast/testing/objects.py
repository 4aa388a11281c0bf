"""Objects, small and large: what is put is what one gets, never overwritten, under keys alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from holdfast.errors import DamageError, StorageError, UsageError
from holdfast.store import Capabilities, KeyExistsError, KeyMissingError, Store
from holdfast.store.aligned import empty

from .kit import BAD_KEYS, Kit, pattern


class ObjectTests(Kit):
    """Of single objects."""

    # -- small objects

    def test_has_capabilities(self, store: Store) -> None:
        capabilities = store.capabilities
        assert isinstance(capabilities, Capabilities)
        assert capabilities.atomic_create
        assert capabilities.max_object_bytes is None or capabilities.max_object_bytes >= 1 << 30

    @pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 100_001])
    def test_put_stores_what_get_returns(self, store: Store, nbytes: int) -> None:
        data = pattern(nbytes).tobytes()
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
        data = pattern(nbytes)
        with store.create("v/data/r0", nbytes) as writer:
            assert writer.nbytes == nbytes
            middle = nbytes // 2 // 4096 * 4096
            writer.write(middle, data[middle:])
            writer.write(0, data[:middle])
            writer.finish()
        assert self.raw_get(store, "v/data/r0") == data.tobytes()
        assert store.size("v/data/r0") == nbytes

    def test_writes_from_anywhere_to_anywhere(self, store: Store) -> None:
        data = pattern(50_000)
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
        data = pattern(16 * block)
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
            writer.write(0, pattern(4096))
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
        data = pattern(40_960 + 17)
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
