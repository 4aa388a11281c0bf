"""Agreement: all ranks go on with the same answer, or all raise the same error.

Ranks report up a tree (64 to one, again 64 of those to one), rank 0 decides, and its verdict goes down the same
tree. A rank that failed still reports, and a rank whose report did not get through still takes the verdict: nobody
decides alone. What no protocol can give: a rank that hears nothing by its deadline raises `DeadlineError` although
others may have agreed; the next agreement tells them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import msgpack

from ..errors import (
    Cause,
    DamageError,
    FencedError,
    HoldfastError,
    MismatchError,
    RankError,
    RunInUseError,
    StorageError,
    UsageError,
)
from .base import Group

FAN = 64

# Which error speaks for all when ranks met different ones: what ends the attempt before what can be mended.
ORDER = (FencedError, RunInUseError, UsageError, MismatchError, DamageError, StorageError, HoldfastError)

# A rank's report: [rank, its error as a dict or None, its data packed or None].
Report = list[Any]


def together(group: Group, what: str, data: object = None, error: BaseException | None = None) -> list[object]:
    """Exchange every rank's data, or raise the same error on every rank (collective over all ranks).

    `data`: a msgpack value (None, bool, int, float, str, bytes, lists, dicts); `error`: the exception that this rank
    met instead. Returns all ranks' data in the order of ranks, equal everywhere (tuples have become lists).

    If any rank has an error, all raise one of the same class, text and places: that of the first rank whose error is
    most urgent (`ORDER`); `RankError` if that is no `HoldfastError`. Its `causes` has every failing rank. A rank's own
    error is raised itself if it is the one, else it is the `__cause__`. DeadlineError names ranks that stayed away.
    """
    report, error = _report(group, what, data, error)
    reports = _up(group, what, report)
    verdict = _decide(reports, group.size) if reports is not None else None
    heard = _down(group, what, verdict, patience=len(_strides(group.size)) + 1)
    error_record, values = _unpack(heard)
    if error_record is not None:
        _raise(error_record, what, group.size, error)
    return [_unpack(v) for v in values]


def at_root(
    group: Group, what: str, data: object, fn: Callable[[list[Any]], object], error: BaseException | None = None
) -> Any:
    """Run `fn` on rank 0 with all ranks' data, and return its result on all ranks; or raise the same error on all of them, any
    rank's as in `together`, or that of `fn` (collective).

    Data, in the order of ranks, and result are msgpack values. For what is too much to be sent to everyone.
    """
    report, error = _report(group, what, data, error)
    reports = _up(group, what, report)
    verdict: bytes | None = None
    if reports is not None:
        if any(r[1] is not None for r in reports):
            verdict = _decide(reports, group.size)
        else:
            packed = [r[2] for r in sorted(reports, key=lambda r: r[0])]
            verdict, error = _result(lambda: fn([_unpack(p) for p in packed]), what, group.size)
    heard = _down(group, what, verdict, patience=len(_strides(group.size)) + 1)
    error_record, values = _unpack(heard)
    if error_record is not None:
        _raise(error_record, what, group.size, error)
    return _unpack(values[0])


def from_root(group: Group, what: str, fn: Callable[[], object]) -> object:
    """Run `fn` on rank 0 and return its result on all ranks, or raise its error on all (collective).

    The result is a msgpack value, equal everywhere (tuples have become lists). The other ranks wait for it: `fn` must
    be done within the group's timeout. Errors as in `together`; rank 0 does not wait to learn whether all have it.
    """
    verdict, error = _result(fn, what, group.size) if group.rank == 0 else (None, None)
    error_record, values = _unpack(_down(group, what, verdict, patience=1))
    if error_record is not None:
        _raise(error_record, what, group.size, error)
    return _unpack(values[0])


# -- the tree -------------------------------------------------------------------------------


def _strides(size: int) -> list[int]:
    """Distance between neighbours on each level of the tree, leaves first: [1, 64, 4096] for 100 000 ranks."""
    strides = [1]  # for one rank too: its group may be closed
    while strides[-1] * FAN < size:
        strides.append(strides[-1] * FAN)
    return strides


def _cohort(rank: int, size: int, stride: int) -> range | None:
    """Those with whom the rank talks on this level (the first of them leads), or None if it is not on it."""
    if rank % stride:
        return None
    first = rank - rank % (stride * FAN)
    return range(first, min(first + stride * FAN, size), stride)


def _up(group: Group, what: str, report: Report) -> list[Report] | None:
    """All ranks' reports at rank 0, with the errors met on the way among them; None elsewhere."""
    reports = [report]
    for level, stride in enumerate(_strides(group.size)):
        cohort = _cohort(group.rank, group.size, stride)
        if cohort is None:
            break
        try:
            # Each level waits longer by one timeout: the level below may have needed all of its own.
            parts = group.gather(_pack(reports), cohort, what, patience=level + 1)
            found = None if parts is None else [r for part in parts for r in _unpack(part)]
        except HoldfastError as e:
            # A leader passes on what it met, instead of what it did not get. A rank that could not hand over its
            # reports goes on to take the verdict: the leader may have them nevertheless.
            reports.append([group.rank, _describe(e), None])
            if cohort[0] != group.rank:
                return None
            continue
        if found is None:
            return None
        reports = found
    return reports if group.rank == 0 else None


def _down(group: Group, what: str, verdict: bytes | None, patience: int) -> bytes:
    """Rank 0's verdict, on all ranks. A rank that does not hear it passes on that failure as the verdict."""
    for stride in reversed(_strides(group.size)):
        cohort = _cohort(group.rank, group.size, stride)
        if cohort is None:
            patience += 1
            continue
        leads = cohort[0] == group.rank
        try:
            heard = group.broadcast(verdict if leads else None, cohort, what, patience=patience)
            verdict = verdict if leads else heard
        except HoldfastError as e:
            # A leader keeps to the verdict though a member did not take it: the others have it. The member finds
            # out at its own deadline, and all at the next agreement.
            if not leads:
                verdict = _decide([[group.rank, _describe(e), None]], group.size)
        patience += 1
    assert verdict is not None
    return verdict


# -- the verdict ----------------------------------------------------------------------------


def _report(group: Group, what: str, data: object, error: BaseException | None) -> tuple[Report, BaseException | None]:
    """This rank's report, and the error that is in it."""
    packed = b""
    if error is None:
        try:
            packed = _pack_value(data, what, group.rank)
        except UsageError as e:
            error = e  # raised here, it would leave the other ranks waiting
    return [group.rank, _describe(error), packed], error


def _result(fn: Callable[[], object], what: str, size: int) -> tuple[bytes, BaseException | None]:
    """On rank 0: the verdict that `fn`'s result is, or its error."""
    try:
        return _pack([None, [_pack_value(fn(), what, 0)]]), None
    except Exception as e:
        return _decide([[0, _describe(e), None]], size), e


def _describe(error: BaseException | None) -> dict[str, Any] | None:
    """An error as a plain dict; causes that it already has travel with it."""
    if error is None:
        return None
    name = type(error).__name__
    if not isinstance(error, HoldfastError):
        return {"wire": None, "type": name, "message": str(error), "causes": []}
    # A place that is no plain value (a Path) must not keep the report from being sent.
    wire = {k: v if v is None or type(v) in (str, int) else str(v) for k, v in error.to_wire().items()}
    causes = [[c.rank, c.type, c.message] for c in error.causes]
    return {"wire": wire, "type": name, "message": error.message, "causes": causes}


def _decide(reports: list[Report], size: int) -> bytes:
    """The verdict as bytes: `[None, every rank's data]`, or `[the error for all, []]`."""
    failed = sorted((r for r in reports if r[1] is not None), key=lambda r: r[0])
    if not failed:
        return _pack([None, [r[2] for r in sorted(reports, key=lambda r: r[0])]])
    causes: dict[tuple[Any, ...], None] = {}
    for rank, error, _ in failed:
        # An error that ranks have agreed on before says who met it; who merely raised it does not matter.
        for cause in error["causes"] or [[rank, error["type"], error["message"]]]:
            causes.setdefault(tuple(cause))
    rank, error, _ = min(failed, key=lambda r: (_urgency(r[1]), r[0]))
    who = sorted({c[0] for c in causes})
    record = {"rank": rank, "wire": error["wire"], "causes": sorted(causes), "failed": who, "all": len(who) == size}
    return _pack([record, []])


def _urgency(error: dict[str, Any]) -> int:
    if error["wire"] is None:
        return len(ORDER)
    cls = type(HoldfastError.from_wire(error["wire"]))
    return next(i for i, kind in enumerate(ORDER) if issubclass(cls, kind))


def _raise(record: dict[str, Any], what: str, size: int, own: BaseException | None) -> NoReturn:
    causes = tuple(Cause(*c) for c in record["causes"])
    wire = record["wire"]
    if wire is None:
        failed = record["failed"]
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        whom = f"failed on rank {record['rank']}{others} of {size}" if size > 1 else "failed"
        raise RankError(
            f"{what}: {whom}. Committed versions are as they were; mend the cause given here, then go on.",
            rank=record["rank"],
            causes=causes,
        ) from own
    # Where only some ranks failed, the rank is part of the place.
    place = record["rank"] if wire["rank"] is None and not record["all"] else wire["rank"]
    if isinstance(own, HoldfastError) and own.to_wire() == wire:
        own.causes, own.rank = causes, place  # itself, for its traceback and what it was raised from
        raise own
    raise HoldfastError.from_wire({**wire, "rank": place}, causes) from own


def _pack_value(value: object, what: str, rank: int) -> bytes:
    try:
        return _pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise UsageError(
            f"{what}: what rank {rank} has to say can't be sent to other ranks: {e}. "
            "Nothing was done; use numbers of 64 bits, strings, bytes, lists and dicts of them.",
            rank=rank,
        ) from e


def _pack(value: object) -> bytes:
    # surrogatepass: names of files need not be valid Unicode, and stand in messages.
    packed: bytes = msgpack.packb(value, default=_plain, unicode_errors="surrogatepass")
    return packed


def _plain(value: object) -> object:
    """NumPy's integers and floats, which are at home in what ranks say, as Python's."""
    item = getattr(value, "item", None)
    if item is None or getattr(value, "shape", None) != ():
        raise TypeError(f"{type(value).__name__} is no plain value")
    plain = item()
    if type(plain) not in (bool, int, float, str, bytes):  # or packing would ask for it again, for ever
        raise TypeError(f"{type(value).__name__} is no plain value")
    return plain


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
