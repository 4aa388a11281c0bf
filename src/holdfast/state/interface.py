"""The words that the other files of this folder share: `MISSING`, `Encoded`, `Source`, and how a place
inside an object is written in a message."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

MAX_DEPTH: Final = 200
"""How deep containers may nest (format.md, section 6)."""


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final[Any] = _Missing()
"""No object is there. Not None, which is a value that can be protected inside a tree."""


@dataclass(frozen=True)
class Encoded:
    """An object as a structure and the bytes that it refers to.

    `kind`: "array", "tree", "rng", "state_dict", "state", "pickle" or an adapter's name. `tree`: MessagePack
    (format.md, section 6). `buffers`: one-dimensional, C-contiguous uint8 arrays; they are views of the object's
    own memory where that is contiguous, so they change when the program changes the object, and they refer to it.
    """

    kind: str
    tree: bytes
    buffers: list[np.ndarray]


class Source(Protocol):
    """Where `decode` gets the buffers' bytes from. `lengths` are the buffers' sizes in bytes."""

    @property
    def lengths(self) -> Sequence[int]: ...

    def read(self, i: int, out: np.ndarray, /) -> None:
        """Fill the one-dimensional uint8 array `out` with all of buffer `i`, verified. Raises DamageError."""


class Attribute(str):
    """A step of a path that is an attribute's name, not a key."""


class Note(str):
    """A step of a path that is neither key nor attribute, written as it stands."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40


def show(value: object) -> str:
    """A short `repr` of a key for messages."""
    return _short.repr(value)


def place(name: str, path: Iterable[object]) -> str:
    """`config['opt'][2].rate`: where in the object `name` a value stands."""
    text = name or "the object"
    for step in path:
        if isinstance(step, Attribute):
            text += f".{step}"
        elif isinstance(step, Note):
            text += str(step)
        else:
            text += f"[{show(step)}]"
    return text


def qualified(cls: type) -> str:
    """The name of a class as messages show it: `numpy.ma.MaskedArray`, but `int` for a builtin."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
