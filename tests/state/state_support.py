"""A source of buffers in memory, and a comparison that is exact to the bit."""

from __future__ import annotations

import struct

import numpy as np

from holdfast.state import MISSING, Encoded, decode, encode


class Buffers:
    """What `decode` reads from: copies of an `Encoded`'s buffers."""

    def __init__(self, buffers):
        self.data = [bytes(b) for b in buffers]
        self.lengths = [len(b) for b in self.data]
        self.reads = 0

    def read(self, i, out):
        assert out.dtype == np.uint8 and out.ndim == 1 and out.flags.c_contiguous
        assert out.size == self.lengths[i]
        out[:] = np.frombuffer(self.data[i], np.uint8)
        self.reads += 1


def frozen(obj, **options) -> tuple[Encoded, Buffers]:
    """`obj` encoded, its buffers copied: what is on storage."""
    encoded = encode(obj, **options)
    for b in encoded.buffers:
        assert type(b) is np.ndarray and b.dtype == np.uint8 and b.ndim == 1 and b.flags.c_contiguous
    return encoded, Buffers(encoded.buffers)


def again(obj, live=MISSING, **options):
    """`obj` stored and read back."""
    pickle = options.get("pickle", False)
    encoded, source = frozen(obj, **options)
    return decode(encoded.tree, source, live=live, pickle=pickle, name=options.get("name", ""))


def equal(a, b) -> bool:
    """Same types, same values, same order, floats to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return equal(a.real, b.real) and equal(a.imag, b.imag)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (np.longdouble, np.clongdouble)):  # their bytes hold padding that is no part of the value
        return bool(a == b or (a != a and b != b))
    if isinstance(a, str):
        return len(a) == len(b) and list(a) == list(b)  # NumPy's strings call "a" and "a\0" equal
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return equal(list(a), list(b)) and equal(list(a.values()), list(b.values()))
    if isinstance(a, (set, frozenset)):
        return encode(a, root=False).tree == encode(b, root=False).tree
    if hasattr(a, "fold") and a.fold != b.fold:
        return False
    return bool(a == b)
