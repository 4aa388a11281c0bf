"""Runs made by hand, from record files alone: no data, no index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.catalog import Base, Commit, current, put_base
from holdfast.format import Link, attempt_key, encode_record, parse_version
from holdfast.store import open_store


class Hand:
    """A run in a directory, written record by record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_store(str(path), create=True)
        self.links: dict[str, Link] = {}

    def attempt(self, number: int, first: int = 1, **changes: Any) -> None:
        holder = current().plain() | {"user": "u", "command": "c"}
        body = {"attempt": number, "kind": "run", "created": 1.0, "first_version": first, "ranks": 1, "holder": holder,
                "processes": [current().plain()], **changes}  # fmt: skip
        self.store.put(attempt_key(number, "json"), encode_record(body)[0])
        self.store.put(attempt_key(number, "lease"), encode_record({"attempt": number})[0])

    def seal(
        self, number: int, base: str | None = None, chain: Sequence[str] = (), records: Sequence[str] = ()
    ) -> None:
        link = self.links[base] if base else None
        put_base(self.store, number, Base(link, tuple(self.links[c] for c in chain), tuple(records), None, 1))

    def commit(self, name: str, parent: str | None = None, kind: Any = "checkpoint", **changes: Any) -> str:
        number, attempt = parse_version(name) or (0, 0)
        members: dict[str, Any] = {
            "kind": kind, "version": number, "attempt": attempt, "parent": self.links[parent] if parent else None,
            "label": None, "step": number, "loops": {}, "complete": False, "reason": "policy", "ranks": 1, "objects": 0,
            "nbytes": 0, "created": 1.0, "seconds": 0.0, "index_bytes": 1, "index_digest": "0" * 32, **changes,
        }  # fmt: skip
        commit = Commit(**members)
        data, digest = commit.encode()
        self.store.put(f"{commit.path}/commit", data)
        self.links[name] = Link(name, digest)
        return name

    def fragment(self, name: str) -> str:
        self.store.put(f"versions/{name}/data/r000000", b"x")
        return name

    def spoil(self, key: str) -> None:
        path = self.path / key
        path.write_bytes(b"x" * path.stat().st_size)
