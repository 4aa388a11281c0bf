"""Checks of arguments that every kind of group makes, before anything is sent."""

from __future__ import annotations

from ..errors import UsageError

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def check_members(members: range, rank: int, size: int, what: str) -> int:
    """`members[0]`, or a UsageError if the range is empty, leaves the group or lacks this rank."""
    if rank not in members or min(members) < 0 or max(members) >= size:
        raise UsageError(
            f"{what}: rank {rank} of {size} called with members {members!r}. Nothing was sent; "
            "pass a range of ranks of the group that has the caller in it."
        )
    return members[0]


def check_data(data: bytes | None, what: str) -> bytes:
    """`data`, or a UsageError if the sender of a broadcast has none."""
    if data is None:
        raise UsageError(f"{what}: the first member of a broadcast has no data. Nothing was sent; pass bytes.")
    return data


def check_int64(a: int, b: int) -> tuple[int, int]:
    """`(a, b)` as plain integers, or a UsageError if one does not fit 64 bits."""
    a, b = int(a), int(b)
    if not (INT64_MIN <= a <= INT64_MAX and INT64_MIN <= b <= INT64_MAX):
        raise UsageError(f"maximum of {a} and {b}: not 64-bit integers. Nothing was sent; pass smaller ones.")
    return a, b
