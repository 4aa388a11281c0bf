"""Heat on 4 ranks, killed once by each kind of kill with a version in flight, against the ledger and the oracle: a sample of
`make campaign`."""

from __future__ import annotations

import random

import pytest
from campaign.heat_kills import EVERY, INCREMENTAL, KINDS, RANKS, SIZE, STEPS, Heat, Kill
from campaign.heat_truth import HeatTruth


@pytest.fixture(scope="module")
def truth():
    return HeatTruth(SIZE, STEPS, RANKS)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed(kind, truth, tmp_path):
    kill = Kill(kind, random.randint(2, 6), random.uniform(0, 0.02), flying=True)
    incremental = random.choice(INCREMENTAL)
    outcome = Heat(tmp_path / "heat", truth, HOLDFAST_INCREMENTAL=incremental).play([kill])
    assert not outcome.problems, f"{kill}, {incremental}: " + "\n".join(outcome.problems)
    assert outcome.kills == [kind]


def lines(truth):
    """A ledger in which nothing is wrong: two attempts, the second from version 2."""

    def line(event, attempt, step, rank=0, **values):
        digest = truth.digests[step, rank]
        return {"event": event, "attempt": attempt, "rank": rank, "step": step, "digest": digest, **values}

    first = [line("durable", 1, EVERY * version, version=version) for version in (1, 2)]
    resumed = [line("resumed", 2, 2 * EVERY, rank, version=2) for rank in range(RANKS)]
    return [*first, *resumed, line("durable", 2, STEPS, version=3)]


def test_the_audit_accepts_a_sound_ledger(truth):
    assert truth.audit(lines(truth)) == []


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda ledger, truth: ledger[3].update(digest="0" * 32), "not the undisturbed state"),
        (lambda ledger, truth: ledger[0].update(digest=truth.digests[0, 0]), "not the undisturbed state"),
        (lambda ledger, truth: ledger[0].update(version=3), "resumed from version 2, 3 was durable"),
        (lambda ledger, truth: ledger[4].update(version=1), "different versions"),
        (lambda ledger, truth: ledger[-1].update(version=2), "reported twice"),
        (lambda ledger, truth: ledger.pop(), "final version"),
    ],
)
def test_the_audit_finds(change, complaint, truth):
    ledger = lines(truth)
    change(ledger, truth)
    assert any(complaint in problem for problem in truth.audit(ledger))
