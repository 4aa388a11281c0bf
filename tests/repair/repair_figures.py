"""Kill processes of many jobs and count what becomes of them: `python tests/repair/repair_figures.py WHAT [N] [KIND] [SEED]`.

WHAT: one (a rank), zero (rank 0), spare (then a rank), two (ranks at once), second (another process 1-200 ms later),
during (3-25 ms later: in the repair), more (deaths than spares). KIND: what the ranks do, or all, in turn.
Prints each job's outcome, then how many were repaired in place, and the times from the (first) kill until all compute.
"""

from __future__ import annotations

import random
import sys
import time

from repair_job import KINDS, Job

RANKS, SPARES = 4, 2
HANG_SECONDS = 15.0
LATER = {"second": (0.001, 0.2), "during": (0.003, 0.025)}


class Disturbed(Exception):
    """A spare's death has disturbed the program."""


def strike(job: Job, what: str, dice: random.Random) -> float:
    """Kill those that are meant; the time of the (first) kill that has to be repaired."""
    time.sleep(dice.uniform(0.05, 0.6))
    holders = job.holders()
    order = [holders[rank] for rank in dice.sample(range(RANKS), RANKS)]
    if what == "spare":
        job.kill([job.spare_pids()[0]])
        time.sleep(0.3)
        if job.notes("failure"):
            raise Disturbed
    targets = {"zero": [holders[0]], "two": order[:2], "more": order[: SPARES + 1]}.get(what, order[:1])
    killed = job.kill(targets)
    if what in LATER:
        others = [pid for pid in (*order, *job.spare_pids()) if pid not in targets]
        time.sleep(max(killed + dice.uniform(*LATER[what]) - time.monotonic(), 0))
        job.kill([dice.choice(others)])
    return killed


def settled(job: Job) -> bool:
    """All ranks compute, after the same number of repairs, or the job has ended."""
    latest = {n["rank"]: n for n in job.notes("computing") if n["repairs"]}
    living = job.living()
    alive = [n for n in latest.values() if n["pid"] in living]
    whole = len(alive) == RANKS and len({n["repairs"] for n in alive}) == 1
    return whole or job.process.poll() is not None or not living


def one(what: str, kind: str, seed: int) -> tuple[str, float]:
    """A job with a fault: its outcome, and seconds from the kill until all computed or had left."""
    with Job(kind, RANKS, SPARES) as job:
        if not job.computing(0, 60):
            return "did not start", 0.0
        try:
            killed = strike(job, what, random.Random(seed))
        except Disturbed:
            return "disturbed", 0.0
        outcome, seconds = judge(job, what, killed)
        if not outcome.startswith("repaired") and what != "more":
            print(job.text())
        return outcome, seconds


def judge(job: Job, what: str, killed: float) -> tuple[str, float]:
    if what == "more":
        left = job.over(HANG_SECONDS)
        return ("hang" if not left else "wrong" if job.notes("finished") else "relaunch"), time.monotonic() - killed
    in_time = job.wait(lambda: settled(job), HANG_SECONDS)
    if what in LATER:  # the second death may have come after the first repair
        time.sleep(0.4)
        in_time = job.wait(lambda: settled(job), HANG_SECONDS)
    if not in_time:
        return "hang", HANG_SECONDS
    if job.process.poll() is not None or not job.living():
        by = "gave up" if job.notes("gave up") else "watchdog" if "deadline" in job.text() else "MPI"
        return f"relaunch ({by})", time.monotonic() - killed
    seconds = max(n["at"] for n in job.notes("computing")) - killed
    tries = max(n["tries"] for n in job.notes("repaired"))
    job.stop()
    ended = job.over(HANG_SECONDS)
    finished = {n["rank"] for n in job.notes("finished")} == set(range(RANKS))
    end = "" if finished and ended else ", lingers" if finished else ", not finished"
    return f"repaired{end}" + (f" ({tries} tries)" if tries > 1 else ""), seconds


def main(what: str, jobs: int, kind: str, seed: int) -> None:
    outcomes: dict[str, int] = {}
    times = []
    for number in range(jobs):
        chosen = KINDS[number % len(KINDS)] if kind == "all" else kind
        outcome, seconds = one(what, chosen, seed + number)
        print(f"{what} {chosen} seed {seed + number}: {outcome}, {1e3 * seconds:.0f} ms", flush=True)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome.startswith("repaired"):
            times.append(seconds)
    print(outcomes)
    if times:
        times.sort()
        late = times[int(0.95 * (len(times) - 1) + 0.5)]
        print(
            f"repaired in place: {len(times)} of {jobs}; median {1e3 * times[len(times) // 2]:.0f} ms, "
            f"95 % within {1e3 * late:.0f} ms"
        )


if __name__ == "__main__":
    given = [*sys.argv[1:], *["one", "8", "all", "0"][len(sys.argv) - 1 :]]
    main(given[0], int(given[1]), given[2], int(given[3]))
