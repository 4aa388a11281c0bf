"""Nodes and buffers -> objects, into the program's own where they are.

What a node says is checked before anything is allocated or called. The program's objects are changed only
after the whole structure has been read: until then changes are collected as actions, so that a type that is not
known, or damage in the structure, leaves the program's state as it was. (Adapters must return their object at once,
and are called on the way.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

from holdfast.errors import MismatchError, UnsupportedError
from holdfast.state import arrays, jaxarrays, objects, registry, rng, values
from holdfast.state.decoding import OPEN, Decoding
from holdfast.state.interface import MISSING, Attribute, Note, place, qualified, show
from holdfast.state.namespace import State, valid

_LEAVES: Final = frozenset({float, int, str, bool, type(None), bytes})
_IN_KEY: Final = Note("{…}")


class Decoder(Decoding):
    """One object's decoding, a method for each tag."""

    def run(self, node: Any, live: Any) -> Any:
        """The object of the root node, complete. Raises DamageError, MismatchError."""
        try:
            result = self.state(node, live) if type(live) is State else self.node(node, live)
            for action in self._actions:
                action()
        except RecursionError:
            raise UnsupportedError(
                f"{self.name or 'the object'} can't be read here: the program's call stack is too deep for the "
                "nesting of what was stored. Nothing stored was changed; call from fewer levels, or raise "
                "sys.setrecursionlimit.",
                object=self.name or None,
            ) from None
        return result

    def node(self, node: Any, live: Any = MISSING) -> Any:
        if type(node) in _LEAVES:
            return node
        if type(node) is not list or not node or type(node[0]) is not str:
            self.damage("a node is malformed")
        tag = node[0]
        method = _METHODS.get(tag)
        if method is not None:
            return method(self, node, live)
        reader = values.READERS.get(tag)
        if reader is None:
            self.damage(f"the tag {show(tag)} is not known")
        return self._checked(reader, node)

    def _child(self, step: object, node: Any, live: Any = MISSING) -> Any:
        if type(node) in _LEAVES:
            return node
        self._path.append(step)
        # Past `node` where that is possible: each frame per level counts where nesting may be 200 deep.
        method = _METHODS.get(node[0]) if type(node) is list and node and type(node[0]) is str else None
        value = method(self, node, live) if method is not None else self.node(node, live)
        self._path.pop()
        return value

    # -- containers -------------------------------------------------------------------------

    def ref(self, node: list[Any], live: Any) -> Any:
        n = self._body(node, (int,))
        if not 0 <= n < len(self._met) or self._met[n] is OPEN:
            self.damage("a reference leads nowhere")
        return self._met[n]

    def list_(self, node: list[Any], live: Any) -> Any:
        nodes, index = self._body(node, (list,)), self._meet()
        mine = self._claim(live, list)
        have = len(live) if mine else 0
        items: list[Any] = []
        for i, n in enumerate(nodes):
            items.append(n if type(n) in _LEAVES else self._child(i, n, live[i] if i < have else MISSING))
        if mine:
            self._actions.append(partial(live.__setitem__, slice(None), items))
        result = live if mine else items
        self._met[index] = result
        return result

    def tuple_(self, node: list[Any], live: Any) -> Any:
        nodes = self._body(node, (list,))
        old = live if type(live) is tuple else None
        have = len(old) if old is not None else 0
        parts: list[Any] = []
        for i, n in enumerate(nodes):
            parts.append(n if type(n) in _LEAVES else self._child(i, n, live[i] if i < have else MISSING))
        items = tuple(parts)
        if old is not None and len(old) == len(items) and all(map(values.same, old, items)):
            return old
        return items

    def _members(self, nodes: list[Any]) -> set[Any]:
        members = [self._child(_IN_KEY, n) for n in nodes]
        try:
            result = set(members)
        except TypeError:
            self.damage("a set has a member that is mutable")
        if len(result) != len(members):
            self.damage("a set has the same member twice")
        return result

    def set_(self, node: list[Any], live: Any) -> Any:
        nodes, index = self._body(node, (list,)), self._meet()
        mine = self._claim(live, set)
        if mine:
            self._learn(live)
        members = self._members(nodes)
        if mine:
            self._actions += (live.clear, partial(live.update, members))
        result = live if mine else members
        self._met[index] = result
        return result

    def frozenset_(self, node: list[Any], live: Any) -> Any:
        nodes = self._body(node, (list,))
        if type(live) is frozenset:
            self._learn(live)
        return frozenset(self._members(nodes))

    def _pairs(self, flat: list[Any], old: dict[Any, Any], step: Callable[[Any], Any] | None = None) -> dict[Any, Any]:
        if len(flat) % 2:
            self.damage("a dict has a key without a value")
        if old:
            self._learn(old)
        result: dict[Any, Any] = {}
        for i in range(0, len(flat), 2):
            key = self._child(_IN_KEY, flat[i])
            try:
                known = old.get(key, MISSING)
            except TypeError:
                self.damage("a dict has a key that is mutable")
            result[key] = self._child(step(key) if step else key, flat[i + 1], known)
        if 2 * len(result) != len(flat):
            self.damage("a dict has the same key twice")
        return result

    def dict_(self, node: list[Any], live: Any) -> Any:
        flat, index = self._body(node, (list,)), self._meet()
        mine = self._claim(live, dict)
        result = self._pairs(flat, live if mine else {})
        if mine:
            self._actions += (live.clear, partial(live.update, result))
            result = live
        self._met[index] = result
        return result

    def state(self, node: Any, live: State) -> State:
        """Put a stored dict of attributes into `live`. Attributes that are not stored are new and stay."""
        if type(node) is not list or not node or node[0] != "dict":
            self.damage("a state is no dict")
        flat, index = self._body(node, (list,)), self._meet()
        if not all(valid(key) for key in flat[::2]):
            self.mismatch("stored: a dict with keys that are no names; the program has: a state")
        result = self._pairs(flat, live._values, Attribute)
        new = {k: v for k, v in live._values.items() if k not in result}
        self._actions += (live._values.clear, partial(live._values.update, result | new))
        self._met[index] = live
        return live

    def bytearray_(self, node: list[Any], live: Any) -> Any:
        data, index = self._body(node, (bytes,)), self._meet()
        if self._claim(live, bytearray):
            result = live
            self._actions.append(partial(self._fill_bytes, live, data, place(self.name, self._path)))
        else:
            result = bytearray(data)
        self._met[index] = result
        return result

    def _fill_bytes(self, live: bytearray, data: bytes, where: str) -> None:
        try:
            live[:] = data
        except BufferError:
            raise MismatchError(
                f"{where}: stored: a bytearray of {len(data)} bytes; the program has: one of {len(live)}, which "
                "can't be resized while views of it exist. Nothing stored was changed.",
                object=self.name or None,
            ) from None

    def array(self, node: list[Any], live: Any) -> Any:
        self._body(node, (object, list, str, int))
        index = self._meet()
        spec = self._checked(arrays.parse, node)
        self._buffer(spec.number, spec.nbytes)
        if arrays.fillable(live, spec) and self._claims.take(live):
            self._actions.append(partial(arrays.fill, live, spec, self._source))
            result = live
        else:
            result = self._checked(arrays.fresh, spec, self._source)
        self._met[index] = result
        return result

    def jax(self, node: list[Any], live: Any) -> Any:
        self._body(node, (str, list, str, int, bool))
        index = self._meet()
        spec = self._checked(jaxarrays.parse, node)
        self._buffer(spec.number, spec.nbytes)
        array = self._checked(jaxarrays.fresh, spec, self._source)
        self._met[index] = result = self._by_jax(spec, jaxarrays.place, array, spec, live)
        return result

    def jax_key(self, node: list[Any], live: Any) -> Any:
        impl, inner = self._body(node, (str, list))
        index = self._meet()
        if inner[:1] != ["jax"]:
            self.damage("random keys have no bits")
        data = self._child(Note(".key_data"), inner, live)
        self._met[index] = result = self._by_jax(f"jax key {show(impl)}", jaxarrays.key, data, impl)
        return result

    def _by_jax(self, what: object, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as e:  # of any kind: no such device, no room on it, no such implementation
            self.mismatch(f"stored: {what}; JAX can't have it here ({type(e).__name__}: {e})")

    def generator(self, node: list[Any], live: Any) -> Any:
        name, inner = self._body(node, (str, object))
        index = self._meet()
        if not rng.known(name):
            self.damage(f"the generator {show(name)} is not known")
        state = self._child(Note(".state"), inner)
        self._checked(rng.validate, name, state)
        mine = rng.is_generator(live) and self._rng_name(live) == name and self._claim(live, type(live))
        if mine:
            self._actions.append(partial(self._checked, rng.set_state, live, state))
            result = live
        else:
            result = rng.new(name)
            self._checked(rng.set_state, result, state)
        self._met[index] = result
        return result

    def _rng_name(self, live: Any) -> str:
        try:
            return rng.class_name(live)
        except ValueError:
            return ""

    # -- types of the program ---------------------------------------------------------------

    def enum_(self, node: list[Any], live: Any) -> Any:
        name, member = self._body(node, (str, str))
        cls = self._type(name, live)
        found = values.member_of(cls, member) if issubclass(cls, enum.Enum) else None
        if found is None:
            self.mismatch(
                f"stored: the member {show(member)} of the enum {show(name)}, which the program's does not have"
            )
        return found

    def dataclass_(self, node: list[Any], live: Any) -> Any:
        name, flat = self._body(node, (str, list))
        index = self._meet()
        cls = self._type(name, live)
        if not objects.is_dataclass(cls):
            self.mismatch(f"stored: the dataclass {show(name)}; the program's type of this name is none")
        counterpart = self._claim(live, cls)
        stored = flat[::2]
        if len(flat) % 2 or not all(type(f) is str for f in stored) or len(set(stored)) != len(stored):
            self.damage("a dataclass is malformed")
        fields = objects.field_names(cls)
        for field in stored:
            if field not in fields:
                self.mismatch(
                    f"stored: a {qualified(cls)} with the field {show(field)}, which the program's does not have"
                )
        contents = {}
        for i in range(0, len(flat), 2):
            known = getattr(live, flat[i], MISSING) if counterpart else MISSING
            contents[flat[i]] = self._child(Attribute(flat[i]), flat[i + 1], known)
        for field in fields:
            if field not in contents:
                value = getattr(live, field, MISSING) if counterpart else MISSING
                if value is MISSING:
                    self.mismatch(
                        f"stored: a {qualified(cls)} without the field {show(field)}, which the program's has"
                    )
                contents[field] = value
        result = self._instance(cls, contents, live if counterpart else MISSING)
        self._met[index] = result
        return result

    def _instance(self, cls: type, contents: dict[str, Any], live: Any) -> Any:
        if live is not MISSING:
            if all(values.same(getattr(live, f, MISSING), v) for f, v in contents.items()):
                return live
            if not objects.is_frozen(cls):
                self._actions += (partial(object.__setattr__, live, f, v) for f, v in contents.items())
                return live
        try:
            fresh: Any = object.__new__(cls)
        except TypeError as e:
            self.mismatch(f"the program's type {qualified(cls)} can't be made anew ({e})")
        for field, value in contents.items():
            object.__setattr__(fresh, field, value)
        return fresh

    def state_dict(self, node: list[Any], live: Any) -> Any:
        name, inner = self._body(node, (str, object))
        index = self._meet()
        state = self._child(Note(".state_dict()"), inner)
        if type(state) is not dict:
            self.damage("a state_dict is no dict")
        result: Any = state
        if self._restoring:
            cls = type(live)
            if registry.type_name(cls) != name or not objects.has_state_dict(cls) or not self._claim(live, cls):
                self.mismatch(
                    f"stored: the state_dict of a {show(name)}; the program has no such object here to load it into. "
                    "Create the object before the state is restored"
                )
            self._actions.append(
                partial(self._foreign, f"{qualified(cls)}.load_state_dict", live.load_state_dict, state)
            )
            result = live
        self._met[index] = result
        return result

    def adapter(self, node: list[Any], live: Any) -> Any:
        name, inner = self._body(node, (str, object))
        index = self._meet()
        found = registry.adapter_named(name)
        if found is None:
            self.mismatch(
                f"stored: an object of the adapter {show(name)}, which is not registered. Register it with "
                "holdfast.register_adapter, or install the package that has it"
            )
        value = self._child("adapter", inner)
        mine = self._claim(live, found.cls)
        result = self._foreign(f"the adapter {name!r}", found.restore, live if mine else None, value)
        if not self._path and self._restoring and result is not live:
            raise UnsupportedError(
                f"{self.name or 'the object'}: the adapter {name!r} returned a new object instead of filling the "
                "protected one. Nothing stored was changed; let restore(live, value) fill and return live.",
                object=self.name or None,
            )
        self._met[index] = result
        return result

    def pickle(self, node: list[Any], live: Any) -> NoReturn:
        self.damage("a pickle stands inside another object")


_METHODS: Final[dict[str, Callable[[Decoder, list[Any], Any], Any]]] = {
    "ref": Decoder.ref,
    "list": Decoder.list_,
    "tuple": Decoder.tuple_,
    "set": Decoder.set_,
    "frozenset": Decoder.frozenset_,
    "dict": Decoder.dict_,
    "bytearray": Decoder.bytearray_,
    "array": Decoder.array,
    "jax": Decoder.jax,
    "jax_key": Decoder.jax_key,
    "rng": Decoder.generator,
    "enum": Decoder.enum_,
    "dataclass": Decoder.dataclass_,
    "state_dict": Decoder.state_dict,
    "adapter": Decoder.adapter,
    "pickle": Decoder.pickle,
}
