"""Whether memory can't change, so that it can be read later instead of copied now."""

from __future__ import annotations

import numpy as np

from ..state import jaxarrays
from .kernel import Bytes


def is_frozen(buffer: Bytes, owners: bool = True) -> bool:
    """Whether the memory behind `buffer` stays as it is for as long as `buffer` is held.

    True for `bytes`, for an ndarray that owns its memory and is read-only, for a JAX array (by itself, or as what
    `state.encode` made of it), and for read-only views of them; never for a read-only view of writable memory, nor for a
    mapped file. NumPy lets an owner become writable again, and lets views that were made before it was read-only write on:
    `owners=False` does not count arrays, for where the program has not said that it does neither.
    """
    holder: object = buffer
    for _ in range(64):  # a chain has one or two links; a loop in it would be someone's error, not ours
        if isinstance(holder, bytes):
            return True
        if isinstance(holder, np.ndarray):
            if holder.flags.writeable:
                return False
            if holder.base is None:
                return owners and bool(holder.flags.owndata)
            holder = holder.base
        elif isinstance(holder, memoryview):
            if not holder.readonly:
                return False
            holder = holder.obj
        else:
            return isinstance(holder, jaxarrays.Memory) or jaxarrays.is_array(holder)
    return False
