"""After a loss: who holds what, and the plan of which version is taken from where.

Pure functions and frozen values: no MPI, no I/O here. Who looks into a node's places, and who carries a plan out, is elsewhere.
"""

from .holdings import PLACES, Holders, Holdings, Kept, NodeReport, Sets, merge
from .planning import Candidate, Homes, plan
from .recoveryplan import RecoveryPlan, Source
from .sources import KINDS, Moved, Passed, Sources, Work

__all__ = [
    "PLACES", "Holders", "Holdings", "Kept", "NodeReport", "Sets", "merge",
    "KINDS", "Candidate", "Homes", "Passed", "RecoveryPlan", "Source", "plan", "Moved", "Sources", "Work",
]  # fmt: skip
