"""dtypes as nodes and back.

A node is what `numpy.lib.format.dtype_to_descr` gives. Reading is done by hand: NumPy sees only strings that match a
strict pattern and fields whose sizes have been added up, since `np.dtype` understands far more than the
format has (objects, comma-separated fields, names of types).
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

MAX_ITEMSIZE: Final = 2**31 - 1
MAX_DIMS: Final = 64
_MAX_DEPTH: Final = 32
_UNIT = r"(?:\[[1-9][0-9]{0,9}?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\]|\[(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
_SIMPLE: Final = re.compile(
    r"\|b1|[|<>](?:i1|u1)|[<>](?:[iu][248]|f(?:2|4|8|12|16)|c(?:8|16|24|32))"
    rf"|[<>][mM]8{_UNIT}|[|<>][SV](?:0|[1-9][0-9]{{0,9}})|[|<>]U(?:0|[1-9][0-9]{{0,8}})",
    re.ASCII,
)

_nodes: dict[tuple[np.dtype[Any], type], Any] = {}
_simple: dict[str, np.dtype[Any]] = {}


def to_node(dtype: np.dtype[Any]) -> Any:
    """The node of a fixed-size dtype. Raises ValueError saying why it can't be stored exactly."""
    key = (dtype, dtype.type)  # np.record equals np.void here, and is not the same
    node = _nodes.get(key)
    if node is None:
        node = _to_node(dtype)
        if len(_nodes) >= 1000:
            _nodes.clear()
        _nodes[key] = node
    return node


def _to_node(dtype: np.dtype[Any]) -> Any:
    if dtype.hasobject:
        raise ValueError(f"the dtype {dtype} holds Python objects, not values of a fixed size")
    try:
        node = _describe(dtype.descr if dtype.names is not None else dtype.str)
        back = from_node(node)
    except ValueError as e:
        raise ValueError(f"the dtype {dtype} can't be described exactly ({e})") from None
    if back != dtype or back.type is not dtype.type:
        raise ValueError(f"the dtype {dtype!r} is not one of NumPy's own")
    return node


def _describe(descr: Any) -> Any:
    if type(descr) is list:
        return ["list", [_describe(d) for d in descr]]
    if type(descr) is tuple:
        return ["tuple", [_describe(d) for d in descr]]
    if type(descr) in (str, int):
        return descr
    raise ValueError(f"a field's title is {descr!r}, not a string")


def from_node(node: Any, depth: int = 0) -> np.dtype[Any]:
    """The dtype that a node describes. Raises ValueError for anything `to_node` does not write."""
    if type(node) is str:
        dtype = _simple.get(node)
        return _from_string(node) if dtype is None else dtype
    if depth > _MAX_DEPTH:
        raise ValueError("a dtype is nested too deeply")
    names: list[str] = []
    formats: list[np.dtype[Any]] = []
    offsets: list[int] = []
    titles: list[str | None] = []
    size = 0
    for field in _items(node, "list"):
        parts = _items(field, "tuple")
        if len(parts) not in (2, 3):
            raise ValueError("a field of a dtype is malformed")
        title: str | None = None
        name = parts[0]
        if type(name) is list:
            both = _items(name, "tuple")
            if len(both) != 2 or type(both[0]) is not str:
                raise ValueError("a field's title is malformed")
            title, name = both
        if type(name) is not str:
            raise ValueError("a field's name is malformed")
        base = from_node(parts[1], depth + 1)
        if len(parts) == 3:
            shape = to_shape(_items(parts[2], "tuple"))
            if base.itemsize * elements(shape) > MAX_ITEMSIZE or any(n > MAX_ITEMSIZE for n in shape):
                raise ValueError("a dtype is too large")
            base = np.dtype((base, shape))
        if not (name == "" and base.type is np.void and base.names is None):  # padding, as in numpy.lib.format
            names.append(name)
            formats.append(base)
            offsets.append(size)
            titles.append(title)
        size += base.itemsize
        if size > MAX_ITEMSIZE:
            raise ValueError("a dtype is too large")
    whole: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    if any(t is not None for t in titles):
        whole["titles"] = titles
    try:
        built: np.dtype[Any] = np.dtype(whole)
    except (TypeError, OverflowError) as e:
        raise ValueError(str(e)) from None
    return built


def _from_string(text: str) -> np.dtype[Any]:
    if not _SIMPLE.fullmatch(text):
        raise ValueError("a dtype is none of the format's")
    if text[1] in "SUV" and int(text[2:]) * (4 if text[1] == "U" else 1) > MAX_ITEMSIZE:
        raise ValueError("a dtype is too large")
    try:
        dtype = np.dtype(text)
    except (TypeError, OverflowError) as e:
        raise ValueError(str(e)) from None
    if len(_simple) < 1000:
        _simple[text] = dtype
    return dtype


def _items(node: Any, tag: str) -> list[Any]:
    if type(node) is not list or len(node) != 2 or node[0] != tag or type(node[1]) is not list:
        raise ValueError("a dtype is malformed")
    return node[1]


def to_shape(node: Any) -> tuple[int, ...]:
    """A shape, checked: a list of at most 64 integers from 0 to 2**63 - 1. Raises ValueError."""
    if type(node) is not list or len(node) > MAX_DIMS:
        raise ValueError("a shape is malformed")
    if any(type(n) is not int or not 0 <= n < 2**63 for n in node):
        raise ValueError("a shape has an entry that is no size")
    return tuple(node)


def elements(shape: tuple[int, ...]) -> int:
    """How many elements an array of this shape has: exact, where NumPy's own product would overflow."""
    count = 1
    for n in shape:
        count *= n
    return count
