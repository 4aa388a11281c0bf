"""Objects -> nodes and buffers, with the path to where a value can't be stored.

Types are matched exactly: a subclass of dict, list or int that is not known is refused and never quietly
turned into its base. Equal state gives equal nodes: dicts keep their order, sets are ordered by their members' bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np

from holdfast.errors import UnsupportedError
from holdfast.state import arrays, jaxarrays, objects, packing, registry, rng, values
from holdfast.state.interface import MAX_DEPTH, MISSING, Attribute, Note, place, qualified
from holdfast.state.namespace import State

_PLAIN: Final = frozenset({float, bool, type(None), bytes})  # nodes of themselves, whatever their value
WAYS_OUT: Final = (
    "Ways out: give its class state_dict() and load_state_dict(), register an adapter for it "
    "(holdfast.register_adapter, or an entry point of the group 'holdfast.adapters'), "
    "keep what it is made of in run.state, or protect it with pickle=True if whoever can write to the run is trusted"
)
_IN_KEY: Final = Note("{…}")


class Encoder:
    """One object's encoding. `buffers` grows as nodes are made; nothing of the object is changed."""

    def __init__(self, name: str = "", path: tuple[object, ...] = (), keys: int = 0) -> None:
        self.name = name
        self.buffers: list[np.ndarray] = []
        self._path: list[object] = list(path)
        self._keys = keys  # > 0: inside a dict's key or a set's member, where only immutable values can be
        self._met: dict[int, int] = {}
        self._open: set[int] = set()
        self._keep: list[object] = []  # ids are only unique while their objects live; state_dict() makes new ones

    def node(self, obj: Any) -> Any:
        """The node of any supported value. Raises UnsupportedError naming the place and the type."""
        cls = type(obj)
        if cls in _PLAIN:
            return obj
        writer = values.WRITERS.get(cls)
        if writer is not None:
            return self._value(writer, obj)
        method = _METHODS.get(cls)
        return method(self, obj) if method is not None else self._other(obj, cls)

    # -- refusing ---------------------------------------------------------------------------

    def refuse(self, obj: object, why: str, ways: str = WAYS_OUT) -> NoReturn:
        raise UnsupportedError(
            f"{place(self.name, self._path)} ({qualified(type(obj))}) can't be protected: {why}. "
            f"Nothing was saved or changed. {ways}.",
            object=self.name or None,
        )

    def _value(self, writer: Callable[[Any], Any], obj: object) -> Any:
        try:
            return writer(obj)
        except ValueError as e:
            self.refuse(obj, str(e))

    # -- containers -------------------------------------------------------------------------

    def _child(self, step: object, obj: Any) -> Any:
        # `node` again, and not a call of it: each frame per level counts where nesting may be 200 deep.
        cls = type(obj)
        if cls in _PLAIN:
            return obj
        self._path.append(step)
        writer = values.WRITERS.get(cls)
        method = _METHODS.get(cls)
        if writer is not None:
            node = self._value(writer, obj)
        elif method is not None:
            node = method(self, obj)
        else:
            node = self._other(obj, cls)
        self._path.pop()
        return node

    def _deep(self, obj: object) -> None:
        if len(self._path) >= MAX_DEPTH:
            self.refuse(obj, f"it is nested more than {MAX_DEPTH} deep")

    def _enter(self, obj: object) -> list[Any] | None:
        self._deep(obj)
        key = id(obj)
        seen = self._met.get(key)
        if seen is None:
            self._met[key] = len(self._met)
            self._keep.append(obj)
            self._open.add(key)
            return None
        if key in self._open:
            self.refuse(obj, "it contains itself", "Break the cycle, or protect it with pickle=True")
        return ["ref", seen]

    def _leave(self, obj: object) -> None:
        self._open.discard(id(obj))

    def _mutable(self, obj: object) -> None:
        if self._keys:
            self.refuse(obj, "keys of dicts and members of sets must be immutable values of known types")

    def list_(self, obj: list[Any]) -> Any:
        self._mutable(obj)
        ref = self._enter(obj)
        if ref is None:
            nodes: list[Any] = []
            for i, x in enumerate(obj):
                cls = type(x)
                fits = cls in _PLAIN or (cls is int and -(2**63) <= x < 2**64)
                nodes.append(x if fits else self._child(i, x))
            ref = ["list", nodes]
            self._leave(obj)
        return ref

    def tuple_(self, obj: tuple[Any, ...]) -> Any:
        self._deep(obj)
        nodes: list[Any] = []
        for i, x in enumerate(obj):
            nodes.append(x if type(x) in _PLAIN else self._child(i, x))
        return ["tuple", nodes]

    def _members(self, obj: Any) -> list[Any]:
        # Each member is encoded by itself to find its place. Where it holds containers (frozen dataclasses), whose
        # numbers depend on the order, it is encoded again in that order.
        found = []
        contained = False
        for member in obj:
            alone = Encoder(self.name, (*self._path, _IN_KEY), 1)
            node = alone.node(member)
            contained = contained or bool(alone._met)
            found.append((packing.pack(node, self.name), node, member))
        found.sort(key=lambda m: m[0])
        if not contained:
            return [node for _, node, _ in found]
        self._keys += 1
        nodes = [self._child(_IN_KEY, member) for _, _, member in found]
        self._keys -= 1
        return nodes

    def set_(self, obj: set[Any]) -> Any:
        self._mutable(obj)
        ref = self._enter(obj)
        if ref is None:
            ref = ["set", self._members(obj)]
            self._leave(obj)
        return ref

    def frozenset_(self, obj: frozenset[Any]) -> Any:
        self._deep(obj)
        return ["frozenset", self._members(obj)]

    def dict_(self, obj: dict[Any, Any]) -> Any:
        self._mutable(obj)
        ref = self._enter(obj)
        if ref is None:
            flat: list[Any] = []
            for key, value in obj.items():
                self._keys += 1
                flat.append(self._child(_IN_KEY, key))
                self._keys -= 1
                flat.append(self._child(key, value))
            ref = ["dict", flat]
            self._leave(obj)
        return ref

    def state(self, obj: State) -> Any:
        """The node of a `State`: a dict of its attributes."""
        flat: list[Any] = []
        self._enter(obj)
        for key, value in obj._values.items():
            flat += (key, self._child(Attribute(key), value))
        self._leave(obj)
        return ["dict", flat]

    def bytearray_(self, obj: bytearray) -> Any:
        self._mutable(obj)
        ref = self._enter(obj)
        self._leave(obj)
        return ["bytearray", bytes(obj)] if ref is None else ref

    def array(self, obj: np.ndarray) -> Any:
        self._mutable(obj)
        ref = self._enter(obj)
        self._leave(obj)
        if ref is not None:
            return ref
        try:
            node, memory = arrays.encode_array(obj, len(self.buffers))
        except ValueError as e:
            self.refuse(obj, str(e))
        self.buffers.append(memory)
        return node

    def jax(self, obj: Any) -> Any:
        """The node of a JAX array or of random keys; one that is met twice is stored once."""
        self._mutable(obj)
        ref = self._enter(obj)
        if ref is not None:
            return ref
        refusal = jaxarrays.refusal(obj)
        if refusal is not None:
            self.refuse(obj, *refusal)
        if jaxarrays.is_key(obj):
            impl, data = jaxarrays.key_parts(obj)
            return self._left(obj, ["jax_key", impl, self._child(Note(".key_data"), data)])
        try:
            node, memory = jaxarrays.encode_array(obj, len(self.buffers))
        except ValueError as e:
            self.refuse(obj, str(e))
        self.buffers.append(memory)
        return self._left(obj, node)

    def generator(self, obj: Any) -> Any:
        self._mutable(obj)
        ref = self._enter(obj)
        if ref is None:
            try:
                name = rng.class_name(obj)
            except ValueError as e:
                self.refuse(obj, str(e))
            ref = ["rng", name, self._child(Note(".state"), rng.state_of(obj))]
            self._leave(obj)
        return ref

    # -- types of the program ---------------------------------------------------------------

    def _other(self, obj: Any, cls: type) -> Any:
        node = self._typed(obj, cls)
        if node is not MISSING:
            return node
        registry.load_entry_points()
        if registry.adapter_for(cls) is not None:
            return self._typed(obj, cls)
        if isinstance(obj, np.ndarray):
            self.refuse(obj, "of NumPy's arrays, only numpy.ndarray itself holds its whole state in its memory")
        if isinstance(obj, State):
            self.refuse(obj, "a state can't stand inside another object", "Protect it by itself, as run.state does")
        base = objects.native_base(cls)
        if base is not object:
            self.refuse(obj, f"its kind is not known, and as a plain {base.__qualname__} it would come back as another")
        self.refuse(obj, "its kind is not known")

    def _typed(self, obj: Any, cls: type) -> Any:
        if rng.is_generator(obj):
            return self.generator(obj)
        adapter = registry.adapter_for(cls)
        if adapter is not None:
            self._mutable(obj)
            return self._enter(obj) or self._left(
                obj, ["adapter", adapter.name, self._child("adapter", adapter.encode(obj))]
            )
        if isinstance(obj, np.generic):
            return self._value(values.write_scalar, obj)
        if jaxarrays.is_array(obj):
            return self.jax(obj)
        if isinstance(obj, enum.Enum):
            return ["enum", registry.type_name(cls), self._value(values.member_name, obj)]
        if objects.has_state_dict(cls):
            self._mutable(obj)
            return self._enter(obj) or self._left(obj, self._state_dict(obj, cls))
        if objects.is_dataclass(cls):
            if not objects.is_frozen(cls):
                self._mutable(obj)
            return self._enter(obj) or self._left(obj, self._dataclass(obj, cls))
        return MISSING

    def _left(self, obj: object, node: list[Any]) -> list[Any]:
        self._leave(obj)
        return node

    def _state_dict(self, obj: Any, cls: type) -> list[Any]:
        state = obj.state_dict()
        if type(state) is not dict:
            if not isinstance(state, dict):
                self.refuse(obj, f"its state_dict() returned a {qualified(type(state))}, not a dict")
            state = dict(
                state
            )  # torch's modules return an OrderedDict with attributes that load_state_dict can do without
        return ["state_dict", registry.type_name(cls), self._child(Note(".state_dict()"), state)]

    def _dataclass(self, obj: Any, cls: type) -> list[Any]:
        extra = objects.extra_attributes(obj)
        if extra:
            self.refuse(
                obj, f"its attribute {extra[0]!r} is no field and would be lost", f"Declare it as a field. {WAYS_OUT}"
            )
        flat: list[Any] = []
        for field in objects.field_names(cls):
            value = getattr(obj, field, MISSING)
            if value is MISSING:
                self.refuse(obj, f"its field {field!r} is not set", "Give the field a value, None for instance")
            flat += (field, self._child(Attribute(field), value))
        return ["dataclass", registry.type_name(cls), flat]


_METHODS: Final[dict[type, Callable[[Encoder, Any], Any]]] = {
    list: Encoder.list_,
    tuple: Encoder.tuple_,
    set: Encoder.set_,
    frozenset: Encoder.frozenset_,
    dict: Encoder.dict_,
    bytearray: Encoder.bytearray_,
    np.ndarray: Encoder.array,
}
