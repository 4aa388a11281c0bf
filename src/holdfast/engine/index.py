"""A committed version's index, read back: root, group, part, each against the digest above it."""

from __future__ import annotations

from ..catalog import Commit
from ..errors import DamageError
from ..format import Part, digest, digest_hex, versions_used
from ..format.index import INDEX_LIMIT, Group, decode_header, decode_root
from ..format.keys import ROOT_NAME, data_name, group_name
from ..store import KeyMissingError, Store
from ..store.aligned import empty as aligned_empty
from .read import PartReader


def read_groups(store: Store, commit: Commit) -> list[Group]:
    """The groups of a version; DamageError if its root index is missing or not the one committed."""
    key = f"{commit.path}/{ROOT_NAME}"
    if commit.index_bytes > INDEX_LIMIT:
        raise DamageError(f"{key}: an index of {commit.index_bytes} bytes is absurd", file=key)
    try:
        data = store.get(key, commit.index_bytes)
    except KeyMissingError as error:
        raise DamageError(f"{key} is missing", file=key, offset=0) from error
    if digest_hex(data) != commit.index_digest:
        raise DamageError(f"{key}: the root of the index is damaged", file=key, offset=0)
    return decode_root(data, commit.ranks, key)


def read_part(store: Store, commit: Commit, rank: int, groups: list[Group] | None = None) -> Part:
    """The index of one rank; reads the header of its group and the part alone. DamageError.

    A store that keeps parts beside the indexes (`find_part(commit, rank)`, None if it has not this one) is asked first."""
    find_part = getattr(store, "find_part", None)
    if find_part is not None and (found := find_part(commit, rank)) is not None:
        return _checked(found, commit, commit.path)
    for number, group in enumerate(groups if groups is not None else read_groups(store, commit)):
        if group.first <= rank < group.first + group.ranks:
            key = f"{commit.path}/{group_name(number)}"
            return _checked(_read_part(store, key, group, rank), commit, key)
    raise DamageError(f"{commit.path} has no index of rank {rank}", file=commit.path, rank=rank)


def _checked(part: Part, commit: Commit, key: str) -> Part:
    if not versions_used(part) <= set(commit.refs):  # retention goes by the commit: it would not have kept them
        text = f"{key}: the index of rank {part.rank} refers to versions that the commit does not name"
        raise DamageError(text, file=key, rank=part.rank)
    return part


def _read_part(store: Store, key: str, group: Group, rank: int) -> Part:
    try:
        reader = store.open(key)
    except KeyMissingError as error:
        raise DamageError(f"{key} is missing", file=key, offset=0, rank=rank) from error
    with reader:
        if reader.nbytes != group.nbytes:
            text = f"{key} has {reader.nbytes} bytes instead of {group.nbytes}"
            raise DamageError(text, file=key, offset=min(reader.nbytes, group.nbytes), rank=rank)
        header = aligned_empty(group.header)
        reader.read(0, header)
        offset, nbytes, name = decode_header(header.tobytes(), group, key)[rank - group.first]
        part = aligned_empty(nbytes)
        reader.read(offset, part)
    if digest(part) != name:
        raise DamageError(f"{key}: the index of rank {rank} is damaged", file=key, offset=offset, rank=rank)
    return Part.decode(part.tobytes(), rank, key)


def open_part(store: Store, commit: Commit, rank: int, threads: int) -> PartReader:
    """A reader of one rank's data of a version; the data file is opened when first read."""
    return PartReader(store, f"{commit.path}/{data_name(rank)}", read_part(store, commit, rank), threads)
