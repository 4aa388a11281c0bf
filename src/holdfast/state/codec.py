"""`check`, `encode`, `decode`: one object as a root, to its structure and buffers and back."""

from __future__ import annotations

import enum
from typing import Any, Final

import numpy as np

from holdfast.errors import DamageError, HoldfastError, MismatchError, UnsupportedError
from holdfast.state import arrays, jaxarrays, objects, packing, pickled, registry
from holdfast.state.decoder import Decoder
from holdfast.state.describe import live_text, mismatch_node
from holdfast.state.encoder import WAYS_OUT, Encoder
from holdfast.state.interface import MISSING, Encoded, Source, qualified
from holdfast.state.namespace import State

_IMMUTABLE: Final = (int, float, complex, str, bytes, tuple, frozenset, type(None), enum.Enum, np.generic)
_trees: dict[tuple[np.dtype[Any], type, tuple[int, ...], str], bytes] = {}


def check(name: str, obj: object, *, pickle: bool = False) -> None:
    """Raise UnsupportedError unless `obj` can be protected under `name`: encoded whole, and restored in place.

    The message names the place inside `obj`, its type and the ways out. Costs what encoding costs; changes nothing.
    Local.
    """
    encode(obj, pickle=pickle, name=name)


def encode(obj: object, *, root: bool = True, pickle: bool = False, name: str = "") -> Encoded:
    """`obj` as a structure and buffers; equal state gives equal bytes.

    `root`: the object is to be restored in place, so it must be mutable; with `root=False` any value of a supported
    kind will do. `pickle`: what is of no supported kind is pickled as a whole. `name` is for messages. The buffers
    are views of the object's memory wherever that is contiguous. Raises UnsupportedError. Local.
    """
    if type(obj) is np.ndarray:
        if root:
            _check_array(obj, name)
    elif root:
        _check_root(obj, name)
    try:
        return _encode_array(obj, name) if type(obj) is np.ndarray else _encode_tree(obj, name)
    except UnsupportedError:
        if not pickle or type(obj) is State:
            raise
    return _encode_pickle(obj, root, name)


def _refused(obj: object, name: str, why: str, ways: str = WAYS_OUT) -> UnsupportedError:
    return UnsupportedError(
        f"{name or 'the object'} ({qualified(type(obj))}) can't be protected: {why}. "
        f"Nothing was saved or changed. {ways}.",
        object=name or None,
    )


def _check_array(array: np.ndarray, name: str) -> None:
    ways = (
        "or keep the values in run.state, whose attributes may be rebound, or in an object with state_dict() and "
        "load_state_dict() or an adapter (holdfast.register_adapter, or an entry point of the group "
        "'holdfast.adapters'); pickle=True does not help here"
    )
    if not array.flags.writeable:
        why = "the array is read-only, so it can't be filled in place"
        raise _refused(array, name, why, f"Ways out: protect a writable copy (array.copy()), {ways}")
    if arrays.overlaps(array):
        why = "several of its elements share the same memory"
        raise _refused(array, name, why, f"Ways out: protect the array that it is a view of, or a copy, {ways}")


def _check_root(obj: Any, name: str) -> None:
    cls = type(obj)
    frozen = objects.is_dataclass(cls) and objects.is_frozen(cls) and not objects.has_state_dict(cls)
    immutable = frozen or isinstance(obj, _IMMUTABLE) or jaxarrays.is_array(obj)
    if immutable and registry.adapter_for(cls) is None:
        raise _refused(
            obj,
            name,
            "its value is immutable, so it can't be restored in place: a name bound to it would keep the old value",
            "Ways out: keep it in run.state, whose attributes may be rebound (s = run.state(x=…); s.x), or in a list, "
            "dict or array that is protected; for a class of your own, give it state_dict() and load_state_dict(), or "
            "register an adapter (holdfast.register_adapter, or an entry point of the group 'holdfast.adapters'); "
            "pickle=True does not help here",
        )


def _encode_array(array: np.ndarray, name: str) -> Encoded:
    flags = array.flags
    order = "C" if flags.c_contiguous or not flags.f_contiguous else "F"
    key = (array.dtype, array.dtype.type, array.shape, order)
    tree = _trees.get(key)
    if tree is not None and (flags.c_contiguous or flags.f_contiguous):
        return Encoded("array", tree, [arrays.memory(array)])
    encoder = Encoder(name)
    node = encoder.array(array)
    tree = packing.pack(node, name)
    if len(_trees) >= 10_000:
        _trees.clear()
    _trees[key] = tree
    return Encoded("array", tree, encoder.buffers)


def _encode_tree(obj: Any, name: str) -> Encoded:
    encoder = Encoder(name)
    try:
        node = encoder.state(obj) if type(obj) is State else encoder.node(obj)
    except RecursionError:
        raise _refused(obj, name, "it is nested too deeply for the call stack here") from None
    tree = packing.pack(node, name)
    return Encoded(_kind(obj, node), tree, encoder.buffers)


def _kind(obj: Any, node: Any) -> str:
    if type(obj) is State:
        return "state"
    tag = node[0] if type(node) is list else "tree"
    if tag == "adapter":
        return str(node[1])
    return tag if tag in ("rng", "state_dict") else "tree"


def _encode_pickle(obj: Any, root: bool, name: str) -> Encoded:
    if root and not pickled.transplantable(obj):
        raise _refused(
            obj,
            name,
            "even as a pickle it can't be restored in place: its state is not in attributes that can be exchanged",
            "Ways out: keep what it is made of in run.state, or register an adapter (holdfast.register_adapter)",
        )
    try:
        data = pickled.dump(obj)
    except Exception as e:
        raise _refused(obj, name, f"it can't be pickled ({type(e).__name__}: {e})") from e
    return Encoded("pickle", packing.pack(["pickle", 0]), [data])


def decode(tree: bytes, source: Source, *, live: object = MISSING, pickle: bool = False, name: str = "") -> object:
    """The object that `encode` made into `tree` and the buffers of `source`.

    With `live`, its state becomes the stored one and `live` itself is returned: every mutable object inside keeps
    its identity if it has a stored counterpart of the same kind (by key, position, field); arrays are filled in
    place. Without, new objects are made; an object with `state_dict` comes back as the plain dict of its state, a
    `State` as a dict.

    Raises MismatchError (kind, dtype, shape or type differ; a type is not registered; a pickle without
    `pickle=True`), DamageError (the structure or a buffer is not what was written), UnsupportedError. `live` is changed
    only after the structure has been read and checked; if a buffer then proves damaged, `live` is half restored. Local.
    """
    node = packing.unpack(tree, name)
    try:
        why = None if live is MISSING else mismatch_node(node, live, pickle)
    except DamageError as e:
        raise packing.damaged(name, f"its root is none of the format's ({e.message})") from None
    if why is not None:
        raise MismatchError(
            f"{name or 'the object'}: {why}. Nothing stored or live was changed; start the program that "
            "belongs to the run, or protect the new object under another name.",
            object=name or None,
        )
    if type(node) is list and node[:1] == ["pickle"]:
        return _decode_pickle(node, source, live, pickle, name)
    return Decoder(source, name, live is not MISSING).run(node, live)


def _decode_pickle(node: Any, source: Source, live: Any, pickle: bool, name: str) -> object:
    what = name or "the object"
    if not pickle:
        raise MismatchError(
            f"{what}: stored: a pickle, which is never loaded without pickle=True. Nothing stored or live was changed; "
            "pass pickle=True if you trust whoever could write to the run.",
            object=name or None,
        )
    if len(node) != 2 or type(node[1]) is not int or not 0 <= node[1] < len(source.lengths):
        raise packing.damaged(name, "a pickle's node is malformed")
    data = np.empty(source.lengths[node[1]], np.uint8)
    source.read(node[1], data)
    try:
        new = pickled.load(data)
        if live is MISSING:
            return new
        if type(new) is not type(live):
            raise ValueError(f"stored: {live_text(new)}; the program has: {live_text(live)}")
        pickled.transplant(live, new)
    except HoldfastError:
        raise
    except Exception as e:
        raise MismatchError(
            f"{what}: the stored pickle can't be restored here ({type(e).__name__}: {e}). Nothing stored was changed.",
            object=name or None,
        ) from e
    return live
