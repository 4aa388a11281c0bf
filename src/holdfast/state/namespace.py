"""`State`: a namespace whose attributes are state, free to be rebound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.errors import UsageError


class State:
    """Attributes that are saved and restored, of any supported kind, mutable or not (`s.u = f(s.u)` is fine).

    Names are identifiers that do not begin with "_". Iterating gives (name, value) pairs, so `dict(s)` is a
    plain dict of them; `name in s`, `len(s)` and `del s.name` work. Local: each rank has its own. Raises UsageError
    for a name that can't be used.
    """

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_values", {})
        for name, value in values.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name != "_values":  # which is unset only while a copy is being made
            try:
                return self._values[name]
            except KeyError:
                pass
        raise AttributeError(f"the state has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not valid(name):
            raise UsageError(
                f"{name!r} can't be an attribute of the state: names are identifiers that do not begin with '_'. "
                "Nothing was set; choose another name."
            )
        self._values[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self._values[name]
        except KeyError:
            raise AttributeError(f"the state has no attribute {name!r}") from None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._values.items())

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return list(self._values)

    def __repr__(self) -> str:
        return f"State({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"


def valid(name: object) -> bool:
    """Whether a name can be an attribute of the state."""
    return type(name) is str and name.isidentifier() and not name.startswith("_")
