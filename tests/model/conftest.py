"""What the model check has explored, as one line at the end of the tests, also when all is well."""

from __future__ import annotations

from typing import Any

import pytest

from .check import Rows, summary

ROWS = pytest.StashKey[Rows]()


def pytest_configure(config: Any) -> None:
    _rows(config)


def _rows(config: Any) -> Rows:
    rows: Rows = config.stash.setdefault(ROWS, {"protocol": [], "mutations": []})
    return rows


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Any:
    """`keep(kind, row)`: for the line."""
    return lambda kind, row: _rows(request.config)[kind].append(row)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = _rows(terminalreporter.config)
    if any(rows.values()):
        terminalreporter.write_sep("-", "model check")
        terminalreporter.write_line(summary(rows))
