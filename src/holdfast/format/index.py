"""Indexes: what is where in a version, with digests (docs/format.md, section 4).

Everything read here is untrusted although its digest holds: each decoder checks types, ranges and
agreement with the sizes of files, and raises DamageError for anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from ..errors import DamageError
from .blocks import ALIGN, BLOCK, DIGEST_BYTES, block_count, digest
from .keys import GROUP_RANKS

MAGIC = b"HFGROUP1"
INDEX_LIMIT = 1 << 30  # bytes of an index file or part that a reader takes
_MAX_DIMS = 64


class StoredBuffer(NamedTuple):
    """A buffer in a data file: offset and length in bytes, 16-byte digests of its blocks joined."""

    offset: int
    nbytes: int
    digests: bytes


class StoredObject(NamedTuple):
    """An object in an index: `tree` is its structure, None if that is its last buffer."""

    name: str
    kind: str
    late: bool
    shard: tuple[tuple[int, ...], tuple[int, ...]] | None
    tree: bytes | None
    buffers: tuple[StoredBuffer, ...]

    @property
    def nbytes(self) -> int:
        return sum(b.nbytes for b in self.buffers)


class StoredFile(NamedTuple):
    """An output file: its path as the program gave it, its length (bytes), the digest of its last min(nbytes, 4096)
    bytes, and its absolute path then."""

    path: str
    nbytes: int
    tail: bytes
    place: str


class Part(NamedTuple):
    """One rank's index."""

    rank: int
    nbytes: int  # of the data file
    objects: tuple[StoredObject, ...]
    files: tuple[StoredFile, ...]

    def encode(self) -> bytes:
        objects = [
            [o.name, o.kind, o.late, o.shard, o.tree, [[b.offset, b.nbytes, b.digests] for b in o.buffers]]
            for o in self.objects
        ]
        files = [[f.path, f.nbytes, f.tail, f.place] for f in self.files]
        body = {"rank": self.rank, "bytes": self.nbytes, "block": BLOCK, "objects": objects, "files": files}
        return _pack(body)

    @staticmethod
    def decode(data: bytes, rank: int, file: str) -> Part:
        """The part of `rank`, checked throughout."""
        body = _unpack(data, file)
        try:
            _require(isinstance(body, dict) and body["rank"] == rank and body["block"] == BLOCK)
            size = _number(body["bytes"])
            _require(size % ALIGN == 0)
            objects = tuple(_object(o, size) for o in body["objects"])
            _require(len({o.name for o in objects}) == len(objects))
            _in_order(objects)
            files = tuple(_file(f) for f in body["files"])
        except _MALFORMED as error:
            raise DamageError(f"{file}: the index of rank {rank} is malformed", file=file, rank=rank) from error
        return Part(rank, size, objects, files)


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
        _require(isinstance(body, list) and len(body) == group.ranks)
        at, entries = group.header, []
        for offset, nbytes, name in body:
            offset, nbytes = int.from_bytes(offset, "big"), int.from_bytes(nbytes, "big")
            _require(offset == at and isinstance(name, bytes) and len(name) == DIGEST_BYTES)
            at += nbytes
            entries.append((offset, nbytes, name))
        _require(at == group.nbytes)
    except _MALFORMED as error:
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
            group = Group(_number(first), _number(count), _number(nbytes), _number(header), name)
            _require(group.first == at and 0 < group.ranks <= GROUP_RANKS)
            _require(group.header <= group.nbytes <= INDEX_LIMIT)
            _require(isinstance(name, bytes) and len(name) == DIGEST_BYTES)
            at += group.ranks
            groups.append(group)
        _require(at == ranks)
    except _MALFORMED as error:
        raise DamageError(f"{file}: the root of the index is malformed", file=file) from error
    return groups


# -- checks ------------------------------------------------------------------------------------

_MALFORMED = (AssertionError, TypeError, ValueError, KeyError, OverflowError, DamageError, UnicodeError)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("malformed")


def _number(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62)
    return int(value)


def _object(value: Any, size: int) -> StoredObject:
    name, kind, late, shard, tree, buffers = value
    _require(isinstance(name, str) and 0 < len(name) <= 255 and isinstance(kind, str) and 0 < len(kind) <= 255)
    _require(isinstance(late, bool) and (tree is None or isinstance(tree, bytes)))
    _require(isinstance(buffers, list) and (tree is not None or len(buffers) > 0))
    return StoredObject(name, kind, late, _shard(shard), tree, tuple(_buffer(b, size) for b in buffers))


def _shard(value: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    if value is None:
        return None
    shape, offset = value
    _require(isinstance(shape, list) and isinstance(offset, list) and len(shape) == len(offset) <= _MAX_DIMS)
    return tuple(_number(n) for n in shape), tuple(_number(n) for n in offset)


def _buffer(value: Any, size: int) -> StoredBuffer:
    offset, nbytes, digests = value
    offset, nbytes = _number(offset), _number(nbytes)
    _require(offset + nbytes <= size and isinstance(digests, bytes))
    _require(len(digests) == DIGEST_BYTES * block_count(nbytes))
    return StoredBuffer(offset, nbytes, digests)


def _in_order(objects: Sequence[StoredObject]) -> None:
    """One after the other: buffers that overlap would make a small file stand for any amount of data."""
    at = 0
    for stored in objects:
        for buffer in stored.buffers:
            _require(buffer.offset >= at)
            at = buffer.offset + buffer.nbytes


def _file(value: Any) -> StoredFile:
    path, nbytes, tail, place = value
    _require(isinstance(path, str) and isinstance(place, str))
    _require(isinstance(tail, bytes) and len(tail) == DIGEST_BYTES)
    return StoredFile(path, _number(nbytes), tail, place)


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
