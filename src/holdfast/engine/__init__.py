"""Buffers to a committed version, and back: blocks, digests, indexes, the commit, verification.

Knows nothing of users' objects, of MPI, or of directories: items in, items out, through `store` and `group`.
"""

from .flight import Flight
from .in_place import InPlaceWriting
from .index import open_part, read_groups, read_part
from .part import write_part
from .placed import Here, look_for_fence, publish_at, put_held
from .plan import Base, Item, Plan
from .publish import Parcel, Published, publish
from .read import PartReader, Source
from .units import Written, no_release
from .write import ThreadWriting, Writing

__all__ = [
    "Here", "look_for_fence", "publish_at", "put_held",
    "open_part", "read_groups", "read_part", "Published", "publish", "PartReader", "Source",
    "Base", "Flight", "InPlaceWriting", "Item", "Parcel", "Plan", "ThreadWriting", "Writing", "Written", "no_release",
    "write_part",
]  # fmt: skip
