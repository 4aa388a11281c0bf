"""What runs on each node for a look at a run from outside, or for a salvage: `python -m holdfast.run.levels.program REQUEST`.

REQUEST is a JSON object: `do` ("plan" or "salvage"), `url`, and `slots`, `ranks` (plan), `takeover` (salvage). Process 0 writes
a JSON object for each thing there is to tell, a line each: `{say}`, `{progress: [done, total]}`, last `{result}` or `{error}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from ...config import load
from ...errors import HoldfastError
from ...group import Group, launcher_ranks, make_group

Tell = Callable[[dict[str, Any]], None]

MARK = "holdfast:"  # begins our lines: launchers may put words of their own on standard output


def answer(group: Group, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Do what the request asks for (collective): the result, on process 0. See `foresight.foresee`, `salvage.salvage`."""
    options = load({})
    if request["do"] == "plan":
        from .foresight import foresee

        slots = request.get("slots") or [1] * group.size
        return foresee(group, request["url"], slots, request.get("ranks"), options.lease)
    from .salvage import Telling, salvage

    told = Telling(lambda line: tell({"say": line}), lambda done, total: tell({"progress": [done, total]}))
    return salvage(group, request["url"], options, bool(request.get("takeover")), told)


def main() -> int:
    """One process of it. Its exit code says nothing of the result: the last line does."""
    request = json.loads(sys.argv[1])
    comm: Any = None
    if launcher_ranks() > 1:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    group = make_group(comm, load({}).timeout)
    try:
        result = answer(group, request, _tell)
    except HoldfastError as error:
        if group.rank == 0:
            _tell({"error": error.to_wire(), "causes": [list(cause) for cause in error.causes]})
        return 0
    if group.rank == 0:
        _tell({"result": result})
    return 0


def _tell(event: dict[str, Any]) -> None:
    print(MARK + json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
