"""Buffers to a committed version, and back: blocks, digests, indexes, the commit, verification.

Knows nothing of users' objects, of MPI, or of directories: items in, items out, through `store` and `group`.
"""

from .index import open_part, read_groups, read_part
from .publish import Published, publish
from .read import PartReader, Source
from .write import Item, write_part

__all__ = [
    "open_part", "read_groups", "read_part", "Published", "publish", "PartReader", "Source",
    "Item", "write_part",
]  # fmt: skip
