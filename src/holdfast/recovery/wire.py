"""MessagePack of what nodes report and of plans: small, checked throughout when read.

Nearly all of it is ranks, and ranks that lie together are nearly always consecutive, or one every so many: an array that
rises is sent as its first element and the gaps, in as few bytes as the widest gap needs. 64 consecutive ranks take 6 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgpack
import numpy as np

from ..errors import DamageError
from ..format.extents import MALFORMED, number, require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int32]
    Octets: TypeAlias = NDArray[np.uint8]
    Bools: TypeAlias = NDArray[np.bool_]
else:
    Ints = Octets = Bools = np.ndarray

T = TypeVar("T")

MAX_RANKS = 1 << 24  # ranks of a run, and elements of an array: what a few bytes may claim is bounded by this
_GAPS = {1: "<u1", 2: "<u2", 4: "<u4"}


def pack(value: Any) -> bytes:
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def unpack(data: bytes, what: str, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of the value in `data`. DamageError, naming `what`, if either is malformed."""
    try:
        # Walked through once before anything is built: the unpacker makes each list as long as its header claims.
        walk = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        walk.feed(data)
        walk.skip()
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True, max_ext_len=0)
    except Exception as error:  # its own classes, ValueError, RecursionError: all mean the same here
        raise DamageError(f"{what} is not readable ({error}). Nothing was changed; try again.") from error
    try:
        return parse(value)
    except (*MALFORMED, IndexError) as error:
        raise DamageError(f"{what} is malformed. Nothing was changed; try again.") from error


def ints(array: Ints) -> list[Any] | bytes:
    """An int32 array of one dimension, of elements from 0 to MAX_RANKS - 1, as MessagePack holds it."""
    gaps = np.diff(array)
    if len(array) and (gaps >= 1).all():
        widest = int(gaps.max(initial=1)) - 1
        width = next(w for w in (0, 1, 2, 4) if widest < 1 << 8 * w)
        return [len(array), int(array[0]), width, (gaps - 1).astype(_GAPS[width]).tobytes() if width else b""]
    return array.astype("<i4").tobytes()


def parse_ints(value: Any, below: int = MAX_RANKS, *, rising: bool = False) -> Ints:
    """The array that `ints` packed, its elements from 0 to `below` - 1. ValueError and the like for anything else."""
    if isinstance(value, bytes):
        array = np.frombuffer(value, "<i4").astype(np.int32)
        require(len(array) <= MAX_RANKS)
        if len(array):
            require(int(array.min()) >= 0 and int(array.max()) < below)
            require(not (np.diff(array) >= 1).all())  # one way only to send an array: plans are compared by their bytes
        require(not (rising and len(array)))
        return array
    length, first, width, gaps = value
    require(0 < number(length) <= MAX_RANKS and number(first) < below and isinstance(gaps, bytes))
    if number(width) == 0:
        require(first + length <= below and not gaps)
        return np.arange(first, first + length, dtype=np.int32)
    steps = np.frombuffer(gaps, _GAPS[width])
    require(len(steps) == length - 1)
    widest = int(steps.max()) if len(steps) else 0
    require(widest >= 1 << 8 * (width // 2) if width > 1 else widest >= 1)
    array64 = np.empty(length, np.int64)
    array64[0] = first
    np.cumsum(steps, dtype=np.int64, out=array64[1:])
    array64[1:] += np.arange(first + 1, first + length)
    require(int(array64[-1]) < below)
    return array64.astype(np.int32)


def columns(rows: Ints) -> list[Any]:
    """A two-dimensional array, column by column: of sets that were dealt like cards, each column rises."""
    return [ints(np.ascontiguousarray(rows[:, i])) for i in range(rows.shape[1])]


def parse_columns(value: Any, below: int = MAX_RANKS) -> Ints:
    require(isinstance(value, list) and len(value) > 0)
    first = parse_ints(value[0], below)
    require(len(first) * len(value) <= MAX_RANKS)
    parsed = [first, *(parse_ints(column, below) for column in value[1:])]
    require(len(first) > 0 and all(len(column) == len(first) for column in parsed))
    return np.stack(parsed, axis=1)


def text(value: Any) -> str:
    """A name: 1 to 255 characters."""
    require(isinstance(value, str) and 0 < len(value) <= 255)
    assert isinstance(value, str)
    return value


def frozen(array: Any, kind: Any = np.int32) -> Any:
    """The array, or a copy, that nobody can write to."""
    array = np.ascontiguousarray(array, kind)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def where(mask: Bools) -> Ints:
    """The indexes that are true, int32, rising."""
    return np.flatnonzero(mask).astype(np.int32)


def names(values: Sequence[Any]) -> tuple[str, ...]:
    """Names in rising order, none twice."""
    require(isinstance(values, list))
    found = tuple(text(v) for v in values)
    require(all(a < b for a, b in pairwise(found)))
    return found
