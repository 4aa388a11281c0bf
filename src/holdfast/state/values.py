"""Immutable values that MessagePack does not have: big integers, complex numbers, dates, enum members, NumPy scalars.

`to_node` and `from_node` are inverses, exact to the bit.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, Final

import numpy as np

from holdfast.state import dtypes, packing

# -- writing: each raises ValueError, saying why, for a value that would not come back the same ---------------


def write_int(n: int) -> Any:
    return n if -(2**63) <= n < 2**64 else ["int", packing.decimal(n)]


def write_str(text: str) -> Any:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds lone surrogates, which UTF-8 does not have") from None
    return text


def write_complex(z: complex) -> Any:
    return ["complex", z.real, z.imag]


def _fixed(zone: Any) -> None:
    if zone is None:
        return
    if type(zone) is not timezone or len(zone.__getinitargs__()) != 1:  # type: ignore[attr-defined]
        raise ValueError(f"its time zone {zone!r} is not a plain offset from UTC (datetime.timezone without a name)")
    if timedelta(0) < abs(zone.utcoffset(None)) < timedelta(seconds=1):  # Python reads such an offset back as UTC
        raise ValueError(f"its time zone {zone!r} is less than a second from UTC")


def write_datetime(when: datetime) -> Any:
    _fixed(when.tzinfo)
    return ["datetime", when.isoformat(), when.fold]


def write_date(day: date) -> Any:
    return ["date", day.isoformat()]


def write_time(when: time) -> Any:
    _fixed(when.tzinfo)
    return ["time", when.isoformat(), when.fold]


def write_timedelta(span: timedelta) -> Any:
    return ["timedelta", span.days, span.seconds, span.microseconds]


def write_scalar(scalar: np.generic) -> Any:
    # The string types drop trailing zeros when they go through an array or str(), so they are written by hand.
    if type(scalar) is np.str_:
        return ["scalar", f"<U{len(scalar)}", str.encode(scalar, "utf-32-le", "surrogatepass")]
    if type(scalar) is np.bytes_:
        return ["scalar", f"|S{len(scalar)}", bytes(scalar)]
    dtype = scalar.dtype
    if dtype.type is not type(scalar):
        raise ValueError("its type is not one of NumPy's own")
    raw = scalar.tobytes()
    if dtype.kind in "fc" and np.finfo(dtype.str).nmant == 63:  # 80 bits in 96 or 128: the rest is whatever was there
        size = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        raw = b"".join(raw[i : i + 10] + bytes(size - 10) for i in range(0, len(raw), size))
    return ["scalar", dtypes.to_node(dtype), raw]


WRITERS: Final[dict[type, Callable[[Any], Any]]] = {
    int: write_int,
    str: write_str,
    complex: write_complex,
    datetime: write_datetime,
    date: write_date,
    time: write_time,
    timedelta: write_timedelta,
}


def member_name(member: enum.Enum) -> str:
    """The name of an enum's member; of a combination of flags, its single flags joined by "|" ("" for none).
    Raises ValueError for a combination with bits that have no name."""
    cls = type(member)
    if not isinstance(member, enum.Flag):
        return str(member.name)
    if member.name is not None and cls.__members__.get(member.name) is member:
        return member.name
    parts = [
        name
        for name, m in cls.__members__.items()
        if name == m.name and m.value > 0 and m.value & (m.value - 1) == 0 and m.value & member.value
    ]
    text = "|".join(parts)
    if member_of(cls, text) != member:
        raise ValueError(f"its value {member.value!r} is no combination of named flags")
    return text


def member_of(cls: type[enum.Enum], name: str) -> enum.Enum | None:
    """The member that `member_name` named, or None."""
    found = cls.__members__.get(name)
    if found is not None or not issubclass(cls, enum.Flag):
        return found
    members = [cls.__members__.get(part) for part in name.split("|")] if name else []
    value = 0
    for member in members:
        if member is None:
            return None
        value |= member.value
    try:
        return cls(value)
    except ValueError:
        return None


# -- reading: each raises ValueError for a node that no writer makes ------------------------------------------


def _take(node: list[Any], *types: type) -> list[Any]:
    if len(node) != len(types) + 1 or any(type(v) is not t for v, t in zip(node[1:], types, strict=True)):
        raise ValueError(f"a node {node[0]!r} is malformed")
    return node[1:]


def read_int(node: list[Any]) -> int:
    return packing.from_decimal(_take(node, str)[0])


def read_complex(node: list[Any]) -> complex:
    return complex(*_take(node, float, float))


def _fold(when: Any, fold: int) -> Any:
    if fold not in (0, 1):
        raise ValueError("a fold is neither 0 nor 1")
    return when.replace(fold=fold)


def read_datetime(node: list[Any]) -> datetime:
    text, fold = _take(node, str, int)
    when: datetime = _fold(datetime.fromisoformat(text), fold)
    return when


def read_date(node: list[Any]) -> date:
    return date.fromisoformat(_take(node, str)[0])


def read_time(node: list[Any]) -> time:
    text, fold = _take(node, str, int)
    when: time = _fold(time.fromisoformat(text), fold)
    return when


def read_timedelta(node: list[Any]) -> timedelta:
    days, seconds, microseconds = _take(node, int, int, int)
    if not (0 <= seconds < 86400 and 0 <= microseconds < 10**6 and abs(days) <= 999_999_999):
        raise ValueError("a timedelta is out of range")
    return timedelta(days, seconds, microseconds)


def read_scalar(node: list[Any]) -> Any:
    if len(node) != 3 or type(node[2]) is not bytes:
        raise ValueError("a scalar's node is malformed")
    dtype, raw = dtypes.from_node(node[1]), node[2]
    if len(raw) != dtype.itemsize:
        raise ValueError("a scalar has the wrong number of bytes")
    if dtype.kind == "S":
        return np.bytes_(raw)
    if dtype.kind == "U":
        order = "be" if dtype.str[0] == ">" else "le"
        return np.str_(raw.decode(f"utf-32-{order}", "surrogatepass"))
    cell = np.zeros((), dtype)
    if raw:
        cell.reshape(1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
    return cell[()]


READERS: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "int": read_int,
    "complex": read_complex,
    "datetime": read_datetime,
    "date": read_date,
    "time": read_time,
    "timedelta": read_timedelta,
    "scalar": read_scalar,
}


def same(a: Any, b: Any) -> bool:
    """Whether two values can stand for one another for ever: identical, or equal plain values of one type."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) in (int, str, bytes, bool) and bool(a == b)
