"""Levels as a file or the environment says them: names, tables, text; the same as what the program would make."""

from __future__ import annotations

import os
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast import global_, local, memory, partner, rs, seconds, steps, versions, xor
from holdfast.errors import ConfigError
from holdfast.levels import Level
from holdfast.leveltext import parse_levels
from holdfast.policy import Every, Keep


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("memory,xor,global", [memory(), xor(), global_()]),
        (" memory , xor ,global ", [memory(), xor(), global_()]),
        (["memory", "xor", "global"], [memory(), xor(), global_()]),
        ("global", [global_()]),
        ("memory,xor:set_size=4,global:limit=500MB/s", [memory(), xor(4), global_(limit=500_000_000)]),
        ("rs:set_size=5:m=1:every=10 versions", [memory(), rs(5, 1, every=versions(10))]),
        ("local:root=/scratch:keep=3", [local("/scratch", keep=Keep(last=3))]),
        (["global:every=auto", "partner", memory(keep=Keep(last=4))],
         [memory(keep=Keep(last=4)), partner(), global_(every=holdfast.auto())]),
        ({"kind": "rs", "set_size": 8, "m": 2, "every": "100 steps"}, [memory(), rs(8, 2, every=steps(100))]),
        ([{"kind": "xor", "set_size": "4"}], [memory(), xor(4)]),
        ([{"kind": "rs", "set_size": "auto", "m": 3}], [memory(), rs(None, 3)]),
        ([{"kind": "memory", "keep": 3}], [memory(keep=Keep(last=3))]),
        ([{"kind": "memory", "keep": {"last": 3}}], [memory(keep=Keep(last=3))]),
        ([{"kind": "global", "every": versions(3), "keep": Keep(last=9), "limit": 5}],
         [global_(every=versions(3), keep=Keep(last=9), limit=5)]),
        ([{"kind": "xor", "domain": os.getcwd}], [memory(), xor(domain=os.getcwd)]),
        ("global:every=1 version", [global_(every=versions(1))]),
        ("global:every= 1.5  seconds", [global_(every=seconds(1.5))]),
        ("global:every=2 h", [global_(every=seconds(7200))]),
        ("global:every=0.5 hours|7 versions", [global_(every=seconds(1800) | versions(7))]),
        ("global:every=1 hour", [global_(every=seconds(3600))]),
        ("memory,xor:every=10 min", [memory(), xor(every=seconds(600))]),
        ("global:every=1 minute", [global_(every=seconds(60))]),
        ("global:every=90 s", [global_(every=seconds(90))]),
        ("global:every=1 step | 60 seconds", [global_(every=steps(1) | seconds(60))]),
    ],
)  # fmt: skip
def test_what_is_understood(given, expected):
    assert parse_levels(given) == tuple(expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("memory,,global", "a name is missing"),
        ("memory,", "a name is missing"),
        (":set_size=4", "a name is missing"),
        ("memroy", "no level named 'memroy'; did you mean 'memory'?"),
        (["global_"], "did you mean 'global'"),
        ("tape", "no level named 'tape'; known: memory, local, partner, xor, rs, global"),
        ("rs:setsize=4", "no setting of the level 'rs' named 'setsize'; did you mean 'set_size'"),
        ("xor:m=2", "no setting of the level 'xor' named 'm'; known: set_size, every, domain"),
        ("partner:set_size=3", "no setting of the level 'partner'"),
        ("memory:limit=1", "no setting of the level 'memory'"),
        ("rs:kind=xor", "'kind=xor' can't be understood"),
        ("rs:m", "'m' can't be understood here.*rs:set_size=8:m=2"),
        ("rs:m=", "can't be understood"),
        ("rs:=3", "can't be understood"),
        ("rs:m=1:m=2", "'m=2' can't be understood here. Write each setting once"),
        ("local", "'local' needs a directory.*local:root=/scratch"),
        ("local:root=scratch", "absolute path"),
        ("rs:m=two", "m='two'"),
        ("rs:set_size=1.5", "set_size='1.5'"),
        ("rs:set_size=4:m=4", "m=4 with set_size=4"),
        ("xor:domain=rack", "domain='rack'.*HOLDFAST_FAILURE_DOMAIN"),
        ("global:limit=much", "limit='much'"),
        ("memory:keep=some", "keep='some': holdfast.Keep"),
        ("memory:keep=0", "Keep\\(last=0\\)"),
        ([{"kind": "memory", "keep": {"lats": 3}}], "'lats'; did you mean 'last'"),
        ([{"kind": "memory", "keep": True}], "keep=True"),
        ([{"kind": "memory", "keep": [3]}], "keep=\\[3\\]"),
        ([{"kind": "xor", "every": 10}], r"every=10: holdfast\.versions"),
        ("memory:every=10 versions,global", "'memory' can't have every=.*first place, which gets every checkpoint"),
        ([{"kind": "local", "root": "/s", "every": "1 h"}, "memory:every=2 steps"], "'local' can't have every=.*Leave"),
        ([{"name": "memory"}], "lacks its kind: kind = one of memory, local"),
        ([{"kind": 3}], "has 3 for its kind"),
        ([{}], "lacks its kind"),
        ([{"kind": "xor", 3: 4}], "no setting of the level 'xor' named '3'"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        parse_levels(given)


@pytest.mark.parametrize(
    "every",
    ["", "10", "versions", "10 ", "10 days", "10 m", "nan h", "0 min", "10versions", "ten versions", "0 versions",
     "-1 steps", "1.5 steps", "nan seconds", "0 seconds", "10 versions |", "| auto", "always"],
)  # fmt: skip
def test_cadences_that_are_refused(every):
    with pytest.raises(ConfigError, match="'global' can't have every=.*: '10 versions', '100 steps', .* '2 h' or 'auto'"):
        parse_levels([{"kind": "global", "every": every}])


# -- every list of levels can be written down in each of the ways, and is read as the same ------------------

counts = st.integers(1, 10**9)
everies = st.one_of(
    st.none(),
    st.just(holdfast.auto()),
    st.builds(
        lambda n, s, t, which: Every(
            n if which & 1 else None, t if which & 2 else None, versions=s if which & 4 else None
        ),
        counts, counts, st.floats(1e-6, 1e6), st.integers(1, 7),
    ),
)  # fmt: skip
keeps = st.none() | st.builds(Keep, last=counts)
roots = st.text("abz/._- ", max_size=12).map(lambda text: "/" + text.strip())


@st.composite
def redundancies(draw: st.DrawFn) -> Level:
    every, name = draw(everies), draw(st.sampled_from(["partner", "xor", "rs"]))
    size = draw(st.none() | st.integers(2, 128))
    if name == "partner":
        return partner(every=every)
    if name == "xor":
        return xor(size, every=every)
    return rs(size, draw(st.integers(1, (size or 8) - 1)), every=every)


def allowed(levels: list[Level]) -> list[Level]:
    """The same, but the first place without a cadence."""
    first = next((level for level in levels if level.kind in ("memory", "local")), None)
    return [level._replace(every=None) if level is first else level for level in levels]


lists = st.lists(
    st.one_of(
        st.builds(memory, st.none() | roots, every=everies, keep=keeps),
        st.builds(local, roots, every=everies, keep=keeps),
        redundancies(),
        st.builds(global_, every=everies, keep=keeps, limit=st.none() | st.integers(1, 1 << 50)),
    ),
    min_size=1,
    unique_by=lambda level: level.kind,
).map(allowed)


def every_text(every: Every) -> str:
    parts = [(every.versions, "versions"), (every.steps, "steps"), (every.seconds, "seconds")]
    return " | ".join(f"{number} {unit}" for number, unit in parts if number is not None) or "auto"


def table(level: Level) -> dict[str, object]:
    """The level as a table of the file."""
    found: dict[str, object] = {"kind": level.name}
    if level.every is not None:
        found["every"] = every_text(level.every)
    if level.keep is not None:
        found["keep"] = {k: v for k, v in asdict(level.keep).items() if v is not None}
    if level.root is not None:
        found["root"] = level.root
    if level.name in ("xor", "rs"):
        found["set_size"] = "auto" if level.set_size is None else level.set_size
    if level.name == "rs":
        found["m"] = level.m
    if level.limit is not None:
        found["limit"] = level.limit
    return found


def text(level: Level) -> str:
    """The level as the environment says it."""
    settings = table(level)
    if level.keep is not None:
        settings["keep"] = level.keep.last
    return ":".join([str(settings.pop("kind")), *(f"{key}={value}" for key, value in settings.items())])


@given(lists)
def test_the_same_in_the_program_the_file_and_the_environment(levels):
    parsed = parse_levels(levels)
    assert parse_levels([table(level) for level in levels]) == parsed
    assert parse_levels(",".join(map(text, levels))) == parsed
    assert set(levels) <= set(parsed)
    assert {one.name for one in parsed} - {one.name for one in levels} <= {"memory"}


@given(lists)
def test_what_is_parsed_is_parsed_to_itself(levels):
    parsed = parse_levels(levels)
    assert parse_levels(parsed) == parsed
    assert parsed[0].kind != "rs"
    assert [level.kind for level in parsed if level.kind in ("rs", "global")] == [
        kind for kind in ("rs", "global") if kind in [level.kind for level in levels]
    ]


@given(st.text(max_size=40) | st.lists(st.text(":=,mrsxo48", max_size=12), max_size=3))
def test_text_is_understood_or_refused_in_words(value):
    try:
        parsed = parse_levels(value)
    except ConfigError as error:
        assert str(error).rstrip().endswith((".", "?"))
    else:
        assert parse_levels(parsed) == parsed
