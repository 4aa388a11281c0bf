"""What is not written again: right after any series of writes, failures, rollbacks and resumes, and bounded."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from faults import Faults, named
from flight_support import MiB, filled
from run_support import crash, execute, program

import holdfast
from holdfast.capture.tracker import PageTracker
from holdfast.catalog import Snapshot
from holdfast.engine import open_part
from holdfast.format import digest_hex

IN_FLIGHT = True
MODES = ("off", "blocks", "pages", "auto")
PAGES = PageTracker.available() is None


def commits(run: holdfast.Run):
    """The commits of the lineage, newest first, and each one's part."""
    snapshot = Snapshot(run._x.store)
    found = []
    for v in run.versions:
        if v.kind != "checkpoint" or v.status != "current":
            continue
        commit = snapshot.commit("checkpoint", v.name)[0]
        with open_part(run._x.store, commit, 0, 1) as reader:
            found.append((commit, reader.part))
    return found


def check_bounds(run: holdfast.Run, max_chain: int) -> bool:
    """What one version touches, and what reading it takes. Whether one that is kept shares no block with the newest
    (invariant 5)."""
    run._x.writer.arrive()
    found = commits(run)
    touched = []
    for commit, part in found:
        sources = {s.version for s in part.sources}
        assert sources == {link.name for link in commit.refs}
        assert len(sources) + 1 <= max_chain
        assert sources <= {other.name for other, _ in found}, "what it refers to is kept"
        for stored in part.objects:
            for buffer in stored.buffers:
                assert buffer.stored <= 2 * buffer.nbytes
        touched.append({commit.name, *sources})
    return any(touched[0].isdisjoint(other) for other in touched[1:])


class Program:
    """A program that does anything at all with its state, and remembers what each version has to hold."""

    def __init__(self, folder: Path, seed: int, **options) -> None:
        self.url, self.random, self.options = folder / "run", random.Random(seed), options
        self.expected: dict[int, dict[str, bytes]] = {}
        self.held: list[np.ndarray] = []
        self.run = None
        self.reopen(options["incremental"])

    def reopen(self, mode: str) -> None:
        options = {**self.options, "incremental": mode}
        self.run = holdfast.open(self.url, takeover=True, signals=False, objects_changed="accept", **options)
        self.arrays = {"a": np.zeros(5 * MiB + 24, np.uint8), "b": np.zeros(5 * MiB + 24, np.uint8)}
        for name, array in self.arrays.items():
            self.run.protect(name, array)
        self.s = self.run.state(v=np.zeros(2 * MiB, np.uint8), w=np.zeros(9, np.uint8), n=0)
        self.run.ready()
        if self.run.restored is not None:
            number = self.run.restored.version
            fit = {name: value for name, value in self.expected[number].items() if self.fits(name, number)}
            self.same({name: value for name, value in self.now().items() if name in fit}, fit)

    def fits(self, name: str, number: int) -> bool:
        """Whether what is stored can be put into the program's array; else that keeps what it holds (`accept`)."""
        if name not in ("a", "b"):
            return True
        stored = self.run.load(name, number)
        return (stored.dtype, stored.shape) == (self.arrays[name].dtype, self.arrays[name].shape)

    def now(self) -> dict[str, bytes]:
        state = {"v": self.s.v, "n": np.array(self.s.n)}
        return {name: digest_hex(np.ascontiguousarray(x).tobytes()) for name, x in {**self.arrays, **state}.items()}

    @staticmethod
    def same(found, expected) -> None:
        assert found == expected

    # -- what it does ----------------------------------------------------------------------------

    def target(self) -> np.ndarray:
        return self.random.choice([*self.arrays.values(), self.s.v])

    def write_some(self) -> None:
        array = self.target()
        at = self.random.randrange(array.nbytes)
        array[at : at + self.random.choice([1, 4096, 3 << 20])] = self.random.randrange(256)

    def write_pages(self) -> None:
        array = self.target()
        array[self.random.randrange(4096) :: self.random.choice([1 << 14, 1 << 16, 1 << 20])] += 1

    def write_all(self) -> None:
        array = self.target()
        array[:] = filled(array.nbytes, self.random.randrange(99))

    def swap(self) -> None:
        if {"a", "b"} <= set(self.arrays):
            self.arrays["a"], self.arrays["b"] = self.arrays["b"], self.arrays["a"]
            for name, array in self.arrays.items():
                self.run.protect(name, array)

    def rebind(self) -> None:
        self.s.v = self.s.v + 1
        self.s.n += 1

    def other_type(self) -> None:
        name = self.random.choice(list(self.arrays))
        kind = self.random.choice([np.uint8, np.int64, np.int16])
        if self.arrays[name].nbytes % 8 == 0:
            other = self.arrays[name].view(kind)
            self.held.append(other)  # else it would count as one that was left behind
            self.run.protect(name, other)

    def other_size(self) -> None:
        name = self.random.choice(list(self.arrays))
        self.arrays[name] = filled(self.random.choice([5 * MiB + 24, 3 * MiB, 99]), 5).copy()
        self.run.protect(name, self.arrays[name])

    def vanish(self) -> None:
        name = self.random.choice(["a", "b"])
        if name in self.arrays:
            if len(self.arrays) > 1:
                self.run.drop(name)
                del self.arrays[name]
        else:
            self.arrays[name] = filled(5 * MiB + 24, 3).copy()
            kept = self.arrays[name].copy()
            self.run.protect(name, self.arrays[name])  # fills it, if the newest version still holds it
            assert len(kept) == len(self.arrays[name])

    def checkpoint(self) -> None:
        state = self.now()
        handle = self.run.checkpoint(wait=self.random.random() < 0.5)
        self.expected[handle.version] = state
        if self.random.random() < 0.5:
            self.write_some()  # while it is in flight
        handle.wait()

    def fail(self) -> None:
        fault = Faults("error", at=self.random.choice([None, 2]), match=named("pwrite", "fsync", "link", path="versions/"))
        with fault:
            try:
                handle = self.run.checkpoint(wait=False)
                state = self.now()
                while not handle.done:
                    self.random.random()
                if handle.durable:
                    self.expected[handle.version] = state
            except holdfast.CheckpointError:
                return
        if handle.error is not None:
            with pytest.raises(holdfast.CheckpointError):
                self.run.checkpoint()

    def roll_back(self) -> None:
        kept = [v.number for v in self.run.versions if v.status == "current"]
        if kept:
            number = self.random.choice(kept)
            held = self.expected[number]
            for name in ("a", "b"):  # what it holds fits what is protected, or it is no rollback of this program
                if (name in held) != (name in self.arrays):
                    return
            loaded = {name: self.run.load(name, number) for name in self.arrays}
            if any(loaded[n].nbytes != self.arrays[n].nbytes or loaded[n].dtype != np.uint8 for n in loaded):
                return
            for name, array in self.arrays.items():
                self.run.protect(name, array)
            self.run.rollback(number)
            self.same(self.now(), held)

    def resume(self) -> None:
        if self.random.random() < 0.5:
            self.run.close()
        else:
            self.run._x.writer.arrive()
            crash(self.run)
        newest = next((v.number for v in self.run.versions if v.status == "current"), None)
        assert newest is None or newest in self.expected
        self.reopen(self.random.choice(MODES))

    def check(self) -> None:
        with holdfast.open(self.url, mode="r") as reader:
            for v in reader.versions:
                if v.status != "current":
                    continue
                try:
                    found = self.images(reader, v.number)
                except holdfast.HoldfastError:  # beyond those to keep, and being deleted: what it refers to goes first
                    end = time.monotonic() + 5
                    while any(other.name == v.name and other.status == "current" for other in reader.versions):
                        if time.monotonic() > end:
                            raise
                        time.sleep(0.01)
                    continue
                self.same(found, self.expected[v.number])

    @staticmethod
    def images(reader, number: int) -> dict[str, str]:
        found = {}
        for name in ("a", "b"):
            try:
                found[name] = reader.load(name, number)
            except holdfast.UsageError:
                continue
        state = reader.load("state", number)
        found |= {"v": state["v"], "n": np.array(state["n"])}
        return {name: digest_hex(np.ascontiguousarray(x).tobytes()) for name, x in found.items()}


READ = """
import json
from holdfast.format import digest_hex
run = holdfast.open("run", mode="r")
found = {}
for v in run.versions:
    if v.status == "current":
        state = run.load("state", v.number)
        found[v.number] = {"v": digest_hex(state["v"].tobytes()), "n": digest_hex(np.array(state["n"]).tobytes())}
        for name in ("a", "b"):
            try:
                found[v.number][name] = digest_hex(run.load(name, v.number).tobytes())
            except holdfast.UsageError:
                pass
print(json.dumps(found))
"""


@pytest.mark.parametrize("seed", range(8))
def test_any_series_of_events(tmp_path, seed):
    chosen = random.Random(seed)
    max_chain, last = 1 + seed % 4, 1 + seed % 3
    program_ = Program(
        tmp_path, seed, incremental=MODES[(seed + 2) % 4], max_chain=max_chain, keep=holdfast.Keep(last=last),
        engine="process" if seed == 3 else "thread", capture="cow" if seed == 5 else "auto",
    )  # fmt: skip
    acts = ["write_some"] * 4 + ["write_pages"] * 4 + ["checkpoint"] * 8 + ["fail"] * 2
    acts += ["write_all", "swap", "rebind", "other_type", "other_size", "vanish", "roll_back", "resume"]
    for _ in range(45):
        act = chosen.choice(acts)
        if act == "fail" and seed in (3, 5):
            continue  # another process writes
        getattr(program_, act)()
        if act in ("checkpoint", "fail", "roll_back", "resume"):
            program_.check()
            if program_.run.versions:
                spare = check_bounds(program_.run, max_chain)
                alone = len([v for v in program_.run.versions if v.status == "current" and v.kind == "checkpoint"]) < 2
                assert spare or last == 1 or alone or act != "checkpoint", "one bad block would take all"
    program_.checkpoint()
    program_.run.close()
    done = execute(program(tmp_path, READ), tmp_path)
    assert done.returncode == 0, done.stderr
    for number, found in json.loads(done.stdout).items():
        Program.same(found, program_.expected[int(number)])


# -- one thing at a time ----------------------------------------------------------------------------------------


def begun(start, nbytes=16 * MiB, last=1, **options):
    """A run that keeps one version: with more, the second is written whole as well."""
    run = start(keep=holdfast.Keep(last=last), **options)
    u = run.protect("u", filled(nbytes).copy())
    run.ready()
    return run, u


def written(run) -> int:
    """Bytes of data that a checkpoint now writes."""
    return run.checkpoint().bytes


@pytest.mark.parametrize("mode", ["blocks", "pages", "auto"])
def test_nothing_changed(start, mode):
    run, u = begun(start, incremental=mode)
    assert written(run) == u.nbytes
    # The first and the last page may hold something else besides.
    most = 0 if mode == "blocks" else 2 * 4096
    assert all(written(run) <= most for _ in range(3))
    u[5 * MiB] ^= 1
    assert 0 < written(run) <= max(4 * MiB, most)
    assert run.load("u").tobytes() == u.tobytes()


def test_off_writes_all(start):
    run, u = begun(start, incremental="off")
    assert [written(run) for _ in range(2)] == [u.nbytes] * 2


@pytest.mark.skipif(not PAGES, reason="the kernel has no page scan")
def test_pages_that_are_scattered(start):
    run, u = begun(start, incremental="pages")
    written(run)
    u[:: 40 * 4096] += 1
    dirty = len(range(0, u.nbytes, 40 * 4096)) * 4096
    assert dirty <= written(run) <= 1.5 * dirty + 2 * 4096
    assert run.load("u").tobytes() == u.tobytes()


@pytest.mark.skipif(not PAGES, reason="the kernel has no page scan")
def test_what_a_failed_version_has_asked_for_is_not_lost(start):
    run, u = begun(start, incremental="pages")
    written(run)
    written(run)
    u[7 * MiB] ^= 1
    with Faults("error", match=named("link", path="/commit")), pytest.raises(holdfast.CheckpointError):
        run.checkpoint()
    assert written(run) >= 4096
    assert run.load("u").tobytes() == u.tobytes()
    u[3 * MiB] ^= 1
    written(run)
    assert run.load("u").tobytes() == u.tobytes()


@pytest.mark.skipif(not PAGES, reason="the kernel has no page scan")
def test_arrays_change_places(start):
    """Pages are told of memory, versions hold objects: two that have exchanged their memory have both changed."""
    run = start(incremental="pages")
    a, b = run.protect("a", filled(4 * MiB, 1).copy()), run.protect("b", filled(4 * MiB, 2).copy())
    s = run.state(c=filled(4 * MiB, 3).copy(), d=filled(4 * MiB, 4).copy())
    run.checkpoint()
    run.checkpoint()
    run.protect("a", b)
    run.protect("b", a)
    s.c, s.d = s.d, s.c
    run.checkpoint()
    assert np.array_equal(run.load("a"), b) and np.array_equal(run.load("b"), a)
    found = run.load("state")
    assert np.array_equal(found["c"], s.c) and np.array_equal(found["d"], s.d)


@pytest.mark.skipif(not PAGES, reason="the kernel has no page scan")
def test_memory_that_is_freed_and_used_again(start):
    run = start(incremental="pages")
    s = run.state(v=filled(3 * MiB, 0).copy())
    for k in range(12):
        s.v = filled(3 * MiB, k % 5).copy()
        if k % 3 == 0:
            s.v = s.v.copy()
        run.checkpoint()
        assert np.array_equal(run.load("state")["v"], s.v), k


@pytest.mark.skipif(not PAGES, reason="the kernel has no page scan")
def test_auto_tracks_what_changes_in_few_places(start):
    run, u = begun(start, incremental="auto")
    v = run.protect("v", filled(16 * MiB, 1).copy())
    for k in range(6):
        u[k * 1_000_003 % u.nbytes] ^= 1
        v[:] = filled(16 * MiB, k + 2)
        run.checkpoint()
    tracked = {name for name, _ in run._x.writer.freezing._tracking._at}
    assert tracked == {"u"}
    few = []
    for k in range(3):  # one of them may be whole: v, which is rewritten all the time, has made the chain long
        u[5 + k] ^= 1
        few.append(written(run))
    assert 4096 <= min(few) <= 16 * MiB // 100 and sorted(few)[1] <= 16 * MiB // 100
    u[:] += 1  # it has become dense: given up, and taken up again when a sample says so
    run.checkpoint()
    assert ("u", 0) not in run._x.writer.freezing._tracking._at
    for k in range(4):
        u[k] ^= 1
        run.checkpoint()
    assert {name for name, _ in run._x.writer.freezing._tracking._at} >= {"u"}
    for name, array in (("u", u), ("v", v)):
        assert np.array_equal(run.load(name), array)


@pytest.mark.parametrize("max_chain", [1, 2, 3])
@pytest.mark.parametrize("mode", ["blocks", "pages"])
def test_a_chain_has_an_end(start, max_chain, mode):
    run, u = begun(start, last=100, incremental=mode, max_chain=max_chain)
    sizes = []
    for k in range(9):
        u[k] ^= 1
        sizes.append(written(run))
        assert check_bounds(run, max_chain) is (k >= 1)  # one bad block does not take all
    whole = [k for k, n in enumerate(sizes) if n == u.nbytes]
    assert whole == [0, *range(1, 9, max_chain)]


def test_a_resume_goes_on_from_what_was_restored(start):
    run, u = begun(start, incremental="blocks")
    written(run)
    run.close()
    for mode in ("auto", "pages", "blocks"):
        run, u = begun(start, incremental=mode)
        assert run.resumed
        u[9 * MiB] ^= 1
        assert written(run) == 4 * MiB
        assert run.load("u").tobytes() == u.tobytes()
        run.close()


def test_the_same_bytes_under_another_type_and_shape(start):
    run, u = begun(start, incremental="blocks")
    written(run)
    v = run.protect("u", u.view(np.int64).reshape(2, -1))
    assert written(run) == 0
    assert np.array_equal(run.load("u"), v)


@pytest.mark.skipif(not PAGES, reason="the kernel has no page scan")
def test_reading_takes_at_most_twice_the_state(start):
    run, u = begun(start, nbytes=4 * MiB, last=100, incremental="pages", max_chain=100)
    for k in range(30):
        u[k * 4096 :: 16 * 4096] += 1
        run.checkpoint()
        check_bounds(run, 100)
        assert np.array_equal(run.load("u"), u)
    assert len([1 for commit, _ in commits(run) if not commit.refs]) >= 2
