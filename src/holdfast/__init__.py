"""Holdfast: checkpoint/restart for long-running programs.

    run = holdfast.open("runs/heat")
    u = run.protect("u", np.zeros((4096, 4096)))
    for step in run.steps(10_000):
        advance(u)
    run.complete()
"""

from .errors import (
    Cause,
    CheckpointError,
    ConfigError,
    DamageError,
    DeadlineError,
    FencedError,
    HoldfastError,
    Interrupted,
    MismatchError,
    NoWholeVersionError,
    RankError,
    RunInUseError,
    StaleObjectError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from .group import SERIAL
from .levels import global_, local, memory, partner, rs, xor
from .policy import Every, Keep, auto, overhead, seconds, steps, versions
from .run import CheckpointWarning, Handle, Restored, Run, Shard, Transaction, launch, open
from .state import State, register_adapter, register_type

__version__ = "0.1.0"

__all__ = [
    "open", "launch", "Run", "Shard", "Keep", "Every", "steps", "seconds", "auto", "overhead", "State", "SERIAL",
    "versions", "memory", "local", "partner", "xor", "rs", "global_",
    "Handle", "Restored", "Transaction", "register_adapter", "register_type",
    "HoldfastError", "Cause", "UsageError", "ConfigError", "UnsupportedError", "StaleObjectError", "MismatchError",
    "RunInUseError", "FencedError", "StorageError", "DamageError", "NoWholeVersionError", "CheckpointError",
    "CheckpointWarning", "RankError", "DeadlineError", "Interrupted",
]  # fmt: skip
