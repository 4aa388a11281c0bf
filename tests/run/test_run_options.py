"""Options: where they come from, which are refused; ranks that nobody told of; parameters."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from run_support import go

import holdfast


def timeout(**options) -> float:
    with holdfast.open("run", **options) as run:
        return run._x.options.timeout


def test_precedence_is_call_environment_file_default(monkeypatch):
    assert timeout() == 600
    Path("holdfast.toml").write_text("timeout = 11\n")
    assert timeout() == 11
    monkeypatch.setenv("HOLDFAST_TIMEOUT", "12")
    assert timeout() == 12
    assert timeout(timeout=13) == 13


def test_config_is_a_mapping_or_a_file(monkeypatch):
    Path("holdfast.toml").write_text("timeout = 11\n")
    Path("other.toml").write_text("timeout = 21\n")
    assert timeout(config={"timeout": 31}) == 31
    assert timeout(config="other.toml") == 21
    monkeypatch.setenv("HOLDFAST_CONFIG", "other.toml")
    assert timeout() == 21
    with pytest.raises(holdfast.ConfigError, match=r"missing\.toml"):
        timeout(config="missing.toml")


def test_unknown_names_are_refused_with_the_nearest(monkeypatch):
    with pytest.raises(holdfast.ConfigError, match="call named 'timout'; did you mean 'timeout'"):
        holdfast.open("run", timout=1)
    Path("holdfast.toml").write_text('on_eror = "warn"\n')
    with pytest.raises(holdfast.ConfigError, match="configuration named 'on_eror'; did you mean 'on_error'"):
        holdfast.open("run")
    Path("holdfast.toml").unlink()
    monkeypatch.setenv("HOLDFAST_TAKE_OVER", "1")
    with pytest.raises(holdfast.ConfigError, match="environment .* 'take_over'; did you mean 'takeover'"):
        holdfast.open("run")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on_error", "ignore"), ("timeout", 0), ("timeout", "soon"), ("threads", 0), ("signals", "maybe"),
        ("keep", "some"), ("keep", True), ("params_changed", "yes"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(holdfast.ConfigError, match=f"'{name}' in the configuration can't be {value!r}"):
        holdfast.open("run", config={name: value})
    assert not Path("run").exists()


def test_unknown_names_within_keep_are_refused_with_the_nearest():
    with pytest.raises(holdfast.ConfigError, match="'lats'; did you mean 'last'"):
        holdfast.open("run", config={"keep": {"lats": 3}})


def test_the_environment_gives_text_and_the_file_a_table(monkeypatch):
    monkeypatch.setenv("HOLDFAST_SIGNALS", "off")
    monkeypatch.setenv("HOLDFAST_KEEP", "5")
    with holdfast.open("run") as run:
        assert run._x.options.signals is False
        assert run._x.options.keep == holdfast.Keep(last=5)
    monkeypatch.delenv("HOLDFAST_KEEP")
    Path("holdfast.toml").write_text("[keep]\nlast = 3\nrecords = 4\n")
    with holdfast.open("run") as run:
        assert run._x.options.keep == holdfast.Keep(last=3, records=4)


def test_policies_refuse_nonsense():
    for bad in (lambda: holdfast.steps(0), lambda: holdfast.seconds(0), lambda: holdfast.Keep(last=0)):
        with pytest.raises(holdfast.ConfigError):
            bad()


def test_several_ranks_without_comm_are_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(holdfast.UsageError, match=r"4 ranks.*comm=MPI\.COMM_WORLD.*comm=holdfast\.SERIAL"):
        holdfast.open("run")
    assert not Path("run").exists()
    with holdfast.open("run", comm=holdfast.SERIAL) as run:
        assert run.comm is holdfast.SERIAL
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    holdfast.open("run").close()


def test_what_is_no_communicator_is_refused():
    with pytest.raises(holdfast.UsageError, match="no communicator"):
        holdfast.open("run", comm=3)


def test_urls(tmp_path):
    holdfast.open(f"file://{tmp_path}/a").close()
    assert (tmp_path / "a/holdfast.json").exists()
    with holdfast.open("sub/b") as run:
        assert run.url == str(tmp_path / "sub/b")
    with pytest.raises(holdfast.HoldfastError, match="s3"):
        holdfast.open("s3://bucket/run")


def test_other_params_are_refused_with_the_difference(start):
    run = start(params={"n": 100, "dt": 0.1, "name": "x"})
    go(run, 3)
    run.checkpoint()
    with pytest.raises(holdfast.MismatchError) as caught:
        start(params={"n": 200, "dt": 0.1, "seed": 1})
    text = str(caught.value)
    assert "n: stored 100, given 200" in text
    assert "seed: stored nothing, given 1" in text
    assert "name: stored 'x', given nothing" in text
    assert "dt" not in text
    assert "params_changed='accept'" in text


def test_params_are_kept_and_can_be_accepted(start):
    run = start(params={"n": 100})
    go(run, 3)
    run.checkpoint()
    run = start()  # gives none: the stored ones stay
    go(run, 3)
    run = start(params={"n": 200}, params_changed="accept")
    assert run.resumed
    go(run, 3)
    with pytest.raises(holdfast.MismatchError, match="n: stored 200, given 100"):
        start(params={"n": 100})
    go(start(params={"n": 200}), 3)


def test_params_must_be_plain():
    with pytest.raises(holdfast.UsageError, match="plain"):
        holdfast.open("run", params={"u": np.zeros(3)})
    with pytest.raises(holdfast.UsageError, match="plain"):
        holdfast.open("run", params={"dt": float("nan")})


def test_tuples_and_keys_of_params_come_back_equal(start):
    go(start(params={"shape": (3, 4), "by": {1: "x"}}), 1)
    assert not start(params={"shape": (3, 4), "by": {1: "x"}}).resumed


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("...")
    with pytest.raises(holdfast.UsageError, match=r"not empty.*thesis\.tex"):
        holdfast.open("mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_mode_is_a_or_r():
    with pytest.raises(holdfast.ConfigError, match="mode='w'"):
        holdfast.open("run", mode="w")


def test_a_fresh_run_says_nothing(start, caplog):
    with caplog.at_level(logging.INFO, "holdfast"):
        run = start()
        assert not run.resumed
        assert go(run, 3) == [0, 1, 2]
    assert caplog.text == ""
    assert run.restored is None
    assert run.attempt == 1
