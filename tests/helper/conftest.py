"""A helper and a store for each test; which tests need a kernel that lets memory be frozen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.capture import kernel
from holdfast.engine.helper import Helper
from holdfast.store import PosixStore


def _refused() -> str | None:
    try:
        os.close(kernel.userfaultfd(user_mode_only=False))
    except OSError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = _refused()
    for item in items:
        if why is not None and item.get_closest_marker("usefixtures") and "freezing" in item.fixturenames:
            item.add_marker(pytest.mark.skip(reason=f"userfaultfd in full mode: {why}"))


@pytest.fixture
def freezing() -> None:
    """Asked for by tests that freeze memory."""


@pytest.fixture(scope="session")
def started() -> Iterator[list[Helper]]:
    helpers: list[Helper] = []
    yield helpers
    for helper in helpers:
        helper.close()


@pytest.fixture
def helper(started: list[Helper]) -> Iterator[Helper]:
    """A helper that lives: that of the test before, unless that has lost or closed it."""
    if not started or not started[-1].alive:
        started.append(Helper.start(20.0))
    found = started[-1]
    before = found.silence, found.patience, found.reads_memory
    yield found
    found.silence, found.patience, found.reads_memory = before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    PosixStore(str(place), create=True)
    return place
