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
import time

import pytest

from holdfast.store import KeyMissingError, Store

from .kit import BAD_KEYS
from .objects import ObjectTests
from .trees import TreeTests


class StoreTests(ObjectTests, TreeTests):
    """What every store must do. Subclass it, override `store`, `raw_put` and `raw_get`; pytest finds the rest."""

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


__all__ = ["BAD_KEYS", "StoreTests"]
