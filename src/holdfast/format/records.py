"""Record files: one JSON object, twice, each line with its digest (docs/format.md, section 3).

Twice, because a record is what everything else hangs on and costs nothing: a flipped bit or a
byte lost at any place leaves one line whole. JSON, so that a person can read it with `cat`.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ..errors import DamageError
from .blocks import digest_hex
from .keys import parse_version

FORMAT = 1
RECORD_LIMIT = 8 << 20  # bytes of a record file
_HEX = 32
_DIGEST = re.compile(r"[0-9a-f]{32}\Z")
_LATEST = 1 << 37  # seconds since 1970 that any calendar can show


class Link(NamedTuple):
    """A commit named for good: version directory's name and digest of its commit record."""

    name: str
    digest: str

    def plain(self) -> dict[str, str]:
        return {"name": self.name, "digest": self.digest}

    @staticmethod
    def parse(value: Any) -> Link | None:
        """The link in a record's member; None for null; DamageError for anything else."""
        if value is None:
            return None
        if isinstance(value, dict):
            name, digest = value.get("name"), value.get("digest")
            # The name becomes part of a key: nothing but a version's name is one.
            if isinstance(name, str) and isinstance(digest, str) and parse_version(name) and _DIGEST.match(digest):
                return Link(name, digest)
        raise DamageError(f"a record's link to a version is malformed: {str(value)[:80]!r}")


def encode_record(body: dict[str, Any]) -> tuple[bytes, str]:
    """(the file's bytes, the record's digest)."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    name = digest_hex(text)
    line = name.encode() + b" " + text + b"\n"
    return line + line, name


def decode_record(data: bytes, key: str) -> tuple[dict[str, Any], str, list[str]]:
    """(body, digest, complaints) of a record file; DamageError if neither line is whole.

    `complaints` tells of a line that was passed over although the other served.
    """
    lines = data.split(b"\n", 4)  # no more than can matter, however many there are
    # Should the first line's end itself be hit, the second begins where the digest stands again.
    again = data.find(data[:_HEX], _HEX)
    for line in [*lines[:4], *data[max(again, 0) :].split(b"\n", 1)[:1]]:
        whole = _line(line)
        if whole is not None:
            break
    else:
        raise DamageError(f"{key}: no line of this record is whole", file=key, offset=0)
    exact = len(lines) == 3 and not lines[2] and lines[0] == lines[1]
    complaints = [] if exact else [f"{key}: one of the record's two lines is damaged; the other was used"]
    return whole[0], whole[1], complaints


def _line(line: bytes) -> tuple[dict[str, Any], str] | None:
    name, text = line[:_HEX], line[_HEX + 1 :]
    if line[_HEX : _HEX + 1] != b" " or digest_hex(text).encode() != name:
        return None
    try:
        body = json.loads(text, parse_constant=_refuse)
        if b"\\ud" in text.lower():  # half of a surrogate pair can be read but never written again
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return (body, name.decode()) if isinstance(body, dict) else None


def field(body: dict[str, Any], name: str, kinds: type | tuple[type, ...], key: str) -> Any:
    """A member of a record, of one of the given types (None allowed if NoneType is named); else DamageError."""
    value = body.get(name)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise DamageError(f"{key}: member {name!r} is missing or malformed", file=key)
    return value


def count(body: dict[str, Any], name: str, key: str, *, least: int = 0, none: bool = False) -> Any:
    """An integer member that counts something: between `least` and 2**62; DamageError otherwise."""
    value = body.get(name)
    if value is None and none:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 62:
        raise DamageError(f"{key}: member {name!r} is missing or malformed", file=key)
    return value


def seconds(body: dict[str, Any], name: str, key: str) -> float:
    """A member that is a time or a duration in seconds, not negative; DamageError otherwise."""
    value = body.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < _LATEST:
        raise DamageError(f"{key}: member {name!r} is missing or malformed", file=key)
    return float(value)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
