"""Job control: starts a program, watches it die, clears up after it, starts it again, until its runs are complete.

What the runs themselves say (`facts`) decides, by pure rules (`judge`); how the program is started is in `launcher`,
its processes in `child`, what the user is told in `account`. Nothing here reads or writes checkpoints.
"""

from .loop import Plan, supervise

__all__ = ["Plan", "supervise"]
