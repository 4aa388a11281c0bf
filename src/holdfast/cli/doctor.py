"""`holdfast doctor`: what works on this machine, and why what does not."""

from __future__ import annotations

import os
import time

import click

from . import human
from .arguments import json_option

_ULFM_SECONDS = 10.0  # for a job of two processes that tells whether MPI can go on without one of them
_ASK_MPI = """
from mpi4py import MPI
MPI.COMM_WORLD.Is_revoked()
print("ulfm", MPI.get_vendor())
"""
_TRIAL = 1 << 20  # bytes of a block that is added up for a trial, as in an exchange


@click.command(short_help="What works on this machine, and why.")
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False))
@json_option
def doctor(directory: str | None, as_json: bool) -> None:
    """Try out what Holdfast uses of this machine: the kernel's calls, memory, storage.

    DIRECTORY: where direct I/O is tried; the current one if it is left out. Nothing stays behind. Every line was tried just
    now, by this user; inside of a job or a container it may be another. Exit code 0 also where some things do not work:
    Holdfast does without them, and says so.

    \b
    --json: {format, features: [{name, works, detail}], facts: [{name, works, detail}]}.
    """
    from ..capture.probe import probe

    place = os.path.abspath(directory or ".")
    facts = [fact._asdict() for fact in probe(place)]
    features = [dict(zip(("name", "works", "detail"), found, strict=True)) for found in _features()]
    if as_json:
        human.document(features=features, facts=facts)
        return
    widest = max(len(str(f["name"])) for f in (*features, *facts))
    for title, found in (("feature", features), ("tried out", facts)):
        if title != "feature":
            click.echo()
        human.table(
            [title, "works", "what was seen"],
            [[str(f["name"]), "yes" if f["works"] else "no", str(f["detail"])] for f in found],
            least=[widest],
        )


def _features() -> list[tuple[str, bool, str]]:
    """What a program can ask for: (option, whether it works here, what happens or why not)."""
    from ..capture.tracker import PageTracker

    pages = PageTracker.available()
    works, frozen, shared = _helper()
    return [
        ("capture='copy', 'reference', 'direct'", True, "everywhere"),
        ("capture='cow'", frozen is None, frozen or "pages are copied out while the program goes on"),
        (
            "incremental='pages'",
            pages is None,
            f"{pages}; blocks are compared by digest" if pages else "the kernel tells which pages were written",
        ),
        ("engine='process'", works is None, works or shared),
        ("node memory", *_node_memory()),
        ("redundancy (partner, xor, rs)", *_parity()),
        ("ULFM", *_ulfm()),
    ]


def _helper() -> tuple[str | None, str | None, str]:
    """Why no helper process works, why it can't freeze memory (None: it does), and how it gets at the state."""
    from ..engine.helper import Helper
    from ..errors import HoldfastError

    try:
        helper = Helper.start(30.0)
    except (HoldfastError, OSError) as error:
        text = f"the helper process does not start: {error}"
        return text, text, ""
    try:
        private = "it reads the program's memory" if helper.reads_memory else "by a shared arena, without huge pages"
        return None, helper.why_no_freeze, private
    finally:
        helper.close()


def _node_memory(path: str = "/dev/shm") -> tuple[bool, str]:
    """Whether checkpoints can be kept in this node's memory, and of how large a state."""
    from ..capture.room import VERSIONS, memory_room
    from ..errors import StorageError
    from ..units import bytes_text

    try:
        room = memory_room(path)
    except (StorageError, OSError) as error:
        return False, f"the room in {path} can't be told: {getattr(error, 'message', error)}"
    state = min(room * 8 // 9, room - (64 << 20)) // VERSIONS  # what `default_memory` says yes to
    if not os.access(path, os.W_OK | os.X_OK):
        return False, f"{path} can't be written"
    if state <= 0:
        return False, f"{path} has {bytes_text(room)} left, too little for two versions and headroom"
    return True, (
        f"{path} has {bytes_text(room)} left: room for two versions of {bytes_text(state)} of this node's ranks, without parity"
    )


def _parity() -> tuple[bool, str]:
    """How parities are computed here, and how fast, by a trial of some milliseconds."""
    import numpy as np

    from ..redundancy.coding import Isal, candidates, chosen
    from ..store.aligned import empty
    from ..units import bytes_text

    by = chosen()
    blocks, out = [empty(_TRIAL) for _ in range(3)], empty(_TRIAL)
    for i, block in enumerate(blocks):
        block[:] = np.arange(i, i + 256, dtype=np.uint8).repeat(_TRIAL // 256)

    def speed(coefficients: tuple[int, ...]) -> str:
        took = []
        for _ in range(4):  # the first one touches memory
            began = time.perf_counter()
            by.add_up(out, coefficients, blocks)
            took.append(time.perf_counter() - began)
        return f"{bytes_text(int(3 * _TRIAL / min(took)))}/s"

    speeds = f"on one core it reads {speed((1, 1, 1))} for xor, {speed((1, 2, 0x8E))} for rs"
    if isinstance(by, Isal):
        path = next((path for path in candidates() if path.rpartition("/")[2] in by.name), "")
        whose = f"in {os.path.dirname(path)}" if "/" in path else "the system's"
        return True, f"parity by {by.name}, {whose}; {speeds}"
    return True, f"parity by NumPy, no ISA-L was found; {speeds}. Install the extra `redundancy` for a faster rs"


def _ulfm() -> tuple[bool, str]:
    """Whether MPI goes on when a process dies, by a job of two processes with what a job with spares is started with."""
    import subprocess
    import sys
    import tempfile

    from ..errors import UsageError
    from ..supervisor import launcher

    instead = "when a rank dies, all are started again"
    try:
        made = launcher.command([sys.executable, "-c", _ASK_MPI], ranks=1, spares=1, grace=0.0)
    except UsageError as error:
        return False, f"{error.message.partition('. ')[0]}; {instead}"
    assert made.mpi is not None
    with tempfile.TemporaryDirectory(prefix="holdfast-mpi-", ignore_cleanup_errors=True) as session:
        process = subprocess.Popen(
            made.arguments, env=launcher.own_session(made, session), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said = process.communicate(timeout=_ULFM_SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            process.terminate()  # it takes its processes along
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5.0)
            assert process.stdout is not None
            process.stdout.close()
            return False, f"{made.mpi.name} did not answer within {_ULFM_SECONDS:g} s; {instead}"
    if process.returncode == 0 and said.count("ulfm ") == 2:
        return True, f"{made.mpi.name} goes on when a rank dies (`--with-ft ulfm`)"
    why = next((line.strip() for line in reversed(said.splitlines()) if "Error" in line), f"status {process.returncode}")
    return False, f"{made.mpi.name} with `--with-ft ulfm`: {why}; {instead}"


__all__ = ["doctor"]
