"""The bytes: keys, record files, indexes, blocks. What docs/format.md says, and nothing else.

Pure functions and frozen values. No storage, no MPI, no users' objects here.
"""

from .blocks import BLOCK, DIGEST_BYTES, digest, digest_hex
from .extents import DataSource, Extent, StoredBuffer, pack_runs, simple_buffer
from .index import Group, Part, StoredFile, StoredObject
from .keys import Kind, attempt_key, parse_attempt, parse_version, version_name
from .layers import SourceTable, adopt, drop_hidden, lay_over, versions_used, visible
from .records import RECORD_LIMIT, Link, decode_record, encode_record

__all__ = [
    "BLOCK", "DIGEST_BYTES", "digest", "digest_hex",
    "DataSource", "Extent", "StoredBuffer", "pack_runs", "simple_buffer", "Group", "Part", "StoredFile", "StoredObject",
    "Kind", "attempt_key", "parse_attempt", "parse_version", "version_name",
    "SourceTable", "adopt", "drop_hidden", "lay_over", "versions_used", "visible",
    "RECORD_LIMIT", "Link", "decode_record", "encode_record",
]  # fmt: skip
