"""How long a job is away when a rank is lost: 4 ranks x 64 MiB, killed or hung at random times, seen from outside.

    python benchmarks/repair.py [--repetitions 30] [--only in-place,relaunch,hang] [--fresh] [--json FILE]

prints each loss and where its time went; as a case of the bench it gives the medians. Times are from the blow. *Noticed*: a
process is on its way to the repair, or the first of the next start runs. *Repaired*: the last rank has a new group. *Opened*:
the program's function is called on the last rank. *Restored*: the last rank is at its loop's first head, state back and
agreed on. *Computing*: the last rank has done a step, of some milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from job import Context, main
from row import Row

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from campaign.goodput_job import RANKS, KilledJob
from campaign.survive_job import Trouble
from campaign.survive_notes import Note, Process, What

HERE = Path(__file__).parent
EACH = 64  # MiB of state on a rank
EVERY = 1.0  # seconds between checkpoints
STALL = 2.0  # seconds: stall_timeout, where a rank hangs
LOSSES = 5  # of one job; there are as many spares
BETWEEN = 0.2, 2.2  # seconds before a blow, at random, once there is a version of the attempt
AWAY = 60.0  # seconds that a job may be away
LEAST = 4  # losses of a kind that the bench measures, whatever its rounds
PARTS = ("noticed", "repaired", "opened", "restored", "computing")


@dataclass
class Loss:
    """One rank lost. Seconds from the blow; `in_place`: the same processes went on; `gone`: when a rank that hung was ended."""

    in_place: bool
    noticed: float
    repaired: float | None
    opened: float
    restored: float
    computing: float
    gone: float | None = None


def lose(base: Path, kind: str, count: int, seed: int, heard: Callable[[Loss], None], fresh: bool = False) -> None:
    """`count` losses of a kind ("in-place", "relaunch", "hang") in one job; `fresh`: its program makes its array anew with each
    call. Trouble."""
    chance = random.Random(seed)
    spares = 0 if kind == "relaunch" else count
    more = {"HOLDFAST_STALL_TIMEOUT": str(STALL)} if kind == "hang" else {}
    program = [str(HERE / "repair_job.py"), str(EACH), str(EVERY), *(["fresh"] if fresh else [])]
    with KilledJob(base, program, spares, memory=True, **more) as job:
        attempt = _computes(job, 0)
        for _ in range(count):
            known = _committed(job)
            job.wait(time.monotonic() + AWAY, lambda known=known: _committed(job) - known, look=0.05)  # type: ignore[misc]
            job.wait(time.monotonic() + chance.uniform(*BETWEEN))
            victim = _holders(job, attempt)[chance.randrange(RANKS)]
            blow = time.monotonic()
            os.kill(victim.pid, signal.SIGUSR2 if kind == "hang" else signal.SIGKILL)
            gone = _gone(job, victim) if kind == "hang" else None
            if kind == "hang":  # it hangs when it is back from what it was in
                blow = next(note.at for note in victim.notes if note.what is What.TRAPPED)
            before, attempt = attempt, _computes(job, attempt)
            heard(_timed(job, before, attempt, blow, gone))


def _holders(job: KilledJob, attempt: int) -> dict[int, Process]:
    found = {}
    for process in job.look():
        for note in process.notes:
            if note.what is What.OPENED and note.attempt == attempt:
                found[note.rank] = process
    return found


def _committed(job: KilledJob) -> set[str]:
    """Versions that are somewhere, by name."""
    places = [job.base / "run", *(job.place.glob("*/*") if job.place is not None else ())]
    return {commit.parent.name for place in places for commit in place.glob("versions/*/commit")}


def _computes(job: KilledJob, after: int) -> int:
    """Wait until all ranks have done a step in an attempt after this one; which."""

    def whole() -> list[int]:
        ranks: dict[int, set[int]] = {}
        for process in job.look():
            for note in process.notes:
                if note.what is What.STEP and note.attempt > after:
                    ranks.setdefault(note.attempt, set()).add(note.rank)
        return [attempt for attempt, seen in ranks.items() if len(seen) == RANKS]

    job.wait(time.monotonic() + AWAY, lambda: bool(whole()), look=0.02)
    if not (found := whole()):
        raise Trouble(f"it does not compute after {AWAY:g} s; {job.tail()}")
    return max(found)


def _gone(job: KilledJob, victim: Process) -> float:
    job.wait(time.monotonic() + AWAY, lambda: not victim.alive, look=0.005)
    if victim.alive:
        raise Trouble(f"a rank that hangs is not ended in {AWAY:g} s; {job.tail()}")
    now = time.monotonic()
    victim.read()
    return now


def _timed(job: KilledJob, before: int, after: int, blow: float, gone: float | None) -> Loss:
    crew = _holders(job, after)
    mine = [(p, n) for p in crew.values() for n in p.notes if n.at > blow]
    earlier = _holders(job, before)
    in_place = crew[0].execution == earlier[0].execution
    noticed = What.REPAIRING if in_place else What.STARTED
    # The last: a repair that is begun again counts whole.
    repaired = [n.at for p, n in mine if n.what is What.REPAIRED and n.at < _last(mine, What.OPENED, after)]
    return Loss(
        in_place,
        min(n.at for _, n in mine if n.what is noticed) - blow,
        max(repaired) - blow if in_place else None,
        _last(mine, What.OPENED, after) - blow,
        _last(mine, What.RESUMED, after) - blow,
        max(min(n.at for n in p.notes if n.what is What.STEP and n.attempt == after) for p in crew.values()) - blow,
        gone - blow if gone is not None else None,
    )


def _last(notes: Sequence[tuple[Process, Note]], what: What, attempt: int) -> float:
    return max(n.at for _, n in notes if n.what is what and n.attempt == attempt)


def measure(
    base: Path, kind: str, count: int, seed: int, heard: Callable[[Loss], None], fresh: bool = False
) -> list[Loss]:
    """`count` losses of a kind, in jobs of LOSSES each. Trouble."""
    losses: list[Loss] = []

    def keep(loss: Loss) -> None:
        losses.append(loss)
        heard(loss)

    for number in range(0, count, LOSSES):
        lose(base, kind, min(LOSSES, count - number), seed + number, keep, fresh)
    return losses


def rows_of(kind: str, losses: Sequence[Loss]) -> list[Row]:
    """Medians of those that went the way that `kind` says; and what part did not."""
    size = f"{RANKS} x {EACH} MiB"
    wanted = [loss for loss in losses if loss.in_place is (kind != "relaunch")]
    names = {"in-place": "a rank killed, in place", "relaunch": "a rank killed, relaunch", "hang": "a rank hangs"}
    program = f"repair, {names[kind]}"
    rows = []
    if wanted:
        for part in PARTS:
            some = [value for loss in wanted if (value := getattr(loss, part)) is not None]
            rows += [Row(program, size, part, "s", statistics.median(some))] if some else []
    if kind == "hang":
        found = [loss.gone for loss in losses if loss.gone is not None]  # the worst counts
        rows.append(Row(program, size, "noticed beyond `stall_timeout`", "s", max(found) - STALL))
    if kind != "relaunch":
        rows.append(Row(program, size, "not in place", "", 1 - len(wanted) / len(losses)))
    return rows


def case(kind: str) -> Callable[[Context], list[Row]]:
    def measured(context: Context) -> list[Row]:
        try:
            return rows_of(kind, measure(context.place / "job", kind, max(LEAST, context.rounds), 1, lambda _: None))
        except Trouble as trouble:
            raise SystemExit(str(trouble).partition(";")[0]) from None

    return measured


KINDS = ("in-place", "relaunch", "hang")
CASES = {f"repair-{kind}": case(kind) for kind in KINDS}


def alone() -> int:
    parser = argparse.ArgumentParser(description="How long a job is away when a rank is lost.")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--only", default=",".join(KINDS), help="which (in-place,relaunch,hang)")
    parser.add_argument("--fresh", action="store_true", help="the program makes its array anew with each call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    args = parser.parse_args()
    for name in [n for n in os.environ if n.startswith("HOLDFAST_")]:
        del os.environ[name]  # options of the user's shell must not decide what is measured
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="holdfast-repair-") as folder:
        for kind in args.only.split(","):
            print(f"{kind}: {RANKS} ranks x {EACH} MiB; ms after the blow: {', '.join(PARTS)}", flush=True)
            losses = measure(Path(folder) / "job", kind, args.repetitions, args.seed, _show, args.fresh)
            found[kind] = [asdict(loss) for loss in losses]
            for part in PARTS:
                if some := [v for x in losses if x.in_place is (kind != "relaunch") and (v := getattr(x, part)) is not None]:
                    ordered = sorted(some)
                    last = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
                    median = statistics.median(some)
                    print(f"  {part:10} median {1000 * median:7.1f} ms, 95th percentile {1000 * last:7.1f} ms")
            for row in rows_of(kind, losses):
                if row.metric not in PARTS:
                    print(f"  {row.metric}: {row.value:.3f}{' s' if row.unit == 's' else ''}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _show(loss: Loss) -> None:
    parts = [f"{1000 * value:8.1f}" if (value := getattr(loss, part)) is not None else "       -" for part in PARTS]
    gone = "" if loss.gone is None else f"  (ended after {1000 * loss.gone:.1f})"
    print(f"  {'in place' if loss.in_place else 'relaunched':10} {' '.join(parts)}{gone}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    if len(sys.argv) == 3 and sys.argv[1] in CASES:
        main(CASES)
    else:
        raise SystemExit(alone())
