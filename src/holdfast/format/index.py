"""Indexes: what is where in a version, with digests (docs/format.md, section 4).

Everything read here is untrusted although its digest holds: each decoder checks types, ranges and
agreement with the sizes of files, and raises DamageError for anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from ..errors import DamageError
from .blocks import ALIGN, BLOCK, DIGEST_BYTES, digest
from .extents import MALFORMED, DataSource, StoredBuffer, check_apart, number, require
from .keys import GROUP_RANKS

MAGIC = b"HFGROUP1"
INDEX_LIMIT = 1 << 30  # bytes of an index file or part that a reader takes
_MAX_DIMS = 64


class StoredObject(NamedTuple):
    """An object in an index: `tree` is its structure, None if that is its last buffer. `replicated`: all ranks' parts have it,
    with the same value; then it has no shard."""

    name: str
    kind: str
    late: bool
    shard: tuple[tuple[int, ...], tuple[int, ...]] | None
    tree: bytes | None
    buffers: tuple[StoredBuffer, ...]
    replicated: bool = False

    @property
    def nbytes(self) -> int:
        return sum(b.nbytes for b in self.buffers)

    def plain(self) -> list[Any]:
        """As MessagePack holds it."""
        held = True if self.replicated else self.shard
        return [self.name, self.kind, self.late, held, self.tree, [b.plain() for b in self.buffers]]


class StoredFile(NamedTuple):
    """An output file: its path as the program gave it, its length (bytes), the digest of its last min(nbytes, 4096)
    bytes, and its absolute path then."""

    path: str
    nbytes: int
    tail: bytes
    place: str


class Part(NamedTuple):
    """One rank's index. `nbytes`: of its data file; `sources`: the data files of other versions or ranks that its extents
    name, counted from 1."""

    rank: int
    nbytes: int
    objects: tuple[StoredObject, ...]
    files: tuple[StoredFile, ...]
    sources: tuple[DataSource, ...] = ()

    @property
    def state(self) -> int:
        """Bytes of the objects' buffers, wherever they stand."""
        return sum(o.nbytes for o in self.objects)

    def encode(self) -> bytes:
        objects = [o.plain() for o in self.objects]
        files = [[f.path, f.nbytes, f.tail, f.place] for f in self.files]
        sources = [[s.version, s.digest, s.rank, s.nbytes] for s in self.sources]
        body = {"rank": self.rank, "bytes": self.nbytes, "block": BLOCK}
        return _pack({**body, "sources": sources, "objects": objects, "files": files})

    @staticmethod
    def decode(data: bytes, rank: int, file: str) -> Part:
        """The part of `rank`, checked throughout."""
        body = _unpack(data, file)
        try:
            require(isinstance(body, dict) and body["rank"] == rank and body["block"] == BLOCK)
            size = number(body["bytes"])
            require(size % ALIGN == 0)
            sources = tuple(DataSource.parse(s) for s in body["sources"])
            _check_sources(sources, rank)
            sizes = (size, *(s.nbytes for s in sources))
            objects = tuple(_object(o, sizes) for o in body["objects"])
            require(len({o.name for o in objects}) == len(objects))
            check_apart([b for o in objects for b in o.buffers], len(sizes))
            files = tuple(_file(f) for f in body["files"])
        except MALFORMED as error:
            raise DamageError(f"{file}: the index of rank {rank} is malformed", file=file, rank=rank) from error
        return Part(rank, size, objects, files, sources)


class Group(NamedTuple):
    """A group's line in `index/root`: whose parts, the file's size, its header's size and digest."""

    first: int
    ranks: int
    nbytes: int
    header: int
    digest: bytes


def encode_group(first: int, parts: Sequence[bytes]) -> tuple[bytes, Group]:
    """(bytes of a group's file, its line in the root)."""
    empty = _header([(0, 0, bytes(DIGEST_BYTES))] * len(parts))
    # Offsets are encoded with a fixed width so that the header's size does not depend on them.
    at, entries = len(empty), []
    for part in parts:
        entries.append((at, len(part), digest(part)))
        at += len(part)
    header = _header(entries)
    return header + b"".join(parts), Group(first, len(parts), at, len(header), digest(header))


def decode_header(header: bytes, group: Group, file: str) -> list[tuple[int, int, bytes]]:
    """[(offset, bytes, digest)] for each rank of the group, checked against the file's size."""
    if digest(header) != group.digest or header[: len(MAGIC)] != MAGIC:
        raise DamageError(f"{file}: the header of this index file is damaged", file=file, offset=0)
    body = _unpack(header[len(MAGIC) :], file)
    try:
        require(isinstance(body, list) and len(body) == group.ranks)
        at, entries = group.header, []
        for offset, nbytes, name in body:
            offset, nbytes = int.from_bytes(offset, "big"), int.from_bytes(nbytes, "big")
            require(offset == at and isinstance(name, bytes) and len(name) == DIGEST_BYTES)
            at += nbytes
            entries.append((offset, nbytes, name))
        require(at == group.nbytes)
    except MALFORMED as error:
        raise DamageError(f"{file}: the header of this index file is malformed", file=file, offset=0) from error
    return entries


def encode_root(groups: Sequence[Group]) -> bytes:
    return _pack([[g.first, g.ranks, g.nbytes, g.header, g.digest] for g in groups])


def decode_root(data: bytes, ranks: int, file: str) -> list[Group]:
    """The groups of a version with `ranks` ranks."""
    body = _unpack(data, file)
    try:
        groups, at = [], 0
        for first, count, nbytes, header, name in body:
            group = Group(number(first), number(count), number(nbytes), number(header), name)
            require(group.first == at and 0 < group.ranks <= GROUP_RANKS)
            require(group.header <= group.nbytes <= INDEX_LIMIT)
            require(isinstance(name, bytes) and len(name) == DIGEST_BYTES)
            at += group.ranks
            groups.append(group)
        require(at == ranks)
    except MALFORMED as error:
        raise DamageError(f"{file}: the root of the index is malformed", file=file) from error
    return groups


# -- checks ------------------------------------------------------------------------------------

def _check_sources(sources: Sequence[DataSource], rank: int) -> None:
    """Each data file is named once, by one digest of its version, and the part's own not at all: else `check_apart` would
    miss what two names for one file share."""
    require(len({(s.version, s.rank) for s in sources}) == len(sources))
    versions = {(s.version, s.digest) for s in sources}
    require(len({version for version, _ in versions}) == len(versions))
    require(sum(digest == "" for _, digest in versions) <= 1)
    require(all(s.digest != "" or s.rank != rank for s in sources))


def _object(value: Any, sizes: Sequence[int]) -> StoredObject:
    name, kind, late, held, tree, buffers = value
    require(isinstance(name, str) and 0 < len(name) <= 255 and isinstance(kind, str) and 0 < len(kind) <= 255)
    require(isinstance(late, bool) and (tree is None or isinstance(tree, bytes)))
    require(isinstance(buffers, list) and (tree is not None or len(buffers) > 0))
    stored = tuple(StoredBuffer.parse(b, sizes) for b in buffers)
    return StoredObject(name, kind, late, None if held is True else _shard(held), tree, stored, held is True)


def _shard(value: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    if value is None:
        return None
    shape, offset = value
    require(isinstance(shape, list) and isinstance(offset, list) and len(shape) == len(offset) <= _MAX_DIMS)
    return tuple(number(n) for n in shape), tuple(number(n) for n in offset)


def _file(value: Any) -> StoredFile:
    path, nbytes, tail, place = value
    require(isinstance(path, str) and isinstance(place, str))
    require(isinstance(tail, bytes) and len(tail) == DIGEST_BYTES)
    return StoredFile(path, number(nbytes), tail, place)


def _header(entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    return MAGIC + _pack([[o.to_bytes(8, "big"), n.to_bytes(8, "big"), d] for o, n, d in entries])


def _pack(value: Any) -> bytes:
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def _unpack(data: bytes, file: str) -> Any:
    """MessagePack with strict types; its lengths can't exceed what `data` holds.

    Walked through once before anything is built: the unpacker makes each list as long as its header claims, and headers
    nest, so that a few bytes could ask for gigabytes.
    """
    try:
        walk = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        walk.feed(data)
        walk.skip()
        return msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True, max_ext_len=0)
    except Exception as error:  # its own classes, ValueError, RecursionError: all mean the same here
        raise DamageError(f"{file}: this index is not readable ({error})", file=file) from error
