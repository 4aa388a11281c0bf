"""For tests on several ranks: every rank runs every test, in the same order.

A deadlock ends with stacks, not with silence; a test that fails on one rank fails on all.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
import tempfile
import time
from array import array
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

TEST_SECONDS = 60  # for one test with its set-up and teardown; below pytest-timeout's, which ends one rank only

FAILED = pytest.StashKey[bool]()
# Kept open: faulthandler writes to it from a signal handler or a watchdog thread. Standard error may be captured.
_stacks = open(os.environ["MPI_TESTS_STACKS"], "a") if "MPI_TESTS_STACKS" in os.environ else sys.__stderr__  # noqa: SIM115
_agreement = MPI.COMM_WORLD.Dup()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    faulthandler.dump_traceback_later(TEST_SECONDS, exit=True, file=_stacks)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def same_outcome(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of each test all ranks learn whether one has failed, and then all fail."""
    yield
    failed = request.node.stash.get(FAILED, False)
    mine, everyone = array("q", [failed]), array("q", [0])
    reduction = _agreement.Iallreduce([mine, 1, MPI.INT64_T], [everyone, 1, MPI.INT64_T], MPI.MAX)
    while not reduction.Test():  # the test's deadline stands behind this
        time.sleep(0.0005)
    if everyone[0] and not failed:
        pytest.fail("the test failed on another rank", pytrace=False)


@pytest.fixture(autouse=True)
def landed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are durable when the call returns, so that what is there is certain. Modules with IN_FLIGHT test the rest."""
    if not getattr(request.module, "IN_FLIGHT", False):
        monkeypatch.setenv("HOLDFAST_OVERLAP", "off")


@pytest.fixture
def comm(same_outcome: None, request: pytest.FixtureRequest) -> Iterator[MPI.Intracomm]:
    """A communicator of all ranks for this test alone: what a failed test left in flight meets no other.

    After a failure it is kept: MPI may still be at work on it, and freeing it then ends the process.
    """
    duplicate = MPI.COMM_WORLD.Dup()
    yield duplicate
    if not request.node.stash.get(FAILED, False):
        duplicate.Free()


@pytest.fixture
def shared_tmp(comm: MPI.Intracomm) -> Iterator[Path]:
    """A temporary directory that all ranks see; removed when all are through."""
    path = Path(comm.bcast(tempfile.mkdtemp(prefix="holdfast-test-") if comm.rank == 0 else None))
    yield path
    done = comm.Ibarrier()
    while not done.Test():
        time.sleep(0.0005)
    if comm.rank == 0:
        shutil.rmtree(path)
