"""Killed at each storage call of a job on a place: `python places_kills.py put|protect|remove|clean|open DIRECTORY`.

A process of its own, without threads at its forks. Prints JSON: `points` tried, and `problems`, a line each.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from faults import Call, Faults
from fs_forks import Child
from places_support import FIRST, RUN, SECOND, commit, put, with_set, write

from holdfast.catalog.places import Place, clean, open_place, stale_places, verify_held
from holdfast.errors import HoldfastError
from holdfast.store import KeyMissingError, syscalls

WORK: Path
SIZE = 20_000


def opened() -> Place:
    return open_place("memory", str(WORK), RUN, create=True)


def fill() -> None:
    """A version that is whole, before anything happens."""
    place = opened()
    for rank in (0, 1):
        put(place, FIRST, rank, SIZE)
    commit(place, FIRST)


def state(place: Place, version: str) -> str:
    """What there is of the version: nothing, some, or all; broken if a record or commit proves files that are not there."""
    ranks = place.ranks(version)
    try:
        for rank in ranks:
            verify_held(place, version, rank)
    except HoldfastError as error:
        return f"broken: {error}"
    if place.store.exists(f"versions/{version}/commit") and ranks != [0, 1]:
        return f"broken: committed, with ranks {ranks}"
    if ranks == [0, 1]:
        return "all"
    return "some" if version in place.versions() else "nothing"


# -- the jobs, and what must hold after each of their kills --------------------------------------


def put_job() -> None:
    place = opened()
    put(place, SECOND, 0, SIZE)


def put_after() -> str:
    place = opened()
    if state(place, FIRST) != "all":
        return f"the version before: {state(place, FIRST)}"
    if state(place, SECOND).startswith("broken"):
        return state(place, SECOND)
    place.forget(SECOND, 0)  # the second attempt
    for rank in (0, 1):
        put(place, SECOND, rank, SIZE)
    return "" if state(place, SECOND) == "all" else f"put again: {state(place, SECOND)}"


def protect_seed() -> None:
    fill()
    put(opened(), SECOND, 0, SIZE, m=0)


def protect_job() -> None:
    """Parity comes to what is held: written, then proved."""
    place = opened()
    held = place.read_held(SECOND, 0)
    part = place.read_part(held)
    protected, parity = with_set(held, 1, [(SIZE, 100)] * 3)
    write(place, place.parity_key(SECOND, 0), parity)
    place.put_held(protected, part)


def protect_after() -> str:
    place = opened()
    held = verify_held(place, SECOND, 0)  # at no time is it less than held
    if place.store.exists(place.protected_key(SECOND, 0)) != (held.set is not None) or place.complaints:
        return f"read with {held.set}: {place.complaints}"
    place.forget_parity(SECOND, 0)  # the second attempt
    if verify_held(place, SECOND, 0).set is not None:
        return "parity is held that was forgotten"
    protect_job()
    return "" if verify_held(place, SECOND, 0).set else "protected again, and it is not"


def remove_seed() -> None:
    fill()
    place = opened()
    for rank in (0, 1):
        put(place, SECOND, rank, SIZE)
    commit(place, SECOND)


def remove_job() -> None:
    opened().remove(FIRST)


def remove_after() -> str:
    place = opened()
    if state(place, SECOND) != "all":
        return f"the newer version: {state(place, SECOND)}"
    if state(place, FIRST).startswith("broken"):
        return state(place, FIRST)
    place.remove(FIRST)
    left = [key for key, _ in place.store.tree(f"versions/{FIRST}")]
    return f"left: {left}" if left or place.versions() != [SECOND] else ""


def clean_job() -> None:
    clean(stale_places(str(WORK), lambda _: "for a test"))


def clean_after() -> str:
    try:
        place = open_place("memory", str(WORK), RUN, create=False)
    except KeyMissingError:
        pass  # all of it is gone, or the record as the last of its files: nothing counts
    else:
        if state(place, FIRST).startswith("broken"):
            return state(place, FIRST)
    clean_job()
    place = opened()
    return f"taken for ours: {place.versions()}" if place.versions() else ""


def open_after() -> str:
    place = opened()
    put(place, FIRST, 0, SIZE)
    verify_held(opened(), FIRST, 0)
    return ""


JOBS: dict[str, tuple[Callable[[], None], Callable[[], None], Callable[[], str]]] = {
    "put": (fill, put_job, put_after),
    "protect": (protect_seed, protect_job, protect_after),
    "remove": (remove_seed, remove_job, remove_after),
    "clean": (fill, clean_job, clean_after),
    "open": (lambda: None, lambda: opened() and None, open_after),
}


def play(name: str) -> dict[str, object]:
    seed, job, after = JOBS[name]
    problems: list[str] = []
    seeded = WORK.with_name("seeded")
    WORK.mkdir(parents=True)
    seed()
    shutil.copytree(WORK, seeded)
    trace = Faults()
    with trace:
        job()
    points = [
        (call, mode) for call in trace.calls for mode in (("kill", "torn") if call.name == "pwrite" else ("kill",))
    ]
    for call, mode in points:
        shutil.rmtree(WORK)
        shutil.copytree(seeded, WORK)
        child = Child(lambda c=call, m=mode: _under(m, c, job))
        if not child.killed():
            problems.append(f"{mode} at {call}: was not killed")
        said = Child(after).result()
        if said:
            problems.append(f"{mode} at {call}: {said}")
    return {"points": len(points), "problems": problems}


def _under(mode: str, call: Call, job: Callable[[], None]) -> None:
    with Faults(mode, at=call.number):
        job()


if __name__ == "__main__":
    os.umask(0o077)
    WORK = Path(sys.argv[2]) / "work"
    # Not in the order of some file system, which may be the right one by luck: data come before the records on them.
    unsorted = syscalls.scandir
    syscalls.scandir = lambda path: sorted(unsorted(path))
    print(json.dumps(play(sys.argv[1])))
