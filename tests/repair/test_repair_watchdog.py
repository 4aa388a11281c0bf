"""Deadlines are watched from outside; a process in which a step hangs ends."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time

from holdfast.errors import EXIT_REPAIR
from holdfast.group.repair import Watchdog


def test_a_step_that_ends_in_time_is_no_concern() -> None:
    expired: queue.Queue[str] = queue.Queue()
    dog = Watchdog("process 0", expired.put)
    for _ in range(3):
        with dog.step("short", 0.1):
            pass
    time.sleep(0.15)
    assert expired.empty()
    dog.close()


def test_each_of_nested_steps_has_its_deadline() -> None:
    expired: queue.Queue[str] = queue.Queue()
    dog = Watchdog("process 0", expired.put)
    start = time.monotonic()
    with dog.step("whole", 0.3):
        with dog.step("inner", 0.1):
            assert expired.get(timeout=5) == "inner"
            assert time.monotonic() - start >= 0.1
        with dog.step("another", 10):
            assert expired.get(timeout=5) == "whole"
            assert time.monotonic() - start >= 0.3
    assert expired.empty()
    dog.close()
    assert not any(thread.name == "holdfast-watchdog" for thread in threading.enumerate())
    with dog.step("after closing", 0.02):  # it can be used again
        assert expired.get(timeout=5) == "after closing"
    dog.close()


def test_the_process_ends_even_if_another_thread_holds_the_streams() -> None:
    code = """
import sys, threading, time
from holdfast.group.repair import Watchdog
held = open(sys.stderr.fileno(), "w", closefd=False)
with Watchdog("process 3 on here").step("a step", 0.1):
    threading.Event().wait(30)
print("it went on")
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == EXIT_REPAIR and time.monotonic() - start < 20
    assert done.stdout == "" and done.stderr.startswith("holdfast: process 3 on here: a step was not over")
    assert done.stderr.count("\n") == 1
