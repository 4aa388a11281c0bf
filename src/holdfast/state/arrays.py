"""Arrays: their memory as bytes, and back into the same memory.

An array that is contiguous in either order is never copied: its buffer is a view. `order` says how the
elements follow one another there: "F" for an array that is Fortran- and not C-contiguous, "C" for all others.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.state import dtypes
from holdfast.state.interface import Source


@dataclass(frozen=True)
class ArraySpec:
    """What an array's node says, checked."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    number: int

    @property
    def nbytes(self) -> int:
        return dtypes.elements(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} array {self.shape}"


def memory(array: np.ndarray) -> np.ndarray:
    """The bytes of an array that is C- or F-contiguous: a one-dimensional uint8 view of its own memory."""
    if array.nbytes == 0:
        return np.empty(0, np.uint8)
    if not array.flags.c_contiguous:
        array = array.T
    return array.ravel().view(np.uint8)  # contiguous: a view


def encode_array(array: np.ndarray, number: int) -> tuple[list[Any], np.ndarray]:
    """The node and the bytes of an array that becomes buffer `number`. Raises ValueError for a dtype that can't be
    stored. Copies only what is not contiguous."""
    order = "C"
    node = dtypes.to_node(array.dtype)
    flags = array.flags
    if not flags.c_contiguous:
        if flags.f_contiguous:
            order = "F"
        elif array.dtype.kind == "V":
            whole = np.zeros(array.shape, array.dtype)  # padding that is not copied must not hold old memory
            whole[...] = array
            array = whole
        else:
            array = array.copy("C")
    return ["array", node, list(array.shape), order, number], memory(array)


def parse(node: list[Any]) -> ArraySpec:
    """An array's node, checked without looking at its buffer. Raises ValueError."""
    if len(node) != 5:
        raise ValueError("an array's node is malformed")
    _, dtype, shape, order, number = node
    if type(order) is not str or order not in ("C", "F"):
        raise ValueError("an array's order is neither C nor F")
    if type(number) is not int or number < 0:
        raise ValueError("an array's buffer number is malformed")
    return ArraySpec(dtypes.from_node(dtype), dtypes.to_shape(shape), order, number)


def overlaps(array: np.ndarray) -> bool:
    """Whether two elements of the array may lie in the same memory (a broadcast, a sliding window).

    Exact for everything that slicing, transposing and fields of other arrays give; a lattice of strides
    that interleave without touching is called overlapping too.
    """
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous or array.size == 0:
        return False
    extent = array.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < extent:
            return True
        extent += (n - 1) * stride
    return False


def fillable(array: object, spec: ArraySpec) -> bool:
    """Whether the stored values can be put into this very array, whatever its order and strides."""
    return (
        type(array) is np.ndarray
        and array.shape == spec.shape
        and array.dtype == spec.dtype
        and array.flags.writeable
        and not overlaps(array)
    )


def fill(array: np.ndarray, spec: ArraySpec, source: Source) -> None:
    """Put the stored values into `array`, for which `fillable` holds: straight into its memory where its order
    is the stored one, else by way of a temporary of the same size."""
    flags = array.flags
    if flags.c_contiguous if spec.order == "C" else flags.f_contiguous:
        if spec.order == "F":
            array = array.T
        source.read(spec.number, memory(array))
    else:
        array[...] = fresh(spec, source)


def fresh(spec: ArraySpec, source: Source) -> np.ndarray:
    """A new array with the stored values. The size has been compared with the source's. Raises ValueError
    for a shape that NumPy does not take."""
    array = np.empty(spec.shape, spec.dtype, order="F" if spec.order == "F" else "C")
    source.read(spec.number, memory(array))
    return array


class Claims:
    """Which live memory is already promised to a stored array.

    Two stored arrays may have one live counterpart (`state(u=u0, old=u0)`), or two that are views of the same
    memory; filling both in place would leave the second's values in the first.
    """

    def __init__(self) -> None:
        self._by_owner: dict[int, _Taken] = {}

    def take(self, array: np.ndarray) -> bool:
        """True, and the array's memory is taken; or False because part of it was taken before."""
        owner: Any = array
        while type(owner) is np.ndarray and owner.base is not None:
            owner = owner.base
        taken = self._by_owner.get(id(owner))
        if taken is None:
            taken = self._by_owner[id(owner)] = _Taken()
        return taken.take(array)


class _Taken:
    """Arrays in the memory of one owner, by their first byte: thousands of rows of one array stay cheap."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._arrays: list[np.ndarray] = []
        self._longest = 0

    def take(self, array: np.ndarray) -> bool:
        first, end = _bounds(array)
        low = bisect_left(self._first, first - self._longest)
        high = bisect_left(self._first, end)
        for other in self._arrays[low:high]:
            if _share(array, other):
                return False
        at = bisect_left(self._first, first)
        self._first.insert(at, first)
        self._arrays.insert(at, array)
        self._longest = max(self._longest, end - first)
        return True


def _bounds(array: np.ndarray) -> tuple[int, int]:
    first = end = array.__array_interface__["data"][0]
    if array.size:
        for stride, n in zip(array.strides, array.shape, strict=True):
            first += min(0, stride * (n - 1))
            end += max(0, stride * (n - 1))
        end += array.itemsize
    return first, end


def _share(a: np.ndarray, b: np.ndarray) -> bool:
    share: Any = np.shares_memory  # NumPy's own hints leave out that any limit may be given
    try:
        return bool(share(a, b, max_work=10_000))
    except Exception:  # TooHardError has moved between modules; too hard to say means not to rely on it
        return True
