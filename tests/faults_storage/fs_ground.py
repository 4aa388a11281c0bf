"""Where the points are played: a directory put back to the same beginning each time, and what the truth is."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fs_forks import Child
from fs_program import Left, Program, kept, seed_step

import holdfast
from holdfast.run import maintenance


@dataclass
class Ground:
    """`work` is where each point is played: always the same path, because versions know output files by theirs.

    `truth`: digest of the undisturbed state by number of completed steps; `log`: the output file at the end.
    """

    base: Path
    truth: dict[int, str] = field(default_factory=dict)
    log: str = ""
    problems: list[str] = field(default_factory=list)
    share: tuple[int, int] = (0, 1)  # (k, n): of the points, each n-th from the k-th on is played here
    seed: int = 0  # decides which points stand for others; the same in all processes that share them

    @property
    def work(self) -> Path:
        return self.base / "work"

    def prepare(self) -> Ground:
        """Find the truth, and make the seeds: `seed-loop` and `seed-explicit`, left after `seed_step()` steps."""
        self.base.mkdir(parents=True, exist_ok=True)
        truth, self.log = Child(lambda: _undisturbed(self.work)).result()
        self.truth = {int(step): digest for step, digest in truth.items()}
        for style in ("loop", "explicit"):
            self.reset(None)
            Child(partial(_seed, self.work, style)).result()
            shutil.copytree(self.work, self.base / f"seed-{style}")
        return self

    def reset(self, seed: str | None = "loop") -> None:
        """Put `work` back to the seed's state; None: empty. Data files are linked: nobody changes one."""
        shutil.rmtree(self.work, ignore_errors=True)
        if seed is None:
            self.work.mkdir()
            return
        shutil.copytree(self.base / f"seed-{seed}", self.work, copy_function=_link_data)

    def mine(self, number: int) -> bool:
        """Whether the point of this number is played here, and not by another process at the same time."""
        return number % self.share[1] == self.share[0]

    def expect(self, fine: bool, point: str, what: object) -> None:
        """Note a problem unless `fine`."""
        if not fine:
            self.problems.append(f"{point}: {what}")


def _link_data(source: str, target: str) -> None:
    os.link(source, target) if "/data/" in source else shutil.copy2(source, target)


def _undisturbed(where: Path) -> tuple[dict[int, str], str]:
    where.mkdir(exist_ok=True)
    truth: dict[int, str] = {}
    program = Program(where)
    with program.run:
        truth[0] = program.digest()
        program.loop(tail=lambda step: truth.__setitem__(step + 1, program.digest()))
    return truth, (where / "log.csv").read_text()


def _seed(where: Path, style: str) -> None:
    program = Program(where)
    program.run.ready()

    def stop(step: int) -> None:
        if step == seed_step():
            program.quiet()
            raise Left

    try:
        if style == "loop":
            program.loop(head=stop)
        else:

            def checkpoint(done: int) -> None:
                program.run.checkpoint()
                stop(done)

            program.explicit(checkpoint)
    except Left:
        program.leave()
        return
    raise AssertionError("the program did not come by the step where it is to be left")


def finish(where: Path) -> dict[str, Any]:
    """In a child: start the program after whatever has happened, let it complete, prune; tell all about it."""
    program = Program(where)
    with program.run as run:
        run.ready()
        restored = run.restored
        at = restored.step if restored else 0
        found = {
            "version": restored.version if restored else None,
            "step": at,
            "skipped": list(restored.skipped) if restored else [],
            "digest": program.digest(),
        }
        program.loop()
        found["final"] = program.digest()
    found["log"] = (where / "log.csv").read_text()
    return found | after_pruning(where)


def after_pruning(where: Path) -> dict[str, Any]:
    """Prune, then say what is wrong with what is left: fragments, temporary files, damage, numbers used twice."""
    maintenance.prune(where / "run", keep=holdfast.Keep(last=kept()))
    return {"untidy": untidy(where / "run"), "damage": [str(d) for d in maintenance.verify(where / "run")]}


def untidy(run: Path) -> list[str]:
    """What has no place in a pruned run: temporary files anywhere, version directories without a commit."""
    wrong = [str(p.relative_to(run)) for p in run.rglob(".tmp-*")]
    for kind in ("versions", "records"):
        names = sorted(p.name for p in (run / kind).iterdir()) if (run / kind).is_dir() else []
        wrong += [f"{kind}/{n}: not committed" for n in names if not (run / kind / n / "commit").is_file()]
        wrong += [f"{kind}/{n}: strange name" for n in names if not re.fullmatch(r"\d{8}-a\d{6}", n)]
    return wrong


__all__ = ["Ground", "after_pruning", "finish", "untidy"]
