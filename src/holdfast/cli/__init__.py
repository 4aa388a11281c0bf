"""The `holdfast` command: supervises programs, tells how a run stands, lists what is stored, verifies it, salvages what nodes
hold, rolls back, prunes.

Exit codes, of `holdfast run` (0 to 2 of the other commands too):

    0   complete: every run that the program opened says so
    1   Holdfast's own error (a message says which), or damage found by `verify`
    2   wrong usage of the command line
    85  interrupted or out of time, with progress: the same command goes on from there
    86  interrupted, without a new version
    87  the last checkpoint failed or came after the time limit; the version before is safe
    88  gave up: no progress, from the version before the last either
    89  gave up: the allowed restarts are used
    90  never of this command; a rank that gives up a repair ends by SIGKILL under `--spares`, elsewhere so
    any other: the program's own code, where it failed without opening a run (128 + signal if it was killed), or
        where a serial program failed after its runs were complete

Nothing but the entry point is imported here: click and rich are loaded when a command is.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """The console entry point: runs the command and exits with its code."""
    from .app import holdfast

    holdfast.main(args=None if arguments is None else list(arguments), prog_name="holdfast")
