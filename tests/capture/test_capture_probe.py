"""What `holdfast doctor` is told: every fact comes from a trial, and none hangs or raises."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from holdfast.capture import kernel
from holdfast.capture.probe import Fact, probe, within
from holdfast.capture.tracker import PageTracker

NAMES = [
    "kernel", "userfaultfd, full mode", "userfaultfd, user mode only", "write protection", "page scan",
    "reading from a helper process", "huge pages", "populating memory", "/dev/shm", "memfd", "memory", "processors",
]  # fmt: skip


def test_every_fact_has_a_reason():
    begin = time.monotonic()
    facts = probe()
    assert time.monotonic() - begin < 30
    assert [fact.name for fact in facts] == NAMES
    assert all(isinstance(fact.works, bool) and fact.detail for fact in facts)
    works = {fact.name: fact.works for fact in facts}
    assert works["kernel"] and works["memory"] and works["processors"]
    assert works["page scan"] == (PageTracker.available() is None)
    assert works["write protection"] == works["userfaultfd, user mode only"]


def test_direct_io_is_tried_where_asked(tmp_path):
    fact = probe(str(tmp_path))[-1]
    assert fact.name == f"direct I/O in {tmp_path}"
    assert fact.works or "Invalid argument" in fact.detail
    assert os.listdir(tmp_path) == []
    fact = probe(str(tmp_path / "none"))[-1]
    assert not fact.works and "No such file" in fact.detail


def test_a_trial_that_hangs_is_given_up():
    stop = threading.Event()
    try:
        assert within(0.05, "slow", lambda: (stop.wait(30), "done")) == Fact(
            "slow", False, "the trial was not finished after 0.05 s"
        )
    finally:
        stop.set()


@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, "not here"), ValueError("odd")])
def test_a_trial_that_raises_is_a_fact(error):
    def trial():
        raise error

    fact = within(5, "raises", trial)
    assert not fact.works and str(error) in fact.detail


def test_refusals_are_told(monkeypatch):
    def refuse(*args, **kw):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(kernel, "userfaultfd", refuse)
    monkeypatch.setattr(kernel, "set_ptracer", refuse)
    facts = {fact.name: fact for fact in probe()}
    assert "CAP_SYS_PTRACE" in facts["userfaultfd, full mode"].detail
    for name in (*NAMES[1:5], "reading from a helper process"):
        assert not facts[name].works
        assert "Operation not permitted" in facts[name].detail
    assert facts["memfd"].works
