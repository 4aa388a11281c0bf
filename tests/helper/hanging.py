"""A helper whose disk takes nothing, and whose spare memory is small."""

from __future__ import annotations

import threading
from typing import Any

from holdfast.engine.helper import process
from holdfast.store import syscalls


def hang(fd: int, data: Any, offset: int) -> int:
    threading.Event().wait()
    return 0


def main() -> None:
    syscalls.pwrite = hang
    process.SLOTS = 6
    process.main()
