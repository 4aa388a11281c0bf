"""The option `levels`: the call, the environment and the file give the same; and `versions`, which is for levels alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import holdfast
from holdfast.config import Options, load
from holdfast.errors import ConfigError, UsageError
from holdfast.policy import Every

TABLES = """
[[levels]]
kind = "local"
root = "/scratch"
keep = 2

[[levels]]
kind = "rs"
set_size = 8
m = 2
every = "10 versions"

[[levels]]
kind = "global"
every = "60 seconds"
limit = "500MB/s"
"""


def test_none_are_chosen_when_the_run_is_opened():
    assert Options().levels is None
    assert load({}).levels is None
    assert load({"levels": None}).levels is None


def test_the_file():
    Path("holdfast.toml").write_text('levels = ["memory", "xor", "global"]\n')
    assert load({}).levels == (holdfast.memory(), holdfast.xor(), holdfast.global_())
    Path("holdfast.toml").write_text('levels = ["memory", {kind = "xor", set_size = 4}]\n')
    assert load({}).levels == (holdfast.memory(), holdfast.xor(4))
    Path("holdfast.toml").write_text(TABLES)
    assert load({}).levels == (
        holdfast.local("/scratch", keep=holdfast.Keep(last=2)),
        holdfast.rs(8, 2, every=holdfast.versions(10)),
        holdfast.global_(every=holdfast.seconds(60), limit=500_000_000),
    )


def test_precedence_is_call_environment_file(monkeypatch):
    Path("holdfast.toml").write_text('levels = ["memory", "partner"]\n')
    assert load({}).levels == (holdfast.memory(), holdfast.partner())
    monkeypatch.setenv("HOLDFAST_LEVELS", "memory,xor:set_size=4,global:limit=500MB/s")
    assert load({}).levels == (holdfast.memory(), holdfast.xor(4), holdfast.global_(limit=500_000_000))
    assert load({"levels": [holdfast.global_()]}).levels == (holdfast.global_(),)


@pytest.mark.parametrize(
    "levels", ["global:limit=1GB/s", [holdfast.global_(limit="1GB/s")], {"kind": "global", "limit": 10**9}]
)
def test_open_takes_them(levels):
    with holdfast.open("run", levels=levels) as run:
        assert run._x.options.levels == (holdfast.global_(limit=10**9),)


def test_what_is_wrong_is_refused_with_its_place(monkeypatch):
    with pytest.raises(ConfigError, match=r"^Option 'levels' in the call: There is no level named 'memroy'; did you"):
        holdfast.open("run", levels=["memroy"])
    Path("holdfast.toml").write_text(TABLES.replace("set_size = 8", "set_size = 2"))
    with pytest.raises(ConfigError, match=r"^Option 'levels' in the configuration: .*m=2 with set_size=2"):
        holdfast.open("run")
    Path("holdfast.toml").unlink()
    monkeypatch.setenv("HOLDFAST_LEVELS", "")
    with pytest.raises(ConfigError, match=r"^Option 'levels' in the environment \(HOLDFAST_\*\): The list of levels is empty"):
        holdfast.open("run")
    monkeypatch.delenv("HOLDFAST_LEVELS")
    with pytest.raises(ConfigError, match=r"'level'; did you mean 'levels'"):
        holdfast.open("run", level=["memory"])
    assert not Path("run").exists()


def test_versions():
    assert holdfast.versions(3) == Every(versions=3)
    assert Every._fields[-1] == "versions"
    both = holdfast.versions(3) | holdfast.seconds(60)
    assert both == holdfast.seconds(60) | holdfast.versions(3) == Every(seconds=60.0, versions=3)
    assert both | holdfast.versions(4) == Every(seconds=60.0, versions=4)
    assert not both.measured


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_versions_of_nothing(n):
    with pytest.raises(ConfigError, match=r"holdfast\.versions\(.*whole number of versions, at least 1"):
        holdfast.versions(n)


@pytest.mark.parametrize("every", [holdfast.versions(7), holdfast.steps(5) | holdfast.versions(7)])
def test_a_loop_can_not_have_versions(every):
    with holdfast.open("run") as run:
        allowed = r"Use holdfast\.steps\(100\), seconds\(60\), auto\(\)"
        with pytest.raises(UsageError, match=rf"{allowed}.*global_\(every=holdfast\.versions\(7\)\)"):
            run.steps(10, every=every)
        assert list(run.steps(2, every=holdfast.steps(1))) == [0, 1]
