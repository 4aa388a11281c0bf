"""What the library needs to know about classes: which are plain, which have `state_dict`."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

_HEAP_TYPE: Final = 1 << 9


def native_base(cls: type) -> type:
    """The nearest base that is written in C: `object` for a class whose whole state is its attributes."""
    for base in cls.__mro__:
        if not base.__flags__ & _HEAP_TYPE:
            return base
    return object


def has_state_dict(cls: type) -> bool:
    """Whether instances have `state_dict()` and `load_state_dict(state)`."""
    return callable(getattr(cls, "state_dict", None)) and callable(getattr(cls, "load_state_dict", None))


def is_dataclass(cls: type) -> bool:
    """Whether `cls` itself, not only a base, is a dataclass and its instances hold nothing but attributes."""
    return "__dataclass_fields__" in cls.__dict__ and native_base(cls) is object


def is_frozen(cls: type) -> bool:
    return bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def field_names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def extra_attributes(obj: Any) -> list[str]:
    """Attributes of a dataclass instance that are no fields, sorted: they would be lost."""
    return sorted(set(getattr(obj, "__dict__", ())) - set(field_names(type(obj))))
