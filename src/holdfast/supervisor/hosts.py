"""Nodes for a job: what a hostfile says, which nodes hold which ranks, who takes a lost node's place. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..errors import UsageError


class Host(NamedTuple):
    """A node as the hostfile has it: its name, and how many ranks it is to hold."""

    name: str
    slots: int


class Seat(NamedTuple):
    """A node in use and how many ranks are on it; which ones follows from its place in the list."""

    host: Host
    ranks: int


class Roster(NamedTuple):
    """`used`: nodes in order of ranks; `reserve`: those that can take a lost one's place, in order; `lost`: those
    that gave no answer when they were last asked."""

    used: tuple[Seat, ...]
    reserve: tuple[Host, ...] = ()
    lost: tuple[Host, ...] = ()

    @property
    def names(self) -> list[str]:
        """Every node that there is, lost ones too: one that comes back can be a spare."""
        return [host.name for host in self.hosts]

    @property
    def hosts(self) -> list[Host]:
        """As `names`."""
        return [*(seat.host for seat in self.used), *self.reserve, *self.lost]

    def text(self, kind: str) -> str:
        """The nodes in use as a hostfile for the launcher `kind` ("openmpi" or "mpich").

        Its slots are the ranks that each is to have: filled in order, they give the placement that was chosen.
        """
        line = "{} slots={}\n" if kind == "openmpi" else "{}:{}\n"
        return "".join(line.format(seat.host.name, seat.ranks) for seat in self.used)


def parse_hostfile(text: str, where: str) -> tuple[Host, ...]:
    """The nodes that a hostfile names, in order.

    Lines are Open MPI's (`node slots=2 max_slots=4`) or MPICH's (`node:2`); `#` begins a comment. A node without a
    number counts one slot; one that is named again adds to its slots. UsageError names `where` and the line.
    """
    slots: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            host = _host(words)
        except ValueError as error:
            raise UsageError(
                f"Line {number} of the hostfile {where} can't be understood: {error}. Nothing was started. Lines are "
                "`NODE slots=N`, `NODE:N` or `NODE`.",
                file=where,
            ) from None
        slots[host.name] = slots.get(host.name, 0) + host.slots
    if not slots:
        raise UsageError(f"The hostfile {where} names no node. Nothing was started.", file=where)
    return tuple(Host(name, count) for name, count in slots.items())


def _host(words: Sequence[str]) -> Host:
    name, slots = words[0], "1"
    if name.count(":") == 1:  # more of them are an IPv6 address
        name, slots = name.split(":")
    if not name or name.startswith("-") or "=" in name:
        raise ValueError(f"{words[0]!r} is no node's name")
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key == "slots":
            slots = value
        elif key not in ("max_slots", "max-slots"):  # a bound on what we never exceed unless nodes are lost
            raise ValueError(f"{word!r} is not known")
    if not (slots.isascii() and slots.isdigit() and 1 <= int(slots) <= 1_000_000):
        raise ValueError(f"{slots!r} is no number of slots")
    return Host(name, int(slots))


def choose(hosts: Sequence[Host], ranks: int, spares: int) -> Roster:
    """The first of `hosts` that hold `ranks` ranks; the last `spares`, and whatever is not needed, stay in reserve.

    UsageError if there are more spares than nodes, or not enough slots on the others.
    """
    if spares >= len(hosts):
        raise UsageError(
            f"{_many(spares, 'node')} of {len(hosts)} can't be kept as spares: none would be left for the ranks. Nothing was "
            "started. Name more nodes in the hostfile, or fewer spares."
        )
    used: list[Seat] = []
    left = ranks
    for host in hosts[: len(hosts) - spares]:
        if left == 0:
            break
        used.append(Seat(host, min(host.slots, left)))
        left -= used[-1].ranks
    if left:
        kept = f" besides the {_many(spares, 'spare node')}" if spares else ""
        raise UsageError(
            f"{_many(ranks, 'rank')} do not fit into the {_many(ranks - left, 'slot')} of the hostfile{kept}. Nothing was "
            "started. Start fewer ranks, give the nodes more slots, or name more nodes."
        )
    return Roster(tuple(used), tuple(hosts[len(used) :]))


def adapt(roster: Roster, silent: Collection[str]) -> tuple[Roster, list[str]]:
    """The roster once the nodes named in `silent` are known to give no answer, and sentences on what has changed.

    A node in use that is lost is replaced in its place by the first in reserve that has slots enough, else by the
    largest: all other ranks stay where they are. Where nothing is in reserve its ranks are dealt over the nodes that
    remain, which may then hold more than their slots. If no node is left at all the roster stays as it is.
    """
    told: list[str] = []
    reserve = [host for host in roster.reserve if host.name not in silent]
    lost = [host for host in (*roster.lost, *roster.reserve) if host.name in silent]
    told += [f"{host.name}, a spare, does not answer" for host in roster.reserve if host.name in silent]
    for host in roster.lost:
        if host.name not in silent:
            reserve.append(host)
            told.append(f"{host.name} answers again: it is a spare now")
    if not reserve and all(seat.host.name in silent for seat in roster.used):
        return roster, ["none of the nodes answers: they stay as they are"]
    used: list[Seat] = []
    homeless = 0
    gone: list[str] = []
    first = 0
    for seat in roster.used:
        ranks = f"rank{'s' * (seat.ranks > 1)} {_span(first, seat.ranks)}"
        first += seat.ranks
        if seat.host.name not in silent:
            used.append(seat)
            continue
        lost.append(seat.host)
        if not reserve:
            homeless += seat.ranks
            gone.append(seat.host.name)
            continue
        spare = next((h for h in reserve if h.slots >= seat.ranks), max(reserve, key=lambda h: h.slots))
        reserve.remove(spare)
        used.append(Seat(spare, seat.ranks))
        told.append(f"{seat.host.name} is lost: {spare.name} takes its place ({ranks}){_crowded([used[-1]])}")
    if homeless:
        used = _dealt(used, homeless)
        names = ", ".join(seat.host.name for seat in used)
        told.append(
            f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} lost and no spare is left: the ranks are dealt "
            f"over {names}{_crowded(used)}"
        )
    return Roster(tuple(used), tuple(reserve), tuple(lost)), told


def _dealt(seats: Sequence[Seat], ranks: int) -> list[Seat]:
    """`seats` with `ranks` more, each given to the node that is then the least crowded."""
    counts = [seat.ranks for seat in seats]
    for _ in range(ranks):
        at = min(range(len(seats)), key=lambda i: ((counts[i] + 1) / seats[i].host.slots, i))
        counts[at] += 1
    return [Seat(seat.host, count) for seat, count in zip(seats, counts, strict=True)]


def _crowded(seats: Sequence[Seat]) -> str:
    over = [
        f"{seat.host.name} holds {seat.ranks} in {seat.host.slots}" for seat in seats if seat.ranks > seat.host.slots
    ]
    return f"; more ranks than slots: {', '.join(over)}" if over else ""


def _span(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first}-{first + count - 1}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
