"""Has the program let go of a protected array?

`u, new = new, u` is the commonest mistake with NumPy: the program rebinds the name, and the array that was
protected is no longer the one it computes with. If nobody but the library refers to the array, saving it would
save nonsense.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

_FREE_THREADED: Final = "t" in getattr(sys, "abiflags", "") or "free-threading" in sys.version


def _count(holder: Any, key: Any) -> int:
    # The value goes from the container straight onto the interpreter's stack, as one strong reference on every
    # version. A parameter or local would not do: from 3.14 on, loads of locals are borrowed, so what a call adds
    # depends on how its caller got hold of the object.
    if isinstance(holder, (dict, list, tuple)):
        return sys.getrefcount(holder[key])
    return sys.getrefcount(getattr(holder, key))


_OVERHEAD: Final = _count([np.empty(0)], 0) - 1 if hasattr(sys, "getrefcount") else 0


def stale(holder: Any, key: Any, own_references: int = 1) -> bool:
    """Whether nobody but the library refers to the array at `holder[key]` (dict, list, tuple) or `holder.key`.

    `own_references` is the number of the library's own references at the time of the call: the place
    `holder`/`key` itself (1), plus one for every other attribute, container or *local variable* of the library that
    holds the same array, plus one for each buffer of an `Encoded` of it that is still alive. What the call itself
    adds is not to be counted. So::

        for entry in entries.values():              # or entries.items(): objects with the attribute `obj`
            if stale(entry, "obj"): ...             # 1: the attribute
        for name in arrays:
            if stale(arrays, name): ...             # 1: the dict
        for entry in entries.values():
            obj = entry.obj
            if stale(entry, "obj", 2): ...          # 2: the attribute and the local variable

    Do not loop over the arrays themselves with `items()`, `zip` or `enumerate`: those iterators keep the tuple that
    they gave last, and with it another reference, on some versions of Python.

    An array that is a view is stale only if its base, too, is referred to by nothing but that view: the
    program may keep `full` and have protected `full[1:-1]`. Memory whose base is no plain array (a buffer, an mmap) is
    never called stale, nor is anything on a free-threaded build, where counts are not exact. Every error in counting
    too few own references makes the answer False. Local; costs less than a microsecond.
    """
    if _FREE_THREADED or not hasattr(sys, "getrefcount"):
        return False
    if _count(holder, key) - _OVERHEAD > own_references:
        return False
    view: Any = holder[key] if isinstance(holder, (dict, list, tuple)) else getattr(holder, key)
    if type(view) is not np.ndarray:
        return False
    while view.base is not None:
        if type(view.base) is not np.ndarray or _count(view, "base") - _OVERHEAD > 1:
            return False
        view = view.base
    return True
