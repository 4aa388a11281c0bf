"""Types that a stored name may stand for, and adapters.

A stored name is looked up here and never imported: whoever can write a checkpoint can't choose what runs.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from holdfast.errors import HoldfastError, UsageError
from holdfast.state.interface import qualified

T = TypeVar("T", bound=type)
ENTRY_POINTS: Final = "holdfast.adapters"
KINDS: Final = frozenset({"array", "tree", "rng", "state_dict", "state", "pickle"})


@dataclass(frozen=True)
class Adapter:
    """How one class is turned into a tree and back; see `register_adapter`."""

    cls: type
    name: str
    encode: Callable[[Any], Any]
    restore: Callable[[Any, Any], Any]


_names: dict[type, str] = {}
_types: dict[str, type] = {}
_adapters: dict[type, Adapter] = {}
_adapters_by_name: dict[str, Adapter] = {}
_entry_points_loaded = False


def type_name(cls: type) -> str:
    """The name under which a class is stored: the registered one, else `module:qualname`."""
    return _names.get(cls) or f"{cls.__module__}:{cls.__qualname__}"


def registered(name: str) -> type | None:
    """The class registered under a stored name."""
    return _types.get(name)


def register_type(cls: T, name: str | None = None) -> T:
    """Let stored values of a dataclass or enum be restored where no live object shows the class.

    Returns `cls`, so it can be used as a decorator. `name` is what is stored, by default
    `module:qualname`; give one to be free to move or rename the class. Registering the same class again
    under another name replaces the first. Local. Raises UsageError for another kind of class or a name already taken.
    """
    if not isinstance(cls, type) or not (dataclasses.is_dataclass(cls) or issubclass(cls, enum.Enum)):
        raise UsageError(
            f"register_type takes a dataclass or an enum, not {cls!r}. Nothing was registered; "
            "for other classes there is holdfast.register_adapter."
        )
    stored = _stored_name(cls, name)
    # A module that is reloaded defines its classes anew: the same module and name may take its own place.
    other = _types.get(stored)
    if other is not None and other is not cls and qualified(other) != qualified(cls):
        raise UsageError(f"The name {stored!r} is registered for {qualified(other)} already; choose another name.")
    old = _names.get(cls)
    if old is not None and _types.get(old) is cls:
        del _types[old]
    _names[cls] = stored
    _types[stored] = cls
    return cls


def register_adapter(
    cls: type,
    encode: Callable[[Any], Any],
    restore: Callable[[Any, Any], Any],
    name: str | None = None,
) -> None:
    """Teach the library a class.

    `encode(obj)` returns its state as any supported value (dict, arrays, numbers, …), without changing
    `obj`. `restore(live, value)` gets that value back and the program's own object, or None if there is none,
    and returns the restored object; a live object that is protected by itself must be filled and returned.
    The adapter serves exactly `cls`, not its subclasses. `name` is what is stored, by default `module:qualname`.
    Local. Raises UsageError for a name or class that is taken.
    """
    if not isinstance(cls, type) or not callable(encode) or not callable(restore):
        raise UsageError("register_adapter takes a class and two functions: encode(obj), restore(live, value).")
    if cls.__module__ in ("builtins",):
        raise UsageError(f"{cls.__qualname__} is a builtin type: adapters are for other classes.")
    stored = _stored_name(cls, name)
    if stored in KINDS:
        raise UsageError(f"{stored!r} is the name of a kind of the format; choose another name for the adapter.")
    other = _adapters_by_name.get(stored)
    if other is not None and qualified(other.cls) != qualified(cls):
        raise UsageError(f"The adapter name {stored!r} is taken by {qualified(other.cls)}; choose another name.")
    old = _adapters.get(cls)
    if old is not None:
        del _adapters_by_name[old.name]
    adapter = Adapter(cls, stored, encode, restore)
    _adapters[cls] = adapter
    _adapters_by_name[stored] = adapter


def _stored_name(cls: type, name: str | None) -> str:
    stored = f"{cls.__module__}:{cls.__qualname__}" if name is None else name
    if type(stored) is not str or not 1 <= len(stored) <= 255 or not stored.isprintable():
        raise UsageError(f"A stored name is a printable string of 1 to 255 characters, not {stored!r}.")
    return stored


def adapter_for(cls: type) -> Adapter | None:
    """The adapter registered so far for exactly this class."""
    return _adapters.get(cls)


def adapter_named(name: str) -> Adapter | None:
    """The adapter of a stored name; entry points are loaded if it is not known yet."""
    if name not in _adapters_by_name:
        load_entry_points()
    return _adapters_by_name.get(name)


def load_entry_points() -> None:
    """Call every entry point of the group "holdfast.adapters", once per process: functions without
    arguments that call `register_adapter`. Raises UsageError if one fails."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    from importlib.metadata import entry_points  # slow to import, and few programs need it

    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()()
        except HoldfastError:
            raise
        except Exception as e:
            raise UsageError(
                f"The entry point {point.name!r} ({point.value}) of the group {ENTRY_POINTS!r} failed: "
                f"{type(e).__name__}: {e}. Nothing was saved or restored; mend or remove the package that declares it."
            ) from e
    _entry_points_loaded = True
