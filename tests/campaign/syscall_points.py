"""Part B: one checkpoint, each of its storage system calls made to go wrong in turn by strace, from outside.

Killed at the call, the call failing with EIO and with ENOSPC, a write that says it wrote but did not (or wrote only
some), a real limit on file sizes. After each the run is resumed, checked against the oracle and the ledger,
and finished. And the cross-check: strace sees no call below the run's directory that `tests/faults.py`, the injector at
the store's door, does not see, so what `make test` does at that door covers them all.
Each checkpoint is durable before the program goes on, so that its calls are one thread's; part E has those in flight.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
from holdfast.errors import CheckpointError, HoldfastError
from holdfast.run import maintenance

from . import escapes, strace
from .forks import Child
from .ledger import Ledger, newest_durable
from .small import EVERY, Program, Truth

STEPS, ELEMENTS = 10, 40_000
SEED_STEP = 4  # the run begins with the versions of steps 2 and 4, numbers 1 and 2
TARGET_STEP = 6  # the checkpoint under fault, number 3

Tell = Callable[[str], None]


class Ground:
    """`work` is where each point is played, always the same path: versions know output files by theirs."""

    def __init__(self, base: Path) -> None:
        self.base, self.work, self.trace = base, base / "work", base / "strace.txt"
        self.ledger = Ledger(base / "ledger")
        self.truth = Truth(STEPS, ELEMENTS)
        self.problems: list[str] = []
        base.mkdir(parents=True, exist_ok=True)
        self.work.mkdir()
        Child(self._seed).result()
        shutil.move(self.work, base / "seed")

    def reset(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.ledger.path.unlink(missing_ok=True)
        shutil.copytree(self.base / "seed", self.work)

    def _seed(self) -> None:
        program = Program(self.work, STEPS, ELEMENTS, overlap="off")
        for step in program.run.steps(STEPS, every=holdfast.steps(EVERY)):
            if step == SEED_STEP:
                program.output.close()
                program.run.close()
                return
            program.output.write(program.state.advance(step))

    def expect(self, fine: bool, point: str, what: object) -> None:
        if not fine:
            self.problems.append(f"{point}: {what}")

    # -- what a child does ---------------------------------------------------------------------

    def window(
        self,
        on_error: str,
        around: Callable[[], Callable[[], None]] = lambda: lambda: None,
        stop: bool = False,
    ) -> dict[str, Any]:
        """Resume, stop before the target checkpoint, take it, end the window, and go on to the end (not if `stop`).

        `around()` is called where the window begins; what it returns, where it ends. Tells the error raised and the
        warnings given. A checkpoint that raises ends the execution, as it does a program that does not catch it.
        """
        program = Program(self.work, STEPS, ELEMENTS, self.ledger, on_error=on_error, overlap="off")
        program.settle()
        leave: list[Callable[[], None]] = []

        def tail(step: int) -> None:
            if step + 1 == TARGET_STEP:
                strace.begin_window()
                leave.append(around())

        def head(step: int) -> None:
            if step == TARGET_STEP:
                leave.pop()()
                strace.end_window()
                if stop:
                    raise _Left

        told: dict[str, Any] = {"error": None, "warnings": []}
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            try:
                with program.run:
                    program.loop(head, tail)
            except HoldfastError as error:
                if leave:
                    leave.pop()()
                told["error"] = {"class": type(error).__name__, "text": str(error), "file": error.file}
                told["clear"] = isinstance(error, CheckpointError) and bool(error.file)
            except _Left:
                pass
            told["warnings"] = [str(w.message) for w in given]
        return told

    def resume(self) -> dict[str, Any]:
        """What a start finds; then to the end, and pruned: fragments go, nothing is damaged."""
        program = Program(self.work, STEPS, ELEMENTS, self.ledger, overlap="off")
        found = program.settle()
        found["final"] = program.finish()
        found["output"] = (self.work / "output.csv").read_text()
        maintenance.prune(self.work / "run")
        found["damage"] = [str(damage) for damage in maintenance.verify(self.work / "run")]
        found["left"] = [str(path) for path in (self.work / "run").rglob(".tmp-*")]
        return found

    def check(self, point: str, versions: tuple[int, ...], damage: bool = False) -> dict[str, Any]:
        """Resume and compare; `versions`: which may be restored; `damage`: whether what was written may be damaged."""
        promised = newest_durable(self.ledger.lines())
        found = dict(Child(self.resume).result())
        self.expect(found["version"] in versions, point, f"restored version {found['version']}, not one of {versions}")
        if promised and not damage:
            why = f"version {promised['version']} was reported durable, {found['version']} restored"
            self.expect(found["version"] >= promised["version"], point, why)
        same = found["digest"] == self.truth.digests[found["step"]]
        self.expect(same, point, f"restored another state than that of step {found['step']}")
        self.expect(found["final"] == self.truth.digests[STEPS], point, "ended with another state")
        self.expect(found["output"] == self.truth.output, point, "ended with another output file")
        if not damage:
            self.expect(not found["skipped"], point, f"passed over {found['skipped']}")
            self.expect(not found["damage"], point, f"damaged at the end: {found['damage']}")
        self.expect(not found["left"], point, f"left after pruning: {found['left']}")
        return found


# -- the points ------------------------------------------------------------------------------------


def points(ground: Ground) -> list[strace.SystemCall]:
    """The calls of one undisturbed checkpoint that open or change something below `work`."""
    ground.reset()
    child = Child(lambda: ground.window("raise"))
    strace.attach(child, ground.trace, "-e", "trace=%file,%desc")
    child.result()
    below = f"{ground.work}/"
    calls = [c for c in strace.calls_in(ground.trace) if any(f"{p}/".startswith(below) for p in c.paths)]
    stray = [c for c in calls if c.thread != child.pid and c.name in ("pwrite64", "linkat", "fallocate", "mkdir")]
    ground.expect(not stray, "tracing", f"other threads write: {stray}")
    # What old versions are deleted with is another thread's, whose calls strace can't aim at: part E has them.
    return [c for c in calls if c.name in strace.CHANGING and c.thread == child.pid]


def killed(ground: Ground, calls: list[strace.SystemCall], some: list[strace.SystemCall]) -> int:
    """Killed at each of `some` of the `calls`."""
    committed = next(i for i, c in enumerate(calls) if c.name.startswith("link") and c.paths[-1].endswith("/commit"))
    for call in some:
        point = f"killed at {call}"
        ground.reset()
        child = Child(lambda: ground.window("raise"))
        strace.attach(child, ground.trace, *strace.inject(call, "signal=SIGKILL"))
        ground.expect(child.end() == -signal.SIGKILL, point, "was not killed: the point was not reached")
        # The commit's name makes the version exist: before its link the version before is the newest, after it the new.
        ground.check(point, (3,) if calls.index(call) > committed else (2,))
    return len(some)


def failing(ground: Ground, calls: list[strace.SystemCall], error: str, on_error: str) -> Counter[str]:
    """Each call failing with `error`; how many were reported, and how many were no failure of the checkpoint."""
    outcomes: Counter[str] = Counter()
    for call in calls:
        point = f"{error}, on_error={on_error}, at {call}"
        ground.reset()
        child = Child(lambda: ground.window(on_error))
        strace.attach(child, ground.trace, *strace.inject(call, f"error={error}"))
        told = child.result()
        ground.expect("(INJECTED)" in ground.trace.read_text(), point, "the point was not reached")
        reported = any(line["version"] == 3 for line in ground.ledger.of("durable"))
        text = told["error"]["text"] if told["error"] else " ".join(told["warnings"])
        if reported:  # not needed for the version: a direct descriptor, a temporary name, what retention deletes
            outcomes["durable nevertheless"] += 1
            ground.expect(not text, point, f"durable, and yet said: {text}")
            ground.check(point, (5,))
            continue
        outcomes["reported"] += 1
        said = f"({error})" in text or os.strerror(getattr(errno, error)) in text
        ground.expect(said and str(ground.work) in text, point, f"not clear: {text!r}")
        if on_error == "raise":
            ground.expect(bool(told.get("clear")), point, f"raised {told['error']}")
            ground.check(point, (2, 3))  # 3: whole, though not reported: its commit exists and its name could not be removed
        else:
            ground.expect(told["error"] is None, point, f"raised {told['error']}")
            later = {line["version"] for line in ground.ledger.of("durable")}
            ground.expect({4, 5} <= later, point, f"the checkpoints after the fault: {later}")
            ground.check(point, (5,))
    return outcomes


def lying(ground: Ground, calls: list[strace.SystemCall]) -> Counter[str]:
    """Writes that did not happen, or of which some bytes did not: the digests tell. Never a wrong value."""
    outcomes: Counter[str] = Counter()
    for call in (c for c in calls if c.name == "pwrite64"):
        whole = int(strace.result_of(call))
        for nbytes in sorted({0, 100, whole}):
            point = f"a write that says {nbytes} of {whole} and wrote none, at {call}"
            ground.reset()
            child = Child(lambda: ground.window("raise", stop=True))
            strace.attach(child, ground.trace, *strace.inject(call, f"retval={nbytes}"))
            told = child.result()
            ground.expect("(INJECTED)" in ground.trace.read_text(), point, "the point was not reached")
            if nbytes == 0:
                ground.expect(told["error"] is not None, point, "nothing was written and nothing said")
            found = ground.check(point, (2, 3), damage=True)
            if nbytes == 0:
                outcomes["reported at once"] += 1
            elif found["version"] == 3:
                outcomes["read from the second copy of a record"] += 1
            else:
                outcomes["found on the resume, version before restored"] += 1
                ground.expect(bool(found["skipped"]), point, "the version before was restored without a word")
    return outcomes


def limited(ground: Ground) -> int:
    """A real limit on file sizes: the kernel cuts the write that crosses it and refuses the next."""
    sizes = (0, 1, 100, 1000, 4096, 100_000, 300_000)

    def limit(size: int) -> Callable[[], None]:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    for size in sizes:
        for on_error in ("raise", "warn"):
            point = f"files limited to {size} bytes, on_error={on_error}"
            ground.reset()
            child = Child(lambda size=size, on_error=on_error: ground.window(on_error, lambda: limit(size)))
            strace.attach(child, ground.trace, "-e", "trace=fsync")
            told = child.result()
            text = told["error"]["text"] if told["error"] else " ".join(told["warnings"])
            said = "(EFBIG)" in text or os.strerror(errno.EFBIG) in text
            ground.expect(said, point, f"not clear: {text!r}")
            ground.expect((told["error"] is not None) == (on_error == "raise"), point, f"raised {told['error']}")
            ground.check(point, (2,) if on_error == "raise" else (5,))
    return 2 * len(sizes)


class _Left(Exception):
    """Ends an execution without completing the run: the version under fault stays the newest."""


# -- the whole part --------------------------------------------------------------------------------


def campaign(base: Path, tell: Tell, quick: bool) -> dict[str, Any]:
    """All of it. `quick`: every third point."""
    if why := strace.missing():
        return {"problems": [f"not done: {why}"]}
    ground = Ground(base)
    calls = points(ground)
    names = Counter(call.name for call in calls)
    tell(f"one checkpoint makes {len(calls)} calls: " + ", ".join(f"{n} {name}" for name, n in names.items()))
    checked = escapes.cross_check(ground, tell)
    some = calls[::3] if quick else calls
    result: dict[str, Any] = {"points": len(calls), "calls": dict(names), "cross_check": checked}
    result["killed"] = killed(ground, calls, some)
    tell(f"killed at {result['killed']} points")
    for error in ("EIO", "ENOSPC"):
        for on_error in ("raise", "warn"):
            outcomes = failing(ground, some, error, on_error)
            result[f"{error} {on_error}"] = dict(outcomes)
            tell(f"{error}, on_error={on_error}: {dict(outcomes)}")
    result["lying writes"] = dict(lying(ground, calls))
    tell(f"writes that did not happen: {result['lying writes']}")
    result["limited"] = limited(ground)
    tell(f"files limited in size: {result['limited']} points")
    return {**result, "problems": ground.problems}
