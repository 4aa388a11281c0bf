"""What ranks tell each other while a version is written: errors are told together."""

from __future__ import annotations

import pytest

from holdfast.engine.messages import Failed, attempt, give, open_all
from holdfast.errors import StorageError


def test_errors_of_all_are_one_exception() -> None:
    bad = [attempt(rank, lambda: give(StorageError("full"))) for rank in (1, 3, 1)]
    with pytest.raises(Failed) as caught:
        open_all([attempt(0, lambda: {"where": 5}), *bad])
    assert [rank for rank, _ in caught.value.errors] == [1, 3]
    assert open_all([attempt(0, lambda: {"where": 5})]) == [{"where": 5}]

