"""Every test leaves the registries as it found them."""

import pytest

from holdfast.state import registry


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    for name in ("_names", "_types", "_adapters", "_adapters_by_name"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
