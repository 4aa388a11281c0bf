"""The members of a place's records, taken out strictly: these names, these types, these ranges, or it is damage.

Stricter than a run's records (`format.records`): what a place holds is read by the program that wrote it or by the one that
is started after it, and what is not exactly what was meant is better fetched from elsewhere.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Collection
from typing import Any

from ...errors import DamageError
from ...format.records import count

MAX_TEXT = 4096  # characters of a name, path or failure domain

_HEX = re.compile(r"[0-9a-f]{32}")


class Members:
    """The members of `value`, which must be a map with just the names given. `key` is the record's, for messages."""

    def __init__(self, value: Any, names: Collection[str], key: str, where: str = "") -> None:
        self.key = key
        self._where = where
        if not isinstance(value, dict) or set(value) != set(names):
            raise self.wrong(
                where or "the record", f"the members {', '.join(sorted(names))} belong there, and no others"
            )
        self._body: dict[str, Any] = value

    def wrong(self, name: str, what: str) -> DamageError:
        return DamageError(
            f"{self.key}: {name}: {what}. It is not used; another copy, or an older version, may be whole.",
            file=self.key,
        )

    def any(self, name: str) -> Any:
        return self._body[name]

    def number(self, name: str, *, least: int = 0) -> int:
        found = count(self._body, name, self.key, least=least)
        assert isinstance(found, int)
        return found

    def text(self, name: str) -> str:
        """A string of 1 to `MAX_TEXT` characters that can be written again."""
        value = self._body[name]
        if not is_text(value):
            raise self.wrong(f"{self._where}{name}", "a short text is missing")
        return str(value)

    def hex(self, name: str) -> str:
        """128 bits in 32 hexadecimal digits."""
        value = self._body[name]
        if not isinstance(value, str) or not _HEX.fullmatch(value):
            raise self.wrong(f"{self._where}{name}", "32 hexadecimal digits are missing")
        return value

    def binary(self, name: str) -> bytes:
        """Bytes in base64, written in the one way in which we write them."""
        value = self._body[name]
        try:
            found = a2b_base64(value) if isinstance(value, str) else None
        except (Base64Error, ValueError):
            found = None
        if found is None or base64(found) != value:
            raise self.wrong(f"{self._where}{name}", "bytes in base64 are missing")
        return found


def base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def is_hex(text: object) -> bool:
    """Whether it is 128 bits in hexadecimal digits: a run's id, a digest."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def is_text(value: object) -> bool:
    """Whether it is a string of 1 to `MAX_TEXT` characters that a record can hold."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as of a path that is no UTF-8
        return False
    return True
