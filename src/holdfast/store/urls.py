"""From what the user calls a run's place to a store."""

from __future__ import annotations

import os
import re

from holdfast.errors import ConfigError
from holdfast.store.posix import PosixStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(file):/", re.IGNORECASE)


def open_store(url: str | os.PathLike[str], create: bool, read_only: bool = False) -> PosixStore:
    """The store at `url`: a path, or `file:///percent%20encoded/path`. Local: each rank opens its own.

    A relative path counts from the current directory; `~` is not expanded. `create` makes the directory if it
    lacks. Raises `ConfigError` for another scheme or host, `KeyMissingError` if there is nothing and `create` is false.
    """
    return PosixStore(path_of(url), create=create, read_only=read_only)


def path_of(url: str | os.PathLike[str]) -> str:
    """The path that `url` means. Raises `ConfigError`."""
    text = os.fsdecode(url)
    scheme = _SCHEME.match(text) if isinstance(url, str) else None
    path = text
    if scheme:
        if (scheme[1] or scheme[2]).lower() != "file":
            raise ConfigError(f"{text}: stores of kind {scheme[1]}:// are not supported; use a path or file:///PATH")
        path = _path_of_file_url(text)
    if not path or "\0" in path:
        raise ConfigError(f"{text!r} names no directory: use a path or file:///PATH")
    return path


def _path_of_file_url(url: str) -> str:
    from urllib.parse import unquote_to_bytes  # here: not everyone's import should pay for it

    rest = url[len("file:") :]
    host = ""
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        rest = slash + rest
    if host.lower() not in ("", "localhost") or not rest:
        raise ConfigError(f"{url}: a file URL has no host but localhost, and an absolute path: file:///PATH")
    if "?" in rest or "#" in rest:
        raise ConfigError(f"{url}: a file URL has no query or fragment; write ? as %3F and # as %23 in a path")
    return os.fsdecode(unquote_to_bytes(rest))
