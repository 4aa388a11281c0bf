"""The program's own types: enums, dataclasses, state_dict, adapters, generators, pickles."""

from __future__ import annotations

import enum
import importlib.metadata
import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from state_support import again, equal, frozen

from holdfast.errors import MismatchError, UnsupportedError, UsageError
from holdfast.state import (
    State,
    check,
    decode,
    describe,
    encode,
    mismatch,
    register_adapter,
    register_type,
)


class Color(enum.Enum):
    RED = 1
    BLUE = 2
    AZURE = 2  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Flag):
    A = 1
    B = 2
    C = 4
    AB = 3


@dataclass
class Config:
    rate: float = 0.1
    table: Any = None
    names: list = field(default_factory=list)


@dataclass(frozen=True)
class Key:
    n: int
    inner: Any = None


@dataclass
class Slotted:
    __slots__ = ("a", "b")
    a: int
    b: list


MEMBERS = [Color.RED, Color.AZURE, Level.LOW, Mode.A, Mode.AB, Mode.A | Mode.C, Mode(0), Mode.A | Mode.B | Mode.C]


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_enum_members_take_their_type_from_the_live_object_or_the_registry(member):
    cls = type(member)
    encoded, source = frozen([member])
    with pytest.raises(MismatchError, match=r"\[0\].*register_type"):
        decode(encoded.tree, source)
    live = [next(iter(cls))]
    assert decode(encoded.tree, source, live=live)[0] is member
    register_type(cls)
    assert decode(encoded.tree, source)[0] is member


def test_enum_keys_take_their_type_from_the_live_keys():
    live = {Color.RED: 0}
    again({Color.BLUE: 1, (1, 2): 2}, live)
    assert live == {Color.BLUE: 1, (1, 2): 2}
    live = [{Key(1)}]
    again([{Key(2), Key(3)}], live)
    assert live == [{Key(2), Key(3)}]


def test_a_member_that_is_gone_is_a_mismatch():
    register_type(Color, "color")
    tree = encode([Color.RED]).tree.replace(b"RED", b"TEA")
    with pytest.raises(MismatchError, match="TEA"):
        decode(tree, frozen([])[1])


def test_dataclasses_are_restored_in_place():
    table = np.zeros(3)
    live = Config(0.5, table, ["x"])
    names = live.names
    assert again(Config(0.25, np.ones(3), ["a", "b"]), live) is live
    assert live.table is table and table.all() and live.names is names == ["a", "b"] and live.rate == 0.25
    slotted = Slotted(1, [2])
    inner = slotted.b
    assert again(Slotted(3, [4]), slotted).b is inner == [4]
    register_type(Config)
    assert again(Config(1.0)) == Config(1.0)
    assert mismatch(encode(Config()).tree, slotted).startswith("stored: dataclass ")


def test_frozen_dataclasses_are_kept_or_rebuilt():
    live = [Key(1, [0]), Key(1, [0])]
    first, inner = live[0], live[1].inner
    again([Key(1, [5]), Key(2, [6])], live)
    assert live[0] is first and live[0].inner == [5]
    assert live[1] == Key(2, [6]) and live[1].inner is inner
    with pytest.raises(UnsupportedError, match=r"immutable.*run\.state"):
        check("k", Key(1))
    tree = encode(Key(1), root=False).tree
    assert mismatch(tree, Key(1)) is not None


def test_sets_of_frozen_dataclasses_are_deterministic():
    register_type(Key)
    shared = Key(7)
    one, two = {Key(i, shared) for i in range(20)}, {Key(i, shared) for i in reversed(range(20))}
    assert encode([shared, one]).tree == encode([shared, two]).tree
    back = again([shared, one])
    assert back == [shared, one] and all(k.inner is back[0] for k in back[1])


def test_what_a_dataclass_would_lose_is_refused():
    config = Config()
    config.extra = 1
    with pytest.raises(UnsupportedError, match="'extra' is no field"):
        check("c", config)
    config = Config()
    del config.names
    with pytest.raises(UnsupportedError, match="'names' is not set"):
        check("c", config)

    @dataclass
    class Bad(dict):
        x: int = 0

    with pytest.raises(UnsupportedError, match="as a plain dict"):
        check("c", Bad())

    class Child(Config):  # not a dataclass itself
        pass

    with pytest.raises(UnsupportedError, match="kind is not known"):
        check("c", Child())


def test_other_fields_are_a_mismatch():
    register_type(Config, "c")

    @dataclass
    class Other:
        rate: float = 0.1
        table: Any = None

    tree = encode(Config()).tree
    live = Other()
    from holdfast.state import registry

    registry._names[Other] = "c"
    with pytest.raises(MismatchError, match="field 'names'"):
        decode(tree, frozen([])[1], live=live)
    stored = encode(Other()).tree
    with pytest.raises(MismatchError, match="without the field 'names'"):
        decode(stored, frozen([])[1])
    live = Config(names=["kept"])
    decode(stored, frozen([])[1], live=live)
    assert live == Config(names=["kept"])


class Model:
    def __init__(self, n):
        self.weights = np.full(3, float(n))
        self.loads = 0

    def state_dict(self):
        return OrderedDict(weights=self.weights)

    def load_state_dict(self, state):
        assert type(state) is dict
        self.weights[:] = state["weights"]
        self.loads += 1


def test_state_dict_objects():
    encoded, source = frozen(Model(3))
    live = Model(0)
    assert encoded.kind == "state_dict" and describe(encoded.tree)["kind"] == "state_dict"
    assert decode(encoded.tree, source, live=live) is live and live.loads == 1 and live.weights[0] == 3
    assert equal(decode(encoded.tree, source), {"weights": np.full(3, 3.0)})
    inner = [Model(0)]
    model = inner[0]
    again([Model(5)], inner)
    assert inner[0] is model and model.weights[0] == 5
    with pytest.raises(MismatchError, match="no such object here"):
        again([Model(5), Model(6)], inner)
    assert equal(again([Model(5)]), [{"weights": np.full(3, 5.0)}])


def test_a_state_dict_that_is_refused_by_its_object_is_a_mismatch():
    live = Model(0)
    live.weights = np.zeros(5)
    with pytest.raises(MismatchError, match=r"m: .*load_state_dict refused"):
        again(Model(1), live, name="m")


class Grid:
    def __init__(self, cells):
        self.cells = cells


def fill_grid(live, value):
    if live is None:
        return Grid(value["cells"])
    live.cells[:] = value["cells"]
    return live


def test_adapters():
    with pytest.raises(UnsupportedError, match="register_adapter"):
        check("g", Grid([1]))
    register_adapter(Grid, lambda g: {"cells": g.cells}, fill_grid, "grid")
    encoded, source = frozen(Grid([1, 2]))
    live = Grid([0])
    assert encoded.kind == "grid" and describe(encoded.tree) == {"kind": "adapter", "type": "grid"}
    assert decode(encoded.tree, source, live=live) is live and live.cells == [1, 2]
    assert decode(encoded.tree, source).cells == [1, 2]
    assert mismatch(encoded.tree, Grid([])) is None
    assert mismatch(encoded.tree, [1]) == "stored: object of the adapter grid; the program has: list"
    register_adapter(Grid, lambda g: g.cells, lambda live, value: Grid(value), "grid")
    with pytest.raises(UnsupportedError, match="fill and return live"):
        again(Grid([1]), live)
    with pytest.raises(UsageError, match="name of a kind"):
        register_adapter(Grid, len, max, "array")
    with pytest.raises(UsageError, match="builtin"):
        register_adapter(dict, len, max)
    with pytest.raises(UsageError, match="taken by"):
        register_adapter(Model, len, max, "grid")


def test_adapters_are_found_by_entry_point(monkeypatch):
    calls = []

    class Point:
        name, value = "grids", "grids:register"

        def load(self):
            return lambda: (calls.append(1), register_adapter(Grid, lambda g: g.cells, lambda _, v: Grid(v), "grid"))

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()] * (group == "holdfast.adapters"))
    assert again([Grid([1])])[0].cells == [1] and calls == [1]
    again([Grid([1])])
    assert calls == [1]


def test_a_failing_entry_point_is_named(monkeypatch):
    class Point:
        name, value = "grids", "grids:register"

        def load(self):
            raise ImportError("no grids")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()])
    with pytest.raises(UsageError, match=r"'grids'.*no grids"):
        check("g", Grid([1]))


def test_registering():
    assert register_type(Color) is Color

    @register_type
    @dataclass
    class Local:
        x: int

    assert again(Local(1)) == Local(1)
    with pytest.raises(UsageError, match="dataclass or an enum"):
        register_type(Grid)
    register_type(Color, "color")
    with pytest.raises(UsageError, match="registered for"):
        register_type(Mode, "color")


# -- generators ---------------------------------------------------------------------------

BITS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


def generators(seed):
    for bits in BITS:
        yield np.random.Generator(bits(seed))
        yield np.random.RandomState(bits(seed))
    yield random.Random(seed)


def use(g):
    if isinstance(g, random.Random):
        return [g.random(), g.gauss(0, 1), g.getrandbits(70)]
    numbers = g.integers(0, 9, 3, np.int32) if isinstance(g, np.random.Generator) else g.randint(0, 9, 3)
    return [*numbers.tolist(), *g.standard_normal(5).tolist()]


@pytest.mark.parametrize("index", range(11))
def test_generators_go_on_where_they_were(index):
    stored, live = list(generators(1))[index], list(generators(2))[index]
    use(stored), use(live), use(live)
    encoded, source = frozen(stored)
    assert encoded.kind == "rng" and encoded.tree == encode(stored).tree
    assert mismatch(encoded.tree, live) is None
    assert decode(encoded.tree, source, live=live) is live
    fresh = decode(encoded.tree, source)
    expected = [use(stored) for _ in range(3)]
    assert [use(live) for _ in range(3)] == expected == [use(fresh) for _ in range(3)]
    others = [g for i, g in enumerate(generators(2)) if i != index]
    assert all(mismatch(encoded.tree, g) for g in others)


def test_children_of_a_generator_go_on_too():
    def children(g):
        return [c.random() for c in g.spawn(2)] if hasattr(g, "spawn") else None

    stored, live, other = (np.random.default_rng(s) for s in (1, 1, 2))
    stored.bit_generator.seed_seq.spawn(3)
    sequence = live.bit_generator.seed_seq
    encoded, source = frozen(stored)
    decode(encoded.tree, source, live=live)
    assert live.bit_generator.seed_seq is sequence and sequence.n_children_spawned == 3
    decode(encoded.tree, source, live=other)
    assert other.bit_generator.seed_seq.state == stored.bit_generator.seed_seq.state
    assert children(stored) == children(live) == children(other) == children(decode(encoded.tree, source))


def test_other_generators_are_refused():
    with pytest.raises(UnsupportedError, match="SystemRandom"):
        check("r", random.SystemRandom())

    class Own(np.random.PCG64):
        pass

    with pytest.raises(UnsupportedError, match="not one of NumPy's"):
        check("r", np.random.Generator(Own(1)))


# -- pickles --------------------------------------------------------------------------------


class Thing:
    def __init__(self, n):
        self.n = n
        self.odd = Counter([n])


class Slots:
    __slots__ = ("__own", "free")

    def __init__(self, own):
        self.__own = own

    def own(self):
        return self.__own


class Bomb:
    exploded = False

    def __reduce__(self):
        return _explode, ()


def _explode():
    Bomb.exploded = True


def test_a_pickle_is_transplanted_into_the_live_object():
    live = Thing(1)
    live.extra = 5
    encoded, source = frozen(Thing(2), pickle=True)
    assert encoded.kind == "pickle" and describe(encoded.tree) == {"kind": "pickle"}
    assert decode(encoded.tree, source, live=live, pickle=True) is live
    assert vars(live) == vars(Thing(2))
    assert decode(encoded.tree, source, pickle=True).n == 2
    slots = Slots(1)
    slots.free = 2
    assert again(Slots(3), slots, pickle=True).own() == 3 and not hasattr(slots, "free")
    with pytest.raises(MismatchError, match=r"stored: .*Thing"):
        decode(encoded.tree, source, live=slots, pickle=True)


@pytest.mark.parametrize(
    ("stored", "live"),
    [
        (OrderedDict(b=1, a=2), OrderedDict(z=0)),
        (defaultdict(list, x=[1]), defaultdict(int, y=2)),
        (deque([1, 2], 5), deque(maxlen=5)),
        (Counter("aab"), Counter("z")),
        ({"odd": deque()}, {"other": 1}),
        ([Thing], [1]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_containers_are_transplanted(stored, live):
    assert again(stored, live, pickle=True) is live
    assert live == stored and list(live) == list(stored)
    if isinstance(live, defaultdict):
        assert live.default_factory is list


def test_pickle_true_changes_nothing_for_supported_kinds():
    assert encode([1], pickle=True) == encode([1])
    assert encode(np.zeros(2), pickle=True).kind == "array"


def test_a_pickle_is_never_loaded_unasked():
    encoded, source = frozen([Bomb()], pickle=True)
    live = [Bomb()]
    assert "never loaded" in mismatch(encoded.tree, live)
    for target in ({}, {"live": live}):
        with pytest.raises(MismatchError, match="pickle=True"):
            decode(encoded.tree, source, **target)
    assert describe(encoded.tree) == {"kind": "pickle"}
    assert mismatch(encoded.tree, live, pickle=True) is None
    assert not Bomb.exploded and source.reads == 0
    decode(encoded.tree, source, pickle=True)
    assert Bomb.exploded


def test_arrays_of_other_kinds_are_filled(tmp_path):
    masked = np.ma.masked_array([0.0, 0.0], [0, 0], fill_value=9)
    assert again(np.ma.masked_array([1.0, 2.0], [1, 0], fill_value=7), masked, pickle=True) is masked
    assert masked.tolist() == [None, 2.0] and masked.fill_value == 7
    things = np.array([None, "a"])
    view = things[:]
    again(np.array([[1], {"k": 2}], dtype=object), things, pickle=True)
    assert view.tolist() == [[1], {"k": 2}]
    mapped = np.memmap(tmp_path / "m", "f8", "w+", shape=(2,))
    stored = np.memmap(tmp_path / "n", "f8", "w+", shape=(2,))
    stored[:] = 3
    again(stored, mapped, pickle=True)
    assert mapped.tolist() == [3, 3] and mapped.filename == tmp_path / "m"
    with pytest.raises(MismatchError, match=r"stored: float64 array \(3,\)"):
        again(np.ma.masked_array([1.0, 2.0, 3.0]), masked, pickle=True)


def test_what_can_not_be_transplanted_or_pickled_is_refused_at_once():
    class Sub(np.ndarray):
        pass

    closed = np.zeros(2)
    closed.flags.writeable = False
    with pytest.raises(UnsupportedError, match=r"even as a pickle.*run\.state"):
        check("f", np.zeros(2).view(Sub), pickle=True)
    with pytest.raises(UnsupportedError, match=r"read-only.*pickle=True does not help"):
        check("f", closed, pickle=True)
    with pytest.raises(UnsupportedError, match="can't be pickled"):
        check("f", {"f": lambda: 1}, pickle=True)
    with pytest.raises(UnsupportedError, match="even as a pickle"):
        check("f", len, pickle=True)
    check("s", State(a=1), pickle=True)


def test_golden_bytes():
    register_type(Key, "key")
    register_type(Color, "color")
    register_adapter(Grid, lambda g: g.cells, fill_grid, "grid")
    assert encode([Key(1, Color.RED), Grid([2])]).tree == (
        b"\x92\xa4list\x92\x93\xa9dataclass\xa3key\x94\xa1n\x01\xa5inner\x93\xa4enum\xa5color\xa3RED"
        b"\x93\xa7adapter\xa4grid\x92\xa4list\x91\x02"
    )
    tree = encode(np.random.default_rng(5)).tree
    assert tree.startswith(
        b"\x93\xa3rng\xafGenerator:PCG64\x92\xa4dict\x94\xa5state\x92\xa4dict\x98\xadbit_generator\xa5PCG64"
    )
    assert tree.endswith(
        b"\xa8seed_seq\x92\xa4dict\x98\xa7entropy\x05\xa9spawn_key\x92\xa4list\x90\xa9pool_size\x04\xb2n_children_spawned\x00"
    )
    assert encode(Thing(1), pickle=True).tree == b"\x92\xa6pickle\x00"
