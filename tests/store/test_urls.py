"""What names a place."""

import os
import pathlib

import pytest

from holdfast.errors import ConfigError
from holdfast.store import KeyMissingError, open_store
from holdfast.store.urls import path_of


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("runs/heat", "runs/heat"),
        ("/abs", "/abs"),
        ("~/x", "~/x"),
        ("a b%20c", "a b%20c"),
        ("file:///a/b%20c%3F", "/a/b c?"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
        ("file:/a", "/a"),
        ("file:///%C3%A4", "/ä"),
        ("odd:name", "odd:name"),
        (pathlib.Path("x/y"), "x/y"),
    ],
)
def test_paths(url, path):
    assert path_of(url) == path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://bucket/x",
        "http://h/x",
        "file://host/x",
        "file://",
        "file:///a?b",
        "file:///a#b",
        "file:///a%00b",
        "a\0b",
    ],
)
def test_refused(url):
    with pytest.raises(ConfigError, match="file"):
        path_of(url)


def test_opens(tmp_path, monkeypatch):
    with pytest.raises(KeyMissingError):
        open_store(tmp_path / "run", create=False)
    store = open_store((tmp_path / "a run").as_uri(), create=True)
    store.put("k", b"")
    assert (tmp_path / "a run" / "k").exists()
    assert open_store(tmp_path / "a run", create=False, read_only=True).read_only
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    open_store("~", create=True)
    assert os.listdir(tmp_path / "~") == []
