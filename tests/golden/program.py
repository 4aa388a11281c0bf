"""What the golden run of format 1 was made of: values written out, so that they stay what they were."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np


def arrays(k: int) -> dict[str, np.ndarray]:
    """One array of each kind, all different for another `k`."""
    base = np.arange(12).reshape(3, 4) + k
    return {
        "f8": base / 8,
        "big_endian": base.astype(">i4"),
        "fortran": np.asfortranarray(base.astype(np.float32)),
        "complex": (base + 1j * k).astype(np.complex64),
        "bool": base % 2 == 0,
        "text": np.array(["alpha", "beta", f"k{k}"]),
        "bytes": np.array([b"ab", b"c"]),
        "when": np.array(["2024-02-29", "1969-07-20"], "datetime64[D]") + k,
        "record": np.array([(k, 1.5), (2, -0.0)], [("n", "<u2"), ("x", "<f8")]),
        "scalar": np.array(k * 0.5),
        "empty": np.zeros((0, 3), np.int8),
        "pages": np.arange(k, k + 8200, dtype="<u8"),  # more than 64 KiB: it begins on a page
    }


def tree(k: int) -> dict[str, Any]:
    return {
        "numbers": [0, -1, 2**63, -(2**70), 1.5, float("inf"), 1 - 2j, True, None],
        "text": "Grüße, 世界 🐋",
        "bytes": b"\x00\xff",
        "set": {1, "two", (3.0,)},
        "nested": {"tuple": (1, [2, {3: "three"}]), "frozen": frozenset({k})},
        "when": [datetime(2024, 2, 29, 12, 30, tzinfo=timezone.utc), date(1969, 7, 20), timedelta(days=1, microseconds=k)],
        "buffer": bytearray(b"abc"),
        "array": np.arange(3, dtype="<i2") * k,
        "long": "x" * 5000,  # more than an index holds
    }


def generators(k: int) -> tuple[np.random.Generator, random.Random]:
    """Two generators that have drawn `k` numbers."""
    rng, python = np.random.Generator(np.random.PCG64(5)), random.Random(5)
    for _ in range(k):
        rng.random()
        python.random()
    return rng, python


PAGES = ((0, 4096), (8192, 8192), (61_440, 4096))  # (start, bytes) of what version 5 has anew of `pages`


def changed_pages() -> np.ndarray:
    """`pages` as version 5 has it: that of version 4 with other bytes in PAGES."""
    values = arrays(3)["pages"]
    for start, nbytes in PAGES:
        values.view("u1")[start : start + nbytes] = np.arange(nbytes) % 250
    return values
