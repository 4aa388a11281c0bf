"""After a loss: who holds what, and the plan of which version is taken from where.

Pure functions and frozen values, but for `report.py`, which looks into a node's places, and for what works there with other
processes: `protecting.py` computes parity, `carry.py` carries a plan out. MPI is behind `group.channel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .holdings import PLACES, Holders, Holdings, Kept, NodeReport, Sets, merge
from .messages import BadSource, SourceError  # at once: an error that comes from another process has to be known here
from .planning import Candidate, Homes, plan
from .recoveryplan import RecoveryPlan, Source
from .report import report
from .sources import KINDS, Moved, Passed, Sources, Work

if TYPE_CHECKING:
    from .carry import Carried, carry_out
    from .files import Done
    from .member import PlaceMember
    from .protecting import protect

# What is needed where something is moved or protected: most restarts find all that they need where it lies.
_LATER = {
    "Carried": "carry", "Done": "files", "PlaceMember": "member", "carry_out": "carry", "protect": "protecting",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = found
    return found


__all__ = [
    "PLACES", "Holders", "Holdings", "Kept", "NodeReport", "Sets", "merge",
    "KINDS", "Candidate", "Homes", "Passed", "RecoveryPlan", "Source", "plan", "report", "Moved", "Sources", "Work",
    "BadSource", "Carried", "Done", "PlaceMember", "SourceError", "carry_out", "protect",
]  # fmt: skip
