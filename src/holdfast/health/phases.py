"""What a process is in, as a number on the board and a word for people."""

from __future__ import annotations

COMPUTING, CHECKPOINT, RESTORE, WAITING, LEAVING, LEFT = range(6)

# `LEFT` is set by leaving itself: from then on nothing is expected of the process, not even that it lives.
PHASES = ("computing", "checkpoint", "restore", "waiting for ranks", "leaving", "left")

STORAGE = frozenset({CHECKPOINT, RESTORE})
