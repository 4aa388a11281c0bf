"""The rules: what follows from what happened. No process is started here."""

from __future__ import annotations

import pytest

from holdfast.catalog import End
from holdfast.supervisor.facts import Execution, Fall, RunFacts
from holdfast.supervisor.judge import BACKOFF, LOSSES, fell_for, in_crash_loop, judge, pause
from holdfast.supervisor.wording import death

INTERRUPTED = End("interrupted", 1.0, 3, 300, "SIGTERM")
LAST_FAILED = End("failed", 1.0, 2, 200, "SIGTERM", "CheckpointError: disk full")
RAISED = End("failed", 1.0, 2, 200, None, "ValueError: x\n  and more of it")


def run(**kw) -> RunFacts:
    return RunFacts(**{"url": "/r", "attempt": 1, "version": 3, "step": 300, "gained": 1, "safe": 105.0} | kw)


def execution(*runs: RunFacts, code: int = 1, number: int = 1, **kw) -> Execution:
    return Execution(**{"number": number, "began": 100.0, "ended": 110.0, "code": code, "runs": runs} | kw)


def outcome(*executions: Execution, **kw):
    verdict = judge(executions, **kw)
    return verdict and (verdict.outcome, verdict.exit)


@pytest.mark.parametrize("why", [{"repairs": 1}, {"spares_lost": 1}, {"put_down": True}, {"cleared": True}], ids=str)
@pytest.mark.parametrize("code", [0, 1, -9, 137])
def test_complete_whatever_mpirun_says_of_a_job_that_has_lost_ranks(code, why):
    assert outcome(execution(run(complete=True), code=code, **why), serial=False) == ("complete", 0)


@pytest.mark.parametrize("code", [1, -9, 137])
def test_what_dies_behind_its_complete_runs_is_started_once_more(code):
    """It may have had more runs to do; then what is complete is gone through at once."""
    behind = execution(run(complete=True), code=code)
    assert outcome(behind, serial=False) is None
    assert outcome(behind, execution(run(complete=True), code=0), serial=False) == ("complete", 0)
    assert outcome(behind, behind, serial=False) == ("program failed", abs(code) + 128 * (code < 0))
    assert outcome(behind, serial=False, max_restarts=0) == ("program failed", abs(code) + 128 * (code < 0))
    assert outcome(behind, serial=False, asked="SIGTERM") == ("complete", 0)
    assert outcome(behind, execution(run(complete=True), run(url="/s"), code=137), serial=False) is None


def test_a_serial_program_that_fails_after_its_run_was_complete_keeps_its_code():
    assert outcome(execution(run(complete=True), code=3)) == ("program failed", 3)
    killed = execution(run(complete=True), code=-11)
    assert outcome(killed) is None
    assert outcome(killed, killed) == ("program failed", 139)


def test_a_run_of_which_there_is_no_trace_is_not_begun_anew():
    verdict = judge([execution(run(version=None, gained=0, gone=True), code=137)], serial=False)
    assert (verdict.outcome, verdict.exit) == ("run gone", 1)
    assert "attempt 1, which this program has begun there, is not in /r" in verdict.message


def test_the_same_error_is_no_reason_to_fall_back_twice():
    raised = End("failed", 1.0, error="ValueError: singular")
    crashed = execution(run(end=raised, gained=0))
    fallen = execution(run(end=raised), falls=(FALL,))
    assert fell_for([crashed, fallen]) and fell_for([crashed, fallen, crashed])
    assert not fell_for([crashed, crashed])
    assert not fell_for([crashed, execution(run(end=End("failed", 1.0, error="ValueError: other")), falls=(FALL,))])
    assert not fell_for([execution(run(gained=0)), execution(run(), falls=(FALL,))])  # killed: nobody knows by what


def test_exit_code_zero_is_not_believed():
    assert outcome(execution(run(), code=0)) is None


def test_all_runs_must_be_complete():
    assert outcome(execution(run(complete=True), run(url="/s"), code=0)) is None


def test_complete_beats_a_request_to_leave():
    assert outcome(execution(run(complete=True), code=0), asked="SIGTERM") == ("complete", 0)


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (3, 3), (9, 9), (-11, 139), (-15, 143)])
def test_a_program_that_never_opened_a_run_is_not_started_again(code, exit_code):
    verdict = judge([execution(code=code)])
    assert verdict.exit == exit_code
    assert "opened a run" in verdict.message


def test_asked_before_it_opened_a_run():
    assert outcome(execution(code=-15), asked="SIGTERM") == ("interrupted", 86)


@pytest.mark.parametrize(("gained", "exit_code"), [(1, 85), (0, 86)])
def test_interrupted_with_and_without_progress(gained, exit_code):
    facts = run(gained=gained, end=INTERRUPTED)
    assert outcome(execution(facts, code=85), asked="SIGINT")[1] == exit_code
    assert outcome(execution(facts, code=85))[1] == exit_code  # by somebody else: not started again either


def test_progress_of_an_earlier_start_counts_for_85():
    first = execution(run(gained=2), code=-9)
    assert outcome(first, execution(run(gained=0), code=-15, number=2), asked="SIGTERM") == ("interrupted", 85)


def test_what_survivors_of_a_killed_rank_record_is_no_interrupt():
    # mpirun sends SIGTERM to the others when a rank is killed: nobody wants the job to end
    assert outcome(execution(run(end=INTERRUPTED), code=137), serial=False) is None
    assert outcome(execution(run(end=LAST_FAILED), code=137), serial=False) is None
    assert outcome(execution(run(end=INTERRUPTED), code=85, cleared=True), serial=False) is None


@pytest.mark.parametrize("code", [9, 1, 137, 255])
def test_mpiruns_code_tells_a_crash_from_an_interrupt(code):
    assert outcome(execution(run(end=INTERRUPTED), code=code), serial=False) is None
    assert outcome(execution(run(end=INTERRUPTED), code=85), serial=False) == ("interrupted", 85)
    assert outcome(execution(run(end=INTERRUPTED), code=0), serial=False) == ("interrupted", 85)


@pytest.mark.parametrize("end", [INTERRUPTED, LAST_FAILED, End("closed", 1.0)], ids=lambda e: e.outcome)
@pytest.mark.parametrize("code", [0, 1, 137])
def test_what_survivors_of_a_lost_node_record_is_no_interrupt(end, code):
    lost = execution(run(end=end), code=code, lost_nodes=("node1",))
    assert outcome(lost, serial=False) is None
    assert outcome(lost, serial=False, asked="SIGTERM") in {("interrupted", 85), ("last checkpoint failed", 87)}
    assert "node1 no longer answers" in death(lost, serial=False)
    assert "node1, node2 no longer answer" in death(execution(lost_nodes=("node1", "node2")), serial=False)


@pytest.mark.parametrize("why", [{"stillborn": True}, {"lost_nodes": ("node1",)}], ids=lambda why: next(iter(why)))
def test_what_never_came_to_the_program_is_tried_once_more(why):
    first = execution(code=213, **why)
    assert outcome(first, serial=False) is None
    assert outcome(first, serial=False, max_restarts=0) == ("program failed", 213)
    assert outcome(first, serial=False, asked="SIGINT") == ("interrupted", 86)
    assert outcome(first, execution(code=213, number=2, **why), serial=False) == ("program failed", 213)


@pytest.mark.parametrize(("code", "serial"), [(-9, True), (137, True), (137, False), (9, False), (-9, False)])
def test_a_process_killed_before_it_opened_a_run_is_no_failure_of_the_program_s(code, serial):
    first = execution(code=code)
    assert outcome(first, serial=serial) is None
    assert pause([first]) == 1.0
    final = ("program failed", 9 if code == 9 else 137)
    assert outcome(first, serial=serial, max_restarts=0) == final
    assert outcome(first, serial=serial, asked="SIGTERM") == ("interrupted", 86)
    verdict = judge([first, execution(code=code, number=2)], serial=serial)
    assert (verdict.outcome, verdict.exit) == final
    assert "twice in a row" in verdict.message


def test_last_checkpoint_failed():
    verdict = judge([execution(run(end=LAST_FAILED), code=87)], asked="SIGTERM")
    assert verdict.exit == 87
    assert "disk full" in verdict.message
    assert "version 3 (step 300)" in verdict.message


def test_an_exception_is_started_again_until_there_is_no_progress():
    good = execution(run(end=RAISED))
    barren = execution(run(end=RAISED, gained=0))
    assert outcome(good) is None
    assert outcome(barren) is None
    assert outcome(barren, good) is None
    assert outcome(barren, good, barren) is None
    assert outcome(good, barren, barren) == ("no progress", 88)


def test_lost_nodes_are_no_fault_of_the_program_but_there_is_an_end():
    lost = execution(run(gained=0), code=0, lost_nodes=("node1",))
    barren = execution(run(end=RAISED, gained=0))
    assert outcome(lost, lost) is None  # the second while the first was mended
    assert outcome(lost, barren, lost) is None
    assert outcome(barren, lost, barren) == ("no progress", 88)
    assert outcome(*[lost] * (LOSSES - 1)) is None
    assert outcome(*[lost] * LOSSES) == ("no progress", 88)
    assert f"gives up: {LOSSES} attempts in a row" in judge([lost] * LOSSES).message


def test_the_verdict_of_no_progress_says_what_died_what_is_safe_and_what_to_do():
    facts = run(end=RAISED, gained=0)
    verdict = judge([execution(facts, code=1), execution(facts, code=-9, number=2)])
    for part in (
        "attempt 1 of /r",
        "exit code 1",
        "ValueError: x",
        "SIGKILL",
        "version 3 (step 300)",
        "holdfast verify /r",
    ):
        assert part in verdict.message


def test_a_start_that_did_not_come_as_far_as_its_run_counts_as_one_without_progress():
    good = execution(run(), code=-9)
    lost = execution(run(attempt=None, gained=0), code=1)
    assert outcome(good, lost) is None
    assert outcome(good, lost, lost) == ("no progress", 88)


def test_versions_that_only_nodes_hold_are_progress_too():
    def killed(based, **kw):
        return execution(run(gained=0, based=based, **{"places": True} | kw), code=137)

    assert outcome(killed(None), killed(7), serial=False) is None
    assert outcome(killed(7), killed(12), serial=False) is None
    assert outcome(killed(7), killed(12, places=False), serial=False) == ("no progress", 88)
    # The last may have left something on its nodes.
    for second in (killed(7), killed(5), killed(None)):
        assert outcome(killed(7), second, serial=False) is None
        assert outcome(killed(7), second, second, serial=False) == ("no progress", 88)
    assert outcome(killed(7), killed(7), killed(12), serial=False) is None
    assert outcome(killed(7), killed(12), killed(12), serial=False) is None
    assert outcome(killed(7), killed(12), killed(12), killed(12), serial=False) == ("no progress", 88)


def test_restarts_are_counted():
    good = execution(run(), code=-9)
    assert outcome(good, max_restarts=0) == ("restarts exhausted", 89)
    assert outcome(good, max_restarts=1) is None
    assert outcome(good, good, max_restarts=1) == ("restarts exhausted", 89)


def test_a_run_that_another_attempt_holds_is_left_to_it():
    verdict = judge([execution(run(rival="attempt 2, process 7 on h"), code=1)], asked="SIGTERM")
    assert verdict.exit == 1
    assert "attempt 2, process 7 on h" in verdict.message


def test_a_program_that_closes_its_run_unfinished_is_not_started_again():
    verdict = judge([execution(run(end=End("closed", 1.0)), code=0)])
    assert verdict.exit == 85
    assert "run.complete()" in verdict.message
    assert outcome(execution(run(end=End("closed", 1.0)), code=1)) is None


def test_death_names_signal_rank_and_error():
    facts = run(end=RAISED)
    assert death(execution(facts, code=-9)) == "killed by SIGKILL, ValueError: x"
    assert death(execution(code=137, first_dead=(2, 77)), serial=False) == (
        "rank 2 (process 77) died first, mpirun reports SIGKILL"
    )
    assert death(execution(code=-9), serial=False) == "mpirun was killed by SIGKILL"
    assert death(execution(code=3)) == "exit code 3"


def test_death_says_why_the_program_itself_has_ended_a_rank():
    why = "rank 1 was ended: it makes no progress: no step for 3 s"
    assert death(execution(code=137, judged=(why,), first_dead=(1, 7)), serial=False) == f"{why}, mpirun reports SIGKILL"
    # Repaired in place: what it died of at last is another thing.
    later = execution(code=137, judged=(why,), repairs=1, first_dead=(2, 77))
    assert death(later, serial=False) == "rank 2 (process 77) died first, mpirun reports SIGKILL"


def test_work_lost_is_counted_from_the_newest_state():
    assert execution(run(safe=105.0)).lost == 5.0
    assert execution(run(safe=None, version=None)).lost == 10.0
    assert execution(run(safe=50.0)).lost == 10.0  # stored by an earlier one
    assert execution(run(safe=105.0, complete=True)).lost == 0.0
    assert execution(run(safe=50.0, since=108.0)).lost == 2.0  # before that it came to its state
    assert execution(run(safe=109.0, since=108.0), fault=109.5).lost == 0.5  # behind it nothing was computed
    assert execution(run(safe=50.0, since=104.0, end=End("failed", 107.0, error="x")), fault=109.5).lost == 3.0
    assert execution(run(safe=40.0, had=50.0, since=108.0)).lost == 12.0  # taken back
    assert execution(run(safe=109.0, had=50.0, since=108.0)).lost == 1.0


# -- time limits ------------------------------------------------------------------------------------------------


def test_out_of_time_with_a_last_checkpoint_is_an_interrupt():
    left = run(end=End("interrupted", 1.0, 3, 300, "time limit"))
    verdict = judge([execution(left, code=85)])
    assert verdict.exit == 85 and verdict.message.startswith("interrupted by the time limit. Safe: version 3")
    assert outcome(execution(run(gained=0, end=left.end), code=86)) == ("interrupted without progress", 86)


def test_a_last_checkpoint_that_came_too_late_is_not_to_be_queued_again():
    late = run(end=End("interrupted", 1.0, 3, 300, "time limit", "the last checkpoint was over 3 s after the time limit"))
    verdict = judge([execution(late, code=87)])
    assert (verdict.outcome, verdict.exit) == ("last checkpoint too late", 87)
    assert "came too late (the last checkpoint was over 3 s after" in verdict.message


@pytest.mark.parametrize("code", [0, -9, 137])
def test_what_had_to_be_ended_at_the_time_limit_neither(code):
    ended = execution(run(), code=code, overdue=True, cleared=True)
    assert outcome(ended, asked="time limit", serial=False) == ("last checkpoint too late", 87)
    done = execution(run(complete=True), code=code, overdue=True)
    assert outcome(done, asked="time limit", serial=False) == ("complete", 0)
    assert outcome(execution(code=code, overdue=True), asked="time limit") == ("last checkpoint too late", 87)
    assert outcome(execution(code=code, overdue=True), asked="SIGTERM") == ("last checkpoint too late", 87)
    assert outcome(execution(code=code), asked="SIGTERM") == ("interrupted", 86)


# -- crash loops ------------------------------------------------------------------------------------------------

BARREN = execution(run(end=RAISED, gained=0))
FALL = Fall("/r", 3, 300, 2)


def after_a_fall(**kw):
    return execution(run(end=RAISED, **kw), falls=(FALL,))


@pytest.mark.parametrize("name", ["UsageError", "ConfigError", "StaleObjectError", "UnsupportedError", "MismatchError"])
@pytest.mark.parametrize("gained", [0, 1])
def test_an_error_that_would_come_again_is_not_tried_again(name, gained):
    facts = run(end=End("failed", 1.0, 2, 200, None, f"{name}: the thing: protect it"), gained=gained)
    verdict = judge([execution(facts, code=1)], serial=False)
    assert (verdict.outcome, verdict.exit) == ("program failed", 1)
    assert f"{name}: the thing: protect it" in verdict.message


@pytest.mark.parametrize("name", ["RankError", "DamageError", "CheckpointError", "ValueError", "Usage"])
def test_other_errors_are(name):
    assert outcome(execution(run(end=End("failed", 1.0, 2, 200, None, f"{name}: x")), code=1)) is None


def test_a_version_from_which_it_gets_nowhere_may_be_to_blame():
    assert in_crash_loop([BARREN, BARREN])
    assert in_crash_loop([after_a_fall(step=400), BARREN, BARREN])  # it had come beyond


@pytest.mark.parametrize(
    "other",
    [
        execution(run(end=RAISED, gained=0), lost_nodes=("node1",)),
        execution(run(end=RAISED, gained=0), stillborn=True),
        execution(run(gained=0), code=0),
        execution(run(attempt=None, gained=0)),
        execution(run(end=End("failed", 1.0, 2, 200, None, "StorageError: no space left"), gained=0)),
        execution(run(end=RAISED, gained=0), falls=(FALL,)),
    ],
    ids=["node lost", "stillborn", "ended well", "no run", "storage", "tried"],
)
def test_where_the_version_is_not_to_blame(other):
    assert not in_crash_loop([other, BARREN])
    assert not in_crash_loop([BARREN, other])


@pytest.mark.parametrize("facts", [{"gained": 0, "step": 200}, {"gained": 1, "step": 300}, {"gained": 1, "step": None}])
def test_no_further_than_before_after_a_fall_is_the_end(facts):
    verdict = judge([BARREN, BARREN, after_a_fall(**facts)])
    assert (verdict.outcome, verdict.exit) == ("no progress", 88)
    assert "from version 2 of /r, not beyond 3" in verdict.message and "holdfast rollback /r 3" in verdict.message


@pytest.mark.parametrize("facts", [{"gained": 2, "step": 301}, {"gained": 2, "step": None}])
def test_beyond_it_everything_is_as_usual(facts):
    executions = [BARREN, BARREN, after_a_fall(**facts)]
    assert judge(executions) is None
    assert judge([*executions, BARREN]) is None
    assert outcome(*executions, BARREN, BARREN) == ("no progress", 88)


def test_a_node_that_is_lost_after_a_fall_says_nothing():
    assert judge([BARREN, BARREN, execution(run(gained=0), falls=(FALL,), lost_nodes=("node1",))]) is None


def test_after_a_fall_nodes_tell_only_with_the_next_start():
    placed = after_a_fall(gained=0, places=True)
    assert judge([BARREN, BARREN, placed]) is None
    assert outcome(BARREN, BARREN, placed, BARREN) == ("no progress", 88)
    assert not in_crash_loop([BARREN, BARREN, placed, BARREN])


def test_the_pauses_between_starts():
    good = execution(run())
    assert pause([good]) == pause([BARREN]) == pause([BARREN, good]) == pause([good, BARREN]) == 0.0
    assert [pause([good, *[BARREN] * n]) for n in (2, 3, 4, 7, 8, 100)] == [1.0, 2.0, 4.0, 32.0, 60.0, BACKOFF]
