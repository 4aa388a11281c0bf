"""Each case is a process of its own, with a deadline: what it holds, starts or breaks is gone with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limits import Way
from row import Row, size_text

HERE = Path(__file__).parent


class JobFailed(Exception):
    """A case gave no figures; the message says why, in a line."""


@dataclass
class Context:
    """What a case is told. `place`: its own empty directory on the disk that is measured; `nbytes`: of the state;
    `writes`, `reads`: the raw ways that are in the race; `more`: what else the case asks for."""

    place: Path
    nbytes: int
    rounds: int
    writes: list[Way]
    reads: list[Way]
    more: dict[str, Any]

    @property
    def size(self) -> str:
        return size_text(self.nbytes)

    def wire(self) -> dict[str, Any]:
        return {
            "place": str(self.place),
            "nbytes": self.nbytes,
            "rounds": self.rounds,
            "writes": [w.wire() for w in self.writes],
            "reads": [w.wire() for w in self.reads],
            "more": self.more,
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Context:
        ways = {kind: [Way(*w) for w in wire[kind]] for kind in ("writes", "reads")}
        return cls(Path(wire["place"]), wire["nbytes"], wire["rounds"], ways["writes"], ways["reads"], wire["more"])


def run(
    script: str,
    case: str,
    context: Context,
    timeout: float,
    python: Path | str = sys.executable,
    env: dict[str, str] | None = None,
) -> list[Row]:
    """The rows of `case` of `script` in a process of its own. JobFailed if it fails, or is not done after `timeout` seconds."""
    command = [str(python), str(HERE / script), case, json.dumps(context.wire())]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=context.place
    )  # fmt: skip
    try:
        output, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise JobFailed(f"not done after {timeout:.0f} s") from None
    finally:
        _end(process)  # also what it may have left behind
    if process.returncode:
        lines = [line.strip() for line in error.splitlines() if line.strip()]
        raise JobFailed(_line(lines[-1]) if lines else f"exit status {process.returncode}")
    return [Row(**row) for row in json.loads(output.splitlines()[-1])]


def main(cases: dict[str, Callable[[Context], list[Row]]]) -> None:
    """The other side: run the case named on the command line and print its rows as the last line."""
    case, request = sys.argv[1:]
    rows = cases[case](Context.from_wire(json.loads(request)))
    print(json.dumps([row.wire() for row in rows]), flush=True)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if process.poll() is not None:
            continue
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    if process.stdout is not None and not process.stdout.closed:
        process.stdout.close()
    if process.stderr is not None and not process.stderr.closed:
        process.stderr.close()


def _line(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 160 else text[:159] + "…"


def told(text: str) -> None:
    """Progress, for people."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
