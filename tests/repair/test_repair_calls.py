"""A call for a repair by who saw the reason before one had begun: it is over, since that one might be making communicators."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from mpi4py import MPI
from holdfast.group.repair.crew import Crew
from holdfast.group.repair.watchdog import Watchdog
crew = Crew(MPI.COMM_SELF.Dup(), 1, None, Watchdog("a test"), None)
crew._crew = MPI.COMM_SELF.Dup()
for crew._repairing, repairs, wanted in (True, 0, False), (False, 1, False), (False, 0, True), (True, None, True):
    crew._called_off = False
    crew.revoke(repairs=repairs)
    assert crew._called_off is wanted, (crew._repairing, repairs)
"""


def test_a_late_call_for_a_repair_is_not_heard() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
