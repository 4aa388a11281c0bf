"""Kill processes of many jobs and count what becomes of them: `python tests/repair/repair_figures.py WHAT [N] [KIND] [SEED]`.

WHAT: one (a rank), zero (rank 0), spare, two (ranks at once), second (another one 1-200 ms later), more (deaths than spares).
Prints each job's outcome, then how many were repaired in place, and the times from the (first) kill until all compute.
"""

from __future__ import annotations

import random
import sys
import time

from repair_job import KINDS, Job

RANKS, SPARES = 4, 2


def one(what: str, kind: str, seed: int, show: bool = False) -> tuple[str, float]:
    """A job with a fault: its outcome (repaired, relaunch, hang, wrong, ...) and seconds until all computed or had left."""
    dice = random.Random(seed)
    with Job(kind, RANKS, SPARES) as job:
        if not job.computing(0, 60):
            return "did not start", 0.0
        time.sleep(dice.uniform(0.05, 0.6))
        holders = job.holders()
        ranks = dice.sample(range(RANKS), RANKS)
        targets = {
            "one": [holders[ranks[0]]], "second": [holders[ranks[0]]], "zero": [holders[0]], "spare": [job.spare_pids()[0]],
            "two": [holders[r] for r in ranks[:2]], "more": [holders[r] for r in ranks[:3]],
        }[what]  # fmt: skip
        killed = job.kill(targets)
        if what == "second":
            others = [pid for pid in (*holders.values(), *job.spare_pids()) if pid not in targets]
            time.sleep(max(killed + dice.uniform(0.001, 0.2) - time.monotonic(), 0))
            job.kill([dice.choice(others)])
        if what == "spare":  # nobody has to notice; but the next loss is to be repaired
            time.sleep(0.3)
            undisturbed = not job.notes("failure")
            killed = job.kill([holders[ranks[0]]])
        if what == "more":
            left = job.over(15)
            seconds = time.monotonic() - killed
            outcome = "hang" if not left else "wrong" if job.notes("finished") else "relaunch"
            return outcome, seconds
        dead = set(targets)

        def settled() -> bool:
            latest = {n["rank"]: n for n in job.notes("computing") if n["repairs"]}
            alive = [n for n in latest.values() if n["pid"] in job.living()]
            repairs = {n["repairs"] for n in alive}
            return (len(alive) == RANKS and len(repairs) == 1) or job.process.poll() is not None or not job.living()

        if what == "second":
            job.wait(settled, 15)
            time.sleep(0.4)
        if not job.wait(settled, 15):
            if show:
                print(job.text())
            return "hang", 15.0
        if job.process.poll() is not None or not job.living():
            if show:
                print(job.text())
            # Ended by itself: by our own decision, or by MPI's?
            own = "gave up" if job.notes("gave up") else "watchdog" if "deadline" in job.text() else "MPI"
            return f"relaunch ({own})", time.monotonic() - killed
        seconds = max(n["at"] for n in job.notes("computing")) - killed
        if what == "spare" and not undisturbed:
            return "disturbed", seconds
        if dead & set(job.holders().values()):
            return "wrong", seconds
        tries = max(n["tries"] for n in job.notes("repaired"))
        job.stop()
        ended = job.over(15)
        if show and not ended:
            print(job.text())
        finished = {n["rank"] for n in job.notes("finished")} == set(range(RANKS))
        suffix = "" if finished and ended else ", not finished" if not finished else ", lingers"
        return f"repaired{suffix}" + (f" ({tries} tries)" if tries > 1 else ""), seconds


def main(what: str, jobs: int, kind: str, seed: int) -> None:
    outcomes: dict[str, int] = {}
    times = []
    for number in range(jobs):
        chosen = KINDS[number % len(KINDS)] if kind == "all" else kind
        start = time.monotonic()
        outcome, seconds = one(what, chosen, seed + number, show=True)
        print(f"{what} {chosen} seed {seed + number}: {outcome}, {1e3 * seconds:.0f} ms "
              f"(job {time.monotonic() - start:.1f} s)", flush=True)  # fmt: skip
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome.startswith("repaired"):
            times.append(seconds)
    print(outcomes)
    if len(times) > 1:
        ordered = sorted(times)
        print(f"repaired in place: {len(times)} of {jobs}; median {1e3 * ordered[len(ordered) // 2]:.0f} ms, "
              f"95 % within {1e3 * ordered[int(0.95 * (len(ordered) - 1) + 0.5)]:.0f} ms")  # fmt: skip


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], int(given[1]) if len(given) > 1 else 8, given[2] if len(given) > 2 else "all",
         int(given[3]) if len(given) > 3 else 0)  # fmt: skip
