"""What rank 0 tells the supervisor that started the program, if there is one: lines of JSON in a file that this has named."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

from ..catalog import Commit


def report_begun(where: str, attempt: int) -> None:
    """The program has opened the run at `where` (local)."""
    _report({"url": where, "attempt": attempt, "at": time.time()})


def report_settled(where: str, attempt: int, commit: Commit | None, read: Sequence[tuple[str, int]] = ()) -> None:
    """From which version it goes on, None: from the beginning, and what was `read` for it, by where it was (local). Where nodes
    hold versions nobody else knows."""
    version, step, stored = (commit.version, commit.step, commit.created) if commit is not None else (None, None, None)
    told = {"version": version, "step": step, "stored": stored, "read": [list(each) for each in read]}
    _report({"url": where, "attempt": attempt, "settled": True, "at": time.time(), **told})


def report_ended(rank: int, why: str) -> None:
    """A rank was killed for what it did, or did not (local; by who has done so): its launcher knows of a signal alone."""
    _report({"ended": rank, "why": why})


def report_spare_lost(host: str) -> None:
    """A process that stood by is gone, and was not needed (local; by who has found it out): its launcher tells of it by a code
    that looks like a rank's death."""
    _report({"spare lost": host})


def _report(line: dict[str, object]) -> None:
    path = os.environ.get("HOLDFAST_REPORT")
    if not path:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        print(f"holdfast: the supervisor can't be told of the run: {error}", file=sys.stderr)
        return
    try:
        os.write(fd, (json.dumps(line) + "\n").encode())
    finally:
        os.close(fd)
