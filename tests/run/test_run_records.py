"""Transactions: records, all or nothing, apart from checkpoints; and `run.load`."""

from __future__ import annotations

import numpy as np
import pytest
from run_support import data_file, flip, go

import holdfast


def test_a_record_is_read_back_by_name_or_version(start):
    run = start()
    spectrum = np.arange(4.0)
    with run.transaction("spectrum") as txn:
        txn.put("values", spectrum)
        txn.put("about", {"step": 3, "peak": 2.5})
        txn.put("number", 7)
        spectrum[...] = -1  # was copied
    assert txn.version == 1
    for _ in range(2):
        assert run.load("values").tolist() == [0, 1, 2, 3]
        assert run.load("about", version=1) == {"step": 3, "peak": 2.5}
        assert run.load("number") == 7
        run = start()


def test_records_are_never_resumed_from(start):
    run = start()
    u = run.protect("u", np.zeros(1))
    for step in run.steps(4, every=holdfast.steps(2)):
        u += 1
        with run.transaction("r") as txn:
            txn.put("u", u)
            txn.put("only", step)
    records = [v.number for v in run.versions if v.kind == "record"]
    (checkpoint,) = [v for v in run.versions if v.kind == "checkpoint"]
    assert len(records) == 4 and checkpoint.number not in records
    run = start()
    u = run.protect("u", np.zeros(1))
    run.ready()  # "only" is not missed
    assert (u[0], run.restored.version) == (2, checkpoint.number)
    assert run.load("u") == 2  # checkpoints come first
    assert run.load("u", version=records[0]) == 4
    assert run.load("only") == 3


def test_an_exception_leaves_nothing_of_it(start):
    run = start()
    with pytest.raises(ZeroDivisionError), run.transaction("r") as txn:
        txn.put("x", 1)
        raise ZeroDivisionError
    assert (run.versions, txn.version) == ([], None)
    with pytest.raises(holdfast.UsageError, match="no object 'x'"):
        run.load("x")
    with run.transaction("r") as txn:
        txn.put("x", 2)
    assert run.load("x") == 2


def test_checkpoints_do_not_delete_records_nor_the_other_way_round(start):
    run = start(keep=holdfast.Keep(last=1))
    u = run.protect("u", np.zeros(1))
    for _ in run.steps(5, every=holdfast.steps(1)):
        u += 1
        with run.transaction("r") as txn:
            txn.put("u", u)
    assert [v.kind for v in run.versions].count("record") == 5
    assert [v.kind for v in run.versions].count("checkpoint") == 1
    run = start(keep=holdfast.Keep(last=1))
    u = run.protect("u", np.zeros(1))
    go(run, 10, every=holdfast.steps(1))
    assert [v.status for v in run.versions if v.kind == "record"] == ["current"] * 5
    assert u == 4


def test_retention_of_records_is_by_label(start):
    run = start(keep=holdfast.Keep(last=2, records=2))
    for i in range(4):
        for label in ("a", "b") if i < 2 else ("a",):
            with run.transaction(label) as txn:
                txn.put("i", i)
    found = [(v.label, run.load("i", v.number)) for v in run.versions]
    assert found == [("a", 3), ("a", 2), ("b", 1), ("b", 0)]


def test_put_takes_supported_values_only_and_only_inside(start):
    run = start()
    txn = run.transaction("r")
    with pytest.raises(holdfast.UsageError, match="outside"):
        txn.put("x", 1)
    with pytest.raises(holdfast.UnsupportedError, match="'?f'?"), run.transaction("r") as txn:
        txn.put("f", lambda: 1)
    with pytest.raises(holdfast.UsageError, match="outside"):
        txn.put("x", 1)
    with pytest.raises(holdfast.UsageError, match="name"), run.transaction("r") as txn:
        txn.put("", 1)
    with pytest.raises(holdfast.UsageError, match="transaction"):
        run.transaction("")
    assert run.versions == []


def test_a_transaction_alone_completes_nothing_wrong(tmp_path):
    with holdfast.open(tmp_path / "run") as run:
        with run.transaction("r") as txn:
            txn.put("x", 1)
    assert [(v.kind, v.complete) for v in run.versions] == [("checkpoint", True), ("record", False)]


# -- load -------------------------------------------------------------------------------------------------


def several(start):
    run = start(keep=holdfast.Keep(last=10))
    u = run.protect("u", np.zeros(2))
    for _ in run.steps(4, every=holdfast.steps(1)):
        u += 1
    return run, u


def test_load_by_version_and_rank(start):
    run, u = several(start)
    assert [run.load("u", v)[0] for v in (1, 2, 3)] == [1, 2, 3]
    assert run.load("u")[0] == 3
    assert run.load("u", rank=0)[0] == 3
    with pytest.raises(holdfast.UsageError, match="written by 1 ranks"):
        run.load("u", rank=1)
    loaded = run.load("u")
    loaded[...] = 9
    assert u.tolist() == [4, 4]
    assert run.load("u")[0] == 3


def test_load_of_nothing(start):
    run, _ = several(start)
    with pytest.raises(holdfast.UsageError, match="no object 'v' in any version"):
        run.load("v")
    with pytest.raises(holdfast.UsageError, match="There is no version 17"):
        run.load("u", version=17)


def test_load_passes_over_a_damaged_version_only_if_none_was_named(start):
    run, _ = several(start)
    flip(data_file(run, 3), 0)
    assert run.load("u")[0] == 2
    with pytest.raises(holdfast.DamageError, match="r000000") as caught:
        run.load("u", version=3)
    assert caught.value.offset is not None


def test_load_does_not_protect(start):
    run, _ = several(start)
    run = start()
    assert run.load("u")[0] == 3
    with pytest.raises(holdfast.MismatchError, match="not protected"):
        run.ready()


def test_load_after_close_is_refused(start):
    run, _ = several(start)
    run.close()
    with pytest.raises(holdfast.UsageError, match="closed"):
        run.load("u")
