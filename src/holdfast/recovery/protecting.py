"""Parity for what ranks hold at places: computed, made durable, and then proved by each rank's `protected` record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ..catalog.places import Held, HeldSet, Member, Place
from ..errors import HoldfastError, UsageError
from ..format import parse_version
from ..group.channel import Channel
from ..redundancy import Scheme, Sum, exchange
from .member import LOCAL, PlaceMember
from .messages import failure, outcome, share


def protect(
    channel: Channel,
    place: Place,
    helds: Sequence[Held],
    sets: Sequence[tuple[int, ...]],
    m: int,
    homes: Sequence[int],
    exchange_sizes: Mapping[int, Member],
    timeout: float,
) -> None:
    """Encode the parity of one version at a place and put the `protected` records (collective over those processes of the
    channel that keep members of `sets`).

    `helds`: those of this process's ranks, without a set; data, part and `held/` record of each are there. `sets`: the
    redundancy sets, ranks in their order, all of the run's or those that this process keeps members of; `m`: parities of a set;
    `homes`: for each rank the process of the channel that keeps it; `exchange_sizes`: for each rank of our sets what it holds;
    `timeout`: seconds without any progress after which this process gives up.

    A process with members of several sets goes through them in the order of their first ranks, as all do; those that share none
    run side by side. If anything fails in one process, storage or damage, no member of that set keeps a parity, `held/` and
    the data stay, the other sets go on, and afterwards the error is raised: StorageError or DamageError where it was met,
    RankError in the others of that set (DamageError if it was damage). The channel can still be used. After DeadlineError, or
    a RankError of the channel's own, it can't. UsageError: `helds` and `sets` don't fit; nothing was done.
    """
    mine = {held.rank: held._replace(set=None) for held in helds}
    ours = sorted(members for members in map(tuple, sets) if any(homes[r] == channel.rank for r in members))
    missing = [r for members in ours for r in members if homes[r] == channel.rank and r not in mine]
    if missing or len({held.version for held in helds}) > 1:
        raise UsageError(
            f"To protect a version, the record of each rank here is needed, all of one version; ranks without: {missing}. "
            "Nothing was changed."
        )
    first: Exception | None = None
    for members in ours:
        error = _protect_set(channel, place, mine, members, m, [homes[r] for r in members], exchange_sizes, timeout)
        first = first or error
    if first is not None:
        raise first


def _protect_set(
    channel: Channel,
    place: Place,
    mine: Mapping[int, Held],
    ranks: tuple[int, ...],
    m: int,
    homes: list[int],
    exchange_sizes: Mapping[int, Member],
    timeout: float,
) -> Exception | None:
    scheme = Scheme(len(ranks), m).check()
    members = tuple(exchange_sizes[r] for r in ranks)
    chunk = scheme.chunk([one.data_bytes + one.part_bytes for one in members])
    here = [i for i, home in enumerate(homes) if home == channel.rank]
    version = mine[ranks[here[0]]].version
    kept = {i: PlaceMember(place, version, members[i], m, chunk, mine[ranks[i]]) for i in here}
    what = f"protecting version {version_number(version)}"
    error = compute(channel, scheme, members, homes, scheme.encoding(), kept, timeout, what)
    if error is not None:
        return error
    for i, member in kept.items():
        error = prove(place, mine[ranks[i]]._replace(set=set_of(scheme, members, chunk, member)), member) or error
    return error


# -- what carrying a plan out does alike --------------------------------------------------------


def compute(
    channel: Channel,
    scheme: Scheme,
    members: Sequence[Member],
    homes: Sequence[int],
    sums: Sequence[Sum],
    kept: Mapping[int, PlaceMember],
    timeout: float,
    what: str,
    name: Callable[[PlaceMember, Exception], Exception] = lambda member, error: error,
) -> Exception | None:
    """Compute the sums of a set and seal what was written (collective over the processes in `homes`); None if all of them have
    succeeded. Else nothing of it is left here, and what this process is to raise is returned: all know of it before
    anybody proves what may have been computed from nothing. `name`: a member's error as it is told. DeadlineError, RankError of
    the channel are raised."""
    nbytes = [one.data_bytes + one.part_bytes for one in members]
    done = False
    try:
        exchange(channel, scheme, nbytes, sums, homes, kept, timeout, what)
        for member in kept.values():
            member.seal()
        mine = next((name(member, member.error) for member in kept.values() if member.error is not None), None)
        told = share(channel, sorted(set(homes)), outcome(None, mine), timeout, what)
        error = failure(told, mine, channel.rank)
        done = error is None
    finally:
        for member in kept.values():
            if done:
                member.close()
            else:
                member.abort()
    return error


def set_of(scheme: Scheme, members: tuple[Member, ...], chunk: int, member: PlaceMember) -> HeldSet:
    """The set as this member's record tells it."""
    return HeldSet(scheme.n, scheme.m, chunk, members, member.parity_digests)


def prove(place: Place, held: Held, member: PlaceMember) -> Exception | None:
    """Put the record of what has been sealed; the error if it can't be: then what was written is gone again."""
    try:
        place.put_held(held, member.part)
        return None
    except LOCAL as error:
        with suppress(HoldfastError):
            if member.writes_stream:
                place.forget(held.version, held.rank)
            else:
                place.forget_parity(held.version, held.rank)
        return error


def version_number(version: str) -> int:
    """42 of 00000042-a000003."""
    number = parse_version(version)
    return number[0] if number else 0
