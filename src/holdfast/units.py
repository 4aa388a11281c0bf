"""Numbers with units, for people: bytes and seconds."""

from __future__ import annotations

import contextlib
import re


def bytes_text(n: float) -> str:
    """`n` bytes as text with a binary unit: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(n) < 1024 or unit == "TiB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError


def parse_bytes(text: object) -> int:
    """A number of bytes: an integer, or a number with a unit (`512MiB`, `1.5 GiB`, `100 MB`, `4k`). ValueError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    words = str(text).strip()
    number = words.rstrip("BbiIkKmMgGtT ")
    unit = words[len(number) :].strip().lower()
    factors = {"": 1, "b": 1}
    for i, letter in enumerate("kmgt", 1):
        factors |= {letter: 1024**i, f"{letter}ib": 1024**i, f"{letter}b": 1000**i}
    if unit not in factors:
        raise ValueError(f"{text!r} is no number of bytes: write 536870912, '512MiB' or '0.5 GiB'")
    try:
        return int(float(number) * factors[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no number of bytes: write 536870912, '512MiB' or '0.5 GiB'") from None


_SECONDS = {
    "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400,
}  # fmt: skip


_PART = re.compile(r"([0-9]*\.?[0-9]+|[0-9]+\.)\s*([a-z]+)\s*", re.ASCII)


def parse_seconds(value: object) -> float:
    """A number of seconds: a number, or text of parts with units, the largest first (`90`, `30s`, `10 min`, `1.5h`, `1h30m`,
    `2 d 12 h`). ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    words = str(value).strip().lower()
    with contextlib.suppress(ValueError):
        return float(words)  # also with a sign, `inf` and `nan`: whether these will do is the caller's to say
    total, last, at = 0.0, float("inf"), 0
    while (part := _PART.match(words, at)) and (unit := _SECONDS.get(part[2], last)) < last:
        total, last, at = total + float(part[1]) * unit, unit, part.end()
        if at == len(words):
            return total
    raise ValueError(f"{value!r} is no number of seconds: write 5400, '90 min', '1.5h' or '1h30m'")


def seconds_text(s: float) -> str:
    """`s` seconds as text: 0.0042 -> '4.2 ms', 75 -> '1 min 15 s'."""
    if s < 0:
        return "-" + seconds_text(-s)
    if s < 1e-3:
        return f"{s * 1e6:.0f} µs"
    if s < 1:
        return f"{s * 1e3:.1f} ms"
    if s < 60:
        return f"{s:.1f} s"
    if s < 3600:
        return f"{int(s // 60)} min {int(s % 60)} s"
    if s < 86400:
        return f"{int(s // 3600)} h {int(s % 3600 // 60)} min"
    return f"{int(s // 86400)} d {int(s % 86400 // 3600)} h"
