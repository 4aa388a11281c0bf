"""Who lives, who stands still: a board in each node's memory, a thread on each rank that writes to it and looks at the
others.

What is seen is judged by one pure function (`judging.py`); what is to be done is done in `beat.py`. It knows nothing of
MPI, of versions or of storage; what an event means for the job is decided by who gets it.
"""

from .beat import Beat
from .board import Board, memory_root
from .events import KINDS, Event
from .judging import Limits, Memory, Own, Seen, Verdict, judge
from .layout import NO_RANK
from .phases import PHASES
from .processes import supervisor
from .stacks import Stacks, dump

__all__ = [
    "KINDS", "NO_RANK", "PHASES", "Beat", "Board", "Event", "Limits", "Memory", "Own", "Seen", "Stacks", "Verdict", "dump",
    "judge", "memory_root", "supervisor",
]  # fmt: skip
