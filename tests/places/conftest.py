"""Makes tests/ and the forks of tests/faults_storage importable; a place, and another boot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places_support import RUN

TESTS = Path(__file__).resolve().parents[1]
for _path in (TESTS, TESTS / "faults_storage"):
    if str(_path) not in sys.path:
        sys.path.append(str(_path))

from holdfast.catalog.places import Place, identity, open_place, place  # noqa: E402
from holdfast.catalog.process import current  # noqa: E402


@pytest.fixture(params=["memory", "local"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new place, of each kind."""
    return open_place(request.param, str(tmp_path), RUN, create=True)


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    """A new place in memory."""
    return open_place("memory", str(tmp_path), RUN, create=True)


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on this process runs under another boot."""

    def call() -> None:
        from dataclasses import replace

        later = replace(current(), boot="another-boot")
        for module in (identity, place):
            monkeypatch.setattr(module, "current", lambda: later)

    return call
