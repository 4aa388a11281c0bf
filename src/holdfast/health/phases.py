"""What a process is in, as a number on the board and a word for people."""

from __future__ import annotations

COMPUTING, CHECKPOINT, RESTORE, WAITING, CALLING, LEAVING, LEFT, STANDING = range(8)

# WAITING is in a call of the library's that has a deadline; CALLING in one of the program's own, which has none.
# `LEFT` is set by leaving itself: from then on nothing is expected of the process, not even that it lives. A spare stands by:
# it knows of no run, and was put on the board by a rank of its node.
PHASES = (
    "computing", "checkpoint", "restore", "waiting for ranks", "in a call of MPI", "leaving", "left", "standing by",
)  # fmt: skip

STORAGE = frozenset({CHECKPOINT, RESTORE})
