"""MPI is told of processes that are gone and that it does not know of.

Open MPI's launcher tells the ranks of a process that a signal has ended, and not of one that left by itself with a status other
than 0 (`os._exit(3)`, a library in C that calls `exit`): calls on communicators with it never end, and Shrink neither. Its node
sees that it is gone. Any process may say so by an event of PMIx, the interface between launcher and ranks, and all ranks' MPI
then takes it as if it had come from the launcher: measured, within 2 to 20 ms on all of them.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from .means import library

_ABORTED = -7  # PMIX_ERR_PROC_ABORTED
_NAME = b"PMIX_ERR_PROC_ABORTED"
_AFFECTED = b"pmix.evproc"  # PMIX_EVENT_AFFECTED_PROC
_PROC = 22  # PMIX_PROC, a type of values
_SESSION = 4  # PMIX_RANGE_SESSION: all processes of the allocation, this one too


class _Proc(ctypes.Structure):
    _fields_ = [("nspace", ctypes.c_char * 256), ("rank", ctypes.c_uint32)]


class _Value(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint16), ("data", ctypes.c_uint64 * 3)]


class _Info(ctypes.Structure):
    _fields_ = [("key", ctypes.c_char * 512), ("flags", ctypes.c_uint32), ("value", _Value)]


_said: list[Any] = []  # what PMIx may still read: it does not say when it is done with it


@cache
def _functions() -> tuple[Any, Any, Any]:
    """PMIx's, None where there are none."""
    names = ("Notify_event", "Info_load", "Error_string")
    say, load, text = (library(f"PMIx_{name}", "libpmix") for name in names)
    return say, load, text


@cache
def can_tell() -> bool:
    """Whether there is the PMIx that Open MPI 5 has (local). The first call takes milliseconds."""
    say, load, text = _functions()
    if say is None or load is None or text is None:
        return False
    text.restype = ctypes.c_char_p
    return bool(text(_ABORTED) == _NAME)  # else another PMIx, with other numbers


def tell_gone(rank: int) -> bool:
    """Have the MPI of all ranks know that the process that is `rank` in MPI.COMM_WORLD is gone, which must be so for certain:
    it is treated as dead for ever (local; returns at once). False where that can't be said: with a PMIx other than Open
    MPI 5 has."""
    namespace = os.environ.get("PMIX_NAMESPACE", "")
    if not can_tell() or not namespace:
        return False
    say, load, text = _functions()
    process, info = _Proc(namespace.encode(), rank), _Info()
    if load(ctypes.byref(info), _AFFECTED, ctypes.byref(process), ctypes.c_uint16(_PROC)):
        return False
    _said.append((process, info))
    # Without a function to call afterwards it would wait for the launcher, without a deadline. This one takes a status, and
    # does nothing; one of Python's would need the interpreter in a thread of MPI's.
    source, count, afterwards = ctypes.byref(process), ctypes.c_size_t(1), ctypes.cast(text, ctypes.c_void_p)
    failed = say(_ABORTED, source, ctypes.c_uint8(_SESSION), ctypes.byref(info), count, afterwards, None)
    return not failed
