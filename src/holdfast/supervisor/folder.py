"""The directory in which a supervisor and its program meet: the program's reports, the launcher's hostfile.

On one host it is a temporary one. Where ranks may be on other nodes it has to be seen from there: it is made in the working
directory, which ranks share as they share their runs' directories. Rejected: the run's store (the supervisor learns only
from the report which runs there are), and a directory that the user has to name each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..catalog import Process, current
from ..errors import DamageError

PREFIX = ".holdfast-run-"
_OWNER = "supervisor"  # file that tells whose directory it is


@contextlib.contextmanager
def meeting_place(shared: bool) -> Iterator[tuple[str, str | None]]:
    """An empty directory that is deleted at the end, and a complaint or None.

    `shared`: it is wanted in the working directory; where that can't be written it is a temporary one all the same,
    and the complaint says what follows. Those of supervisors that were killed are deleted on the way.
    """
    complaint = None
    if shared:
        try:
            place = tempfile.mkdtemp(prefix=PREFIX, dir=os.getcwd())
        except OSError as error:
            complaint = (
                f"the working directory can't be written ({error.strerror}): a program whose rank 0 is on another node "
                "can't tell which runs it opens"
            )
        else:
            try:
                (Path(place) / _OWNER).write_text(json.dumps(current().plain()))
                _sweep(Path(place).parent)
                yield place, None
            finally:
                shutil.rmtree(place, ignore_errors=True)
            return
    with tempfile.TemporaryDirectory(prefix="holdfast-") as place:
        yield place, complaint


def _sweep(directory: Path) -> None:
    """Deletes what supervisors of this host left that live no more; those of other hosts can't be judged here."""
    for path in directory.glob(f"{PREFIX}*"):
        try:
            owner = Process.parse(json.loads((path / _OWNER).read_text()))
        except (OSError, ValueError, DamageError):  # being made, or not ours
            continue
        if owner.here and not owner.alive:
            shutil.rmtree(path, ignore_errors=True)
