"""The levels of an execution: what was asked for, or is right where nothing was, on the ranks and nodes that there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...catalog.places import Place, StalePlaceError, clean, open_place, stale_places
from ...errors import ConfigError, DamageError, HoldfastError, StorageError
from ...group import Group, together
from ...group.serial import SerialGroup
from ...levels import LARGEST, Level, global_, memory, xor
from ...store import KeyMissingError, PosixStore
from ...store.owned import same_file_system
from .nodes import Nodes, domain_of, find_nodes, memory_root, words_of

if TYPE_CHECKING:
    from ...group.channel import Channel, MPIChannel, SerialChannel

log = logging.getLogger("holdfast")

Root = tuple[str, str]  # a place's kind and directory; the directory "" is the node's memory, wherever that is

_PLACES = ("memory", "local")


class Ladder:
    """What this rank knows of the levels. `places`: of its node, by kind, those to write to and those that are only read;
    `first`: the level that versions come to first, None if that is the run's own store; `second`: a place behind it;
    `redundancy` with `sets`, by rank's order; `stored`: the level of the run's own store, None if only last versions go
    there. `chosen`: whether nobody asked for it; `again`: whether the run has had nodes before. ConfigError: the redundancy
    can't be had on these."""

    def __init__(
        self,
        group: Group,
        places: dict[str, Place],
        nodes: Nodes,
        levels: Sequence[Level],
        chosen: bool,
        timeout: float,
        again: bool = False,
    ) -> None:
        self.group, self.places, self.nodes, self.chosen = group, places, nodes, chosen
        self.timeout = timeout
        kept = [level for level in levels if level.kind in _PLACES]
        self.first = kept[0] if kept else None
        self.second = kept[1] if len(kept) > 1 else None
        self.redundancy = next((level for level in levels if level.kind == "rs"), None)
        self.stored = next((level for level in levels if level.kind == "global"), None)
        self.sets: list[tuple[int, ...]] = []
        self._channel: MPIChannel | SerialChannel | None = None
        self._spoilt = False  # a call on the channel has failed
        if self.redundancy is not None and self.first is not None:
            self.redundancy, self.sets = _deal(group, self.redundancy, nodes.domains, again or chosen)

    @property
    def place(self) -> Place:
        """The first level's, on this node."""
        assert self.first is not None
        return self.places[self.first.kind]

    @property
    def leads(self) -> bool:
        """Whether this rank does what is done once on its node."""
        return self.nodes.leads(self.group.rank)

    def names(self) -> list[str]:
        """The levels' names, in order."""
        levels = (self.first, self.second, self.redundancy, self.stored)
        return [level.name for level in levels if level is not None]

    def open_channel(self) -> None:
        """Make the channel (collective, in the program's thread: it is a duplicate of the program's communicator)."""
        from ...group.channel import MPIChannel, SerialChannel

        if isinstance(self.group, SerialGroup):
            self._channel = SerialChannel()
        else:
            comm: Any = self.group.comm
            self._channel = MPIChannel(comm, self.timeout)

    def channel(self) -> Channel:
        """For data between ranks, by one thread at a time (collective where a call has failed before)."""
        assert self._channel is not None
        if self._spoilt:
            self._channel, self._spoilt = self._channel.another(self.timeout), False
        return self._channel

    def drop_channel(self) -> None:
        """A call on it has failed: the next one needs another (on all ranks alike)."""
        self._spoilt = True

    def switch_off(self, why: str) -> None:
        """Versions go to the run's own store from now on (on all ranks alike)."""
        if self.group.rank == 0:
            log.warning("%s; versions go to the run's own store", why)
        self.first = self.second = self.redundancy = None
        self.stored = global_()


def climb(
    group: Group,
    levels: tuple[Level, ...] | None,
    run_id: str,
    where: str,
    known: Sequence[Root],
    timeout: float,
    error: Exception | None = None,
) -> Ladder | None:
    """The levels of this execution (collective); None if there are none but the run's own store, now and before.

    `levels`: the option; `known`: places that earlier attempts of the run had; a run that has had some goes on with less
    redundancy if there are fewer nodes now; `error`: what has kept this rank from opening the run, of which all hear here.
    ConfigError: what is asked for can't be on these nodes; StorageError: a place can't be made.
    """
    # Whose domain: what the redundancy's level says, where it says something.
    redundancy = next((level for level in levels or () if level.kind == "rs"), None)
    places: dict[str, Place] = {}
    domain = ""
    try:
        domain = domain_of(redundancy.domain if redundancy else None)
    except Exception as failed:
        error = error or failed
    domains = [str(name) for name in together(group, "opening the run's store", domain, error)]
    chosen, wanted = levels is None, levels or (global_(),)
    if chosen and len(set(domains)) > 1:  # XOR across failure domains, and the run's own store behind
        redundancy = xor()
        wanted = (memory(), redundancy, global_())
    elif chosen and not known:
        return None
    if redundancy is not None:
        _deal(group, redundancy, domains, bool(known) or chosen, quiet=True)  # refused before anything is made
    try:
        places = _open(wanted, run_id, where, known)
    except Exception as failed:
        error = failed
    reason = ""
    if isinstance(error, HoldfastError) and chosen:
        reason, error = error.message, None
    exchanged: Any = together(group, "opening the places of nodes", [reason, words_of(places, domain)], error=error)
    told = [[str(word) for word in words] for _, words in exchanged]
    off = [str(why) for why, _ in exchanged if why]
    if off:  # nobody asked for them
        wanted, places, told = (global_(),), {}, [words[:2] for words in told]
        if group.rank == 0:
            log.warning("no levels but the run's own store: %s", off[0])
    nodes = find_nodes(told)
    if not places and all(level.kind == "global" for level in wanted):
        return None
    ladder = Ladder(group, places, nodes, wanted, chosen, timeout, bool(known))
    ladder.open_channel()
    _warn(ladder, where)
    return ladder


def _deal(
    group: Group, level: Level, domains: Sequence[str], less: bool, quiet: bool = False
) -> tuple[Level | None, list[tuple[int, ...]]]:
    """The redundancy's level and its sets. A run that has lost nodes goes on, with what the rest allows and a warning: smaller
    sets, fewer parities, or none. ConfigError if it may not have `less`, at the first start of a level that was asked for."""
    from ...redundancy.sets import deal

    try:
        return level, deal(domains, level.set_size, level.m)
    except ConfigError:
        if not less:
            raise
    found: Level | None = None
    sets: list[tuple[int, ...]] = []
    for m in range(level.m, 0, -1):
        with suppress(ConfigError):
            sets = deal(domains, None, m, default=level.set_size or LARGEST)
            found = level._replace(set_size=max(map(len, sets)), m=m)
            break
    if group.rank == 0 and not quiet:
        count = len(set(domains))
        there = f"{len(domains)} ranks in {count} failure domain{'s' * (count != 1)}"
        instead = "until there are more, what a lost node had can't be rebuilt"
        if found is not None:
            instead = f"until there are more, sets of up to {found.set_size} members can lose {found.m}"
        log.warning("%s can't have the level %s as configured: %s", there, level.name, instead)
    return found, sets


def _open(wanted: Sequence[Level], run_id: str, where: str, known: Sequence[Root]) -> dict[str, Place]:
    places = {}
    for level in wanted:
        if level.kind in _PLACES:
            root = level.root or memory_root()
            if level.kind == "local":
                PosixStore(root, create=True)
            places[level.kind] = _made(level.kind, root, run_id, where)
    for kind, root in known:
        if kind not in places:
            try:
                places[kind] = open_place(kind, root or memory_root(), run_id, create=False)
            except (KeyMissingError, DamageError, StorageError) as error:
                log.debug("no place in %s: %s", root or kind, error.message)
    return places


def _made(kind: str, root: str, run_id: str, where: str) -> Place:
    """The place, made if it is not there. What nobody comes back to is cleaned up before; of this run, what ended with an
    earlier boot."""
    for line in clean(stale_places(root)):
        log.info("%s", line)
    try:
        return open_place(kind, root, run_id, create=True, where=where)
    except StalePlaceError:
        raise
    except KeyMissingError as error:
        raise StorageError(f"{root} is not there. {error.message}", file=root) from error


def _warn(ladder: Ladder, where: str) -> None:
    """What can be meant but hardly is."""
    local = ladder.places.get("local")
    meant = any(level is not None and level.kind == "local" for level in (ladder.first, ladder.second))
    if local is None or not meant or ladder.group.rank != 0:
        return
    with suppress(StorageError):
        if same_file_system(local.root, where):
            text = "the local level %s is on the same file system as the run's own store %s: what takes one takes both"
            log.warning(text, local.root, where)


__all__ = ["ConfigError", "Ladder", "Root", "climb"]
