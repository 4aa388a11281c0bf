"""A selection of the campaign's part G with fixed seeds: heat on 4 ranks with 12 spares, four jobs with 15 faults each.

The jobs keep their versions in different places, and share eleven kinds of faults; each has one of its own. What the seed
decides is who is hit, and at which step; moments of whole programs are never quite the same again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from campaign import survive_kinds as kinds
from campaign.heat_truth import HeatTruth
from campaign.survive import one_after_the_other, play, steps_for
from campaign.survive_job import RANKS, SIZE, SPARES, HeatJob
from campaign.survive_kinds import Setting, plan, possible, spares_for

SEED = 5
SHARED = (
    kinds.RANK, kinds.ZERO, kinds.TWO, kinds.SPARE, kinds.SEGV, kinds.COLLECTIVE, kinds.CHECKPOINT, kinds.CAPTURE, kinds.COMMIT,
    kinds.EIO, kinds.FULL,
)  # fmt: skip
JOBS = (
    (Setting.STORE, kinds.STOP), (Setting.MEMORY, kinds.SECOND), (Setting.LOCAL, kinds.RESTORE), (Setting.XOR, kinds.ENCODE),
)  # fmt: skip
TWICE = (kinds.EIO, kinds.FULL, kinds.SPARE)  # which take little time
PER_JOB = len(SHARED) + len(TWICE) + 1
# At a moment that can be missed, or when all have left already: then they prove nothing.
AIMED = (kinds.SECOND, kinds.CHECKPOINT, kinds.CAPTURE, kinds.COMMIT, kinds.ENCODE, kinds.REPAIR, kinds.RESTORE)


@pytest.fixture(scope="module")
def truth() -> HeatTruth:
    return HeatTruth(SIZE, steps_for(PER_JOB), RANKS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled modules, for all processes of all jobs."""
    return tmp_path_factory.mktemp("cache")


def faults_of(number: int) -> list[kinds.Fault]:
    return plan(1, SEED + number, (*SHARED, *TWICE, JOBS[number][1]), PER_JOB)[0]


def test_the_selection_has_60_faults_that_can_be_done() -> None:
    planned = [(setting, fault.kind) for number, (setting, _) in enumerate(JOBS) for fault in faults_of(number)]
    assert len(planned) == 60 and len({kind for _, kind in planned}) == 15
    assert all(possible(kind, setting) for setting, kind in planned)
    for number in range(len(JOBS)):
        killed = [1 if fault.kind == kinds.SPARE else spares_for(fault.kind) for fault in faults_of(number)]
        assert sum(killed) <= SPARES + 1  # the one fault that may lack a spare leads to a new start


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(len(JOBS)), ids=[setting.name for setting, _ in JOBS])
def test_survives(number: int, tmp_path: Path, truth: HeatTruth, cache: Path) -> None:
    """The same field bit for bit, resumes from the newest durable version, no hang, nobody has to see to it."""
    faults = faults_of(number)
    job = HeatJob(tmp_path / "job", truth.steps, JOBS[number][0], cache=cache)
    outcome = play(job, truth, one_after_the_other(faults))
    assert not outcome.problems, f"{faults}: " + "\n".join(outcome.problems)
    took = Counter(aftermath.kind for aftermath in outcome.aftermaths)
    missed = [fault.kind for fault in faults if not took[fault.kind] and fault.kind not in AIMED]
    assert not missed, f"without effect: {outcome.idle}"
    assert took.total() >= PER_JOB - 2, f"without effect: {outcome.idle}"
