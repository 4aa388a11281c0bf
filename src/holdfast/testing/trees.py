"""Many objects: names, deletion, whole trees that are moved."""

from __future__ import annotations

import threading

import pytest

from holdfast.store import KeyExistsError, KeyMissingError, Store

from .kit import Kit, pattern


class TreeTests(Kit):
    """Of what lies below a prefix."""

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
            writer.write(0, pattern(10_000))
            writer.finish()
        store.move("in/1/v", "v/1")
        assert store.get("v/1/commit", 100) == self.raw_get(store, "v/1/commit") == b"in/1/v/commit"
        assert self.raw_get(store, "v/1/large") == pattern(10_000).tobytes()
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
