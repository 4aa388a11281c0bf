"""What a program calls: open, protect, steps, checkpoint, transaction, launch; and the care of a run from outside.

Everything collective about an execution is in `execution.py`, everything about its beginning in `opening.py`.
"""

from .handle import CheckpointWarning, Handle
from .launch import launch
from .logged import install
from .objects import Shard
from .opening import open
from .resume import Restored
from .run import Run
from .transaction import Transaction

install()

__all__ = ["CheckpointWarning", "Handle", "launch", "Shard", "open", "Restored", "Run", "Transaction"]
