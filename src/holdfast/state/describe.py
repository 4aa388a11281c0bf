"""Looking at a structure without reading buffers or running code: for tables, and to compare with the program."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from holdfast.state import arrays, jaxarrays, objects, pickled, registry, rng
from holdfast.state.interface import qualified, show
from holdfast.state.namespace import State
from holdfast.state.packing import damaged, unpack

_COUNTED = ("list", "tuple", "set", "frozenset", "dict", "bytearray")


def describe(tree: bytes) -> dict[str, object]:
    """What a stored object is, as a plain dict: always `kind` (the root's tag, or `int`, `str`, …); for an array
    (`array`, `jax`) `dtype` (str) and `shape` (list of int); for a container `items`; for others `type`. Raises DamageError."""
    return describe_node(unpack(tree))


def describe_node(node: Any) -> dict[str, object]:
    if type(node) is not list:
        return {"kind": "None" if node is None else type(node).__name__}
    if len(node) < 2 or type(node[0]) is not str:
        raise damaged("", "its root is malformed")
    kind, first = node[0], node[1]
    if kind == "array":
        spec = parse_array(node)
        return {"kind": kind, "dtype": str(spec.dtype), "shape": list(spec.shape)}
    if kind == "jax":
        jax = parse_jax(node)
        return {"kind": kind, "dtype": jax.name, "shape": list(jax.shape)}
    if kind in _COUNTED and len(node) == 2 and type(first) in (list, bytes):
        return {"kind": kind, "items": len(first) // 2 if kind == "dict" else len(first)}
    if kind in ("dataclass", "enum", "state_dict", "adapter", "rng", "jax_key") and len(node) == 3 and type(first) is str:
        return {"kind": kind, "type": first}
    if kind in ("int", "complex", "datetime", "date", "time", "timedelta", "scalar", "pickle"):
        return {"kind": kind}
    raise damaged("", f"its root has the tag {show(kind)}")


def parse_array(node: list[Any]) -> arrays.ArraySpec:
    try:
        return arrays.parse(node)
    except ValueError as e:
        raise damaged("", str(e)) from None


def parse_jax(node: list[Any]) -> jaxarrays.JaxSpec:
    try:
        return jaxarrays.parse(node)
    except ValueError as e:
        raise damaged("", str(e)) from None


def stored_text(node: Any) -> str:
    """A few words for what a root node holds."""
    facts = describe_node(node)
    kind = facts["kind"]
    if kind == "array":
        return str(parse_array(node))
    if kind == "jax":
        return str(parse_jax(node))
    if "type" in facts:
        words = {"rng": "generator", "state_dict": "state_dict of", "adapter": "object of the adapter", "jax_key": "jax key"}
        return f"{words.get(str(kind), kind)} {facts['type']}"
    return str(kind)


def live_text(obj: Any) -> str:
    """The same for an object of the program."""
    if type(obj) is np.ndarray:
        return f"{obj.dtype} array {obj.shape}"
    if rng.is_generator(obj):
        try:
            return f"generator {rng.class_name(obj)}"
        except ValueError:
            return qualified(type(obj))
    adapter = registry.adapter_for(type(obj))
    if adapter is not None:
        return f"object of the adapter {adapter.name}"
    if type(obj) is State:
        return "state"
    if jaxarrays.is_array(obj):
        return jaxarrays.text(obj)
    if objects.has_state_dict(type(obj)):
        return f"state_dict of {registry.type_name(type(obj))}"
    if objects.is_dataclass(type(obj)):
        return f"dataclass {registry.type_name(type(obj))}"
    return qualified(type(obj))


def mismatch(tree: bytes, live: object, *, pickle: bool = False) -> str | None:
    """Why the stored root can't be put into `live` in place, as one sentence, or None if it can.

    An array needs the same dtype and shape, whatever its strides; a dataclass, a generator, an object with
    `state_dict` or an adapter the same type; a tree the same kind of container: what is inside may differ. A stored
    pickle needs `pickle=True`. Cheap, reads no buffer, runs no stored code. Raises DamageError.
    """
    return mismatch_node(unpack(tree), live, pickle)


def mismatch_node(node: Any, live: Any, pickle: bool) -> str | None:
    if type(node) is list and len(node) == 5 and node[0] == "array" and arrays.fillable(live, parse_array(node)):
        return None  # past the texts, which cost more than all the rest
    stored = stored_text(node)
    if _fits(node, live, pickle):
        return None
    if type(node) is list and node[0] == "pickle" and not pickle:
        return "stored: a pickle, which is never loaded without pickle=True"
    return f"stored: {stored}; the program has: {live_text(live)}"


def _fits(node: Any, live: Any, pickle: bool) -> bool:
    if type(node) is not list:
        return False
    tag, cls = node[0], type(live)
    if tag == "dict":
        return cls is dict or cls is State
    if tag in ("list", "set", "bytearray"):
        return cls.__name__ == tag and cls.__module__ == "builtins"
    if tag == "rng":
        return rng.is_generator(live) and live_text(live) == f"generator {node[1]}"
    if tag == "adapter":
        adapter = registry.adapter_for(cls) or registry.adapter_named(node[1])
        return adapter is not None and adapter.cls is cls and adapter.name == node[1]
    if registry.adapter_for(cls) is not None or isinstance(live, enum.Enum):
        return False
    if tag == "state_dict":
        return objects.has_state_dict(cls) and registry.type_name(cls) == node[1]
    if tag == "dataclass":
        return objects.is_dataclass(cls) and not objects.is_frozen(cls) and registry.type_name(cls) == node[1]
    return bool(tag == "pickle" and pickle and pickled.transplantable(live))
