"""A node's places: its own stores for a run, in memory or on a directory of the node, and what each rank holds there.

Record files and parts alone; the data go through the place's store. It knows nothing of MPI, nor of which version is wanted.
"""

from .held import PARITY_BLOCK, Held, HeldSet, Member
from .identity import KINDS, Identity
from .opening import StalePlaceError, open_place
from .place import Place, verify_held
from .stale import StalePlace, clean, run_is_gone, stale_places

__all__ = [
    "KINDS", "PARITY_BLOCK", "Held", "HeldSet", "Identity", "Member", "Place", "StalePlace", "StalePlaceError", "clean",
    "open_place", "run_is_gone", "stale_places", "verify_held",
]  # fmt: skip
