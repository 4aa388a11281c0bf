"""A small deterministic program, runs of it by one or two ranks in this process, and ways to damage what they store."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import holdfast
from holdfast.config import load
from holdfast.group import SerialGroup
from holdfast.run.opening import Before, _open

ATTEMPTS = 3
NEWEST = 5  # number of the newest version
KEPT = {"00000002-a000001": 2, "00000004-a000002": 3, "00000005-a000003": 4}  # name -> steps completed
RECORD = "00000003-a000001"


# -- ranks as threads -----------------------------------------------------------------------


class Post:
    """Where the ranks of one group leave messages for each other."""

    def __init__(self) -> None:
        self.box: dict[Any, bytes] = {}
        self.changed = threading.Condition()

    def put(self, key: Any, data: bytes) -> None:
        with self.changed:
            self.box[key] = data
            self.changed.notify_all()

    def take(self, key: Any) -> bytes:
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.box, 20):
                raise holdfast.DeadlineError(f"nobody sent {key}")
            return self.box.pop(key)


class ThreadGroup:
    """A `Group` whose ranks are threads of one process."""

    comm = None

    def __init__(self, post: Post, rank: int, size: int) -> None:
        self.post, self.rank, self.size = post, rank, size
        self._calls: dict[Any, Any] = {}

    def _key(self, kind: str, members: range) -> Any:
        counter = self._calls.setdefault((kind, members), itertools.count())
        return kind, members, next(counter)

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        key = self._key("gather", members)
        self.post.put((key, self.rank), data)
        return [self.post.take((key, r)) for r in members] if self.rank == members[0] else None

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        key = self._key("broadcast", members)
        if self.rank == members[0]:
            assert data is not None
            for r in members:
                self.post.put((key, r), data)
        return self.post.take((key, self.rank))

    def begin_max(self, *values: int) -> Any:
        group = self

        class Pending:
            def wait(self) -> tuple[int, ...]:
                from holdfast.group import together

                found = together(group, "max", data=list(values))
                return tuple(max(f[i] for f in found if i < len(f)) for i in range(len(values)))

            test = wait

        return Pending()

    def close(self) -> None:
        pass


def on_ranks(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """`work(group)` on `size` ranks; their results, or the exception of the lowest rank that raised."""
    if size == 1:
        return [work(SerialGroup())]
    post = Post()
    results: list[Any] = [None] * size

    def rank(r: int) -> None:
        try:
            results[r] = work(ThreadGroup(post, r, size))
        except BaseException as error:
            results[r] = error

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


# -- the program ----------------------------------------------------------------------------


@dataclass
class State:
    """What the program computes on: an array of several pages, a small one, a generator, a tree larger than 4 KiB."""

    u: np.ndarray
    w: np.ndarray
    rng: np.random.Generator
    tree: dict[str, Any]

    @staticmethod
    def initial(rank: int) -> State:
        rng = np.random.default_rng([7, rank])
        return State(np.arange(9000.0) + rank, rng.integers(0, 99, 37, np.int32), rng, {"log": [], "pad": "x" * 5000})

    def advance(self) -> None:
        self.u *= 1.01
        self.u += self.rng.random(self.u.size)
        self.w[:] = self.w[::-1] + 1
        self.tree["log"].append(float(self.u[0]))

    def key(self) -> Any:
        rng = repr(self.rng.bit_generator.state)
        return self.u.tobytes(), self.w.tobytes(), rng, tuple(self.tree["log"]), len(self.tree["pad"])


def undisturbed(rank: int, steps: int) -> Any:
    state = State.initial(rank)
    for _ in range(steps):
        state.advance()
    return state.key()


@dataclass
class Outcome:
    """What one rank found when it resumed."""

    version: int | None
    step: int
    skipped: tuple[tuple[str, str], ...]
    state: Any
    attempt: int
    lines: list[str]
    numbers: list[int] = field(default_factory=list)


def resume(
    url: Path, out: Path, group: Any, more: int = 0, last: Callable[[Any], None] | None = None, **opt: Any
) -> Outcome:
    """Start the program; it looks at what it has got at the head of its first iteration, and goes on for `more` steps.

    `last(run)` is called after them; then the program stops as if it had an error: resumable.
    """
    chosen = {"keep": holdfast.Keep(last=3), "signals": False, "takeover": True, "timeout": 20.0, "overlap": "off"}
    options = load({**chosen, **opt})
    run = holdfast.Run(_open(str(url), group, options, {"n": 1}, Before()))
    found: Outcome | None = None
    try:
        state = State.initial(group.rank)
        run.protect("u", state.u)
        run.protect("w", state.w)
        run.protect("rng", state.rng)
        run.protect("tree", state.tree)
        path = out / f"lines-{group.rank}.txt"
        file = run.file(path, "a")
        for step in run.steps(100, every=holdfast.steps(1)):
            if found is None:
                restored = run.restored
                lines = path.read_text().splitlines()
                version, skipped = (restored.version, restored.skipped) if restored else (None, ())
                found = Outcome(version, step, skipped, state.key(), run.attempt, lines)
            if more == 0:
                if last is not None:
                    last(run)
                break
            more -= 1
            state.advance()
            file.write(f"{step}\n")
        assert found is not None
        found.numbers = [v.number for v in run.versions]
        return found
    finally:
        run.close()


@dataclass(frozen=True)
class Built:
    """A run as it was built: never changed, only copied."""

    top: Path
    ranks: int

    def copy(self, to: Path) -> Copy:
        shutil.copytree(self.top / "run", to / "run")
        # The index names output files by absolute path: they are put back as they were, at their place.
        for kept in (self.top / "kept").iterdir():
            shutil.copy(kept, self.top / "out" / kept.name)
        return Copy(to / "run", self.top / "out", self.ranks)

    @property
    def files(self) -> list[str]:
        top = self.top / "run"
        return sorted(str(p.relative_to(top)) for p in top.rglob("*") if p.is_file())


@dataclass(frozen=True)
class Copy:
    url: Path
    out: Path
    ranks: int

    def resume(self, more: int = 0, **options: Any) -> list[Outcome]:
        return on_ranks(self.ranks, lambda group: resume(self.url, self.out, group, more, **options))

    def content(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.url)): p.read_bytes() for p in self.url.rglob("*") if p.is_file()}


def build(top: Path, ranks: int) -> Built:
    """Attempt 1 makes versions 1 and 2 and record 3, attempt 2 version 4, attempt 3 version 5; the last three are kept."""

    def record(run: Any) -> None:
        with run.transaction("spectrum") as txn:
            txn.put("spectrum", np.arange(50))

    (top / "out").mkdir(parents=True)
    whole = Copy(top / "run", top / "out", ranks)
    whole.resume(2, last=record)
    whole.resume(1)
    whole.resume(1)
    shutil.copytree(top / "out", top / "kept")
    return Built(top, ranks)
