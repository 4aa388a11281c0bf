"""What catalogs say of an execution, and what the program reports."""

from __future__ import annotations

import time
from dataclasses import replace

from holdfast.catalog import Attempt, Base, Catalog, End, Version, current
from holdfast.format import Link
from holdfast.supervisor import facts
from holdfast.supervisor.account import Account, report
from holdfast.supervisor.facts import Execution, Opened, RunFacts, facts_of, read_report
from holdfast.supervisor.judge import Verdict
from holdfast.supervisor.origin import origin

ME = current()
DEAD = replace(ME, start=ME.start - 1)
ELSEWHERE = replace(ME, boot="another", host="other")


def attempt(number, process=DEAD, end=None, kind="run"):
    return Attempt(number, kind, holder=process, processes=(process,), sealed=True, end=end)


def version(number, by, complete=False):
    name = f"{number:08d}-a{by:06d}"
    return Version(name, number, by, "checkpoint", "current", step=10 * number, time=100.0 + number, complete=complete)


def catalog(attempts, lineage=()):
    newest = list(reversed(lineage))
    return Catalog("id", list(attempts), newest, newest, bool(newest) and newest[0].complete, [])


def test_what_an_execution_gained():
    found = facts_of("/r", catalog([attempt(1), attempt(2)], [version(1, 1), version(2, 2), version(3, 2)]), {2})
    assert (found.attempt, found.version, found.step, found.gained, found.safe) == (2, 3, 30, 2, 103.0)
    assert not found.complete
    assert found.end is None


def test_nothing_stored():
    found = facts_of("/r", catalog([attempt(1)]), {1})
    assert (found.version, found.step, found.gained, found.safe, found.complete) == (None, None, 0, None, False)


def test_complete_needs_both_the_version_and_the_end():
    done = End("complete", 1.0, 2, 20)
    versions = [version(1, 1), version(2, 1, complete=True)]
    assert facts_of("/r", catalog([attempt(1, end=done)], versions), {1}).complete
    assert not facts_of("/r", catalog([attempt(1)], versions), {1}).complete
    # started again with more steps, and killed before its first version
    assert not facts_of("/r", catalog([attempt(1, end=done), attempt(2)], versions), {2}).complete
    # pruned since
    assert facts_of(
        "/r", catalog([attempt(1, end=done), attempt(2, end=End("closed", 2.0), kind="prune")], versions), set()
    ).complete


def test_a_later_attempt_that_lives_is_a_rival():
    assert facts_of("/r", catalog([attempt(1), attempt(2, ME)]), {1}).rival.startswith("attempt 2, process ")
    assert (
        facts_of("/r", catalog([attempt(1), attempt(2, ELSEWHERE)]), {1}).rival
        == f"attempt 2, process {ME.pid} on other"
    )
    for later in (attempt(2, replace(DEAD, pid=1)), attempt(2, ME, End("complete", 1.0))):
        assert facts_of("/r", catalog([attempt(1), later]), {1}).rival is None
    assert facts_of("/r", catalog([attempt(1, ME), attempt(2)]), {2}).rival is None  # an earlier one is fenced off


def test_an_orphan_that_began_later_is_no_rival(monkeypatch):
    monkeypatch.setattr(facts, "abandoned", lambda process: process == ME)
    assert facts_of("/r", catalog([attempt(1), attempt(2, ME)]), {1}).rival is None


def test_an_attempt_that_the_program_took_by_rolling_back_is_its_own():
    found = facts_of("/r", catalog([attempt(1, ELSEWHERE), attempt(2, ELSEWHERE)], [version(1, 1), version(2, 2)]), {1})
    assert (found.attempt, found.rival, found.gained) == (2, None, 2)


def test_an_attempt_that_was_not_reported_is_known_by_its_execution():
    unreported = attempt(2, ELSEWHERE)._replace(execution="mine")
    found = facts_of("/r", catalog([attempt(1), unreported], [version(1, 2)]), {1}, "mine")
    assert (found.attempt, found.rival, found.gained) == (2, None, 1)
    assert facts_of("/r", catalog([attempt(1), unreported]), {1}, "another").rival is not None
    assert facts_of("/r", catalog([attempt(1)]), set(), "mine").attempt is None


def test_what_it_went_on_from_and_whether_nodes_have_places():
    base = Base(Link("00000007-a000001", "0" * 32), (), (), None, 1)
    went_on = attempt(2)._replace(base=base, places=(("memory", "/dev/shm"),))
    found = facts_of("/r", catalog([attempt(1), went_on]), {2})
    assert (found.based, found.places) == (7, True)
    assert facts_of("/r", catalog([attempt(1)]), {1}).based is None
    without = facts_of("/r", catalog([attempt(1)._replace(base=base)]), {1})
    assert (without.based, without.places) == (7, False)


def test_what_is_learnt_from_where_the_next_attempt_goes_on():
    one = RunFacts("/r", 1, version=2, safe=102.0, places=True)
    ended = Execution(1, 100.0, 110.0, 137, (one, RunFacts("/s", 1, safe=101.0)))
    assert ended.lost == 9
    settled = [Opened("/r", 2), Opened("/r", 2, True, 9, 90, 109.5), Opened("/r", 3, True, 3, 30, 103.0)]
    found = facts.learn(ended, settled)
    assert [(run.safe, run.known) for run in found.runs] == [(109.5, True), (101.0, False)]
    assert facts.learn(found, [Opened("/r", 4, True, 1, 10, 101.0)]) == found
    again = facts.learn(replace(ended, runs=(one,)), [Opened("/r", 2, True)])  # nothing was left
    assert again.lost == 10


def test_the_account_of_what_nodes_held(capsys):
    one = RunFacts("/r", 1, places=True)
    ended = Execution(1, 100.0, 110.0, 137, (one,))
    last = Execution(2, 112.0, 120.0, 0, (RunFacts("/r", 2, complete=True, places=True),))
    account = Account()
    account.died(ended, serial=False)
    settled = Opened("/r", 2, True, 9, 90, 109.5)
    known = facts.learn(ended, [settled])
    account.resumed(settled, known)
    account.verdict(Verdict("complete", 0, "complete."), [known, last])
    account.verdict(Verdict("complete", 0, "complete."), [ended, last])
    _, first, resumed, _, exact, _, bound = capsys.readouterr().err.splitlines()
    told = "resumes from a version if the nodes still hold one, else starts from the beginning"
    assert first == f"holdfast: /r {told}; at most 10.0 s of work lost"
    assert resumed == "holdfast: /r goes on from version 9 (step 90); 500.0 ms of work lost"
    assert exact == "holdfast: 1 restart, 500.0 ms of work lost"
    assert bound == "holdfast: 1 restart, at most 10.0 s of work lost"


def test_the_account_of_what_was_lost_with_the_last_start(capsys):
    first = Execution(1, 100.0, 110.0, 137, (RunFacts("/r", 1),))
    last = Execution(2, 110.0, 114.0, 137, (RunFacts("/r", 2),))
    exhausted, interrupted = Verdict("restarts exhausted", 89, "died."), Verdict("interrupted", 85, "left.")
    for verdict, executions, told, seconds in (
        (exhausted, [first, last], ["1 restart, 14.0 s of work lost"], 14.0),
        (exhausted, [first], ["10.0 s of work lost"], 10.0),
        (interrupted, [first], [], 0.0),  # it left with a last checkpoint
        (interrupted, [first, last], ["1 restart, 10.0 s of work lost"], 10.0),
    ):
        Account().verdict(verdict, executions)
        assert capsys.readouterr().err.splitlines()[1:] == [f"holdfast: {line}" for line in told]
        assert report(verdict, executions, serial=False)["lost_seconds"] == seconds
    Account().died(replace(last, repairs=1), serial=False)  # an attempt of several
    assert "attempt 2 of /r died, 4.0 s after the start: " in capsys.readouterr().err


def test_when_an_attempt_began_to_work(monkeypatch):
    monkeypatch.setattr(facts, "catalog_of", lambda url: catalog([attempt(1), attempt(2)]))
    monkeypatch.setattr(facts, "_is_gone", lambda run: False)
    settled = [Opened("/r", 1, at=1.0), Opened("/r", 1, True, at=1.5), Opened("/r", 2, at=4.0)]
    before = time.time()
    (run,) = facts.gather(["/r"], settled)
    assert run.since >= before and run.had is None  # it had not come to work
    (run,) = facts.gather(["/r"], [*settled, Opened("/r", 2, True, 3, 30, 3.5, at=4.25)])
    assert (run.since, run.had) == (4.25, 3.5)
    (run,) = facts.gather(["/r"], [])
    assert run.attempt is None and run.since >= before


def test_the_programs_report(tmp_path):
    path = tmp_path / "report"
    assert read_report(str(path)) == []
    path.write_text('{"url": "/r", "attempt": 3}\nnot ours\n[]\n{"url": "/s", "attempt": 1}\n{"url": "/t", "att')
    assert read_report(str(path)) == [Opened("/r", 3), Opened("/s", 1)]
    line = '{"url": "/r", "attempt": 3, "settled": true, "version": 4, "step": null, "stored": 5.5}'
    path.write_text(line + "\n" + line.replace(', "stored": 5.5', "") + "\n")
    assert read_report(str(path)) == [Opened("/r", 3, True, 4, None, 5.5)]
    path.write_text(line.replace("5.5", '5.5, "read": [["memory", 4096], ["local", 0], ["global", 1]]') + "\n")
    (one,) = read_report(str(path))
    assert origin(one, away=True) == "memory (4.0 KiB), the run's own store (1 B)"
    assert origin(Opened("/r", 3), away=False) == ""


def test_work_lost_behind_repairs_is_told_by_what_the_attempts_report():
    opened = [
        Opened("/r", 1, at=100.0), Opened("/r", 1, True, None), Opened("/r", 2, at=110.0), Opened("/r", 2, True, 3, 30, 107.5),
        Opened("/r", 3, at=120.0), Opened("/r", 3, True, None), Opened("/s", 4, at=130.0), Opened("/s", 4, True, 1, 1, 50.0),
    ]  # fmt: skip
    assert facts.repaired_lost(opened) == 2.5 + 17.5  # the third began anew; of another run the first is no repair
    again = [*opened[:4], Opened("/r", 3, at=112.0), Opened("/r", 3, True, 3, 30, 107.5)]
    assert facts.repaired_lost(again) == 2.5 + 2.0  # what was lost before is not lost once more
    assert facts.repaired_lost([Opened("/r", 1), Opened("/r", 1, True, 3, 30, 1.0)]) == 0.0
