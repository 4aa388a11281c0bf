"""The arena: slots handed out and taken back by any thread, memory populated beside them; how much is taken by default."""

from __future__ import annotations

import mmap
import os
import threading
import time

import numpy as np
import pytest
from capture_support import in_child

from holdfast.capture import arena as arena_module
from holdfast.capture import kernel, memory
from holdfast.capture.arena import SLOT, Arena, default_bytes
from holdfast.errors import UsageError
from holdfast.store.aligned import address

MIB = 1 << 20


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def arena(request):
    made = Arena(3 * SLOT + 1, shared=request.param)
    yield made
    made.close()


def test_slots_are_aligned_apart_and_of_one_size(arena):
    assert (arena.slots, arena.nbytes) == (4, 4 * SLOT)
    taken = [arena.take(0) for _ in range(4)]
    assert sorted(taken) == [0, 1, 2, 3]
    for slot in taken:
        view = arena.view(slot)
        assert view.dtype == np.uint8 and view.shape == (SLOT,)
        assert address(view) == arena.address + slot * SLOT
        assert address(view) % kernel.PAGE == 0
        view[:] = slot + 1
    for slot in taken:
        assert (arena.view(slot) == slot + 1).all()


def test_take_waits_for_a_slot_that_comes_back(arena):
    taken = [arena.take(0) for _ in range(4)]
    begin = time.monotonic()
    assert arena.take(0.05) is None
    assert time.monotonic() - begin >= 0.05
    threading.Timer(0.05, arena.give, (taken[2],)).start()
    assert arena.take(30) == taken[2]


def test_a_slot_is_given_back_once(arena):
    slot = arena.take(0)
    arena.give(slot)
    with pytest.raises(UsageError, match="was not taken"):
        arena.give(slot)
    with pytest.raises(UsageError, match="no slot 4"):
        arena.view(4)
    with pytest.raises(UsageError):
        arena.view(-1)


def test_a_run_is_the_longest_row_of_free_slots():
    arena = Arena(10 * SLOT)
    arena.populate(threading.Event())
    assert arena.take_run(4, 0) == range(4)
    assert arena.take_run(100, 0) == range(4, 10)
    assert arena.take_run(1, 0.01) is None
    assert arena.take(0) is None
    for slot in (9, 1, 5, 6, 0, 4):  # in any order
        arena.give(slot)
    assert arena.take_run(9, 0) == range(4, 7)
    assert arena.take_run(9, 0) == range(2)
    assert arena.take(0) == 9
    view = arena.view(4, 3)
    assert view.nbytes == 3 * SLOT and address(view) == arena.address + 4 * SLOT
    with pytest.raises(UsageError):
        arena.view(8, 3)
    threading.Timer(0.05, arena.give, (7,)).start()
    assert arena.take_run(5, 30) == range(7, 8)
    arena.close()
    assert arena.take_run(5, 30) is None


def test_a_run_prefers_populated_slots(arena):
    arena.give(arena.take(0))
    assert arena.take_run(4, 0) == range(3, 4)
    assert arena.take_run(4, 0) == range(3)


def test_populated_slots_come_first_and_stop_is_heeded(arena, monkeypatch):
    stop, populated, real = threading.Event(), [], kernel.populate

    def populate(start, nbytes):
        real(start, nbytes)
        populated.append((start - arena.address) // SLOT)
        if len(populated) == 2:
            stop.set()

    monkeypatch.setattr(kernel, "populate", populate)
    arena.populate(stop)
    assert populated == [0, 1]
    assert arena.populated == 2
    first = [arena.take(0), arena.take(0)]
    assert sorted(first) == [0, 1]
    rest = [arena.take(0), arena.take(0)]  # those that are not populated can be used
    assert sorted(rest) == [2, 3]
    arena.give(rest[0])
    assert arena.take(0) == rest[0]
    arena.give(rest[1])
    arena.populate(threading.Event())  # all were used: nothing is left to do
    assert len(populated) == 2


def test_a_slot_that_is_populated_is_not_handed_out(arena, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def populate(start, nbytes):
        begun.set()
        assert go.wait(30)

    monkeypatch.setattr(kernel, "populate", populate)
    thread = threading.Thread(target=arena.populate, args=(threading.Event(),))
    thread.start()
    assert begun.wait(30)
    taken = [arena.take(0) for _ in range(3)]
    assert 0 not in taken
    assert arena.take(0.02) is None
    go.set()
    assert arena.take(30) == 0
    thread.join(30)


def test_memory_that_can_not_be_populated_can_still_be_taken(arena, monkeypatch):
    def fail(start, nbytes):
        raise OSError(12, "no memory")

    monkeypatch.setattr(kernel, "populate", fail)
    with pytest.raises(OSError):
        arena.populate(threading.Event())
    assert arena.populated == 0
    assert sorted(arena.take(0) for _ in range(4)) == [0, 1, 2, 3]


def test_many_threads_never_share_a_slot(arena):
    errors, stop = [], threading.Event()
    helper = threading.Thread(target=arena.populate, args=(stop,))
    helper.start()

    def work(me):
        for _ in range(100):
            slot = arena.take(30)
            view = arena.view(slot)
            view[:64] = me
            time.sleep(0)
            if not (view[:64] == me).all():
                errors.append(slot)
            arena.give(slot)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in [*threads, helper]:
        thread.join(60)
    assert errors == []
    assert arena.populated == 4


def test_close_wakes_who_waits_and_views_stay_valid(arena):
    taken = [arena.take(0) for _ in range(4)]
    view = arena.view(0)
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(arena.take(30)))
    waiter.start()
    time.sleep(0.02)
    arena.close()
    arena.close()
    waiter.join(10)
    assert answers == [None]
    view[:] = 3
    arena.give(taken[0])
    assert arena.take(0) is None
    assert arena.fd == -1
    with pytest.raises(UsageError):
        arena.view(0)


def test_a_shared_arena_is_the_same_memory_for_others():
    arena = Arena(2 * SLOT, shared=True)
    assert not os.get_inheritable(arena.fd)
    arena.view(1)[:] = 7
    other = np.frombuffer(mmap.mmap(arena.fd, arena.nbytes), np.uint8)
    assert (other[SLOT:] == 7).all() and not other[:SLOT].any()
    other[0] = 9
    assert int(arena.view(0)[0]) == 9
    arena.close()


def test_a_private_arena_is_not_copied_into_a_fork():
    arena = Arena(SLOT)
    assert arena.fd == -1
    arena.view(0)[:] = 7

    def child():
        assert not arena.view(0).any()

    assert in_child(child) == 0
    assert (arena.view(0) == 7).all()
    arena.close()


def test_private_memory_asks_for_huge_pages():
    arena = Arena(4 * SLOT)
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            word = line.split(None, 1)[0]
            if not word.endswith(":"):
                low, _, high = word.partition("-")
                inside = int(low, 16) <= arena.address < int(high, 16)
            elif inside and word == "VmFlags:":
                flags = line.split()[1:]
    assert "hg" in flags or not os.path.exists("/sys/kernel/mm/transparent_hugepage")
    assert arena.address % (2 * MIB) == 0
    arena.close()


# -- how much -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "state", "ranks", "expected"),
    [
        (16 << 30, 1 << 30, 1, 1 << 30),
        (16 << 30, (1 << 30) + 1, 1, (1 << 30) + SLOT),
        (16 << 30, 5 << 30, 1, 4 << 30),
        (16 << 30, 5 << 30, 4, 1 << 30),
        (16 << 30, 5 << 30, 1000, 64 * MIB),
        (0, 5 << 30, 1, 64 * MIB),
        (16 << 30, 10 * MIB, 1, 12 * MIB),
        (0, 10 * MIB, 1, 12 * MIB),
        (16 << 30, 0, 1, SLOT),
        (1000 * MIB, 5 << 30, 3, 80 * MIB),  # 83.3 MiB, in whole slots
    ],
)  # fmt: skip
def test_default_size(available, state, ranks, expected, monkeypatch):
    monkeypatch.setattr(arena_module, "available_bytes", lambda: available)
    assert default_bytes(state, ranks) == expected


def place(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n")
    return str(root)


def test_available_without_limits(tmp_path):
    assert memory.available_bytes(place(tmp_path, {})) == 8 << 30
    assert memory.cgroup_limits(str(tmp_path)) == []
    assert 0 < memory.available_bytes() <= os.sysconf("SC_PHYS_PAGES") * kernel.PAGE


def test_available_under_cgroup_v2(tmp_path):
    group = "sys/fs/cgroup/job/step"
    root = place(tmp_path, {
        "proc/self/cgroup": "0::/job/step\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.current": "100\n",
        "sys/fs/cgroup/job/memory.max": f"{4 << 30}\n",
        "sys/fs/cgroup/job/memory.current": f"{3 << 30}\n",
        "sys/fs/cgroup/job/memory.stat": f"anon 5\ninactive_file {1 << 30}\nactive_file 7\n",
    })  # fmt: skip
    assert memory.available_bytes(root) == 2 << 30
    (limit,) = memory.cgroup_limits(root)
    assert (limit.path, limit.limit, limit.used) == (f"{root}/sys/fs/cgroup/job", 4 << 30, 2 << 30)


def test_available_under_cgroup_v1_in_a_container(tmp_path):
    """The path is the host's; the container's own cgroup is mounted at the top."""
    root = place(tmp_path, {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 30}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 << 30}\n",  # over it
    })  # fmt: skip
    assert memory.available_bytes(root) == 0
    place(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert memory.available_bytes(root) == 8 << 30
