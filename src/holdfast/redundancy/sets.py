"""Who protects whom: ranks dealt into sets whose members are in different failure domains."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError


def deal(domains: Sequence[str], size: int | None, m: int, default: int = 8) -> list[tuple[int, ...]]:
    """The sets: each rank is in one, no two members of a set are in one failure domain, none has fewer than m + 1 members.

    `domains`: each rank's; `size`: members of a set at most, None for up to `default`; `m`: parities. Every process
    computes the same from the same. The ranks of a domain are dealt one after the other, like cards; as there are no fewer
    sets than any domain has ranks, no set gets two. Sizes differ by one at most. ConfigError where that can't be, saying
    why. Local.
    """
    of: dict[str, list[int]] = {}
    for rank, domain in enumerate(domains):
        of.setdefault(domain, []).append(rank)
    if len(of) < max(m + 1, 2):
        raise _too_few(of, size, m)
    if size is not None and size > len(of):
        raise ConfigError(
            f"A redundancy set of {size} members needs as many failure domains; there are {len(of)} ({_named(of)}). "
            f"Nothing was changed. Use set_size={len(of)} or less, run on more nodes, or say what fails together with "
            "HOLDFAST_FAILURE_DOMAIN."
        )
    most = min(size or default, len(of))
    fullest = max(of, key=lambda domain: len(of[domain]))
    count = max(len(of[fullest]), -(-len(domains) // most))
    if len(domains) // count < m + 1:
        raise ConfigError(
            f"{_parities(m)} need{'s' * (m == 1)} sets of at least {m + 1} members in different failure "
            f"domains. {fullest!r} has {len(of[fullest])} of the {len(domains)} ranks, too many for the {len(of)} domains "
            f"({_named(of)}). Nothing was changed. Place as many ranks on each node, use more nodes{_fewer(m)}."
        )
    sets: list[list[int]] = [[] for _ in range(count)]
    for i, rank in enumerate(rank for ranks in of.values() for rank in ranks):
        sets[i % count].append(rank)
    return [tuple(members) for members in sets]


def _too_few(of: dict[str, list[int]], size: int | None, m: int) -> ConfigError:
    """Fewer failure domains than a set has members at least."""
    more = "run on more nodes, or say what fails together with HOLDFAST_FAILURE_DOMAIN or the level's domain="
    if len(of) == 1:
        (name,) = of
        return ConfigError(
            f"All ranks are in one failure domain ({name}), and no redundancy is possible there: what takes one rank's data "
            f"takes all. Nothing was changed. Leave the redundancy level out, {more}."
        )
    most = len(of) - 1
    use = f"m={most}" + " or less" * (most > 1)
    if size is not None and size > len(of):
        use = f"set_size={len(of)} and {use}"
    return ConfigError(
        f"{m} parities need redundancy sets of at least {m + 1} members in as many failure domains; there are {len(of)} "
        f"({_named(of)}), which allow {_parities(most)} at most. Nothing was changed. Use {use}, {more}."
    )


def _parities(m: int) -> str:
    return f"{m} parit{'y' if m == 1 else 'ies'}"


def _fewer(m: int) -> str:
    return ", or fewer parities" if m > 1 else ", or leave the redundancy level out"


def _named(of: dict[str, list[int]]) -> str:
    return ", ".join(list(of)[:4]) + (", …" if len(of) > 4 else "")
