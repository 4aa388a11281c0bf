"""The commit record: the small object whose existence makes a version exist."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import DamageError
from ..format import RECORD_LIMIT, Link, decode_record, encode_record, parse_version, version_name
from ..format.keys import COMMIT_NAME, Kind, folder
from ..format.records import FORMAT, count, field, seconds
from ..store import KeyMissingError, Store


class Loop(NamedTuple):
    """Where a loop stands: steps completed, its length (None: unbounded), and whether it was left for good."""

    position: int
    total: int | None
    done: bool = False


class Commit(NamedTuple):
    """A version's commit record. `nbytes`: of the data files written for it; `seconds`: how long the program had waited
    for it when the record was written; `index_bytes`, `index_digest`: of its root index; `state`: bytes of the state, all
    ranks together; `refs`: the checkpoints in whose data files some of its blocks are, newest first."""

    kind: Kind
    version: int
    attempt: int
    parent: Link | None
    label: str | None
    step: int | None
    loops: dict[str, Loop]
    complete: bool
    reason: str
    ranks: int
    objects: int
    nbytes: int
    created: float
    seconds: float
    index_bytes: int
    index_digest: str
    state: int = 0
    refs: tuple[Link, ...] = ()

    @property
    def name(self) -> str:
        return version_name(self.version, self.attempt)

    @property
    def path(self) -> str:
        """The key below which all of the version lies."""
        return f"{folder(self.kind)}/{self.name}"

    def encode(self) -> tuple[bytes, str]:
        """(bytes of the record file, its digest)."""
        loops = {k: {"position": v.position, "total": v.total, "done": v.done} for k, v in self.loops.items()}
        body = {
            "format": FORMAT,
            "kind": self.kind,
            "version": self.version,
            "attempt": self.attempt,
            "parent": self.parent.plain() if self.parent else None,
            "label": self.label,
            "step": self.step,
            "loops": loops,
            "complete": self.complete,
            "reason": self.reason,
            "ranks": self.ranks,
            "objects": self.objects,
            "bytes": self.nbytes,
            "state": self.state,
            "refs": [link.plain() for link in sorted(self.refs, key=lambda link: _age(link.name), reverse=True)],
            "created": self.created,
            "seconds": self.seconds,
            "index": {"bytes": self.index_bytes, "digest": self.index_digest},
        }
        return encode_record(body)


def read_commit(store: Store, kind: Kind, name: str) -> tuple[Commit, str, list[str]]:
    """(commit, its digest, complaints). KeyMissingError: there is none; DamageError: it is not valid."""
    key = f"{folder(kind)}/{name}/{COMMIT_NAME}"
    body, digest, complaints = decode_record(store.get(key, RECORD_LIMIT), key)
    commit = _parse(body, key)
    if commit.name != name or commit.kind != kind:
        raise DamageError(f"{key}: this commit record belongs to another version", file=key)
    return commit, digest, complaints


def read_linked(store: Store, link: Link) -> Commit:
    """The commit of the checkpoint that `link` names; DamageError unless it is there, whole, and this very one."""
    key = f"versions/{link.name}/{COMMIT_NAME}"
    version = _age(link.name)[0]
    try:
        commit, digest, _ = read_commit(store, "checkpoint", link.name)
    except KeyMissingError as error:
        raise DamageError(f"{key} is missing", file=key, offset=0, version=version) from error
    if digest != link.digest:
        raise DamageError(f"{key} is not the record that is meant", file=key, offset=0, version=version)
    return commit


def check_refs(store: Store, refs: Iterable[Link]) -> None:
    """DamageError unless each of these checkpoints has the commit that is meant: a version that refers to another's blocks
    is whole only as long as that one is there."""
    for link in refs:
        try:
            read_linked(store, link)
        except DamageError as error:
            text = f"{error.message}; blocks of version {_age(link.name)[0]} are needed"
            raise DamageError(text, file=error.file, offset=error.offset, version=_age(link.name)[0]) from error


def _age(name: str) -> tuple[int, int]:
    return parse_version(name) or (0, 0)


def _parse(body: dict[str, Any], key: str) -> Commit:
    if body.get("format") != FORMAT:
        raise DamageError(f"{key}: format {body.get('format')!r} is not one that this Holdfast reads (1)", file=key)
    kind = body.get("kind")
    if kind not in ("checkpoint", "record"):
        raise DamageError(f"{key}: member 'kind' is missing or malformed", file=key)
    index = field(body, "index", dict, key)
    loops = {
        name: Loop(count(v, "position", key), count(v, "total", key, none=True), field(v, "done", bool, key))
        for name, v in field(body, "loops", dict, key).items()
        if isinstance(v, dict)
    }
    version = count(body, "version", key, least=1)
    return Commit(
        kind,
        version,
        count(body, "attempt", key, least=1),
        Link.parse(body.get("parent")),
        field(body, "label", (str, type(None)), key),
        count(body, "step", key, none=True),
        loops,
        field(body, "complete", bool, key),
        field(body, "reason", str, key),
        count(body, "ranks", key, least=1),
        count(body, "objects", key),
        count(body, "bytes", key),
        seconds(body, "created", key),
        seconds(body, "seconds", key),
        count(index, "bytes", key),
        field(index, "digest", str, key),
        count(body, "state", key),
        _refs(body, kind, version, key),
    )


def _refs(body: dict[str, Any], kind: Kind, version: int, key: str) -> tuple[Link, ...]:
    """The member `refs`: versions before this one, newest first, each once. A record has none: nobody counts its."""
    links = tuple(Link.parse(value) for value in field(body, "refs", list, key))
    numbers = [version, *(_age(link.name)[0] for link in links if link is not None)]
    falling = all(a > b for a, b in pairwise(numbers))
    if None in links or not falling or (links and kind == "record"):
        raise DamageError(f"{key}: member 'refs' is malformed", file=key)
    return tuple(link for link in links if link is not None)
