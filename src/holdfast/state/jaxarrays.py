"""JAX arrays: immutable, so their memory is referred to and not copied, and a stored one comes back as a new array.

JAX is never imported here. Where the program has not imported it nothing is one of its arrays, and stored ones come back as
NumPy's. What is asked of it: `Array`, `device_put`, `numpy.where`, `random.key_impl`, `key_data`, `wrap_key_data`.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

import numpy as np

from holdfast.state import arrays, dtypes
from holdfast.state.interface import Source

# Types that NumPy does not have; `ml_dtypes` brings them along with JAX. The bytes of one element in NumPy's memory: those of
# fewer than 8 bits have a byte each there.
_EXTENDED: Final = {
    "bfloat16": 2,
    **dict.fromkeys(("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz"), 1),
    **dict.fromkeys(("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"), 1),
    **dict.fromkeys(("int2", "int4", "uint2", "uint4"), 1),
}
_WEAK: Final[dict[str, Any]] = {"f": 0.0, "i": 0, "c": 0j}  # Python's numbers, of which weak types come
_ALIGNED: Final = 64  # memory that begins at a multiple of it is taken over by JAX on a CPU without a copy


class JaxSpec(NamedTuple):
    """What a node `jax` says, checked. `dtype`: NumPy's; for a type that NumPy does not have that of `ml_dtypes`, and
    void of the same size where that is not loaded. `weak`: JAX's weak type, which decides what the array is promoted to."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    number: int
    weak: bool

    @property
    def nbytes(self) -> int:
        return dtypes.elements(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"jax array {self.name} {self.shape}"


class Memory:
    """Memory of a JAX array on the host, as the base of the buffers that are made of it: so it is known not to change.

    The reference that it holds also keeps JAX from reusing the memory: a function to which the array is donated meanwhile
    puts its result elsewhere.
    """

    __slots__ = ("__array_interface__", "view")

    def __init__(self, view: np.ndarray) -> None:
        self.view = view
        at = view.__array_interface__["data"][0]
        self.__array_interface__ = {"data": (at, True), "shape": (view.nbytes,), "typestr": "|u1", "version": 3}


def is_array(obj: object) -> bool:
    """Whether it is an array, a key or a tracer of JAX."""
    kind = getattr(sys.modules.get("jax"), "Array", None)
    return isinstance(kind, type) and isinstance(obj, kind)


def is_key(obj: Any) -> bool:
    """Whether a JAX array holds typed random keys (`jax.random.key`)."""
    return str(obj.dtype).startswith("key<")


def text(obj: Any) -> str:
    """A few words for a JAX array of the program."""
    if is_key(obj):
        return f"jax key {sys.modules['jax'].random.key_impl(obj)}"
    return f"jax array {obj.dtype} {tuple(obj.shape)}"


# -- writing --------------------------------------------------------------------------------------------------


def refusal(obj: Any) -> tuple[str, str] | None:
    """Why a JAX array can't be stored, and the ways out; None if it can."""
    tracer = getattr(getattr(sys.modules["jax"], "core", None), "Tracer", ())
    if isinstance(obj, tracer):
        return (
            "it is a tracer: it stands for a value inside of a function that JAX transforms (jit, grad, vmap)",
            "Put the function's result into the state, outside of it",
        )
    if obj.is_deleted():
        return (
            "it has been deleted: donated to a function (donate_argnums), or by delete(); its values are gone",
            "Put what that function returned in its place: s.x = f(s.x)",
        )
    devices = len(obj.sharding.device_set)
    if devices != 1 or not obj.is_fully_addressable:
        whose = f"{devices} devices" if obj.is_fully_addressable else "devices of other processes"
        return (
            f"it lies on {whose}, and only arrays on one device of this process are stored",
            "Keep the part of each device (x.addressable_shards[i].data), or the whole on one of them "
            "(jax.device_put(x, jax.devices()[0]))",
        )
    if is_key(obj) and type(sys.modules["jax"].random.key_impl(obj)) is not str:
        return (
            "its keys are of an implementation that has no name",
            "Use one that JAX knows by name (jax.random.key(seed, impl='threefry2x32'))",
        )
    return None


def encode_array(x: Any, number: int) -> tuple[list[Any], np.ndarray]:
    """The node and the bytes of a JAX array, for which `refusal` is None, that becomes buffer `number`: its own memory if
    that is the host's, else a copy. Waits until it is computed. Raises ValueError for a dtype that can't be stored."""
    # Asked of the one device's part, so that a copy from another device is not kept with `x`, but given back with the buffer.
    array = np.asarray(x.addressable_data(0))
    name = array.dtype.name
    node = name if name in _EXTENDED else dtypes.to_node(array.dtype)
    if array.dtype != x.dtype or array.dtype.itemsize != _EXTENDED.get(name, array.dtype.itemsize):
        raise ValueError(f"JAX gives its dtype {x.dtype} to NumPy as {array.dtype}, {array.dtype.itemsize} bytes an element")
    if array.flags.writeable or not array.flags.c_contiguous:
        array = array.copy("C")
    memory = arrays.memory(array)
    memory = np.asarray(Memory(memory)) if memory.nbytes else memory
    return ["jax", node, list(array.shape), "C", number, bool(x.weak_type)], memory


def key_parts(key: Any) -> tuple[str, Any]:
    """The implementation's name and the JAX array of the bits of random keys."""
    random = sys.modules["jax"].random
    return random.key_impl(key), random.key_data(key)


# -- reading --------------------------------------------------------------------------------------------------


def parse(node: list[Any]) -> JaxSpec:
    """A node `jax`, checked without looking at its buffer. Raises ValueError."""
    if len(node) != 6:
        raise ValueError("a JAX array's node is malformed")
    _, kind, shape, order, number, weak = node
    if type(kind) is not str or order != "C" or type(number) is not int or number < 0 or type(weak) is not bool:
        raise ValueError("a JAX array's node is malformed")
    if kind in _EXTENDED:
        # ml_dtypes' own types, by names of the table above alone; nothing is looked up that storage chose freely.
        known = getattr(sys.modules.get("ml_dtypes"), kind, None)
        dtype = np.dtype(f"V{_EXTENDED[kind]}") if known is None else np.dtype(known)
        return JaxSpec(kind, dtype, dtypes.to_shape(shape), number, weak)
    dtype = dtypes.from_node(kind)
    if dtype.kind not in "biufc":
        raise ValueError("a JAX array's dtype is none of JAX's")
    return JaxSpec(dtype.name, dtype, dtypes.to_shape(shape), number, weak)


def fresh(spec: JaxSpec, source: Source) -> np.ndarray:
    """A new NumPy array with the stored values, in memory that JAX can take over. The size has been compared with the
    source's. Raises ValueError for a shape that NumPy does not take."""
    if spec.nbytes == 0:
        array = np.empty(spec.shape, spec.dtype)
        source.read(spec.number, arrays.memory(array))
        return array
    room = np.empty(spec.nbytes + _ALIGNED, np.uint8)
    begin = -room.__array_interface__["data"][0] % _ALIGNED
    memory = room[begin : begin + spec.nbytes]
    array = memory.view(spec.dtype).reshape(spec.shape)
    source.read(spec.number, memory)
    return array


def place(array: np.ndarray, spec: JaxSpec, live: Any) -> Any:
    """The stored values as a JAX array: where the live one is, if the program has put that on a device of its choice, else
    where JAX puts new arrays; as the NumPy array that they are if JAX is not loaded. Raises what JAX raises, ValueError if it
    holds the values in another type."""
    jax = sys.modules.get("jax")
    if jax is None or not hasattr(jax, "device_put"):
        return array
    where = live.sharding if is_array(live) and getattr(live, "committed", True) else None
    if where is not None and not where.is_fully_addressable:  # putting it there would have to be done by all processes
        raise ValueError("the program has an array on devices of other processes in its place")
    placed = jax.device_put(array, where)
    if placed.dtype != array.dtype:
        raise ValueError(f"it makes {placed.dtype} of it; set jax_enable_x64 as in the program that stored it")
    if spec.weak and not placed.weak_type:
        # The only public way to a weakly typed array of given bits: into one that was made of Python's numbers.
        zero = _WEAK.get(array.dtype.kind, False)
        weak = jax.numpy.where(jax.numpy.zeros(spec.shape, bool), zero, zero)
        if weak.dtype != array.dtype or not weak.weak_type:
            raise ValueError(f"it does not make a weakly typed {spec.name} here; set jax_enable_x64 as it was")
        placed = weak.at[...].set(placed)
    return placed


def key(data: Any, impl: str) -> Any:
    """The random keys of these bits; the bits, if JAX is not loaded. Raises what JAX raises."""
    return sys.modules["jax"].random.wrap_key_data(data, impl=impl) if is_array(data) else data
