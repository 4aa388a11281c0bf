"""Part H: what part of its time a job spends on work that lasts, killed at random; beside what its costs allow at best.

    python tests/campaign/goodput.py --mtbf 20 60 --minutes 10 [--json FILE]

Heat on 4 ranks with spares, checkpoints when Holdfast chooses; a random rank is killed at exponentially distributed times.
Before and after it the same job runs undisturbed, without checkpoints: that is what a step takes. docs/goodput.md has the
formula.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaign.goodput_account import PARTS, Account, account
from campaign.goodput_job import Seen, Setting, heat_job
from campaign.survive_job import Trouble

Tell = Callable[[str], None]
MTBFS = (20.0, 60.0)
PROMISED = 0.9  # of the best
MINUTES = 10.0
CALM = 0.1, 10.0, 60.0  # undisturbed before and after: as a part of the disturbed run, at least, at most (seconds)
WARM = 1.0  # seconds of an undisturbed run that do not count


def disturbed(base: Path, setting: Setting, cadence: str, mtbf: float, seconds: float, seed: int) -> Seen:
    """A job that is killed for `seconds` from when it first computes. Trouble."""
    chance, kills = random.Random(seed), []
    with heat_job(base, setting, cadence) as job:
        began = job.start_up()
        due, over = began + chance.expovariate(1 / mtbf), began + seconds
        while due < over:
            job.wait(due)
            if (killed := job.kill_one(chance)) is not None:
                kills.append(killed)
            due += chance.expovariate(1 / mtbf)
        job.wait(over)
        # Not in the middle of an outage: what a kill costs is accounted for whole.
        job.wait(over + 60.0, lambda: not kills or job.computing(kills[-1].at) is not None)
        return job.seen(kills)


class Calm(NamedTuple):
    """Seconds of a step, and of the loop's head before it, where nothing fails and no checkpoint is taken."""

    step: float
    head: float


def undisturbed(base: Path, setting: Setting, seconds: float) -> Calm:
    """A job that is left alone. Trouble."""
    with heat_job(base, setting, "never") as job:
        began = job.start_up()
        job.wait(began + WARM)
        first = job.seen([]).rows[0]
        job.wait(began + WARM + seconds)
        last = job.seen([]).rows[0]
    if last.usual <= first.usual:
        raise Trouble(f"no step in {seconds:g} s")
    steps = last.usual - first.usual
    return Calm((last.usual_seconds - first.usual_seconds) / steps, (last.heads - first.heads) / steps)


def measure(
    base: Path, setting: Setting, mtbf: float, seconds: float, seed: int, tell: Tell, cadence: str = "auto"
) -> dict[str, Any]:
    """Undisturbed, disturbed, undisturbed; the account as JSON has it. Trouble."""
    part, least, most = CALM
    calm = min(most, max(least, part * seconds))
    before = undisturbed(base / "before", setting, calm)
    tell(f"MTBF {mtbf:g} s: a step takes {1000 * before.step:.2f} ms undisturbed, its head {1000 * before.head:.2f} ms")
    seen = disturbed(base / "disturbed", setting, cadence, mtbf, seconds, seed)
    after = undisturbed(base / "after", setting, calm)
    found = account(seen, (before.step + after.step) / 2, (before.head + after.head) / 2)
    for line in lines(found, before, after):
        tell(line)
    (base / f"output-{mtbf:g}.txt").write_text(seen.output)
    for name in ("before", "disturbed", "after"):
        shutil.rmtree(base / name)
    more = {"told_mtbf": mtbf, "seed": seed, "cadence": cadence, "before": before._asdict(), "after": after._asdict()}
    return {**found.public(), **more, "setting": vars(setting)}


def lines(found: Account, before: Calm, after: Calm) -> list[str]:
    """The account, for people."""
    c, (interval, best) = found.costs(), found.best()
    counted = Counter(kind for kind, _ in found.outages)
    kinds = ", ".join(
        f"{n} {kind} (mean {sum(s for k, s in found.outages if k == kind) / n:.2f} s)" for kind, n in counted.items()
    )
    parts = [(name, getattr(found, name)) for name in PARTS]
    shown = [
        f"wall time {found.wall:.1f} s, {found.kills} kills, {found.unprovoked} failures besides; outages: {kinds or 'none'}",
        f"a step takes {1000 * before.step:.2f} ms undisturbed before, {1000 * after.step:.2f} ms after, its head "
        f"{1000 * before.head:.2f} and {1000 * after.head:.2f} ms; {found.steps} lasted, {found.lost_steps} were done again",
        *(f"  {name.replace('_', '-'):10} {s:8.2f} s  {100 * s / found.wall:6.2f} %" for name, s in parts),
        f"  of slower, while a version was in flight: {found.flying:.2f} s",
        f"{found.checkpoints} checkpoints; costs: stall {1000 * c['stall']:.1f} ms, slow-down {1000 * c['slowdown']:.1f} ms, "
        f"flight {1000 * c['flight']:.0f} ms, restart {c['restart']:.3f} s; MTBF as it came {c['mtbf']:.1f} s",
        f"interval {found.useful / max(1, found.checkpoints):.2f} s, at best {interval:.2f} s",
        f"goodput {found.goodput:.4f}, at best {best:.4f}: ratio {found.goodput / best:.3f}",
        f"the same by what a step took in the job itself ({1000 * found.usual:.2f} ms): {found.own_goodput:.4f}, "
        f"ratio {found.own_goodput / best:.3f}",
    ]
    return shown


def campaign(
    base: Path,
    minutes: float,
    seed: int,
    tell: Tell,
    mtbfs: Sequence[float] = MTBFS,
    setting: Setting | None = None,
    cadence: str = "auto",
) -> dict[str, Any]:
    """All MTBFs one after the other; a problem is a ratio below what is promised, or a job that did not go on."""
    found: dict[str, Any] = {"all": [], "problems": []}
    for mtbf in mtbfs:
        try:
            one = measure(base, setting or Setting(), mtbf, 60 * minutes, seed, tell, cadence)
        except Trouble as trouble:
            found["problems"].append(f"MTBF {mtbf:g} s: {trouble}")
            continue
        found["all"].append(one)
        found[f"ratio, MTBF {mtbf:g} s"] = round(one["ratio"], 3)
        found[f"goodput, MTBF {mtbf:g} s"] = round(one["goodput"], 4)
        if not (one["kills"] and one["checkpoints"]):
            few = f"{one['kills']} kills, {one['checkpoints']} checkpoints"
            found["problems"].append(f"MTBF {mtbf:g} s: too short to tell: {few}")
        elif one["ratio"] < PROMISED:
            found["problems"].append(f"MTBF {mtbf:g} s: {one['ratio']:.3f} of the best, not {PROMISED}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Goodput of heat under kills, beside the best that its costs allow.")
    parser.add_argument("--mtbf", type=float, nargs="+", default=list(MTBFS), help="seconds, each a job of its own (20 60)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each job, under kills (10)")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--spares", type=int, default=Setting.spares, help=f"waiting processes ({Setting.spares})")
    parser.add_argument("--size", type=int, default=Setting.size, help=f"grid points along each side ({Setting.size})")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of sleep in each step (0)")
    parser.add_argument("--cadence", default="auto", help='"auto", "auto SECONDS" (the MTBF that it is told), or SECONDS')
    parser.add_argument("--disk", action="store_true", help="no memory level: versions in the run's directory alone")
    parser.add_argument("--dir", type=Path, help="where it works (a temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    args = parser.parse_args()
    for name in [n for n in os.environ if n.startswith("HOLDFAST_")]:
        del os.environ[name]  # options of the user's shell must not decide what is measured
    logging.getLogger("holdfast").addHandler(logging.NullHandler())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    setting = Setting(args.size, args.spares, not args.disk, args.pause)
    with tempfile.TemporaryDirectory(prefix="holdfast-goodput-") as folder:
        found = campaign(args.dir or Path(folder), args.minutes, args.seed, tell, args.mtbf, setting, args.cadence)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    for problem in found["problems"]:
        print(f"PROBLEM: {problem}", flush=True)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
