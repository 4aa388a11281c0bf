"""Ranks as processes of their own: they beat, tell events as lines of JSON, and do what they are told to by lines on their
input.

All are forks of one process that has imported everything: starting a dozen interpreters takes longer than the tests. It takes
a line of JSON for each rank on its input, and tells its pid, and of each that ends its status.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import threading
import time

from holdfast.health import Beat, Board, Event, Limits

LIBC = ctypes.PyDLL(None)  # its calls keep the GIL


def say(**words: object) -> None:
    # One write, so that lines of the beat's thread and of the main one don't mix.
    os.write(1, (json.dumps(words) + "\n").encode())


def tell(event: Event) -> None:
    say(event=event.plain(), clock=time.monotonic())


def hold_the_gil(seconds: float) -> None:
    """In compiled code that no signal gets out of: a lock that is held already."""
    mutex = ctypes.create_string_buffer(64)
    until = (ctypes.c_long * 2)(int(time.time() + seconds), 0)
    LIBC.pthread_mutex_lock(mutex)
    LIBC.pthread_mutex_timedlock(mutex, until)


def wait_for_each_other() -> None:
    first, second = threading.Lock(), threading.Lock()

    def other() -> None:
        with second:
            time.sleep(0.1)
            first.acquire()

    with first:
        threading.Thread(target=other, daemon=True).start()
        time.sleep(0.1)
        second.acquire()


def fork(board: Board, beat: Beat) -> None:
    """What a child says must not stand on the board as its parent's."""
    before = board.read()[board.slot]
    if os.fork() == 0:
        for _ in range(1000):
            beat.progress(99)
        beat.stop()
        os._exit(0)
    os.wait()
    after = board.read()[board.slot]
    files = os.path.exists(board.path) and os.path.exists(f"{board.path}.{board.pid}-{board.start}.stacks")
    say(moved=after.progress - before.progress, step=after.step, files=files)


def be_rank(
    root: str, run: str, attempt: int, rank: int, limits: dict[str, float], pipes: str, env: dict[str, str]
) -> None:
    os.environ.update(env)
    os.dup2(os.open(f"{pipes}.in", os.O_RDWR), 0)
    os.dup2(os.open(f"{pipes}.out", os.O_RDWR), 1)
    board = Board.join(root, run, attempt, rank)
    beat = Beat(board, tell, limits=Limits(**limits))
    beat.start()
    say(ready=os.getpid(), path=board.path, slot=board.slot)
    step = 0
    while True:
        beat.progress(step)
        step += 1
        if not select.select([0], [], [], 0.02)[0]:
            continue
        for line in os.read(0, 4096).decode().split("\n")[:-1]:
            word, *rest = line.split()
            say(doing=word, clock=time.monotonic())
            if word == "gil":
                hold_the_gil(float(rest[0]))
            elif word == "deadlock":
                wait_for_each_other()
            elif word == "sleep":
                time.sleep(float(rest[0]))
            elif word == "enter":
                beat.enter(" ".join(rest))
            elif word == "fork":
                fork(board, beat)
            elif word == "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif word == "leave":
                beat.stop()
                say(left=beat.seconds)
            elif word == "end":
                beat.stop()
                return
            else:
                raise AssertionError(word)


def main() -> None:
    while True:
        if select.select([0], [], [], 0.01)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            pid = os.fork()
            if pid == 0:
                be_rank(**json.loads(line))
                os._exit(0)
            say(pid=pid)
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                say(ended=pid, status=os.waitstatus_to_exitcode(status))


main()
