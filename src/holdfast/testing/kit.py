"""What the parts of the kit share: the store under test and the ways around it, keys that are none, bytes to store."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.store import Store
from holdfast.store.aligned import empty

BAD_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.tmp-1", "a b", "a\n", "a\0b",
    "-a", "_a", "ä", "a/" + "x" * 256, "a\\b", "a:b", "~",
]  # fmt: skip


def pattern(nbytes: int, seed: int = 1) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    data = empty(nbytes)
    data[:] = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
    return data


class Kit:
    """A store under test. `store`, `raw_put` and `raw_get` are to be overridden."""

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
