"""What kind of memory lies at an address: /proc/self/maps."""

from __future__ import annotations


def private_anonymous(start: int, end: int) -> bool:
    """Whether all pages of [start, end) are mapped, writable, private and without a file (or huge-page file) behind them."""
    try:
        with open("/proc/self/maps", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    at = start
    for line in lines:  # in the order of addresses
        fields = line.split(None, 5)
        low, _, high = fields[0].partition(b"-")
        if int(high, 16) <= at:
            continue
        name = fields[5] if len(fields) > 5 else b""
        plain = fields[1].startswith(b"rw") and fields[1][3:4] == b"p" and fields[4] == b"0"
        if int(low, 16) > at or not plain or not (name in (b"", b"[heap]") or name.startswith(b"[anon:")):
            return False
        at = int(high, 16)
        if at >= end:
            return True
    return False
