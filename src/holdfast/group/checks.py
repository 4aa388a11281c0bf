"""Checks of arguments that every kind of group makes, before anything is sent."""

from __future__ import annotations

from ..errors import UsageError

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_VALUES = 4  # integers in one maximum


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


def check_int64(*values: int) -> tuple[int, ...]:
    """`values` as plain integers, or a UsageError if one does not fit 64 bits or their number is not 1 to `MAX_VALUES`."""
    values = tuple(int(v) for v in values)
    if not 1 <= len(values) <= MAX_VALUES:
        raise UsageError(f"maximum of {len(values)} integers at once. Nothing was sent; pass one to {MAX_VALUES}.")
    if not all(INT64_MIN <= v <= INT64_MAX for v in values):
        listed = " and ".join(map(str, values))
        raise UsageError(f"maximum of {listed}: not 64-bit integers. Nothing was sent; pass smaller ones.")
    return values
