"""An error that all ranks raise alike and nobody catches: Python would print one traceback for each rank.

Rank 0's is printed, and one line for each other rank. No error is hidden: a rank leaves its own traceback out only if those of
all ranks say the same, and only once rank 0 has said that its own is printed. A program that catches the error, has a hook of
its own, or whose ranks do not all come here, sees what Python does.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from ..errors import HoldfastError
from ..group import make_group

if TYPE_CHECKING:
    from types import TracebackType

    from ..group import Group

_SECONDS = 5.0  # for all ranks to come to the same point; who waits for longer prints its own
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MARK = "_holdfast_speaker"  # attribute of the error: the group whose ranks all raise one, and whether this rank prints its own


def tell_once(error: BaseException, group: Group) -> None:
    """If all ranks of `group` raise `error` alike, from the same places of the program, its traceback is printed by rank 0
    alone when it ends them (collective over ranks that are known to raise; never raises)."""
    if group.size == 1 or not isinstance(error, Exception):
        return
    import xxhash

    digest = xxhash.xxh3_64_intdigest(repr(_places(error)).encode(errors="replace")) >> 1
    try:
        least = _most(group, -digest)
        if least is not None and -least == _most(group, digest):
            leave_to_others(error, group, group.rank == 0)
    except (HoldfastError, AttributeError):  # each prints its own
        return


def told_at_start(error: BaseException, comm: object) -> None:
    """`tell_once` where an error of the library's has kept it from opening the run (collective as that is; never raises)."""
    if not isinstance(error, HoldfastError) or hasattr(error, _MARK):
        return
    try:
        group = make_group(comm, _SECONDS)
        if group.size > 1 and _most(group, -1) == -1:
            tell_once(error, group)
    except HoldfastError:
        return


def leave_to_others(error: BaseException, group: Group, speaks: bool) -> None:
    """All ranks of `group` raise an error; those that do not `speak` print theirs as one line, once the others have printed
    (local; alike on all ranks, one of which speaks at least)."""
    if sys.excepthook in (sys.__excepthook__, _print):
        setattr(error, _MARK, (group, speaks))
        sys.excepthook = _print


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's hook for what nobody has caught."""
    marked: tuple[Group, bool] | None = getattr(error, _MARK, None)
    if marked is None:
        sys.__excepthook__(kind, error, trace)
        return
    group, speaks = marked
    if speaks:
        sys.__excepthook__(kind, error, trace)
        sys.stderr.flush()
    printed = _all_here(group)  # who speaks comes here after that
    if not speaks:
        if not printed:
            sys.__excepthook__(kind, error, trace)
            return
        said = " ".join("".join(traceback.format_exception_only(kind, error)).split())
        print(f"holdfast: rank {group.rank}: {said}", file=sys.stderr, flush=True)
    if printed:
        _all_here(group)  # a launcher ends those who have not printed yet when the first one leaves


def _all_here(group: Group) -> bool:
    """Whether all ranks have come to this point."""
    try:
        return _most(group, 0) is not None
    except HoldfastError:
        return False


def _most(group: Group, value: int) -> int | None:
    """The greatest of all ranks' values; None if they do not all come."""
    answer = group.begin_max(value, 0)
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if (found := answer.test()) is not None:
            return found[0]
        time.sleep(0.002)
    return None


def _places(error: BaseException | None) -> list[Any]:
    """What was raised where, with all that led to it. Of our own code alone what called it: ranks have different parts in
    an agreement."""
    chain: list[Any] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen and len(chain) < 20:
        seen.add(id(error))
        frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
        chain.append((type(error).__qualname__, [at for at in frames if not at[0].startswith(_OURS)]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


__all__ = ["leave_to_others", "tell_once", "told_at_start"]
