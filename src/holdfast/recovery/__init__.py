"""After a loss: who holds what, and the plan of which version is taken from where.

Pure functions and frozen values, but for `report.py`, which looks into a node's places, and for what works there with other
processes: `protect.py` computes parity, `carry.py` carries a plan out. MPI is behind `group.channel`.
"""

from .carry import Carried, carry_out
from .files import Done
from .holdings import PLACES, Holders, Holdings, Kept, NodeReport, Sets, merge
from .member import PlaceMember
from .messages import BadSource, SourceError
from .planning import Candidate, Homes, plan
from .protect import protect
from .recoveryplan import RecoveryPlan, Source
from .report import report
from .sources import KINDS, Moved, Passed, Sources, Work

__all__ = [
    "PLACES", "Holders", "Holdings", "Kept", "NodeReport", "Sets", "merge",
    "KINDS", "Candidate", "Homes", "Passed", "RecoveryPlan", "Source", "plan", "report", "Moved", "Sources", "Work",
    "BadSource", "Carried", "Done", "PlaceMember", "SourceError", "carry_out", "protect",
]  # fmt: skip
