"""Loops: where each stands, and what happens at its heads.

At the head of an iteration the protected objects are the whole state. A version holds the position of every loop that has been
entered; a loop inside another's body begins anew with each of the outer's iterations, so its position is forgotten at the
outer's next head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..catalog import Loop
from ..errors import MismatchError, RankError, UsageError
from ..policy import Every
from .pacing import Pacer

if TYPE_CHECKING:
    from .execution import Execution

DEFAULT = Every(seconds=60.0)


class Loops:
    """The loops of one execution; `positions` is what a version stores of them."""

    def __init__(self) -> None:
        self._behind: dict[str, Loop] = {}  # loops that were left, or that a version knows and nobody has entered yet
        self._at: dict[str, int] = {}  # steps completed of the loops that run; plain integers, for they change each step
        self._totals: dict[str, int | None] = {}
        self._stored: dict[str, Loop] = {}
        self._stack: list[str] = []
        self._entered: set[str] = set()
        self._within: dict[str, set[str]] = {}  # loops that were entered in this one's body, in this iteration
        self._pacers: dict[str, Pacer] = {}  # of loops that run, or were left early: these may have a round under way
        self.complete = False  # whether the version to resume from says so
        self.broken_step: int | None = None  # the step that `break`, or an exception, has ended
        self.moved = False  # whether any loop has gone beyond the stored state

    def resume(self, stored: dict[str, Loop], complete: bool) -> None:
        """Go on from these positions."""
        self._stored, self._behind, self.complete = dict(stored), dict(stored), complete
        self._entered = set(self._stack)

    @property
    def positions(self) -> dict[str, Loop]:
        """What a version stores: where every loop stands."""
        return self._behind | {name: Loop(step, self._totals[name]) for name, step in self._at.items()}

    @property
    def active(self) -> bool:
        return bool(self._stack)

    def iterate(self, run: Execution, n: int | None, every: Every, name: str) -> Iterator[int]:
        """The generator behind `run.steps`."""
        run.settle()
        for left in [other for other in self._pacers if other not in self._stack]:
            self._pacers.pop(left).finish()
        if name in self._stack:
            raise UsageError(f"The loop {name!r} is entered inside itself: give the inner one another name=.")
        if name in self._entered:
            # On a resume, the first of the two would take the second's position for its own.
            raise UsageError(f"There has been a loop {name!r}; a resume could not tell the two apart: give one another name=.")
        self._entered.add(name)
        for outer in self._stack:
            self._within.setdefault(outer, set()).add(name)
        stored = self._stored.pop(name, None)
        if stored is None:
            self._check_known(run, name)
        elif self._over(stored, n):
            run.step = stored.position
            if self.complete and not self.moved:
                run.tell_complete()
            return
        step = stored.position if stored is not None else 0
        if run.options.signals:
            run.interrupts.install()
        if every.auto is not None and every.auto.mtbf is None:
            run.learn_mtbf()
        pacer = Pacer(every, run.group, run.interrupts, step, run.costs, run.has_landed, run.time_limit())
        if run.flying:
            pacer.watch(run)
        self._pacers[name] = pacer
        self._stack.append(name)
        self._behind.pop(name, None)
        self._totals[name] = n
        at, within, decide, progress = self._at, self._within, pacer.decide, run.watching.progress
        over = False
        outermost = len(self._stack) == 1  # its steps tell how far ranks are, an inner one's begin anew
        try:
            while n is None or step < n:
                at[name] = step
                if progress is not None:
                    progress(step if outermost else -1)
                if name in within:
                    self._forget_inner(name)
                if run.called_off is not None and run.called_off():
                    raise RankError(f"Ranks are lost: step {step} is not begun. What was committed is intact.")
                decision = decide(step, run.requested)
                if decision is not None:
                    if run.rollback is not None:
                        step = self._roll_back(run, name, n, pacer)
                        continue
                    run.act(decision, step, pacer)
                run.step = step
                self.moved = True
                yield step
                step += 1
            at[name] = run.step = step
            self._forget_inner(name)
            decision = decide(step, run.requested, final=True)
            if decision is not None:
                if run.rollback is not None:
                    raise UsageError("run.rollback was called in a loop's last iteration: call it after the loop.")
                run.act(decision, step, pacer)
            run.objects.check_stale()
            self._pacers.pop(name, None)
            over = True
        except GeneratorExit:
            # `break`: the step that it ends is done as far as the program wants it. An exception looks the same from here.
            at[name] = run.step = step + 1
            self.broken_step = step
            self._forget_inner(name)
            raise
        finally:
            # Left by its end, by `break` or by an exception: later versions lie behind it.
            self._stack.remove(name)
            if name in at:
                self._behind[name] = Loop(at.pop(name), n, done=True)
            if self._stack:
                run.step = at.get(self._stack[-1], run.step)  # not there if the inner body has completed the run
            else:
                # Where ranks may be replaced, one that is lost may be why: who goes on then heeds it, and else `launch` does.
                run.interrupts.leave(heeded_later=run.called_off is not None and not over)

    def _check_known(self, run: Execution, name: str) -> None:
        """MismatchError if the restored state lies within other loops than this one: its steps would be done on a state that
        is further on. A loop that comes after those that were left is new and fine."""
        within = [f"{other!r} at step {loop.position}" for other, loop in self._stored.items() if not loop.done]
        if self.complete and not self.moved:
            within = within or [f"{other!r}, complete" for other in self._stored]
        if within and run.options.objects_changed == "error":
            raise MismatchError(
                f"The version to resume from has no loop {name!r}; it was taken in the loop {', '.join(within)}. Nothing was "
                f"changed. Enter that loop first, under its name, or accept with objects_changed='accept': {name!r} then "
                "begins at 0 on the restored state."
            )

    def _over(self, stored: Loop, n: int | None) -> bool:
        """Whether the restored state lies behind this loop: it was left, or the run is complete. A larger `n` reopens it."""
        larger = n is not None and stored.total is not None and n > stored.total
        return (stored.done or (self.complete and not self.moved)) and not larger

    def check_target(self, target: dict[str, Loop], version: int) -> None:
        """UsageError unless this execution can go on from where version `version` was taken: in the loop that runs now, with
        all that came before it done. Loops that were left can't be entered again."""
        if not self._stack:
            return
        running = self._stack[0]
        left = set(self._behind) - self._within.get(running, set())
        done = {name for name, loop in target.items() if loop.done}
        if running in done or not left <= done:
            raise UsageError(
                f"run.rollback({version}): that version was not taken in the loop {running!r} that runs now. "
                f"Nothing was changed. End the program and use `holdfast rollback RUN {version}`: the next start goes on "
                "from there."
            )

    def start_again(self) -> None:
        """After a rollback outside of loops: those of the restored version may be entered, as at a start."""
        self._entered.clear()

    def _forget_inner(self, name: str) -> None:
        """A new iteration of `name`: the loops in its body begin anew."""
        for inner in self._within.pop(name, ()):
            self._behind.pop(inner, None)
            self._stored.pop(inner, None)
            self._entered.discard(inner)

    def _roll_back(self, run: Execution, name: str, n: int | None, pacer: Pacer) -> int:
        """Carry out a rollback at this loop's head; the step to go on with."""
        if len(self._stack) > 1:
            raise UsageError("run.rollback inside nested loops can't move the outer ones: call it in the outermost.")
        assert run.rollback is not None
        request, run.rollback = run.rollback, None
        request()
        stored = self._stored.pop(name, None)
        step = stored.position if stored is not None else 0
        self.complete = False
        self._behind.pop(name, None)
        pacer.moved(step)
        return step

    def leave_all(self) -> None:
        """The program is complete although loops run: the steps they are in are their last, and done."""
        for name in self._stack:
            self._forget_inner(name)
            self._behind[name] = Loop(self._at.pop(name) + 1, self._totals[name], done=True)

    def watch(self, flight: object | None) -> None:
        """Tell every loop that a version is in flight, or that none is any more (collective)."""
        for pacer in self._pacers.values():
            pacer.watch(flight)

    def finish(self) -> None:
        """Let the rounds that are under way end (collective)."""
        for pacer in self._pacers.values():
            pacer.finish()
        self._pacers.clear()
