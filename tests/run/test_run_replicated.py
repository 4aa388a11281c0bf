"""Replicated objects on one rank, and what `protect` and the index say of them. See tests/mpi/test_run_replicated.py, too."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from run_support import go

import holdfast
from holdfast.cli.app import holdfast as cli


def test_alone_it_is_as_any_other(start):
    run = start(keep=5)
    u = run.protect("u", np.arange(3.0), replicated=True)
    run.checkpoint()
    u += 1
    run.checkpoint()
    run = start(keep=5)
    u = run.protect("u", np.zeros(3), replicated=True)
    assert u.tolist() == [1, 2, 3]
    assert go(run, 2, every=holdfast.steps(1)) == [0, 1]
    assert u.tolist() == [1, 2, 3]
    assert run.load("u", 1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_taken_over_either_way(start, before, after):
    run = start(keep=holdfast.Keep(last=1))
    u = run.protect("u", np.arange(300_000.0), replicated=before)
    run.checkpoint()
    run = start(keep=holdfast.Keep(last=1))  # with more, the second version is written whole
    u = run.protect("u", np.zeros(300_000), replicated=after)
    run.ready()
    assert u[7] == 7
    assert run.checkpoint().bytes == 0
    assert [stored.replicated for stored in run._x.writer.carry.part.objects] == [after]


def test_it_is_shown(start, tmp_path):
    run = start()
    u, v = run.protect("u", np.ones(3), replicated=True), run.protect("v", np.ones(3))
    run.ready()
    late = run.protect("late", [1])
    run.checkpoint()
    assert (u == v).all() and late == [1]
    shown = CliRunner().invoke(cli, ["show", run.url], catch_exceptions=False).output
    notes = {line.split()[1]: line.split()[-1] for line in shown.splitlines() if line.split()[:1] == ["0"]}
    assert (notes["u"], notes["late"]) == ("replicated", "late")
    assert "replicated" not in notes["v"]
    found = json.loads(CliRunner().invoke(cli, ["show", "--json", run.url], catch_exceptions=False).output)
    assert {o["name"]: o["replicated"] for o in found["contents"][0]["objects"]} == {"u": True, "v": False, "late": False}


def test_carried_along_it_stays_so(start):
    run = start()
    u = run.protect("u", np.arange(3.0), replicated=True)
    run.checkpoint()
    assert u[1] == 1
    run = start(objects_changed="accept")
    run.checkpoint()
    assert [stored.replicated for stored in run._x.writer.carry.part.objects] == [True]
    assert run.load("u").tolist() == [0, 1, 2]


def test_what_can_t_be(start):
    run = start()
    u = np.zeros(4)
    with pytest.raises(holdfast.UsageError, match="either a shard or replicated, not both"):
        run.protect("u", u, shard=holdfast.Shard((4,), (0,)), replicated=True)
    with pytest.raises(holdfast.UsageError, match=r"replicated=1\): True or False is needed"):
        run.protect("u", u, replicated=1)
    run.ready()
    with pytest.raises(holdfast.UsageError, match="agree on what is replicated when the loop is entered") as caught:
        run.protect("u", u, replicated=True)
    assert caught.value.object == "u"
    run.protect("u", u)


def test_the_name_may_be_bound_anew(start):
    run = start()
    u = run.protect("u", np.zeros(4), replicated=True)
    run.checkpoint()
    u = u + 1
    run.protect("u", u, replicated=True)
    run.checkpoint()
    assert run.load("u").tolist() == [1] * 4
    assert [stored.replicated for stored in run._x.writer.carry.part.objects] == [True]
