"""A pessimistic file system after a power loss, in memory: what a list of operations leaves, given which reached the disk.

A file's bytes are sure to be on disk only after an fsync of the file; a name (made or removed, of a file or directory)
only after an fsync of the directory that it is in. Anything else may or may not have reached the disk, each by itself
and in any order. A file whose size is there and its bytes are not reads as zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fs_recording import Op

ROOT = 0  # the node of "/"
NAMES = ("mkdir", "create", "link", "rename_new", "unlink", "rmdir", "outfile")  # operations on names


@dataclass
class Node:
    """A file (`entries` None) or a directory."""

    data: bytearray = field(default_factory=bytearray)
    entries: dict[str, int] | None = None


@dataclass(frozen=True)
class Change:
    """One change of one node, the unit that reaches the disk or does not. `op`: index of its operation."""

    op: int
    node: int
    apply: Callable[[Node], None]


class Disk:
    """`begin`: tree of files (path -> bytes, None for a directory) that is all on disk. `ops`: what was done then.

    `changes`: all of them, in order; `sure(n)`: which are on disk for certain after the first `n` operations.
    """

    def __init__(self, begin: dict[str, bytes | None], ops: Sequence[Op]) -> None:
        self._begin: list[Node] = [Node(entries={})]
        self.ops = list(ops)
        self.changes: list[Change] = []
        self._syncs: list[tuple[int, int]] = []  # (operation, node)
        self._at_once: set[int] = set()  # changes that come with their own fsync
        live = self._begin  # grows; its entries follow the operations so as to know which node a path means
        for path in sorted(begin):
            self._place(path, begin[path])
        self._live = [Node(bytearray(n.data), None if n.entries is None else dict(n.entries)) for n in live]
        self._count = len(self._begin)
        for i, op in enumerate(ops):
            self._do(i, op)

    def _place(self, path: str, data: bytes | None) -> None:
        above = ROOT
        *parents, name = path.strip("/").split("/")
        for part in parents:
            above = self._child(above, part, None)
        self._child(above, name, data)

    def _child(self, above: int, name: str, data: bytes | None) -> int:
        entries = self._begin[above].entries
        assert entries is not None
        if name not in entries:
            self._begin.append(Node(entries={}) if data is None else Node(bytearray(data)))
            entries[name] = len(self._begin) - 1
        return entries[name]

    # -- what the operations mean -------------------------------------------------------------------

    def _find(self, path: str) -> int:
        node = ROOT
        for part in path.strip("/").split("/"):
            entries = self._live[node].entries
            assert entries is not None
            node = entries[part]
        return node

    def _do(self, i: int, op: Op) -> None:
        if op.name in ("mkdir", "create"):
            self._live.append(Node(entries={} if op.name == "mkdir" else None))
            self._name(i, op.path, len(self._live) - 1)
        elif op.name in ("link", "rename_new"):
            self._name(i, op.to, self._find(op.path))
            if op.name == "rename_new":
                self._name(i, op.path, None)
        elif op.name in ("unlink", "rmdir"):
            self._name(i, op.path, None)
        elif op.name == "pwrite":
            self._change(i, self._find(op.path), lambda n: _write(n, op.offset, op.data))
        elif op.name == "size":
            self._change(i, self._find(op.path), lambda n: _write(n, op.offset, b""))
        elif op.name == "cut":
            self._change(i, self._find(op.path), lambda n: _cut(n, op.offset))
        elif op.name == "fsync":
            self._syncs.append((i, self._find(op.path)))
        elif op.name == "outfile":
            self._outfile(i, op)

    def _outfile(self, i: int, op: Op) -> None:
        first = len(self.changes)
        try:
            node = self._find(op.path)
        except KeyError:
            self._live.append(Node())
            node = len(self._live) - 1
            self._name(i, op.path, node)
        self._change(i, node, lambda n: n.data.__setitem__(slice(None), op.data))
        self._at_once |= set(range(first, len(self.changes)))

    def _name(self, i: int, path: str, node: int | None) -> None:
        above, name = os.path.split(path)

        def apply(directory: Node) -> None:
            assert directory.entries is not None
            if node is None:
                directory.entries.pop(name, None)
            else:
                directory.entries[name] = node

        self._change(i, self._find(above), apply)

    def _change(self, i: int, node: int, apply: Callable[[Node], None]) -> None:
        self.changes.append(Change(i, node, apply))
        apply(self._live[node])

    # -- what is on disk ------------------------------------------------------------------------------

    def sure(self, n: int) -> set[int]:
        """Indexes of the changes that have certainly reached the disk after the first `n` operations."""
        synced: dict[int, int] = {}
        for i, node in self._syncs:
            if i < n:
                synced[node] = i
        own = {k for k in self._at_once if self.changes[k].op < n}
        return own | {k for k, c in enumerate(self.changes) if c.op < synced.get(c.node, -1)}

    def open(self, n: int) -> list[int]:
        """Indexes of the changes made by the first `n` operations that may or may not have reached the disk."""
        sure = self.sure(n)
        return [k for k, c in enumerate(self.changes) if c.op < n and k not in sure]

    def after(self, reached: set[int]) -> dict[str, bytes | None]:
        """The tree that is left when exactly these changes have reached the disk: path -> bytes, None: directory."""
        nodes = [Node(bytearray(n.data), None if n.entries is None else dict(n.entries)) for n in self._begin]
        nodes += [Node(entries=None if n.entries is None else {}) for n in self._live[self._count :]]
        for k in sorted(reached):
            self.changes[k].apply(nodes[self.changes[k].node])
        found: dict[str, bytes | None] = {}
        pending = [("", ROOT)]
        while pending:
            path, number = pending.pop()
            entries = nodes[number].entries
            if path:
                found[path] = None if entries is not None else bytes(nodes[number].data)
            pending += [(f"{path}/{name}", child) for name, child in (entries or {}).items()]
        return found


def _write(node: Node, offset: int, data: bytes) -> None:
    end = offset + len(data)
    if len(node.data) < end:
        node.data.extend(bytes(end - len(node.data)))
    node.data[offset:end] = data


def _cut(node: Node, nbytes: int) -> None:
    """To exactly so many bytes. What was beyond is gone even if the file grows again."""
    _write(node, nbytes, b"")
    del node.data[nbytes:]


def tree_of(top: Path) -> dict[str, bytes | None]:
    """What is really there, in the model's form."""
    found: dict[str, bytes | None] = {str(top): None}
    for path in top.rglob("*"):
        found[str(path)] = path.read_bytes() if path.is_file() else None
    return found


def materialise(tree: dict[str, bytes | None], top: Path) -> None:
    """Make `top` hold exactly what the model says."""
    top.mkdir(parents=True)
    for path in sorted(p for p in tree if p.startswith(f"{top}/")):
        data = tree[path]
        Path(path).mkdir() if data is None else Path(path).write_bytes(data)
