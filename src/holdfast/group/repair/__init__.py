"""A group that has lost processes is made whole again, in place: spares take the lost ranks' roles.

`crew.py` is what a process knows and calls, `machine.py` the repair step by step, `comms.py` the communicators to interrupt,
`members.py` who they are to their nodes, `watchdog.py` the deadlines, `post.py` messages that nobody waits for. Nothing here
knows of runs, versions or storage: whoever calls has to restore what was lost.
"""

from __future__ import annotations

from .crew import Crew
from .leaving import leave_after_repair
from .watchdog import Watchdog, end_process

__all__ = ["Crew", "Watchdog", "end_process", "leave_after_repair"]
