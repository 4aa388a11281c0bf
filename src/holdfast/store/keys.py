"""What a key is: format.md section 1. Nothing else may become a path."""

from __future__ import annotations

import re

from holdfast.errors import StorageError

MAX_COMPONENT_BYTES = 255
TEMPORARY = ".tmp-"  # begins no component, so that a temporary file is never mistaken for a key

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_component(name: str) -> bool:
    """Whether `name` can stand between two slashes of a key."""
    return len(name) <= MAX_COMPONENT_BYTES and _COMPONENT.fullmatch(name) is not None


def check_key(key: str) -> str:
    """`key` itself if it is one.

    Raises `StorageError` otherwise: empty, absolute, with `..`, hidden, longer than 255 bytes a component.
    """
    if not isinstance(key, str) or not all(map(is_component, key.split("/"))):
        raise StorageError(
            f"{_shown(key)} is not a key: components between slashes must match {_COMPONENT.pattern} and have at most "
            f"{MAX_COMPONENT_BYTES} bytes. Nothing was read or changed; if "
            "the name comes from stored data, that is damaged.",
            file=_shown(key),
        )
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` itself if it is a key or empty (the root). Raises `StorageError` otherwise."""
    return prefix if prefix == "" else check_key(prefix)


def parent(key: str) -> str:
    """The prefix directly above `key`, empty for a key at the top."""
    return key.rpartition("/")[0]


def ancestors(key: str) -> list[str]:
    """The prefixes above `key`, the highest first, without the root: `a/b/c` -> `["a", "a/b"]`."""
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 80 else text[:77] + "..."
