"""A process beside the program that reads its memory, digests and writes, so that the program's own threads need not.

`client.py`, `writing.py` and `spawn.py` are the program's side, `process.py` and what it imports the helper's;
`wire.py` is what they say to each other. Only the helper may resolve write faults: a thread of the program could not,
the one that waits may hold the GIL.
"""

from .client import Helper
from .failures import CaptureError, HelperLostError
from .writing import HelperWriting

__all__ = ["CaptureError", "Helper", "HelperLostError", "HelperWriting"]
