"""Random generators: their state as a tree, and back into the same generator.

A generator's state is everything it will ever draw: the bit generator's, the legacy Gaussian that is held back, and
for `Generator.spawn` the seed sequence with the number of children it has had. NumPy copies some of these
into C structs unchecked (a position past the end of a buffer is read from there), so all is checked here first.

`numpy.random` is loaded by NumPy on first use, which takes as long as the rest of this library; so it is here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.random import BitGenerator

_BIT_GENERATORS: Final = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_MAX_SPAWNED: Final = 10_000  # children spawned only to advance a counter: 10 µs each


def is_generator(obj: object) -> bool:
    """Whether `obj` is exactly a Generator, a RandomState or a random.Random."""
    cls = type(obj)
    if cls.__name__ not in ("Generator", "RandomState", "Random"):
        return False
    return cls is random.Random or cls is np.random.Generator or cls is np.random.RandomState


def _bit_generator(name: str) -> type[BitGenerator]:
    cls: type[BitGenerator] = getattr(np.random, name)
    return cls


def class_name(obj: Any) -> str:
    """`Generator:PCG64`, `RandomState:MT19937` or `Random`. Raises ValueError for a bit generator of another maker."""
    if type(obj) is random.Random:
        return "Random"
    bits = obj.bit_generator if type(obj) is np.random.Generator else obj._bit_generator
    name = type(bits).__name__
    if name not in _BIT_GENERATORS or _bit_generator(name) is not type(bits):
        raise ValueError(f"its bit generator {type(bits).__name__} is not one of NumPy's")
    return f"{type(obj).__name__}:{name}"


def known(name: object) -> bool:
    """Whether a stored class name is one that `class_name` gives."""
    if type(name) is not str:
        return False
    outer, _, bits = name.partition(":")
    return name == "Random" or (outer in ("Generator", "RandomState") and bits in _BIT_GENERATORS)


def state_of(obj: Any) -> Any:
    """The state as a tree: dicts, lists, tuples, numbers and arrays."""
    if type(obj) is random.Random:
        return obj.getstate()
    if type(obj) is np.random.RandomState:
        return obj.get_state(legacy=False)
    return {"state": obj.bit_generator.state, "seed_seq": _seed_of(obj.bit_generator.seed_seq)}


def new(name: str) -> Any:
    """A generator of a known class, in any state."""
    outer, _, bits = name.partition(":")
    if outer == "Random":
        return random.Random(0)
    generator = _bit_generator(bits)(0)
    return np.random.Generator(generator) if outer == "Generator" else np.random.RandomState(generator)


def validate(name: str, state: Any) -> None:
    """Raise ValueError unless `state` is a state of the known class `name`."""
    outer, _, bits = name.partition(":")
    if outer == "Random":
        _check_random(state)
    elif outer == "RandomState":
        _check(state, {**_SPECS[bits], "has_gauss": _between(0, 1), "gauss": lambda v: type(v) is float})
    else:
        _check(state, {"state": _SPECS[bits], "seed_seq": lambda v: v is None or _is_seed(v)})


def set_state(obj: Any, state: Any) -> None:
    """Put a validated state into a generator of its class. Raises ValueError if NumPy refuses it all the same."""
    try:
        if type(obj) is random.Random:
            obj.setstate(state)
        elif type(obj) is np.random.RandomState:
            obj.set_state(state)
        else:
            _set_seed(obj.bit_generator, state)
            obj.bit_generator.state = state["state"]
    except (TypeError, KeyError, IndexError, OverflowError) as e:
        raise ValueError(f"the generator refuses its state: {e}") from None


# -- seed sequences -------------------------------------------------------------------------


def _seed_of(seq: Any) -> dict[str, Any] | None:
    if type(seq) is not np.random.SeedSequence:
        return None
    entropy: Any = seq.entropy
    try:
        entropy = int(entropy) if isinstance(entropy, (int, np.integer)) else [int(n) for n in entropy]
    except (TypeError, ValueError):
        return None  # entropy in words or nested: such a sequence is left to the program
    seed = {
        "entropy": entropy,
        "spawn_key": [int(n) for n in seq.spawn_key],
        "pool_size": int(seq.pool_size),
        "n_children_spawned": int(seq.n_children_spawned),
    }
    return seed if _is_seed(seed) else None


def _is_seed(seed: Any) -> bool:
    if type(seed) is not dict or set(seed) != {"entropy", "spawn_key", "pool_size", "n_children_spawned"}:
        return False
    entropy, key = seed["entropy"], seed["spawn_key"]
    numbers = entropy if type(entropy) is list else [entropy]
    return (
        all(type(n) is int and n >= 0 for n in numbers)
        and type(key) is list
        and all(type(n) is int and 0 <= n < 2**32 for n in key)
        and _between(4, 1024)(seed["pool_size"])
        and _between(0, 2**32 - 1)(seed["n_children_spawned"])
    )


def _set_seed(bits: Any, state: Mapping[str, Any]) -> None:
    seed = state["seed_seq"]
    now = _seed_of(bits.seed_seq)
    if seed is None or seed == now:
        return
    count = seed["n_children_spawned"]
    if now is not None and {**now, "n_children_spawned": count} == seed:
        ahead = count - now["n_children_spawned"]
        if 0 < ahead <= _MAX_SPAWNED:
            bits.seed_seq.spawn(ahead)  # keeps the sequence that the program may hold
            return
    sequence = np.random.SeedSequence(
        seed["entropy"], spawn_key=seed["spawn_key"], pool_size=seed["pool_size"], n_children_spawned=count
    )
    try:
        bits.__setstate__((state["state"], sequence))
    except (TypeError, ValueError):  # NumPy 1.26 takes no sequence there; to initialise anew exchanges it in place
        bits.__init__(sequence)


# -- what a state may be ----------------------------------------------------------------------


def _between(low: int, high: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is int and low <= v <= high


def _words(dtype: str, count: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is np.ndarray and v.dtype == np.dtype(dtype) and v.shape == (count,)


_HELD: Final[dict[str, Any]] = {"has_uint32": _between(0, 1), "uinteger": _between(0, 2**32 - 1)}
_PCG: Final[dict[str, Any]] = {"state": {"state": _between(0, 2**128 - 1), "inc": _between(0, 2**128 - 1)}, **_HELD}
_SPECS: Final[dict[str, dict[str, Any]]] = {
    "PCG64": _PCG,
    "PCG64DXSM": _PCG,
    "MT19937": {"state": {"key": _words("uint32", 624), "pos": _between(0, 624)}},
    "Philox": {
        "state": {"counter": _words("uint64", 4), "key": _words("uint64", 2)},
        "buffer": _words("uint64", 4),
        "buffer_pos": _between(0, 4),
        **_HELD,
    },
    "SFC64": {"state": {"state": _words("uint64", 4)}, **_HELD},
}
for _name, _spec in _SPECS.items():
    _SPECS[_name] = {"bit_generator": (lambda v, n=_name: type(v) is str and v == n), **_spec}


def _check(state: Any, spec: Mapping[str, Any]) -> None:
    if type(state) is not dict or set(state) != set(spec):
        raise ValueError("a generator's state is malformed")
    for key, rule in spec.items():
        if isinstance(rule, dict):
            _check(state[key], rule)
        elif not rule(state[key]):
            raise ValueError(f"a generator's state has an impossible {key!r}")


def _check_random(state: Any) -> None:
    if type(state) is not tuple or len(state) != 3 or state[0] != 3 or type(state[1]) is not tuple:
        raise ValueError("a generator's state is malformed")
    words = state[1]
    if len(words) != 625 or not all(type(n) is int and 0 <= n < 2**32 for n in words) or words[624] > 624:
        raise ValueError("a generator's state has impossible words")
    if state[2] is not None and type(state[2]) is not float:
        raise ValueError("a generator's state has an impossible Gaussian")
