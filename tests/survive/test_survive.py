"""A selection of the campaign's part G with fixed seeds: heat on 4 ranks with spares, JOBS jobs with 4 faults each.

These are 12 faults, one of each of twelve kinds, which take some 40 s on two free cores; JOBS says how many jobs there are: 15
are 60 faults, five of each kind. What the seed decides is who is hit, and at which step; moments of whole programs are never
quite the same again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from campaign import survive_kinds as kinds
from campaign.heat_truth import HeatTruth
from campaign.survive import play, steps_for
from campaign.survive_job import RANKS, SIZE
from campaign.survive_kinds import PER_JOB, plan

JOBS = 3
SEED = 5
KINDS = (
    kinds.RANK, kinds.ZERO, kinds.TWO, kinds.SPARE, kinds.SECOND, kinds.SEGV, kinds.COLLECTIVE, kinds.STOP, kinds.CHECKPOINT,
    kinds.REPAIR, kinds.EIO, kinds.FULL,
)  # fmt: skip
# At a moment that can be missed, or when all have left already: then they prove nothing.
AIMED = (kinds.SECOND, kinds.CHECKPOINT, kinds.REPAIR, kinds.RESTORE)


@pytest.fixture(scope="module")
def truth() -> HeatTruth:
    return HeatTruth(SIZE, steps_for(PER_JOB), RANKS)


def test_the_selection_has_each_kind_equally_often() -> None:
    counted = Counter(fault.kind for faults in plan(JOBS, SEED, KINDS) for fault in faults)
    assert counted == dict.fromkeys(KINDS, JOBS * PER_JOB // len(KINDS))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(JOBS))
def test_survives(number: int, tmp_path: Path, truth: HeatTruth) -> None:
    """The same field bit for bit, resumes from the newest durable version, no hang, nobody has to see to it."""
    faults = plan(JOBS, SEED, KINDS)[number]
    outcome = play(tmp_path / "job", faults, truth, memory=number % 2 == 1)
    assert not outcome.problems, f"{faults}: " + "\n".join(outcome.problems)
    took = Counter(aftermath.kind for aftermath in outcome.aftermaths)
    missed = [fault.kind for fault in faults if not took[fault.kind] and fault.kind not in AIMED]
    assert not missed, f"without effect: {outcome.idle}"
