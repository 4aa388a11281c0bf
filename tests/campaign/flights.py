"""Part E: every storage call. The campaigns of `tests/faults_storage` with nothing left out: killed, failing, two writers, at
each call of a checkpoint, of an opening, of the end; and versions in flight, in every variant: killed, failing, two writers,
and the helper process killed, stopped and failing. `make test` has a sample of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.capture import kernel

sys.path.append(str(Path(__file__).resolve().parents[1] / "faults_storage"))
from fs_running import run_campaign

_THREADS = ("copy", "direct", "reference", "blocks", "pages", "chain")
_HELPER = ("process", "cow")
_MODES = ("EIO", "ENOSPC", "EIO-on", "ENOSPC-on", "short")
Tell = Callable[[str], None]


def campaign(tell: Tell, quick: bool) -> dict[str, Any]:
    """All of it. `quick`: every sixth point, from a random one on."""
    jobs = [("fs_kills", "full", (phase,)) for phase in ("checkpoint", "first opening", "opening", "ending")]
    jobs += [("fs_writers", "full", (what,)) for what in ("checkpoint", "record", "opening", "rollback")]
    jobs += [("fs_errors", "full", (mode, then)) for mode in _MODES for then in ("raise", "warn")]
    jobs += [("fs_kills", v, ("flight",)) for v in _THREADS]
    jobs += [("fs_errors", v, (mode, "flight")) for v in _THREADS for mode in _MODES]
    jobs += [("fs_writers", v, (what,)) for v in ("blocks", "pages", "chain") for what in ("flight", "flight, rollback")]
    jobs += [("fs_helper", v, (mode,)) for v in _HELPER for mode in ("kill", "error errno=EIO", "error errno=ENOSPC", "stop")]
    result: dict[str, Any] = {"points": 0, "problems": []}
    try:
        os.close(kernel.userfaultfd(user_mode_only=False))
    except OSError as error:
        result["problems"].append(f"capture='cow': not done: {error}")
        jobs = [job for job in jobs if job[1] != "cow"]
    memory = Path("/dev/shm")
    for name, variant, arguments in jobs:
        words = f"{name.removeprefix('fs_')}, {variant}, {' '.join(arguments)}"
        with tempfile.TemporaryDirectory(prefix="holdfast-flights-", dir=memory if memory.is_dir() else None) as folder:
            size = "large" if name == "fs_helper" or (name, *arguments) == ("fs_kills", "checkpoint") else "small"
            try:
                found = run_campaign(
                    name, Path(folder) / "ground", size, *arguments, variant=variant, sample=6 if quick else 1
                )
            except AssertionError as error:
                result["problems"].append(f"{words}: {error}")
                continue
        result["points"] += sum(found.values())
        result[words] = found
        tell(f"{words}: {found}")
    return result
