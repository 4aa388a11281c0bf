"""Levels as the program makes them: what each holds, what is refused, and in which words."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import holdfast
from holdfast import global_, local, memory, partner, rs, versions, xor
from holdfast.errors import ConfigError
from holdfast.levels import LARGEST, MOST, NAMES, Level
from holdfast.leveltext import _MAKERS, _SETTINGS, parse_levels
from holdfast.policy import Every, Keep
from holdfast.redundancy.field import MOST as FIELD_MOST
from holdfast.redundancy.sets import deal


def domain() -> str:
    return "rack 7"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (memory(), Level("memory", "memory")),
        (memory("/dev/shm/x", keep=Keep(last=3)), Level("memory", "memory", None, Keep(last=3), "/dev/shm/x")),
        (local("/scratch", every=versions(2)), Level("local", "local", Every(versions=2), None, "/scratch")),
        (local(Path("/scratch")), Level("local", "local", root="/scratch")),
        (partner(), Level("rs", "partner", set_size=2, m=1)),
        (xor(), Level("rs", "xor", set_size=None, m=1)),
        (xor(4, domain=domain), Level("rs", "xor", set_size=4, m=1, domain=domain)),
        (rs(), Level("rs", "rs", set_size=8, m=2)),
        (rs(128, 127), Level("rs", "rs", set_size=128, m=127)),
        (rs(None, 7), Level("rs", "rs", set_size=None, m=7)),
        (rs(3, 1, every=holdfast.steps(5)), Level("rs", "rs", Every(steps=5), set_size=3, m=1)),
        (global_(), Level("global", "global")),
        (global_(every=holdfast.auto(), limit="5MB/s"), Level("global", "global", holdfast.auto(), limit=5_000_000)),
    ],
)
def test_what_a_level_holds(level, expected):
    assert level == expected
    with pytest.raises(AttributeError):
        level.every = None


@pytest.mark.parametrize(
    ("limit", "nbytes"),
    [
        ("500MB/s", 500_000_000), ("500MB", 500_000_000), ("1 GiB/s", 1 << 30), (" 1.5 GiB /s", 3 << 29), (1, 1),
        (2.5e8, 250_000_000),
    ],
)  # fmt: skip
def test_limits(limit, nbytes):
    assert global_(limit=limit).limit == nbytes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rs(4, 4), r"'rs' can't have m=4 with set_size=4.*Use m=3 or less"),
        (lambda: rs(4, 9), r"m=9 with set_size=4"),
        (lambda: rs(None, 8), r"m=8 with sets of up to 8 members.*Use m=7 or less"),
        (lambda: rs(4, 0), r"m=0: a number of parities, at least 1"),
        (lambda: rs(4, True), r"m=True"),
        (lambda: rs(4, 1.0), r"m=1\.0"),
        (lambda: xor(1), r"'xor' can't have set_size=1: members .* from 2 to 128"),
        (lambda: xor(0), r"set_size=0"),
        (lambda: xor(129), r"set_size=129"),
        (lambda: xor("4"), r"set_size='4'"),
        (lambda: xor(True), r"set_size=True"),
        (lambda: xor(domain="rack"), r"domain='rack': a function .* HOLDFAST_FAILURE_DOMAIN"),
        (lambda: local(""), r"'local' needs a directory"),
        (lambda: local(None), r"'local' needs a directory .*local\('/scratch'\)"),
        (lambda: local("scratch"), r"root='scratch': an absolute path is needed.* whatever directory they work in"),
        (lambda: local(Path("../scratch")), r"absolute path"),
        (lambda: local("~/scratch"), r"absolute path"),
        (lambda: local(b"/scratch"), r"absolute path"),
        (lambda: local("/scr\0atch"), r"absolute path"),
        (lambda: memory("shm"), r"'memory' can't have root='shm': an absolute path"),
        (lambda: memory(""), r"root=''"),
        (lambda: memory(keep=2), r"'memory' can't have keep=2: holdfast\.Keep\(last=2\)"),
        (lambda: memory(keep=Keep(records=3)), r"'memory' holds no records"),
        (lambda: memory(every=10), r"'memory' can't have every=10: holdfast\.versions\(10\), holdfast\.steps\(100\)"),
        (lambda: xor(every="10 steps"), r"every='10 steps': holdfast\.versions\(10\).*Text .* is for holdfast.toml"),
        (lambda: memory(every=Every()), r"never"),
        (lambda: global_(every=holdfast.overhead(0.1)), r"overhead.* for a loop"),
        (lambda: global_(every=holdfast.auto(mtbf=3600)), r"auto\(mtbf=\.\.\.\) are for a loop"),
        (lambda: global_(every=holdfast.auto() | versions(3)), r"auto\(\) has no arguments and stands alone"),
        (lambda: global_(limit=0), r"limit=0: bytes per second"),
        (lambda: global_(limit=-5), r"limit=-5"),
        (lambda: global_(limit="0.1 B/s"), r"limit=0"),
        (lambda: global_(limit=True), r"limit=True"),
        (lambda: global_(limit="fast"), r"limit='fast': bytes per second are needed, such as 500_000_000, '500MB/s'"),
        (lambda: global_(limit="500Mbit/s"), r"500Mbit"),
        (lambda: global_(limit=float("nan")), r"limit=nan"),
        (lambda: global_(limit=float("inf")), r"limit=inf"),
        (lambda: global_(limit=[1]), r"limit=\[1\]"),
    ],
)
def test_what_a_level_can_not_be(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "level",
    [
        Level("disk", "disk"), Level("rs", "memory"), Level("xor", "xor"), rs()._replace(m=8), xor()._replace(m=2),
        partner()._replace(set_size=3), memory()._replace(root="x"), local("/x")._replace(root=None),
        global_()._replace(limit="1"), global_()._replace(every="auto"),
    ],
)  # fmt: skip
def test_levels_made_by_hand_are_checked_when_they_are_used(level):
    with pytest.raises(ConfigError, match=r"level '?\w+"):
        parse_levels([level])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([memory()], ["memory"]),
        (memory(), ["memory"]),
        ((memory(), xor(), global_()), ["memory", "xor", "global"]),
        ([global_(), rs(), local("/s"), memory()], ["local", "memory", "rs", "global"]),
        ([global_(), rs(), memory(), local("/s")], ["memory", "local", "rs", "global"]),
        ([partner()], ["memory", "partner"]),
        ([global_(), xor()], ["memory", "xor", "global"]),
        ([local("/s"), xor()], ["local", "xor"]),
    ],
)
def test_order(given, names):
    assert [level.name for level in parse_levels(given)] == names


def test_nothing_of_a_level_is_lost_on_the_way():
    first, place = memory(keep=Keep(last=2)), local("/s", every=versions(3), keep=Keep(last=4))
    redundancy = rs(6, 2, every=holdfast.seconds(9), domain=domain)
    store = global_(every=holdfast.steps(100), keep=Keep(last=5, records=6), limit=7)
    assert parse_levels([store, redundancy, first, place]) == (first, place, redundancy, store)


@pytest.mark.parametrize(
    "given",
    [
        memory(every=versions(10)),
        [memory(every=holdfast.auto()), local("/s"), global_()],
        [local("/s", every=holdfast.seconds(60)), memory(every=versions(2))],
        [global_(every=versions(2)), xor(every=versions(2)), local("/s", every=versions(2))],
    ],
)
def test_the_first_place_gets_every_checkpoint(given):
    with pytest.raises(ConfigError, match=r"can't have every=.*is the first place.*run\.steps\(n, every=\.\.\.\)"):
        parse_levels(given)


SAME = memory()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "empty.*at least one of memory, local, partner, xor, rs, global;.*'global'"),
        ((), "empty"),
        ([memory(), memory()], "'memory' is given twice"),
        ([SAME, SAME], "'memory' is given twice"),
        ([local("/a"), memory(), local("/b")], "'local' is given twice"),
        ([global_(), global_(limit=3)], "'global' is given twice"),
        ([xor(), xor(4)], "'xor' is given twice"),
        ([partner(), memory(), rs()], "'partner' and 'rs' are both redundancy. A run has one: partner, xor or rs"),
        ([memory], r"holdfast\.memory is a function: write holdfast\.memory\(\)"),
        (global_, r"holdfast\.global_ is a function"),
        ([holdfast.local], r"write holdfast\.local\(root\)"),
        ([print], "is no level"),
        ([3], "3 is no level. A name"),
        ([None], "None is no level"),
        (3, "levels=3: a list of levels is needed"),
        ({memory()}, "a list of levels is needed"),
        (b"memory", "a list of levels is needed"),
    ],
)
def test_lists_that_can_not_be(given, words):
    with pytest.raises(ConfigError, match=words):
        parse_levels(given)


def test_the_table_of_settings_is_the_functions():
    assert tuple(_MAKERS) == NAMES
    assert {name: set(inspect.signature(make).parameters) for name, make in _MAKERS.items()} == {
        name: set(settings) for name, settings in _SETTINGS.items()
    }


def test_the_bounds_are_those_of_redundancy():
    assert MOST == FIELD_MOST
    assert len(deal([str(i) for i in range(LARGEST)], None, 1)[0]) == LARGEST
    assert max(len(members) for members in deal([str(i) for i in range(4 * LARGEST)], None, 1)) == LARGEST
