"""What all decoding needs: refusing with the place, and finding live counterparts and types."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from holdfast.errors import HoldfastError, MismatchError
from holdfast.state import arrays, objects, packing, registry
from holdfast.state.interface import MAX_DEPTH, MISSING, Note, Source, place, show

OPEN: Final = Note("open")


class Decoding:
    """The state of one object's decoding. `restoring`: there is a live root, so objects that need one must
    find theirs."""

    def __init__(self, source: Source, name: str = "", restoring: bool = False) -> None:
        self.name = name
        self._source = source
        self._restoring = restoring
        self._path: list[object] = []
        self._met: list[Any] = []
        self._used: set[int] = set()  # ids of live objects that have their stored counterpart
        self._buffers: set[int] = set()
        self._claims = arrays.Claims()
        self._types: dict[str, type] = {}  # of live keys and members, which have no counterpart of their own
        self._actions: list[Callable[[], object]] = []

    # -- refusing ---------------------------------------------------------------------------

    def damage(self, why: str) -> NoReturn:
        raise packing.damaged(self.name, f"{why}, at {place(self.name, self._path)}")

    def mismatch(self, why: str) -> NoReturn:
        raise MismatchError(
            f"{place(self.name, self._path)}: {why}. Nothing stored was changed.", object=self.name or None
        )

    def _checked(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except (ValueError, OverflowError) as e:
            self.damage(str(e))

    def _body(self, node: list[Any], kinds: tuple[type, ...]) -> Any:
        if len(node) != len(kinds) + 1 or any(
            k is not object and type(v) is not k for v, k in zip(node[1:], kinds, strict=True)
        ):
            self.damage(f"a node {show(node[0])} is malformed")
        if len(self._path) >= MAX_DEPTH:
            self.damage(f"it is nested more than {MAX_DEPTH} deep")
        return node[1] if len(kinds) == 1 else node[1:]

    def _buffer(self, number: int, nbytes: int) -> None:
        """An array takes buffer `number` for its `nbytes` bytes: it is there, and no other has it."""
        lengths = self._source.lengths
        if number >= len(lengths) or number in self._buffers:
            self.damage("an array's buffer is not there or has been used")
        if lengths[number] != nbytes:
            self.damage(f"an array needs {nbytes} bytes, its buffer has {lengths[number]}")
        self._buffers.add(number)

    # -- live counterparts ------------------------------------------------------------------

    def _meet(self) -> int:
        self._met.append(OPEN)
        return len(self._met) - 1

    def _claim(self, live: Any, cls: type) -> bool:
        """Whether `live` is of exactly this class and serves no other stored object yet."""
        if type(live) is not cls or id(live) in self._used:
            return False
        self._used.add(id(live))
        return True

    def _learn(self, members: Iterable[object]) -> None:
        for member in members:
            cls = type(member)
            if isinstance(member, enum.Enum) or objects.is_dataclass(cls):
                self._types[registry.type_name(cls)] = cls

    def _type(self, name: str, live: Any) -> type:
        if live is not MISSING and registry.type_name(type(live)) == name:
            return type(live)
        cls = registry.registered(name) or self._types.get(name)
        if cls is None:
            self.mismatch(
                f"stored: a value of the type {show(name)}; the program has no such object here and has not "
                "registered the type. Register it with holdfast.register_type"
            )
        return cls

    def _foreign(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        where = place(self.name, self._path)
        try:
            return function(*args)
        except HoldfastError:
            raise
        except Exception as e:
            raise MismatchError(
                f"{where}: {what} refused the stored state ({type(e).__name__}: {e}). Nothing stored was changed; "
                "the program's object may be half restored.",
                object=self.name or None,
            ) from e
