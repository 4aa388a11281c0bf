"""Rewriting a version as an attacker could: whatever is put into it, all digests above it are right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from holdfast.format import digest, digest_hex, encode_record
from holdfast.format.index import encode_group, encode_root

Edit = Callable[[dict[str, Any]], Any]


def edit_record(path: Path, edit: Edit) -> None:
    """Change a record file's members; both lines get the right digest."""
    body = json.loads(path.read_bytes().split(b"\n")[0][33:])
    edit(body)
    path.write_bytes(encode_record(body)[0])


def forge(version: Path, part: Edit | None = None, commit: Edit | None = None, raw: bytes | None = None) -> None:
    """Change the index of a version of one rank (`raw`: put these bytes in its place), root and commit to suit."""
    line = msgpack.unpackb((version / "index/root").read_bytes())[0]
    body = msgpack.unpackb((version / "index/g000000").read_bytes()[line[3] :])
    if part is not None:
        part(body)
    data, group = encode_group(0, [msgpack.packb(body) if raw is None else raw])
    (version / "index/g000000").write_bytes(data)
    seal(version, encode_root([group]), commit)


def seal(version: Path, root: bytes, commit: Edit | None = None) -> None:
    """Put a root index in place and have the commit confirm it."""
    (version / "index/root").write_bytes(root)

    def change(body: dict[str, Any]) -> None:
        body["index"] = {"bytes": len(root), "digest": digest_hex(root)}
        if commit is not None:
            commit(body)

    edit_record(version / "commit", change)


def stored(body: dict[str, Any], name: str) -> list[Any]:
    """The object of that name in a part: [name, kind, late, shard, tree, buffers]."""
    return next(o for o in body["objects"] if o[0] == name)


def replace_buffer(version: Path, body: dict[str, Any], name: str, content: bytes) -> None:
    """Give the first buffer of an object other content, which must not be longer, and its digest."""
    buffer = stored(body, name)[5][0]
    assert len(content) <= buffer[1]
    with open(version / "data/r000000", "r+b") as f:
        f.seek(buffer[0])
        f.write(content.ljust(buffer[1], b"\0"))
    buffer[1:] = [len(content), digest(content)]


def snapshot(top: Path) -> dict[str, Any]:
    """Everything below `top`: kinds, contents, targets, modes."""
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            content: Any = os.readlink(path)
        else:
            content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(top))] = (content, path.lstat().st_mode)
    return found
