"""Levels: where checkpoints are kept, and what protects them there. Small frozen values (their text: `leveltext`).

`memory` and `local` are *places*, a node's own; `partner`, `xor` and `rs` are redundancy over the first place of the list;
`global_` is the run's own store. What they come to on the ranks of a job is worked out when the run is opened, not here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from .errors import ConfigError
from .policy import Auto, Every, Keep
from .units import parse_bytes

# What redundancy/ can do (floor 2, so it can't be asked here; tests/levels compares).
MOST = 128  # members of a set, at most
LARGEST = 8  # members of a set for which no size is given, at most


# What users call them.
NAMES = ("memory", "local", "partner", "xor", "rs", "global")


class Level(NamedTuple):
    """One level, as `memory`, `local`, `partner`, `xor`, `rs` and `global_` make it.

    `kind`: "memory", "local", "rs" (redundancy of any sort) or "global"; `name`: what the user calls it, "memory", "local",
    "partner", "xor", "rs" or "global". `every`: which checkpoints come to it; None: all of them, and to global as many as
    its store takes; the first place has none, as it gets each. `keep`: which stay; None: the default. `root`: of a place, an
    absolute directory; None: memory's default. `set_size`, `m`: of a redundancy, members of a set (None: as many as there
    are failure domains, 8 at most) and parities. `limit`: of global, bytes per second that all ranks together write to it;
    None: no limit. `domain`: of a redundancy, called on each rank, gives its failure domain; None: the node's.
    """

    kind: str
    name: str
    every: Every | None = None
    keep: Keep | None = None
    root: str | None = None
    set_size: int | None = None
    m: int = 0
    limit: int | None = None
    domain: Callable[[], str] | None = None


Root = str | os.PathLike[str]


def memory(root: Root | None = None, *, every: Every | None = None, keep: Keep | None = None) -> Level:
    """Checkpoints in the node's memory: they outlive the process, not the node (local).

    `root`: a directory in memory, by its absolute path; None: /dev/shm. `every`: where memory is behind `local`, which
    checkpoints come to it: versions(n), steps(n), seconds(s), or several of them joined by |; None: every one. The first place
    of a list gets every checkpoint, as often as the loop's own `every=` says, and can't have it. ConfigError for what can't be.
    """
    return checked(Level("memory", "memory", every, keep, _path(root)))


def local(root: Root, *, every: Every | None = None, keep: Keep | None = None) -> Level:
    """Checkpoints in a directory on a disk of the node: they outlive its restart (local).

    `root`: the directory's absolute path, the same on all nodes; each node has a disk of its own behind it. `every`: where it
    is behind `memory`, and then as there; the first place of a list can't have it. ConfigError for what can't be.
    """
    return checked(Level("local", "local", every, keep, _path(root)))


def partner(*, every: Every | None = None, domain: Callable[[], str] | None = None) -> Level:
    """What a rank has at the first place is copied to a rank of another failure domain: one of the two may be lost (local).

    `domain`: called on each rank, gives the name of what fails together with it; None: HOLDFAST_FAILURE_DOMAIN, else the
    host's name. `every`: which checkpoints are protected: versions(n), steps(n), seconds(s), or several of them joined by |;
    None: every one. ConfigError for what can't be.
    """
    return checked(Level("rs", "partner", every, set_size=2, m=1, domain=domain))


def xor(set_size: int | None = None, *, every: Every | None = None, domain: Callable[[], str] | None = None) -> Level:
    """Sets of `set_size` ranks in different failure domains share a parity: any one of a set may be lost (local).

    `set_size`: 2 to 128; None: as many as there are failure domains, 8 at most. Each rank keeps 1 / (set_size - 1) of its
    data's size more. `every`, `domain`: as for `partner`. ConfigError for what can't be.
    """
    return checked(Level("rs", "xor", every, set_size=set_size, m=1, domain=domain))


def rs(
    set_size: int | None = 8, m: int = 2, *, every: Every | None = None, domain: Callable[[], str] | None = None
) -> Level:
    """Sets of `set_size` ranks in different failure domains share `m` parities: any m of a set may be lost (local).

    1 <= m < set_size <= 128; None: as for `xor`. Each rank keeps m / (set_size - m) of its data's size more. `every`,
    `domain`: as for `partner`. ConfigError for what can't be.
    """
    return checked(Level("rs", "rs", every, set_size=set_size, m=m, domain=domain))


def global_(*, every: Every | None = None, keep: Keep | None = None, limit: float | str | None = None) -> Level:
    """The run's own store, to which checkpoints of the first place are copied in the background (local).

    `limit`: bytes per second that all ranks together write, a number or "500MB/s". `every`: as for `partner`; None or
    auto(): as often as the store takes. `keep`: None: the option `keep` of the run. ConfigError for what can't be.
    """
    return checked(Level("global", "global", every, keep, limit=_rate(limit)))


# -- what can't be ------------------------------------------------------------------------------


def checked(level: Level) -> Level:
    """The level itself; ConfigError if it is one that can't be (local). What the user has made
    by hand, or with `_replace`, comes here, too."""
    name = level.name
    if name not in NAMES or level.kind != ("rs" if name in ("partner", "xor", "rs") else name):
        raise ConfigError(f"There is no level {level!r:.200}. Use holdfast.memory(), local, partner, xor, rs or global_().")
    if level.every is not None:
        _check_every(name, level.every)
    if level.keep is not None and not isinstance(level.keep, Keep):
        raise ConfigError(f"The level {name!r} can't have keep={level.keep!r:.80}: holdfast.Keep(last=2) is needed.")
    if level.kind in ("memory", "local"):
        _check_place(level)
    elif level.kind == "rs":
        _check_set(level)
    elif level.limit is not None and not (_is_whole(level.limit) and level.limit > 0):
        raise _no_rate(level.limit)
    return level


def _check_place(level: Level) -> None:
    root = level.root
    if level.name == "local" and not root:
        raise ConfigError(
            "The level 'local' needs a directory on a disk of the node: holdfast.local('/scratch'), local:root=/scratch, or "
            'root = "/scratch" in the file.'
        )
    # Not made absolute: ranks may have other working directories, and would not find each other's files after a restart.
    if root is not None and (not isinstance(root, str) or not os.path.isabs(root) or "\0" in root):
        raise ConfigError(
            f"The level {level.name!r} can't have root={root!r:.80}: an absolute path is needed, which begins with /. It must "
            "be the same for all ranks and after a restart, whatever directory they work in."
        )
    if level.keep is not None and level.keep.records is not None:
        raise ConfigError(f"The level {level.name!r} holds no records: holdfast.Keep(last=...) alone can be given there.")


def _check_set(level: Level) -> None:
    name, n, m = level.name, level.set_size, level.m
    if n is not None and not (_is_whole(n) and 2 <= n <= MOST):
        raise ConfigError(
            f"The level {name!r} can't have set_size={n!r:.80}: members of a redundancy set are needed, from 2 to {MOST}, or "
            "none for as many as there are failure domains."
        )
    if not (_is_whole(m) and m >= 1):
        raise ConfigError(f"The level {name!r} can't have m={m!r:.80}: a number of parities, at least 1, is needed.")
    if m >= (LARGEST if n is None else n):
        members = f"set_size={n}" if n is not None else f"sets of up to {LARGEST} members (no set_size is given)"
        raise ConfigError(
            f"The level {name!r} can't have m={m} with {members}: a set of n members can lose fewer than n, so m must be "
            f"smaller. Use m={(n or LARGEST) - 1} or less, or larger sets."
        )
    if (name == "partner" and (n, m) != (2, 1)) or (name == "xor" and m != 1):
        raise ConfigError(f"The level {name!r} can't have set_size={n}, m={m}: use holdfast.rs({n}, {m}).")
    if level.domain is not None and not callable(level.domain):
        raise ConfigError(
            f"The level {name!r} can't have domain={level.domain!r:.80}: a function that gives a rank's failure domain is "
            "needed. Elsewhere than in the program, set HOLDFAST_FAILURE_DOMAIN on each node."
        )


def _check_every(name: str, every: object) -> None:
    allowed = "holdfast.versions(10), holdfast.steps(100), holdfast.seconds(60) or holdfast.auto()"
    if not isinstance(every, Every):
        text = " Text such as '10 versions' is for holdfast.toml and the environment." if isinstance(every, str) else ""
        raise ConfigError(f"The level {name!r} can't have every={every!r:.80}: {allowed} is needed.{text}")
    timed = (every.versions, every.steps, every.seconds) != (None, None, None)
    if every.overhead is not None or (every.auto is not None and (timed or every.auto != Auto())):
        # What checkpoints cost the program is measured in its loop; a level works beside it.
        raise ConfigError(
            f"The level {name!r} can't have {every!r}: {allowed} is needed, where auto() has no arguments and stands alone. "
            "overhead(...) and auto(mtbf=...) are for a loop: run.steps(every=...)."
        )
    if every.auto is None and not timed:
        raise ConfigError(f"The level {name!r} can't have {every!r}, which is never: {allowed} is needed.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _path(root: Any) -> Any:
    """A path object as text; the rest is as it is, for `_checked` to refuse."""
    return os.fspath(root) if isinstance(root, os.PathLike) else root


def _no_rate(limit: object) -> ConfigError:
    return ConfigError(
        f"The level 'global' can't have limit={limit!r:.80}: bytes per second are needed, such as 500_000_000, '500MB/s' or "
        "'1 GiB/s'; none for no limit."
    )


def _rate(limit: object) -> int | None:
    if limit is None:
        return None
    try:
        if not isinstance(limit, (str, int, float)) or isinstance(limit, bool):
            raise ValueError
        return parse_bytes(limit.strip().removesuffix("/s") if isinstance(limit, str) else limit)
    except ValueError:
        raise _no_rate(limit) from None
