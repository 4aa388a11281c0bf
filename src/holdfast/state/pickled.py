"""Pickles, for objects that the user has explicitly said may be pickled.

A pickle is code: it is loaded only where the caller says `pickle=True`, and never by anything that only looks. It is
then transplanted: the program's object keeps its identity and gets the attributes and contents of the unpickled one.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict, defaultdict, deque
from typing import Any, Final

import numpy as np

from holdfast.state import arrays, objects

_CONTAINERS: Final = (dict, OrderedDict, defaultdict, list, set, bytearray, deque)


def transplantable(obj: object) -> bool:
    """Whether the whole state of `obj` can be exchanged in place: attributes and slots of a class written in
    Python, contents of the builtin mutable containers and their subclasses, elements of NumPy's own arrays."""
    if isinstance(obj, np.ndarray):
        own = type(obj).__module__.partition(".")[0] == "numpy"  # attributes of others' arrays are not in their pickles
        return own and obj.flags.writeable and not arrays.overlaps(obj)
    base = objects.native_base(type(obj))
    if base in _CONTAINERS:
        return True
    return base is object and (hasattr(obj, "__dict__") or bool(_slots(type(obj)))) and not callable(obj)


def dump(obj: object) -> np.ndarray:
    """The pickle as uint8. Raises whatever pickling raises."""
    return np.frombuffer(pickle.dumps(obj, protocol=5), np.uint8)


def load(data: np.ndarray) -> Any:
    """Run a pickle. Raises whatever it raises."""
    return pickle.loads(data.data)


def transplant(live: Any, new: Any) -> None:
    """Give `live` the state of `new`, which has the same type. Raises ValueError where that can't be done."""
    if isinstance(live, np.ndarray):
        _fill(live, new)
        return
    base = objects.native_base(type(live))
    if base is deque and live.maxlen != new.maxlen:
        raise ValueError(f"stored: a deque of at most {new.maxlen}; the program has: one of at most {live.maxlen}")
    if base is bytearray or base is list:
        live[:] = new
    elif base in _CONTAINERS:
        live.clear()
        if base is deque:
            live.extend(new)
        elif base is set:
            live.update(new)
        else:
            # As dict, past any __setitem__ of a subclass: it has done its work in the object that was pickled.
            setter = OrderedDict.__setitem__ if base is OrderedDict else dict.__setitem__
            for key in new:
                setter(live, key, dict.__getitem__(new, key))
    if base is defaultdict:
        live.default_factory = new.default_factory
    attributes = getattr(live, "__dict__", None)
    if attributes is not None:
        attributes.clear()
        attributes.update(new.__dict__)
    for slot in _slots(type(live)):
        if hasattr(new, slot):
            object.__setattr__(live, slot, getattr(new, slot))
        elif hasattr(live, slot):
            object.__delattr__(live, slot)


def _fill(live: Any, new: Any) -> None:
    if live.shape != new.shape or live.dtype != new.dtype:
        has = f"{live.dtype} array {live.shape}"
        raise ValueError(f"stored: {new.dtype} array {new.shape}; the program has: {has}")
    live.view(np.ndarray)[...] = new.view(np.ndarray)
    if hasattr(live, "__dict__") and not isinstance(live, np.memmap):  # which keeps its file
        live.__dict__.update(new.__dict__)  # of a masked array, these are the mask and the fill value


def _slots(cls: type) -> list[str]:
    found = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__"):
                private = slot.startswith("__") and not slot.endswith("__")
                found.append(f"_{base.__name__.lstrip('_')}{slot}" if private else slot)
    return found
