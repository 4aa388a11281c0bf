"""Blocks and their digests, and where buffers stand in a data file (docs/format.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xxhash

BLOCK = 4 << 20  # bytes; one digest each, the unit of verification
DIGEST_BYTES = 16
ALIGN = 4096  # what direct I/O asks of offsets, lengths and addresses
_ALIGN_FROM = 64 << 10  # buffers of this size and more start at a multiple of ALIGN
_SMALL_ALIGN = 8


def digest(data: Any) -> bytes:
    """16-byte XXH3-128 of a contiguous buffer; releases the GIL on large ones."""
    return xxhash.xxh3_128_digest(data)


def digest_hex(data: Any) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def round_up(n: int, to: int = ALIGN) -> int:
    return -(-n // to) * to


def block_count(nbytes: int) -> int:
    return -(-nbytes // BLOCK)


def digests(data: Any) -> bytes:
    """The digests of all blocks of a one-dimensional uint8 buffer, joined."""
    n = len(data)
    if n <= BLOCK:
        return xxhash.xxh3_128_digest(data) if n else b""
    return b"".join(xxhash.xxh3_128_digest(data[i : i + BLOCK]) for i in range(0, n, BLOCK))


def place(lengths: Iterable[int]) -> tuple[list[int], int]:
    """Offsets of buffers of these lengths (bytes) in a data file, and the file's size."""
    offsets, at = [], 0
    for n in lengths:
        at = round_up(at, ALIGN if n >= _ALIGN_FROM else _SMALL_ALIGN)
        offsets.append(at)
        at += n
    return offsets, round_up(at)
