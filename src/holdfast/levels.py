"""Levels: where checkpoints are kept, and what protects them there. Small frozen values, and how text becomes them.

`memory` and `local` are *places*, a node's own; `partner`, `xor` and `rs` are redundancy over the first place of the list;
`global_` is the run's own store. What they come to on the ranks of a job is worked out when the run is opened, not here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .config import check_names, parse_keep
from .errors import ConfigError
from .policy import Auto, Every, Keep, seconds, steps, versions
from .policy import auto as auto_every
from .units import parse_bytes

# What redundancy/ can do (floor 2, so it can't be asked here; tests/levels compares).
MOST = 128  # members of a set, at most
LARGEST = 8  # members of a set for which no size is given, at most


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
    return _checked(Level("memory", "memory", every, keep, _path(root)))


def local(root: Root, *, every: Every | None = None, keep: Keep | None = None) -> Level:
    """Checkpoints in a directory on a disk of the node: they outlive its restart (local).

    `root`: the directory's absolute path, the same on all nodes; each node has a disk of its own behind it. `every`: where it
    is behind `memory`, and then as there; the first place of a list can't have it. ConfigError for what can't be.
    """
    return _checked(Level("local", "local", every, keep, _path(root)))


def partner(*, every: Every | None = None, domain: Callable[[], str] | None = None) -> Level:
    """What a rank has at the first place is copied to a rank of another failure domain: one of the two may be lost (local).

    `domain`: called on each rank, gives the name of what fails together with it; None: HOLDFAST_FAILURE_DOMAIN, else the
    host's name. `every`: which checkpoints are protected: versions(n), steps(n), seconds(s), or several of them joined by |;
    None: every one. ConfigError for what can't be.
    """
    return _checked(Level("rs", "partner", every, set_size=2, m=1, domain=domain))


def xor(set_size: int | None = None, *, every: Every | None = None, domain: Callable[[], str] | None = None) -> Level:
    """Sets of `set_size` ranks in different failure domains share a parity: any one of a set may be lost (local).

    `set_size`: 2 to 128; None: as many as there are failure domains, 8 at most. Each rank keeps 1 / (set_size - 1) of its
    data's size more. `every`, `domain`: as for `partner`. ConfigError for what can't be.
    """
    return _checked(Level("rs", "xor", every, set_size=set_size, m=1, domain=domain))


def rs(
    set_size: int | None = 8, m: int = 2, *, every: Every | None = None, domain: Callable[[], str] | None = None
) -> Level:
    """Sets of `set_size` ranks in different failure domains share `m` parities: any m of a set may be lost (local).

    1 <= m < set_size <= 128; None: as for `xor`. Each rank keeps m / (set_size - m) of its data's size more. `every`,
    `domain`: as for `partner`. ConfigError for what can't be.
    """
    return _checked(Level("rs", "rs", every, set_size=set_size, m=m, domain=domain))


def global_(*, every: Every | None = None, keep: Keep | None = None, limit: float | str | None = None) -> Level:
    """The run's own store, to which checkpoints of the first place are copied in the background (local).

    `limit`: bytes per second that all ranks together write, a number or "500MB/s". `every`: as for `partner`; None or
    auto(): as often as the store takes. `keep`: None: the option `keep` of the run. ConfigError for what can't be.
    """
    return _checked(Level("global", "global", every, keep, limit=_rate(limit)))


_MAKERS: dict[str, Callable[..., Level]] = {
    "memory": memory, "local": local, "partner": partner, "xor": xor, "rs": rs, "global": global_,
}  # fmt: skip
_SETTINGS: dict[str, tuple[str, ...]] = {
    "memory": ("root", "every", "keep"),
    "local": ("root", "every", "keep"),
    "partner": ("every", "domain"),
    "xor": ("set_size", "every", "domain"),
    "rs": ("set_size", "m", "every", "domain"),
    "global": ("every", "keep", "limit"),
}


def parse_levels(value: object) -> tuple[Level, ...]:
    """The levels that the option `levels` asks for, checked and in order: places as given, redundancy, global (local).

    `value`: a list of levels, or one. Each is a Level, a mapping ({"kind": "xor", "set_size": 4, "every": "10 steps"}: a
    table of the file), or text, a name and its settings ("xor:set_size=4:every=10 steps"). A text may also be
    the whole list, separated by commas ("memory,xor,global"). Redundancy without a place is over memory. The first
    place can't have `every`. ConfigError says what is wrong and what is allowed.
    """
    if isinstance(value, str):
        items: list[object] = [*value.split(",")] if value.strip() else []
    elif isinstance(value, (Level, Mapping)) or callable(value):  # a Level is a tuple, too
        items = [value]
    elif isinstance(value, (list, tuple)):
        items = [*value]
    else:
        raise ConfigError(
            f"levels={value!r:.80}: a list of levels is needed, such as [holdfast.memory(), holdfast.global_()], or names, "
            "such as 'memory,xor,global'."
        )
    levels = [_one(item) for item in items]
    if not levels:
        raise ConfigError(
            "The list of levels is empty. Name at least one of "
            f"{', '.join(_MAKERS)}; ['global'] keeps checkpoints in the run's store alone."
        )
    kinds: dict[str, str] = {}
    for level in levels:
        if level.kind in kinds:
            raise ConfigError(_twice(kinds[level.kind], level.name))
        kinds[level.kind] = level.name
    if "rs" in kinds and "memory" not in kinds and "local" not in kinds:
        levels.insert(0, memory())
    ordered = tuple(sorted(levels, key=lambda level: {"rs": 1, "global": 2}.get(level.kind, 0)))
    first = ordered[0]
    if first.kind in ("memory", "local") and first.every is not None:
        raise ConfigError(
            f"The level {first.name!r} can't have every=...: it is the first place, which gets every checkpoint. How often "
            "there is one is said at the loop, run.steps(n, every=...); the every= of a level is for those behind the first "
            "place. Leave it out here."
        )
    return ordered


def describe(levels: Iterable[Level]) -> list[str]:
    """The levels' names, in order (local)."""
    return [level.name for level in levels]


# -- one level ------------------------------------------------------------------------------------


def _one(item: object) -> Level:
    """The level that an item of the list says."""
    if isinstance(item, Level):
        return _checked(item)
    if isinstance(item, str):
        item = _split(item)
    if isinstance(item, Mapping):
        return _made(item)
    name = getattr(item, "__name__", "")
    if callable(item) and item in _MAKERS.values():
        raise ConfigError(f"levels: holdfast.{name} is a function: write holdfast.{name}({'root' if item is local else ''}).")
    raise ConfigError(
        f"levels: {item!r:.80} is no level. A name ({', '.join(_MAKERS)}), a table with kind = \"...\", or what "
        "holdfast.memory() and its like give is needed."
    )


def _split(text: str) -> dict[str, object]:
    """'xor:set_size=4' as a mapping. A root with a colon or comma in it can't be written so; the file can have it."""
    name, *settings = (part.strip() for part in text.split(":"))
    if not name:
        raise ConfigError(f"levels: a name is missing, {text!r} has none. Allowed: {', '.join(_MAKERS)}.")
    found: dict[str, object] = {"kind": name}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key or not value or key in found:
            raise ConfigError(
                f"The level {text.strip()!r}: {setting!r} can't be understood here. Write each setting once, as "
                "name:setting=value:setting=value, such as rs:set_size=8:m=2; what has colons or commas in it can stand in "
                "holdfast.toml."
            )
        found[key] = value
    return found


def _made(table: Mapping[Any, Any]) -> Level:
    """The level that a mapping says; its values may be text."""
    given = {str(key): value for key, value in table.items()}
    name = given.pop("kind", None)
    if not isinstance(name, str):
        what = "lacks its kind" if name is None else f"has {name!r:.80} for its kind"
        raise ConfigError(f"levels: {dict(table)!r:.80} {what}: kind = one of {', '.join(_MAKERS)} is needed.")
    check_names([name], _MAKERS, "level named")
    check_names(given, _SETTINGS[name], f"setting of the level {name!r} named")
    if name == "local":
        given.setdefault("root", None)
    read = {"every": _every, "keep": _keep, "set_size": _size, "m": _whole}
    return _MAKERS[name](**{key: read[key](name, value) if key in read else value for key, value in given.items()})


def _checked(level: Level) -> Level:
    """The level itself. Also what the user has made by hand, or with `_replace`, comes here."""
    name = level.name
    if name not in _MAKERS or level.kind != ("rs" if name in ("partner", "xor", "rs") else name):
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


def _twice(first: str, second: str) -> str:
    if first == second:
        return f"The level {first!r} is given twice. A run has one of each: leave one out."
    return f"The levels {first!r} and {second!r} are both redundancy. A run has one: partner, xor or rs."


# -- values ---------------------------------------------------------------------------------------


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


def _whole(name: str, value: Any) -> Any:
    """An integer from text; what is none stays, for `_checked` to refuse."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _size(name: str, value: Any) -> Any:
    return None if value == "auto" else _whole(name, value)


def _keep(name: str, value: Any) -> Any:
    try:
        return parse_keep(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"The level {name!r} can't have keep={value!r:.80}: {error}.") from None


# Words for units, each with how many of the first of its kind it is.
_UNITS = {
    "version": ("versions", 1), "versions": ("versions", 1), "step": ("steps", 1), "steps": ("steps", 1),
    "s": ("seconds", 1), "second": ("seconds", 1), "seconds": ("seconds", 1),
    "min": ("seconds", 60), "minute": ("seconds", 60), "minutes": ("seconds", 60),
    "h": ("seconds", 3600), "hour": ("seconds", 3600), "hours": ("seconds", 3600),
}  # fmt: skip


def _every(name: str, value: Any) -> Any:
    """An Every from text: "10 versions", "100 steps", "60 seconds" (or min, h), several of these joined by "|", or "auto"."""
    if not isinstance(value, str):
        return value
    makers: dict[str, Callable[[str, int], Every]] = {
        "versions": lambda n, _: versions(int(n)),
        "steps": lambda n, _: steps(int(n)),
        "seconds": lambda s, each: seconds(float(s) * each),
    }
    found: Every | None = None
    for text in value.split("|"):
        number, _, unit = text.strip().partition(" ")
        try:
            if text.strip() == "auto":
                part = auto_every()
            else:
                kind, each = _UNITS[unit.strip()]
                part = makers[kind](number, each)
        except (ValueError, KeyError, OverflowError, ConfigError):
            raise ConfigError(
                f"The level {name!r} can't have every={value!r:.80}: '10 versions', '100 steps', '60 seconds', '10 min', '2 h' "
                "or 'auto' is needed, positive numbers all."
            ) from None
        found = part if found is None else found | part
    return found
