"""What ranks tell each other while a version is written: errors are told together, what is of another call is known as such."""

from __future__ import annotations

import msgpack
import pytest

from holdfast.engine.messages import Failed, attempt, give, open_all
from holdfast.errors import RankError, StorageError


def test_errors_of_all_are_one_exception() -> None:
    bad = [attempt(rank, lambda: give(StorageError("full"))) for rank in (1, 3, 1)]
    with pytest.raises(Failed) as caught:
        open_all([attempt(0, lambda: {"where": 5}), *bad])
    assert [rank for rank, _ in caught.value.errors] == [1, 3]
    assert open_all([attempt(0, lambda: {"where": 5})]) == [{"where": 5}]


@pytest.mark.parametrize("other", [msgpack.packb([None, [b"\x01"]]), b"", b"\xc1", msgpack.packb(7)])
def test_a_message_of_another_call_is_none_of_these(other: bytes) -> None:
    with pytest.raises(RankError, match="another call"):
        open_all([attempt(0, lambda: {"where": 5}), other])
