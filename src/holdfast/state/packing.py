"""MessagePack in and out, within limits.

`msgpack` allocates a list as long as its header claims before it has read one item, and headers nest: a few bytes
could ask for gigabytes. So what is longer than `_SMALL` is scanned first: the items that all open arrays still
claim never exceed the bytes that are left. Maps and extension types do not occur in the format.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from holdfast.errors import DamageError, UnsupportedError
from holdfast.state.interface import MAX_DEPTH

_SMALL: Final = 4096  # times 8 bytes a list entry, times the unpacker's own depth limit of 1024: at most 32 MiB
_MAX_NESTING: Final = 2 * MAX_DEPTH + 80  # a node is at most two arrays deep; a dtype may stand in the innermost
_MAX_DIGITS: Final = 1_000_000
_CHUNK: Final = 4000  # below the interpreter's own limit for conversions between int and str (4300)

_ARRAY, _BYTES, _REFUSED = 0, -1, -2


def _steps() -> list[int]:
    step = [_REFUSED] * 256
    for byte in range(256):
        if byte < 0x80 or byte >= 0xE0:
            step[byte] = 1
        elif 0x90 <= byte < 0xA0:
            step[byte] = _ARRAY
        elif 0xA0 <= byte < 0xC0:
            step[byte] = 1 + byte - 0xA0
    sizes = {1: b"\xc0\xc2\xc3", 2: b"\xcc\xd0", 3: b"\xcd\xd1", 5: b"\xca\xce\xd2", 9: b"\xcb\xcf\xd3"}
    for size, bytes_ in sizes.items():
        for byte in bytes_:
            step[byte] = size
    for byte in b"\xdc\xdd":
        step[byte] = _ARRAY
    for byte in b"\xc4\xc5\xc6\xd9\xda\xdb":
        step[byte] = _BYTES
    return step


_STEP: Final = _steps()
_WIDTH: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4}


def _scan(data: bytes) -> None:
    end, at, left = len(data), 0, 1
    outer: list[int] = []
    while True:
        while left == 0:
            if not outer:
                if at != end:
                    raise ValueError("its length is wrong")
                return
            left = outer.pop()
        if at >= end:
            raise ValueError("it is cut short")
        byte = data[at]
        step = _STEP[byte]
        left -= 1
        if step > 0:
            at += step
            continue
        if step == _REFUSED:
            raise ValueError(f"the byte {byte:#04x} has no meaning here")
        width = _WIDTH.get(byte, 0)
        length = int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else byte & 0x0F
        at += 1 + width
        if step == _BYTES:
            at += length
            continue
        outer.append(left)
        left = length
        if len(outer) > _MAX_NESTING:
            raise ValueError("it is nested too deeply")
        if sum(outer) + left > end - at:
            raise ValueError("it claims more items than it has bytes")


def unpack(tree: bytes, name: str = "") -> Any:
    """The MessagePack value that `tree` holds: lists, strings, bytes, numbers, booleans and None.

    Raises DamageError for anything that is not exactly one such value, before much memory is taken.
    """
    try:
        if len(tree) > _SMALL:
            _scan(tree)
        return msgpack.unpackb(tree, raw=False, use_list=True, strict_map_key=True, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.exceptions.UnpackException) as e:
        raise damaged(name, f"it is no MessagePack of the format ({e or type(e).__name__})") from None


def pack(node: Any, name: str = "") -> bytes:
    """`node` as MessagePack. Equal nodes give equal bytes. Raises UnsupportedError if a part is too large."""
    try:
        packed: bytes = msgpack.packb(node, use_bin_type=True, strict_types=True)
    except (ValueError, OverflowError) as e:
        raise UnsupportedError(
            f"{name or 'the object'} can't be written: {e}. A single string or byte string must stay below 4 GiB; "
            "keep larger data in NumPy arrays.",
            object=name or None,
        ) from None
    return packed


def damaged(name: str, why: str) -> DamageError:
    """The error for a structure that `encode` never writes."""
    return DamageError(
        f"The stored structure of {name or 'the object'} is damaged: {why}. Nothing stored was changed; "
        "an older version may be whole.",
        object=name or None,
    )


def decimal(number: int) -> str:
    """`str(number)` of any length that the format takes. Raises ValueError beyond a million digits."""
    if number < 0:
        return "-" + decimal(-number)
    if number.bit_length() > _MAX_DIGITS * 3.3:
        raise ValueError("an integer of more than a million digits")
    if number.bit_length() < _CHUNK * 3:
        return str(number)
    digits = number.bit_length() * 3 // 20  # about half of them
    high, low = divmod(number, 10**digits)
    return decimal(high) + decimal(low).zfill(digits)


def from_decimal(text: str) -> int:
    """The inverse of `decimal`. Raises ValueError if `text` is not what `decimal` writes."""
    if len(text) > _MAX_DIGITS + 1:
        raise ValueError("too many digits")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("not a decimal integer")
    return _magnitude(digits) if digits == text else -_magnitude(digits)


def _magnitude(digits: str) -> int:
    if len(digits) <= _CHUNK:
        return int(digits)
    half = len(digits) // 2
    scale: int = 10 ** (len(digits) - half)
    return _magnitude(digits[:half]) * scale + _magnitude(digits[half:])
