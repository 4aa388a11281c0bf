"""Levels as text: in the environment, in holdfast.toml, in an option; and the checks of a whole list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .config import check_names, parse_keep
from .errors import ConfigError
from .levels import Level, checked, global_, local, memory, partner, rs, xor
from .policy import Every, seconds, steps, versions
from .policy import auto as auto_every

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


def _twice(first: str, second: str) -> str:
    if first == second:
        return f"The level {first!r} is given twice. A run has one of each: leave one out."
    return f"The levels {first!r} and {second!r} are both redundancy. A run has one: partner, xor or rs."


# -- one level ------------------------------------------------------------------------------------


def _one(item: object) -> Level:
    """The level that an item of the list says."""
    if isinstance(item, Level):
        return checked(item)
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


# -- values ---------------------------------------------------------------------------------------


def _whole(name: str, value: Any) -> Any:
    """An integer from text; what is none stays, for `checked` to refuse."""
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
