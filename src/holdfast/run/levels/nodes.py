"""Which ranks share a node, what a node is called, and what fails together with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ...catalog import current
from ...catalog.places import Place
from ...errors import ConfigError
from ...group import Group, together

DOMAIN = "HOLDFAST_FAILURE_DOMAIN"
MEMORY = "HOLDFAST_NODE_MEMORY"  # a node's directory in memory, where it is not /dev/shm


class Nodes(NamedTuple):
    """By rank: the name of its node (`of`) and its failure domain (`domains`). Ranks share a node if they share its places."""

    of: tuple[str, ...]
    domains: tuple[str, ...]

    def leads(self, rank: int) -> bool:
        """Whether it is the first rank of its node."""
        return self.of.index(self.of[rank]) == rank

    def together_with(self, rank: int) -> int:
        """How many ranks its node has."""
        return self.of.count(self.of[rank])


def memory_root() -> str:
    """Where this node has files in memory."""
    return os.environ.get(MEMORY) or "/dev/shm"


def domain_of(chosen: Callable[[], str] | None) -> str:
    """This rank's failure domain (local): what `chosen` says, else the environment, else the host. ConfigError."""
    domain = chosen() if chosen is not None else os.environ.get(DOMAIN) or current().host
    if not isinstance(domain, str) or not domain:
        raise ConfigError(f"The failure domain {domain!r} is no name: `domain` returns what fails together with this node.")
    return domain


def words_of(places: Mapping[str, Place], domain: str) -> list[str]:
    """What this rank tells the others of its node (local): the host, its failure domain, its places."""
    return [current().host, domain, *(places[kind].identity.place for kind in sorted(places))]


def find_nodes(told: Sequence[Sequence[str]]) -> Nodes:
    """From what all ranks have told."""
    told = [tuple(words) for words in told]
    nodes = sorted({(words[0], *words[2:]) for words in told})
    hosts = [node[0] for node in nodes]
    names = {}
    for node in nodes:
        # Stand-ins for nodes may share a host name; what is theirs alone is their place.
        names[node] = node[0] if hosts.count(node[0]) == 1 else f"{node[0]}:{node[1][:8] if len(node) > 1 else ''}"
    if hosts != sorted(set(hosts)):  # a failure domain says more to people than a number does
        for node in nodes:
            its = {words[1] for words in told if (words[0], *words[2:]) == node}
            if len(its) == 1 and all(its.isdisjoint({w[1]}) for w in told if (w[0], *w[2:]) != node):
                names[node] = its.pop()
    return Nodes(tuple(names[(words[0], *words[2:])] for words in told), tuple(words[1] for words in told))


def fence_places(group: Group, places: Iterable[Place], leads: bool, attempt: int) -> None:
    """Say at the places of all nodes whose they are now (collective; `places`: of this node, which `leads` says it for).
    StorageError."""
    error: Exception | None = None
    try:
        fence_here(places, leads, attempt)
    except Exception as failed:
        error = failed
    together(group, "taking the places of nodes", error=error)


def fence_here(places: Iterable[Place], leads: bool, attempt: int) -> None:
    """Say at the places of this node whose they are now (local; by the rank that leads it). StorageError."""
    for place in places if leads else ():
        place.put_fence(attempt)
