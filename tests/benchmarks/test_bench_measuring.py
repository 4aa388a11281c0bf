"""The instruments: what is dirtied, copied, waited for and counted is what the bench says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import states
from job import Context, JobFailed, run
from limits import WAYS, Limits, Way, contenders, memcpy, raw_read, raw_write
from meters import Cpu, Fsyncs, Memory, covered, descendants, fsync_tree, sizes
from row import MiB


def page_changes(before: states.State, after: states.State) -> int:
    """Pages of memory of the large arrays that differ."""
    count = 0
    for name in after:
        if name.startswith("large"):
            old, new = before[name].view(np.uint8), after[name].view(np.uint8)
            pages = (new.ctypes.data + np.flatnonzero(old != new)) // states.PAGE
            count += len(np.unique(pages))
    return count


@pytest.mark.parametrize("dirty", [states.dirty_contiguous, states.dirty_scattered])
def test_one_percent_is_dirtied_in_whole_pages(dirty) -> None:
    arrays = states.few_large(16 * MiB)
    before = {name: a.copy() for name, a in arrays.items()}
    changed = dirty(arrays, np.random.default_rng(0))
    assert 0.8 * 16 * MiB / 100 < changed <= 16 * MiB / 100
    assert page_changes(before, arrays) * states.PAGE == changed


def test_a_state_has_the_size_that_it_is_said_to_have() -> None:
    arrays = states.few_large(16 * MiB)
    assert 0 <= 16 * MiB - states.nbytes(arrays) < 64
    assert len(arrays) == states.LARGE + states.SMALL
    before = {name: a.copy() for name, a in arrays.items()}
    states.rewrite(arrays)
    assert not any((before[name] == a).any() for name, a in arrays.items())


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 2.0)], 1.0),
        ([(1.0, 3.0), (2.0, 4.0)], 3.0),
        ([(1.0, 4.0), (2.0, 3.0)], 3.0),
        ([(-1.0, 1.0), (9.0, 20.0)], 2.0),
        ([(-2.0, -1.0), (11.0, 12.0)], 0.0),
    ],
)
def test_fsyncs_at_once_count_once_and_only_within(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans, 0.0, 10.0) == pytest.approx(seconds)


def test_fsyncs_are_noted(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as f, Fsyncs() as fsyncs:
        fsync_tree(tmp_path)
        f.flush()
    assert len(fsyncs.spans) == 3 and all(end >= begin for begin, end in fsyncs.spans)


@pytest.mark.parametrize("way", [Way(False, 1, 4 * MiB), Way(False, 3, 4 * MiB)])
def test_raw_ways_move_every_byte(tmp_path: Path, way: Way) -> None:
    source = np.frombuffer(np.random.default_rng(0).bytes(8 * MiB), np.uint8)
    nbytes = 18 * MiB + 4096
    assert raw_write(tmp_path / "raw", source, nbytes, way) > 0
    expected = np.resize(source, nbytes).tobytes()
    assert (tmp_path / "raw").read_bytes() == expected
    assert raw_read(tmp_path / "raw", way) > 0


def test_memcpy_copies_all() -> None:
    window, source = np.zeros(1000, np.uint8), np.arange(250, dtype=np.float64)
    assert memcpy(window, [source]) > 0
    assert window.tobytes() == source.view(np.uint8)[1000:].tobytes()


def test_both_kinds_stay_in_the_race() -> None:
    direct_first = sorted(WAYS, key=lambda w: not w.direct)
    chosen = contenders(direct_first, 3)
    assert [w.direct for w in chosen] == [True, True, False]
    assert contenders([], 3) == []
    assert contenders(direct_first, 2) == [direct_first[0], next(w for w in WAYS if not w.direct)]


def test_limits_keep_the_best_way(tmp_path: Path) -> None:
    slow, fast = WAYS[0], WAYS[1]
    limits = Limits(tmp_path, [np.zeros(10)], [slow, fast], [slow])
    limits.written = {slow: [3.0, 3.0, 1.0], fast: [2.0, 2.0, 9.0]}
    assert limits.write_way == fast and limits.write_seconds == 2.0
    assert limits.nbytes == 4096


def test_memory_of_this_process_and_of_children_is_seen() -> None:
    with Memory() as memory:
        mine = np.ones(32 * MiB, np.uint8)
        time.sleep(0.05)
        del mine
        code = "x = bytearray(b'1') * (32 << 20); import time; time.sleep(0.2)"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert 30 * MiB < memory.extra < 60 * MiB
    with Memory() as memory:
        time.sleep(0.05)
    assert memory.extra < 8 * MiB


def test_cpu_of_this_process_and_of_children_is_seen() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.pid in descendants(os.getpid())
            with Cpu() as cpu:  # it counts from here, whatever the child has used before
                assert child.stdout is not None and child.stdout.readline() == b"1\n"
        finally:
            child.kill()
    assert 0.1 < cpu.seconds < 1.0


def test_sizes_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"12345")
    assert sizes(tmp_path) == {tmp_path / "a" / "f": 5}


def test_a_case_that_fails_or_hangs_says_so(tmp_path: Path) -> None:
    context = Context(tmp_path, 0, 1, [], [], {})
    with pytest.raises(JobFailed, match="KeyError: 'no such case'"):
        run("small.py", "no such case", context, 60)
    with pytest.raises(JobFailed, match="not done after"):
        run("small.py", "opening", context, 0.05)


def test_a_context_crosses_to_another_process() -> None:
    context = Context(Path("/x"), 3, 5, WAYS[:2], WAYS[2:3], {"small": True})
    assert Context.from_wire(context.wire()) == context
