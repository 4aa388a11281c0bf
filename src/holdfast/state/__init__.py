"""Objects <-> (structure, buffers), as in docs/format.md section 6, one file per kind of object.

Nothing here knows of files, blocks, digests or other ranks; nothing stored is ever imported or run,
except a pickle that the caller asks for.
"""

from holdfast.state.codec import check, decode, encode
from holdfast.state.describe import describe, mismatch
from holdfast.state.interface import MISSING, Encoded, Source
from holdfast.state.namespace import State
from holdfast.state.registry import register_adapter, register_type
from holdfast.state.stale import stale

__all__ = [
    "MISSING",
    "Encoded",
    "Source",
    "State",
    "check",
    "decode",
    "describe",
    "encode",
    "mismatch",
    "register_adapter",
    "register_type",
    "stale",
]
