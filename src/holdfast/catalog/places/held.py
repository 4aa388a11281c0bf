"""The `held` record: what one rank's files of one version are at one place. It is written last, and so proves the others."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...format import DIGEST_BYTES, parse_version
from ...format.blocks import round_up
from ...format.records import FORMAT
from .members import Members, base64

PARITY_BLOCK = 1 << 20  # bytes of a parity file under one digest

_NAMES = ("format", "run", "version", "attempt", "rank", "ranks", "boot", "uid", "domain", "data", "part", "set")
_SET = ("n", "m", "chunk", "members", "parity")
_MEMBER = ("rank", "data", "part", "digest")


class Member(NamedTuple):
    """A member of a redundancy set: its rank, the bytes of its data file and of its part, and the part's digest (32
    hexadecimal digits). Its stream is the data file, followed by the part."""

    rank: int
    data_bytes: int
    part_bytes: int
    part_digest: str


class HeldSet(NamedTuple):
    """The redundancy set of a rank: `n` members, `m` parities (`redundancy/scheme.py`), the members in their order, `chunk`
    in bytes. `parity`: 16 bytes for each MiB of this rank's parity file, which has `m * chunk` bytes."""

    n: int
    m: int
    chunk: int
    members: tuple[Member, ...]
    parity: bytes

    @property
    def parity_bytes(self) -> int:
        """The size of a member's parity file."""
        return self.m * self.chunk


class Held(NamedTuple):
    """What rank `rank` (of `ranks`) of run `run` holds of the version named `version`, which `attempt` wrote.

    `boot`: of the kernel under which it was written; `uid`: the user; `domain`: the failure domain; `data_bytes`: of the data
    file; `part_bytes`, `part_digest`: of the rank's index part; `set`: None without redundancy.
    """

    run: str
    version: str
    attempt: int
    rank: int
    ranks: int
    boot: str
    uid: int
    domain: str
    data_bytes: int
    part_bytes: int
    part_digest: str
    set: HeldSet | None = None

    def to_body(self) -> dict[str, Any]:
        """The record's JSON object; `from_body` gives an equal `Held`."""
        return {
            "format": FORMAT,
            "run": self.run,
            "version": self.version,
            "attempt": self.attempt,
            "rank": self.rank,
            "ranks": self.ranks,
            "boot": self.boot,
            "uid": self.uid,
            "domain": self.domain,
            "data": {"bytes": self.data_bytes},
            "part": {"bytes": self.part_bytes, "digest": self.part_digest},
            "set": None if self.set is None else _plain(self.set),
        }

    @staticmethod
    def from_body(body: Any, key: str) -> Held:
        """From a record's JSON object; `key` is for messages. DamageError unless it is one that `to_body` could have given,
        and agrees with itself."""
        members = Members(body, _NAMES, key)
        if members.number("format") != FORMAT:
            raise members.wrong("format", f"{members.any('format')} is not one that this Holdfast reads ({FORMAT})")
        data = Members(members.any("data"), ("bytes",), key, "data.")
        part = Members(members.any("part"), ("bytes", "digest"), key, "part.")
        held = Held(
            members.hex("run"),
            members.text("version"),
            members.number("attempt", least=1),
            members.number("rank"),
            members.number("ranks", least=1),
            members.text("boot"),
            members.number("uid"),
            members.text("domain"),
            data.number("bytes"),
            part.number("bytes"),
            part.hex("digest"),
        )
        named = parse_version(held.version)
        if named is None or named[1] != held.attempt:
            raise members.wrong("version", f"{held.version!r:.80} is no version of attempt {held.attempt}")
        if held.rank >= held.ranks:
            raise members.wrong("rank", f"there is no rank {held.rank} of {held.ranks}")
        found = members.any("set")
        return held if found is None else held._replace(set=_set(found, held, key))


def _plain(redundancy: HeldSet) -> dict[str, Any]:
    return {
        "n": redundancy.n,
        "m": redundancy.m,
        "chunk": redundancy.chunk,
        "members": [
            {"rank": one.rank, "data": one.data_bytes, "part": one.part_bytes, "digest": one.part_digest}
            for one in redundancy.members
        ],
        "parity": base64(redundancy.parity),
    }


def _set(value: Any, held: Held, key: str) -> HeldSet:
    found = Members(value, _SET, key, "set.")
    n, m = found.number("n", least=2), found.number("m", least=1)
    chunk, listed = found.number("chunk"), found.any("members")
    if m >= n or not isinstance(listed, list) or len(listed) != n:
        raise found.wrong("set", f"{n} members with {m} parities are not what it lists")
    members = tuple(_member(one, key) for one in listed)
    ranks = {one.rank for one in members}
    if len(ranks) != n or max(ranks) >= held.ranks:
        raise found.wrong("set.members", f"these are not {n} of {held.ranks} ranks")
    if Member(held.rank, held.data_bytes, held.part_bytes, held.part_digest) not in members:
        raise found.wrong("set.members", "this rank is not among them as it is")
    if chunk != chunk_of(members, n, m):
        raise found.wrong("set.chunk", f"{chunk} bytes do not follow from the members' streams")
    parity = found.binary("parity")
    if len(parity) != DIGEST_BYTES * -(-m * chunk // PARITY_BLOCK):
        raise found.wrong("set.parity", f"not a digest for each MiB of {m * chunk} bytes")
    return HeldSet(n, m, chunk, members, parity)


def chunk_of(members: tuple[Member, ...], n: int, m: int) -> int:
    """The chunk's length in bytes: the longest stream by n - m, rounded up to 4096."""
    longest = max(one.data_bytes + one.part_bytes for one in members)
    return round_up(-(-longest // (n - m)))


def _member(value: Any, key: str) -> Member:
    found = Members(value, _MEMBER, key, "set.members.")
    return Member(found.number("rank"), found.number("data"), found.number("part"), found.hex("digest"))
