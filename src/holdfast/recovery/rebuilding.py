"""One redundancy set after a loss: its members' processes tell each other what there is, and compute what there isn't."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..catalog.places import Held, Member, verify_held
from ..catalog.places.held import chunk_of
from ..errors import DamageError, UsageError
from ..format import parse_version
from ..redundancy import Scheme
from .files import Done, Here
from .holdings import PLACES
from .member import LOCAL, PlaceMember
from .messages import BadSource, failure, outcome, read_outcome, share
from .moving import copy_stream, source_error
from .protecting import compute, prove, set_of, version_number


class Row(NamedTuple):
    """A set at a place (index in PLACES) that has something to compute. By member, in their order: `ranks`, `homes` (their
    processes), `at` (the place where the rank's stream is, on its home's node), whose streams are their nodes' `own`, not
    moved there, whose are `rebuilt`, whose parities are `lost`."""

    place: int
    m: int
    ranks: tuple[int, ...]
    homes: tuple[int, ...]
    at: tuple[int, ...]
    own: tuple[bool, ...]
    rebuilt: tuple[bool, ...]
    lost: tuple[bool, ...]


def rebuild(here: Here, version: str, ranks: int, row: Row) -> None:
    """Compute what a set has lost (collective over the processes in `row.homes`). `ranks`: of the version. What goes wrong
    goes to `here.errors` in all of them, and then nothing of it is left or proved anywhere, but in those whose record was put
    before another's could not be. DeadlineError, RankError of the channel."""
    began = time.monotonic()
    set_ = _Row(here, version, ranks, row)
    error = set_.agree() or set_.compute()
    if error is not None:
        here.errors.append(error)
        return
    for i in sorted(set_.kept):
        _prove(set_, i, time.monotonic() - began)


class _Row:
    def __init__(self, here: Here, version: str, ranks: int, row: Row) -> None:
        self.here, self.version, self.ranks, self.row = here, version, ranks, row
        self.scheme = Scheme(len(row.ranks), row.m)
        self.what = f"rebuilding in the set of rank {min(row.ranks)}, version {version_number(version)}"
        self.mine = [i for i, home in enumerate(row.homes) if home == here.channel.rank]
        self.helds: dict[
            int, Held
        ] = {}  # of those members of ours whose streams are here, with the set if their parity is
        self.kept: dict[int, PlaceMember] = {}
        self.members: tuple[Member, ...] = ()
        self.without: list[int] = []  # those that have a stream and no parity

    # -- what there is ----------------------------------------------------------------------

    def agree(self) -> Exception | None:
        """Each tells of its members; afterwards all know the set's streams and what is to be computed, or why it can't be."""
        error: Exception | None = None
        told: list[Any] = []
        try:
            told = [self._tell(i) for i in self.mine if not self.row.rebuilt[i]]
        except LOCAL as found:
            error = found
        heard = share(
            self.here.channel, sorted(set(self.row.homes)), outcome(told, error), self.here.timeout, self.what
        )
        error = failure(heard, error, self.here.channel.rank)
        if error is not None:
            return error
        try:
            self._learn([entry for _, message in sorted(heard.items()) for entry in read_outcome(message)[0]])
        except LOCAL as found:
            return found
        return None

    def _tell(self, i: int) -> list[Any]:
        """[index, stream, whether the parity is here, the set's members if they are known]"""
        rank, place = self.row.ranks[i], self.here.place(self.row.place)
        if self.row.at[i] != self.row.place and (self.row.lost[i] or not self._there(i)):
            copy_stream(self.here, self.row.at[i], self.row.place, self.version, rank, keep=not self.row.lost[i])
        try:
            held = place.read_held(self.version, rank)
            place.check_data(held)
            place.read_part(held)
        except LOCAL as error:
            if not self.row.own[i]:  # what could not be brought here is no source of the plan
                raise
            raise source_error(error, self._source(i, False)) from error
        known = held.set
        if known is not None and self.row.lost[i]:
            held = held._replace(set=None)
        self.helds[i] = held
        members = None if known is None else [list(one) for one in known.members]
        return [i, list(_member(held)), held.set is not None, members]

    def _there(self, i: int) -> bool:
        """Whether the stream that another place of the node has is at the set's place too."""
        try:
            held, other = (
                verify_held(self.here.place(p), self.version, self.row.ranks[i])
                for p in (self.row.place, self.row.at[i])
            )
        except LOCAL:
            return False
        return _member(held) == _member(other)

    def _learn(self, told: list[Any]) -> None:
        streams = {i: Member(*stream) for i, stream, _, _ in told}
        tables = {tuple(Member(*one) for one in members) for _, _, _, members in told if members is not None}
        if not tables and len(streams) == self.scheme.n:
            tables = {tuple(streams[i] for i in range(self.scheme.n))}
        table = min(tables, default=())
        same = len(tables) == 1 and all(table[i] == stream for i, stream in streams.items())
        if not same or tuple(one.rank for one in table) != self.row.ranks:
            raise DamageError(
                f"{self.what}: its members do not agree on what they are. Nothing was changed; plan again, the version may be "
                "had from elsewhere.",
                version=version_number(self.version),
            )
        self.members = table
        self.without = [i for i, _, parity, _ in told if not parity]

    # -- what there is to be ----------------------------------------------------------------

    def compute(self) -> Exception | None:
        row, place = self.row, self.here.place(self.row.place)
        lost = [i for i, gone in enumerate(row.rebuilt) if gone]
        try:
            sums = self.scheme.rebuilding(lost, self.without)
        except UsageError as error:  # all find the same
            return DamageError(f"{self.what}: {error.message} Plan again.", version=version_number(self.version))
        chunk = chunk_of(self.members, *self.scheme)
        for i in self.mine:
            self.kept[i] = PlaceMember(place, self.version, self.members[i], row.m, chunk, self.helds.get(i))

        def name(member: PlaceMember, error: Exception) -> Exception:
            i = row.ranks.index(member.rank)
            if member.unread is None or not (member.unread or row.own[i]):
                return error
            return source_error(error, self._source(i, member.unread))

        return compute(
            self.here.channel, self.scheme, self.members, row.homes, sums, self.kept, self.here.timeout, self.what, name
        )

    def held(self, i: int) -> Held:
        """The record of a member of ours when all is computed, with the set."""
        one = self.members[i]
        chunk = chunk_of(self.members, *self.scheme)
        held = self.helds.get(i)
        if held is None:
            run, attempt = self.here.place(self.row.place).run, (parse_version(self.version) or (0, 0))[1]
            fresh = Held(run, self.version, attempt, one.rank, self.ranks, "", 0, "", *one[1:])
            held = self.here.own(fresh)
        return held._replace(set=set_of(self.scheme, self.members, chunk, self.kept[i]))

    def _source(self, i: int, parity: bool) -> BadSource:
        return BadSource(self.version, self.row.ranks[i], PLACES[self.row.place], self.here.node, parity)


def _prove(set_: _Row, i: int, seconds: float) -> None:
    here, member = set_.here, set_.kept[i]
    if not (member.writes_stream or member.writes_parity):
        return
    place, held = here.place(set_.row.place), set_.held(i)
    error = prove(place, held, member)
    if error is not None:
        here.errors.append(error)
        return
    parity = 0 if held.set is None else held.set.parity_bytes
    if member.writes_stream:
        nbytes = held.data_bytes + held.part_bytes
        here.finished(Done(set_.version, held.rank, "stream", "rebuilt", place.kind, nbytes, seconds))
    here.finished(Done(set_.version, held.rank, "parity", "rebuilt", place.kind, parity, seconds))


def _member(held: Held) -> Member:
    return Member(held.rank, held.data_bytes, held.part_bytes, held.part_digest)
