"""What the library asks of JAX, in a hundred lines: arrays that can't change, devices, weak types, keys, tracers.

Tests that take the fixture `jax` run with it, and also with JAX itself where that is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest

KINDS = ["standin"] + ["jax"] * (importlib.util.find_spec("jax") is not None)


class Sharding:
    def __init__(self, *devices: str, here: bool = True) -> None:
        self.device_set, self.is_fully_addressable = set(devices), here


class Array:
    """`host`: whether NumPy sees its own memory, as on a CPU; else each part that is asked for is copied once."""

    host = True

    def __init__(self, values: Any, sharding: Sharding | None = None, weak: bool = False) -> None:
        self._memory = np.array(values)
        self._copy: np.ndarray | None = None
        self.committed, self.sharding = sharding is not None, sharding or Sharding("cpu:0")
        self.dtype, self.shape, self.weak_type = self._memory.dtype, self._memory.shape, weak
        self.is_fully_addressable = self.sharding.is_fully_addressable

    def addressable_data(self, index: int) -> Array:
        part = type(self)(0, self.sharding, self.weak_type)
        part._memory, part.dtype, part.shape = self._memory, self.dtype, self.shape
        return part

    def is_deleted(self) -> bool:
        return self._memory is None

    def delete(self) -> None:
        self._memory = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.host:
            view = np.asarray(_Capsule(self._memory))
        else:
            self._copy = view = self._memory.copy() if self._copy is None else self._copy
        view.flags.writeable = False
        return view

    @property
    def at(self) -> Any:
        outer = self

        class At:
            def __getitem__(self, where: object) -> Any:
                return types.SimpleNamespace(set=lambda new: Array(np.asarray(new), None, outer.weak_type))

        return At()


class _Capsule:
    """What a view of the memory refers to: nothing by which it could be known that it won't change."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__


class Tracer(Array):
    pass


class Key(Array):
    def __init__(self, bits: Any, impl: Any) -> None:
        super().__init__(bits)
        self.bits, self.impl = self._memory, impl
        self.dtype = "key<fry>"  # type: ignore[assignment]


def device_put(values: Any, where: Sharding | None = None) -> Array:
    values = np.asarray(values)
    narrow = {"float64": "float32", "int64": "int32"}.get(values.dtype.name)
    return Array(values.astype(narrow) if narrow else values, where)


def _where(condition: Any, yes: Any, no: Any) -> Array:
    kind = {float: "f4", int: "i4", complex: "c8", bool: "?"}[type(yes)]
    return Array(np.full(np.shape(condition), no, kind), None, kind != "?")


def _wrap(bits: Any, impl: str) -> Key:
    if impl != "threefry2x32":
        raise ValueError("unrecognized PRNG implementation")
    return Key(np.asarray(bits), impl)


def standin() -> Any:
    """A module that stands for JAX."""
    module: Any = types.ModuleType("jax")
    module.Array, module.device_put = Array, device_put
    module.core = types.SimpleNamespace(Tracer=Tracer)
    module.numpy = types.SimpleNamespace(where=_where, zeros=np.zeros, asarray=device_put)
    module.random = types.SimpleNamespace(
        key=lambda seed: Key(np.array([0, seed], np.uint32), "threefry2x32"),
        key_impl=lambda key: key.impl,
        key_data=lambda key: Array(key.bits),
        wrap_key_data=_wrap,
    )
    return module


def module(kind: str) -> Any:
    """The stand-in, or JAX itself: loaded, and not left where the library looks for it."""
    if kind == "standin":
        return standin()
    if not _real:
        _real.append(importlib.import_module("jax"))
        del sys.modules["jax"]
    return _real[0]


_real: list[Any] = []


@pytest.fixture(params=KINDS)
def jax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """JAX as the program has imported it."""
    found = module(request.param)
    monkeypatch.setitem(sys.modules, "jax", found)
    return found
