"""What must hold when the power goes: in the model (`breaks`), and for a program started on what is left (`recover`)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from fs_disk import NAMES, Disk, materialise
from fs_power import Scene
from fs_program import Program
from fs_recording import Op

from holdfast.format import decode_record
from holdfast.run import maintenance

_VERSION = re.compile(r"(.*/versions/\d+-a\d+)/(.*)")
_STAGES = ("data/", "index/g", "index/root", "commit")  # each durable before the next has a name (format.md, 7)


def breaks(scene: Scene, ops: list[Op]) -> str | None:
    """The first rule of order that `ops` break, whatever a recovery would make of it; None if all hold.

    1. What the store said is durable is. 2. Data, group index, root, commit, each before the next. 3. Fence before
    base, base before the first version. 4. On deletion the commit is gone before anything it needs. 5. What a commit
    refers to in other versions is durable before it.
    """
    disk = Disk(scene.begin, ops)
    everything = set(range(len(disk.changes)))
    for i, op in enumerate(ops):
        stored = op.name in ("link", "rename_new", "create")
        target = op.to if op.name in ("link", "rename_new") else op.path
        rule = None
        if op.name != "promise" and not stored and op.name not in ("unlink", "mkdir"):
            continue
        sure = disk.after(disk.sure(i))
        now = disk.after({k for k in everything if disk.changes[k].op < i})
        if op.name == "promise":
            rule = _promised(op, sure, now)
        elif stored or op.name == "mkdir":
            rule = _in_order(target, sure, now)
            if rule is None and target.endswith("/commit"):
                rule = _refers(target, now[op.path] or b"", sure, now)
        else:
            rule = _deleted_in_order(op.path, sure)
        if rule is not None:
            return f"{rule}, at {op}"
    return None


def _promised(op: Op, sure: dict[str, bytes | None], now: dict[str, bytes | None]) -> str | None:
    if op.to == "stored":
        return None if op.path in sure and sure[op.path] == now[op.path] else "said to be durable, but is not"
    if op.to == "deleted":
        return "said to be deleted, but may come back" if op.path in sure else None
    if op.to == "made":
        return None if op.path in sure else "said to be made durably, but is not"
    # All names in the run's directory and in those directly below, and the run's own.
    root = op.path
    lost = [p for p in now if (p == root or _depth(p, root) in (1, 2)) and p not in sure and "/.tmp-" not in p]
    return f"said to be durable, but is not: {lost[0]}" if lost else None


def _depth(path: str, root: str) -> int:
    return path[len(root) :].count("/") if path.startswith(root + "/") else 0


def _in_order(target: str, sure: dict[str, bytes | None], now: dict[str, bytes | None]) -> str | None:
    name = target.rpartition("/")[2]
    if re.fullmatch(r"\d+\.base", name):
        fence = target.removesuffix("base") + "json"
        return None if fence in sure and sure[fence] == now[fence] else "a base before its fence is durable"
    if found := re.fullmatch(r"(.*)/versions/\d+-a(\d+)", target):
        base = f"{found[1]}/attempts/{found[2]}.base"
        return None if base in sure and sure[base] == now[base] else "a version before its base is durable"
    found = _VERSION.fullmatch(target)
    stage = next((k for k, s in enumerate(_STAGES) if found and found[2].startswith(s)), 0)
    for k in range(stage):
        needed = [p for p in now if found and p.startswith(f"{found[1]}/{_STAGES[k]}") and now[p] is not None]
        if not needed or any(p not in sure or sure[p] != now[p] for p in needed):
            return f"{_STAGES[stage]} before {_STAGES[k]} is durable"
    return None


def _refers(target: str, record: bytes, sure: dict[str, bytes | None], now: dict[str, bytes | None]) -> str | None:
    versions = target.rsplit("/", 2)[0]
    for ref in decode_record(record, target)[0]["refs"]:
        needed = [p for p in now if p.startswith(f"{versions}/{ref['name']}/") and "/.tmp-" not in p]
        if f"{versions}/{ref['name']}/commit" not in needed:
            return f"a commit that refers to {ref['name']}, which is not there"
        if any(p not in sure or sure[p] != now[p] for p in needed):
            return f"a commit that refers to {ref['name']} before that is durable"
    return None


def _deleted_in_order(path: str, sure: dict[str, bytes | None]) -> str | None:
    found = _VERSION.fullmatch(path)
    if found and found[2] != "commit" and "/.tmp-" not in path and f"{found[1]}/commit" in sure:
        return "part of a version deleted before its commit is durably gone"
    return None


class Recovery:
    """Starts the program on what a power loss has left, at the place where it ran; each distinct tree once."""

    def __init__(self, work: Path, truth: dict[int, str]) -> None:
        self.work, self.truth = work, truth
        self.tried: dict[int, str | None] = {}

    def wrong(self, scene: Scene, disk: Disk, n: int, reached: set[int]) -> str | None:
        """What is wrong with the start after a loss behind `n` operations; None: all is as it must be."""
        tree = {p: d for p, d in disk.after(reached).items() if p.startswith(f"{self.work}/")}
        newest = max((version for at, version in scene.reported if at <= n), default=0)
        key = hash((newest, *sorted(tree.items(), key=lambda item: item[0])))
        if key not in self.tried:
            shutil.rmtree(self.work, ignore_errors=True)
            materialise(tree, self.work)
            try:
                self.tried[key] = self._start(newest)
            except Exception as error:
                self.tried[key] = f"{type(error).__name__}: {error}"
        return self.tried[key]

    def _start(self, newest: int) -> str | None:
        run = self.work / "run"
        damage = maintenance.verify(run) if (run / "attempts").is_dir() and any((run / "attempts").iterdir()) else []
        # Nobody lives who holds it; those who wrote it were children of another process.
        program = Program(self.work)
        try:
            program.run.ready()
            restored = program.run.restored
            version, step = restored.version if restored else 0, program.s.done
            if version < newest:
                return f"version {newest} was reported as durable; restored {version}"
            if restored and restored.skipped:
                return f"passed over {restored.skipped}"
            if program.digest() != self.truth[step]:
                return f"another state than that of step {step}"
        finally:
            program.run.close()
        # A version whose deletion comes next, once the one behind it is gone on which it stood.
        damage = [d for d in damage if not ("are needed" in d.message and (d.version or 0) < version)]
        return f"damage: {damage[0].message}" if damage else None


def losses(scene: Scene, disk: Disk) -> list[tuple[int, set[int]]]:
    """After each operation: the worst (only what is sure reached the disk), and the best (everything did)."""
    found = []
    for n in range(len(scene.ops) + 1):
        sure = disk.sure(n)
        found += [(n, sure), (n, sure | set(disk.open(n)))]
    return found


def without(scene: Scene, j: int) -> Scene:
    """The scene as it would be had its `j`-th operation, an fsync, been forgotten."""
    reported = [(at - (at > j), version) for at, version in scene.reported]
    return Scene(scene.begin, scene.ops[:j] + scene.ops[j + 1 :], reported)


def adversary(scene: Scene, j: int) -> list[tuple[int, set[int]]]:
    """Losses of `without(scene, j)` that the j-th operation would have prevented: the worst, and that in which
    all but what it alone had made sure reached the disk; after each operation on names, where the tree differs."""
    less = without(scene, j)
    whole, poor = Disk(scene.begin, scene.ops), Disk(less.begin, less.ops)
    found = []
    for n in range(j, len(less.ops) + 1):
        if n < len(less.ops) and (n == j or less.ops[n - 1].name not in NAMES):
            continue
        sure = poor.sure(n)
        if scene.ops[j].name == "outfile":
            found.append((n, sure))
            continue
        gained = whole.sure(n + 1) - sure  # by the forgotten one; removing an fsync changes no change's number
        if gained:
            found += [(n, sure), (n, (sure | set(poor.open(n))) - gained)]
    return found
