"""A rank that stops (SIGSTOP) at any call of MPI's that the library makes: nobody waits for ever, everyone names it.

A selection; `make campaign` (part I) goes through all points. That there is no other call that waits is shown from the
source, in `tests/group/test_group_blocking.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from campaign import stopped, stopped_points, stopped_spares
from campaign.stopped_scenes import SCENES

TEAMS, STOPS, SEED = 6, 12, 5

SOURCE = Path(stopped.__file__).parents[2] / "src" / "holdfast"
TALKS = re.compile(
    r"\b(together|at_root|from_root|make_group|make_background)\(|\.(gather|broadcast|begin_max)\(|channel\.(send|receive)\("
)
# Who talks to other ranks and has no scene of its own.
ELSEWHERE = {
    "run/launch.py": "the program's end, below",
    "run/repairing.py": "with spares, below",
    "run/tracebacks.py": "the program's end, below",
    "run/watching.py": "hands on what the program's thread asks of the group",
    "run/levels/program.py": "makes the group of a salvage and a look from outside",
}


def talking() -> set[str]:
    """Files that talk to other ranks: in each of them somebody is to be stopped."""
    places = ("run/**", "engine", "redundancy", "recovery", "catalog/**")
    files = [path for place in places for path in SOURCE.glob(f"{place}/*.py")]
    found = {path.relative_to(SOURCE).as_posix() for path in files if TALKS.search(path.read_text())}
    assert {"run/opening.py", "engine/publish.py", "redundancy/exchange.py", "recovery/moving.py"} <= found
    return found - set(ELSEWHERE)


@pytest.mark.timeout(300)  # half a minute, of which most is waiting for deadlines; eighteen processes have to start
def test_a_rank_stops_at_any_call(record_property: pytest.RecordProperty) -> None:
    with stopped.Teams(TEAMS) as teams:
        stops, problems = stopped.all_stops(teams, list(SCENES))
        assert not problems, "\n".join(problems)
        left_out = [file for file in talking() if not any(f"{file[:-3]}:" in str(stop.point) for stop in stops)]
        assert not left_out, f"nobody could be stopped in {left_out}"
        blocking = {stop.point for stop in stops if str(stop.point).split()[-2] in stopped_points.BLOCKING}
        assert not blocking, f"calls that have no deadline: {blocking}"
        outcomes = stopped.played(teams, stopped.selection(stops, STOPS, SEED))
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    assert not problems, "\n\n".join(problems)
    found = stopped.figures(outcomes)
    assert found["stops"] > 0.9 * STOPS and found["seconds to the error"]["longest"] < stopped.LONGEST, found
    record_property("points of faults", f"{found['stops']} of {len(stops)} points at which a rank stops: {found}")


# Open MPI itself may crash in survivors while it repairs (see docs/reliability.md), which is not what is looked at here.
@pytest.mark.flaky(reruns=3, only_rerun=["Broken"])
def test_with_spares_a_stopped_rank_is_replaced() -> None:
    targets = stopped_spares.TARGETS[:3]
    seconds, points, problems = stopped_spares.play(targets)
    assert not problems, "\n".join(problems)
    assert len(points) == len(targets) and max(seconds) < 10, (seconds, points)


def test_without_spares_the_program_is_ended_when_a_rank_stops() -> None:
    seconds, problems = stopped_spares.end_of_all((1, "run/pacing", "after Iallreduce", 2))
    assert not problems, "\n".join(problems)
    assert seconds < 6 * stopped_spares.SOON + 10, seconds
