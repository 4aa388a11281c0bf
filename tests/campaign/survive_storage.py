"""What part G does above the ranks and to storage: launcher, supervisor, everything killed; calls that fail; flipped bits."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

from holdfast.catalog import read_catalog
from holdfast.run import maintenance
from holdfast.store import open_store

from . import survive_kinds as kinds
from .jobs import kill
from .survive_faults import Blow, Struck, hit
from .survive_job import HeatJob
from .survive_kinds import Setting
from .survive_notes import ALL, NOBODY, Process, What, start_of, state_of

SLOW = 60_000  # microseconds that a step sleeps while a job is without supervisor
LEAVE = 60.0  # seconds for those who find that they were overtaken to be gone
FAILS = 0.15  # seconds for which storage calls fail
BALLAST = 1 << 20  # bytes of each piece that fills a file system up


def _mpirun(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    hit(struck, [(pid, start_of(pid)) for pid in job.job.launchers()])
    return True


def _supervisor(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    process = job.job.process
    assert process is not None
    job.orders.slow = SLOW  # what it has left runs on: not to its end before the new supervisor is there
    hit(struck, [(process.pid, start_of(process.pid))])
    process.wait(10)
    job.start()
    return True


def _everything(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    _kill_all(job, struck)
    job.wipe_memory()
    job.start()
    return True


def _zombies(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    """All processes stop, the job is started elsewhere, so to speak, and takes the run over; then they go on."""
    old = job.job.process
    stopped = [(pid, start_of(pid)) for pid in job.job.processes()]
    job.orders.slow = SLOW
    hit(struck, stopped, signal.SIGSTOP)
    job.start(HOLDFAST_TAKEOVER="1")
    struck.later = lambda: _come_back(job, struck, stopped, old)
    return True


def _come_back(job: HeatJob, struck: Struck, stopped: list[tuple[int, int]], old: Popen[bytes] | None) -> None:
    """Whether those who were overtaken commit anything, and whether they leave."""
    before = {path.name for path in _committed([job.run / "versions", *job.versions_at_places()])}
    for pid, _ in stopped:
        kill(pid, signal.SIGCONT)
    until = time.monotonic() + LEAVE
    while left := [pid for pid, start in stopped if start_of(pid) == start and state_of(pid) not in "ZX"]:
        if time.monotonic() > until:
            struck.wrong.append(f"{len(left)} processes that were overtaken have not left in {LEAVE:g} s")
            for pid in left:
                kill(pid)
            break
        time.sleep(0.02)
    if old is not None:
        old.wait(10)
    # One that was stopped right before a commit's link still puts it there, finds the fence then, and reports nothing: what
    # must not be is that it counts.
    after = {path.name for path in _committed([job.run / "versions", *job.versions_at_places()])}
    late = {name for name in after - before if int(name.rpartition("-a")[2]) <= struck.attempt}
    counts = {version.name for version in read_catalog(open_store(str(job.run), create=False, read_only=True)).lineage}
    struck.wrong += [f"{name}, committed by those who had been overtaken, counts" for name in sorted(late & counts)]
    if late:
        struck.told += ("a commit behind the fence, which does not count",)


def _kill_all(job: HeatJob, struck: Struck) -> None:
    hit(struck, [(pid, start_of(pid)) for pid in job.job.processes()])
    job.job.kill_everything()


def _flip(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    """In the run's own store, which has another version; what nodes hold is gone as well. A bit between objects, which
    nobody reads but `verify`, is none."""
    if len(_committed([job.run / "versions"])) < 2:
        return False
    _kill_all(job, struck)
    job.wipe_memory()
    committed = _committed([job.run / "versions"])
    if committed and struck.took:
        _flip_bit(chance.choice(_data([committed[-1]])), chance)
        found = maintenance.verify(job.run)
        read = [damage for damage in found if "between objects" not in damage.message]
        struck.damaged = tuple({damage.version for damage in read if damage.version is not None})
    if not struck.damaged:
        struck.took, struck.why = False, "no version was damaged by it where it is read"
    job.start()
    return True


def _flip_at_place(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    """In the data that nodes hold of the newest version that is committed there: the next start finds it, or it did nothing.
    Not in the first, as long as there is no other copy: then a person is needed."""
    if not _committed([job.run / "versions"]):
        return False
    seats = {rank: seat for rank, process in by_rank.items() if (seat := _seat(process)) is not None}
    _kill_all(job, struck)
    if job.setting.seats:
        _sit_in_order(job, seats)
    committed = _committed(job.versions_at_places())
    newest = [path for path in committed if path.name == committed[-1].name]
    if newest and struck.took and (files := _data(newest)):
        _flip_bit(chance.choice(files), chance)
        struck.later = lambda: _see_damage(job, struck)
    else:
        struck.took, struck.why = False, "nodes hold no version"
    job.start()
    return True


def _see_damage(job: HeatJob, struck: Struck) -> None:
    """Whether the library has found damage since."""
    notes = (n for p in job.look() for n in p.notes)
    struck.took = any(n.what is What.DAMAGE and n.at > struck.at for n in notes)
    struck.why = "" if struck.took else "nobody has read what was damaged"


def _seat(process: Process) -> str | None:
    """Which node a process is where each is one of its own."""
    with contextlib.suppress(OSError):
        variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        found = [v.partition(b"=")[2].decode() for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
        return f"seat{found[0]}" if found else None
    return None


def _sit_in_order(job: HeatJob, seats: dict[int, str]) -> None:
    """Have each rank's node be its own in the next start as well, where repairs have put other ones into the places of some;
    the nodes of ranks that died before are lost."""
    assert job.place is not None
    for rank, seat in seats.items():
        os.rename(job.place / seat, job.place / f"kept{rank}")
    for lost in job.place.glob("seat*"):
        shutil.rmtree(lost)
    for rank in seats:
        os.rename(job.place / f"kept{rank}", job.place / f"seat{rank}")


def _committed(folders: list[Path]) -> list[Path]:
    """Folders of versions that have a commit, oldest version first."""
    found = [path.parent for folder in folders for path in folder.glob("*/commit")]
    return sorted(found, key=lambda path: path.name)


def _data(versions: list[Path]) -> list[Path]:
    return sorted(file for version in versions for file in (version / "data").iterdir() if file.stat().st_size)


def _flip_bit(path: Path, chance: random.Random) -> None:
    """One bit of the file, anywhere in it; what lies between blocks may be nobody's, which shows afterwards."""
    os.chmod(path, 0o600)
    with path.open("r+b") as f:
        at = chance.randrange(path.stat().st_size)
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1 << chance.randrange(8)]))


def _storage(number: int, everywhere: bool) -> Blow:
    """Calls at the store's door fail, on one rank or on all."""

    def blow(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
        job.orders.errno = number
        struck.first = struck.at = time.monotonic()
        job.orders.failing = ALL if everywhere else chance.randrange(job.ranks)
        try:
            _await_refusal(job, struck, What.FAILED)
        finally:
            job.orders.failing = NOBODY
        return True

    return blow


def _full_disk(job: HeatJob, by_rank: dict[int, Process], chance: random.Random, struck: Struck) -> bool:
    """The run's file system is filled up to its last byte, and the kernel refuses what the library writes."""
    assert job.setting is Setting.SMALL
    ballast = job.disk / "ballast"
    struck.first = struck.at = time.monotonic()
    try:
        with ballast.open("wb", buffering=0) as f:
            for piece in (BALLAST, 4096):
                _fill(lambda piece=piece: f.write(bytes(piece)))  # type: ignore[misc]
        _await_refusal(job, struck, What.REFUSED)
    finally:
        ballast.unlink()
    return True


def _fill(write: Callable[[], int]) -> None:
    try:
        while write():
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _await_refusal(job: HeatJob, struck: Struck, what: What) -> None:
    seen = {p: len(p.notes) for p in job.look()}

    def refused() -> bool:
        return any(n.what is what for p in job.look() for n in p.notes[seen.get(p, 0) :])

    job.wait("a call that fails", refused, 20)
    time.sleep(FAILS)
    struck.took = True


STORAGE_BLOWS: dict[str, Blow] = {
    kinds.MPIRUN: _mpirun,
    kinds.SUPERVISOR: _supervisor,
    kinds.EVERYTHING: _everything,
    kinds.ZOMBIES: _zombies,
    kinds.EIO: _storage(errno.EIO, everywhere=False),
    kinds.FULL: _storage(errno.ENOSPC, everywhere=True),
    kinds.FULL_DISK: _full_disk,
    kinds.FLIP: _flip,
    kinds.FLIP_MEMORY: _flip_at_place,
    kinds.FLIP_LOCAL: _flip_at_place,
    kinds.FLIP_SET: _flip_at_place,
}
