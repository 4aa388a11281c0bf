"""What is taken back in a crash loop, and what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import holdfast
from holdfast.supervisor.crashloop import fall_back
from holdfast.supervisor.facts import Execution, Fall, catalog_of, facts_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("holdfast.store.syscalls.fsync", lambda fd: None)


def make(url, values):
    """A run with a version for each of `values`, closed; the last attempt has made none of them."""
    run = holdfast.open(url, keep=holdfast.Keep(last=10))
    u = run.protect("u", np.zeros(1))
    for value in values:
        u[0] = value
        run.checkpoint()
    run.close()
    again = holdfast.open(url)
    again.protect("u", np.zeros(1))
    again._x.settle()
    again.close()
    return str(url)


def execution(*urls, **kw):
    runs = [facts_of(url, catalog_of(url), {catalog_of(url).attempts[-1].number}) for url in urls]
    return Execution(3, 100.0, 110.0, 1, tuple(replace(run, **kw) for run in runs))


def test_back_to_the_version_before(tmp_path):
    url = make(tmp_path / "run", [1, 2, 3])
    before = execution(url)
    after, falls, lines = fall_back(before)
    assert falls == (Fall(url, 3, None, 2),)
    assert len(lines) == 1 and "gets nowhere from version 3 and is taken back to version 2, once" in lines[0]
    assert [(v.number, v.status) for v in catalog_of(url).versions] == [(3, "abandoned"), (2, "current"), (1, "current")]
    assert after.runs[0].version == 2 and after.runs[0].safe < before.runs[0].safe
    assert catalog_of(url).attempts[-1].kind == "rollback"


def test_a_version_with_the_same_state_is_no_way_out(tmp_path):
    url = make(tmp_path / "run", [1, 3, 3])
    _, falls, _ = fall_back(execution(url))
    assert falls == (Fall(url, 3, None, 1),)


def test_what_only_nodes_hold_is_newer_than_all_that_is_here(tmp_path):
    url = make(tmp_path / "run", [1, 2])
    _, falls, _ = fall_back(execution(url, based=5, places=True))
    assert falls == (Fall(url, 5, None, 2),)


@pytest.mark.parametrize(
    ("values", "facts"),
    [([1], {}), ([], {}), ([1, 1], {}), ([1, 2], {"complete": True}), ([1, 2], {"attempt": None}), ([1, 2], {"gained": 1})],
    ids=["the only one", "none", "the only state", "complete", "not opened", "gets on"],
)
def test_what_stays(tmp_path, values, facts):
    url = make(tmp_path / "run", values)
    before = execution(url, **facts)
    assert fall_back(before) == (before, (), [])
    assert len(catalog_of(url).attempts) == 2


def test_each_run_by_itself(tmp_path):
    one, two = make(tmp_path / "one", [1]), make(tmp_path / "two", [1, 2])
    _, falls, _ = fall_back(execution(one, two))
    assert [fall.url for fall in falls] == [two]


def test_what_can_not_be_taken_back_is_told(tmp_path, monkeypatch):
    def fail(*args, **kw):
        raise holdfast.StorageError("the disk is full")

    monkeypatch.setattr("holdfast.supervisor.crashloop.rollback", fail)
    url = make(tmp_path / "run", [1, 2])
    before = execution(url)
    after, falls, lines = fall_back(before)
    assert (after, falls) == (before, ())
    assert "can't be taken back to an older version: the disk is full" in lines[0]
