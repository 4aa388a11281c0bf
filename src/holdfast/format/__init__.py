"""The bytes: keys, record files, indexes, blocks. What docs/format.md says, and nothing else.

Pure functions and frozen values. No storage, no MPI, no users' objects here.
"""

from .blocks import BLOCK, DIGEST_BYTES, digest, digest_hex
from .index import Group, Part, StoredBuffer, StoredFile, StoredObject
from .keys import Kind, attempt_key, parse_attempt, parse_version, version_name
from .records import RECORD_LIMIT, Link, decode_record, encode_record

__all__ = [
    "BLOCK", "DIGEST_BYTES", "digest", "digest_hex",
    "Group", "Part", "StoredBuffer", "StoredFile", "StoredObject",
    "Kind", "attempt_key", "parse_attempt", "parse_version", "version_name",
    "RECORD_LIMIT", "Link", "decode_record", "encode_record",
]  # fmt: skip
