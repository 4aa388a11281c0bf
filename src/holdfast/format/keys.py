"""Names of things on storage (docs/format.md, section 2)."""

from __future__ import annotations

import re
from typing import Literal

from ..errors import DamageError

Kind = Literal["checkpoint", "record"]

RUN_KEY = "holdfast.json"
MAX_NUMBER = 10**12 - 1  # of versions and attempts
AHEAD_FOLDER = "ahead"  # in a place: files made ahead of their versions
GROUP_RANKS = 64  # ranks whose index parts share a file

_VERSION = re.compile(r"([0-9]{8,12})-a([0-9]{6,12})")
_ATTEMPT = re.compile(r"([0-9]{6,12})\.(json|lease|base|end)")


def version_name(number: int, attempt: int) -> str:
    if not (number <= MAX_NUMBER and attempt <= MAX_NUMBER):  # such a name would be written and never found again
        raise DamageError(f"Version {number} of attempt {attempt}: numbers end at {MAX_NUMBER}; the run's are damaged.")
    return f"{number:08d}-a{attempt:06d}"


def parse_version(name: str) -> tuple[int, int] | None:
    """(number, attempt) of a version directory's name, None if it is none."""
    match = _VERSION.fullmatch(name)
    if match is None:
        return None
    number, attempt = int(match[1]), int(match[2])
    return (number, attempt) if name == version_name(number, attempt) and number and attempt else None


def attempt_key(number: int, suffix: str) -> str:
    return f"attempts/{number:06d}.{suffix}"


def parse_attempt(name: str) -> tuple[int, str] | None:
    """(number, suffix) of a name below `attempts/`, None if it is none."""
    match = _ATTEMPT.fullmatch(name)
    if match is None or not int(match[1]) or name != f"{int(match[1]):06d}.{match[2]}":
        return None  # 0000004.base is no second name of 000004.base
    return int(match[1]), match[2]


def folder(kind: Kind) -> str:
    """Where versions of this kind live: checkpoints and records are kept apart."""
    return "versions" if kind == "checkpoint" else "records"


def data_name(rank: int) -> str:
    return f"data/r{rank:06d}"


def group_name(group: int) -> str:
    return f"index/g{group:06d}"


ROOT_NAME = "index/root"
COMMIT_NAME = "commit"
