"""`stale` is true exactly when the program has let go of an array, called the way the library calls it."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest

from holdfast.state import encode, stale


@dataclass
class Entry:
    name: str
    obj: object


class Slotted:
    __slots__ = ("obj",)

    def __init__(self, obj):
        self.obj = obj


@dataclass
class Library:
    entries: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)

    def protect(self, name, obj):
        self.entries[name] = Entry(name, obj)
        return obj

    def stale(self):
        return [e.name for e in self.entries.values() if stale(e, "obj")]

    def stale_in_a_loop_with_a_local(self):
        found = []
        for name, entry in self.entries.items():
            obj = entry.obj
            if stale(entry, "obj", 2):
                found.append((name, obj.shape)[0])
        return found


def own(value):
    return np.full(4, value)


def test_swapped_buffers_are_seen():
    library = Library()

    def program():
        u = library.protect("u", np.zeros(4))
        new = np.ones(4)
        assert library.stale() == library.stale_in_a_loop_with_a_local() == []
        u, new = new, u
        assert library.stale() == []  # still there, as `new`: two buffers in turn
        new = np.ones(4)
        assert library.stale() == library.stale_in_a_loop_with_a_local() == ["u"]
        return u, new

    program()
    assert library.stale() == ["u"]


def test_every_way_of_holding_on_counts():
    library = Library()
    library.protect("u", np.zeros(4))
    assert library.stale() == ["u"]
    keep = [library.entries["u"].obj]
    assert library.stale() == []
    keep = {"k": keep.pop()}
    assert library.stale() == []
    keep = keep["k"][1:]  # a view of it
    assert library.stale() == []
    keep = memoryview(keep)
    assert library.stale() == []
    keep = (lambda a: lambda: a)(library.entries["u"].obj)
    assert library.stale() == []
    keep = weakref.ref(library.entries["u"].obj)
    assert library.stale() == ["u"] and keep() is not None


def test_arguments_of_running_functions_count():
    library = Library()

    def step(a):
        return library.stale()

    def middle(a):
        return step(a)

    def passes_on(*args):
        return middle(*args)

    assert step(library.protect("u", np.zeros(4))) == []
    assert passes_on(library.protect("u", np.zeros(4))) == []
    assert [library.stale() for _ in [library.protect("u", np.zeros(4))]] == [[]]  # the loop variable
    assert library.stale() == ["u"]


def test_a_view_is_stale_only_if_its_base_is_let_go():
    library = Library()
    full = np.zeros(6)
    library.protect("u", full[1:-1])
    assert library.stale() == []
    other = full[2:]
    del full
    assert library.stale() == []
    del other
    assert library.stale() == ["u"]
    library.protect("v", np.arange(12.0).reshape(3, 4)[1:, ::2].T)
    assert library.stale() == ["u", "v"]


@pytest.mark.parametrize("make", [lambda: bytearray(16), lambda: memoryview(bytearray(16))], ids=["bytes", "view"])
def test_memory_that_is_no_array_is_never_called_stale(make):
    library = Library()
    library.protect("u", np.frombuffer(make(), "f8"))
    library.protect("v", np.frombuffer(make(), "f8")[1:])
    assert library.stale() == []


def test_a_memmap_behind_a_view_is_never_called_stale(tmp_path):
    library = Library()
    library.protect("u", np.asarray(np.memmap(tmp_path / "m", "f8", "w+", shape=(4,))))
    assert library.stale() == []


def test_all_kinds_of_holders():
    cells = {"a": own(1)}
    row = [own(2)]
    slot = Slotted(own(3))
    assert stale(cells, "a") and stale(row, 0) and stale((own(4),), 0) and stale(slot, "obj")
    for name in cells:
        assert stale(cells, name) and stale(cells, name, 2)
        obj = cells[name]
        assert stale(cells, name, 2) and not stale(cells, name, 1) and obj.shape == (4,)
        del obj
    for obj in row:
        assert stale(row, 0, 2) and not stale(row, 0) and obj.shape == (4,)
    del obj
    assert stale(row, 0)
    mine = cells["a"]
    assert not stale(cells, "a")
    del mine
    assert stale(cells, "a")


def test_an_encoding_that_is_still_alive_counts():
    cells = [own(1)]
    encoded = encode(cells[0])
    assert not stale(cells, 0) and stale(cells, 0, 2)
    del encoded
    assert stale(cells, 0)


def test_many_entries_in_every_kind_of_loop():
    entries = [Entry(str(i), own(i)) for i in range(100)]
    held = [e.obj for e in entries[::2]]
    expected = [e.name for e in entries[1::2]]
    assert [e.name for e in entries if stale(e, "obj")] == expected
    assert [e.name for e in filter(lambda e: stale(e, "obj"), entries)] == expected
    found = []
    for e in entries:
        if stale(e, "obj", own_references=1):
            found.append(e.name)
    assert found == expected and len(held) == 50

    def generate():
        for e in entries:
            if stale(e, "obj"):
                yield e.name

    assert list(generate()) == expected
    del held
    gc.collect()
    assert len(list(generate())) == 100


def test_what_is_no_array_is_never_stale():
    assert not stale([[1]], 0)
