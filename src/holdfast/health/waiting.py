"""Whether a thread waits in a call of MPI, as its topmost Python frame tells.

A function in C has no frame: the topmost frame is that of its caller, which stands at the instruction of the call. What is
called is found by going back from there over the instructions that push the arguments, to the one that loaded the method. Its
name is the evidence: `Wait`, `Allreduce`, `recv`. That `socket.recv` has such a name too does no harm: who seems to wait for
others is judged a little later than others, no more. Rejected: the values of the frame's variables (before Python 3.13 they
can only be had by references that stay, and the library counts references to arrays); patching mpi4py's classes; a
profiling hook, which every call would pay for.
"""

from __future__ import annotations

import dis
import sys
from functools import lru_cache
from types import CodeType, FrameType

# Methods of mpi4py that wait for other ranks: those of communicators are there in lower case as well, for any object.
_BOTH = (
    "Send", "Ssend", "Bsend", "Recv", "Sendrecv", "Probe", "Mprobe", "Barrier", "Bcast", "Gather", "Scatter", "Allgather",
    "Alltoall", "Reduce", "Allreduce", "Scan", "Exscan", "Neighbor_allgather", "Neighbor_alltoall", "Wait", "Waitall",
    "Waitany", "Waitsome",
)  # fmt: skip
WAITERS = frozenset(
    _BOTH + tuple(name.lower() for name in _BOTH) + (
        "Rsend", "Sendrecv_replace", "Gatherv", "Scatterv", "Allgatherv", "Alltoallv", "Alltoallw", "Reduce_scatter",
        "Reduce_scatter_block", "Neighbor_allgatherv", "Neighbor_alltoallv", "Neighbor_alltoallw", "Dup", "Split",
        "Split_type", "Create_group", "Create_cart", "Create_dist_graph", "Create_dist_graph_adjacent", "Disconnect",
        "Fence", "Flush_all", "Unlock", "Unlock_all", "Shrink", "Agree", "Read_all", "Write_all", "Read_at_all",
        "Write_at_all",
    )
)  # fmt: skip
_INSIDE = ("mpi4py.", "holdfast.")  # modules whose frames are in a call of MPI, or stand for one (group/repair/comms.py)
_LOADERS = ("LOAD_METHOD", "LOAD_ATTR", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST", "LOAD_DEREF")
_BETWEEN = ("PUSH_NULL", "NOT_TAKEN", "POP_TOP")


def waits(thread: int) -> bool:
    """Whether the thread of that identifier stands in such a call right now. A few microseconds; by any other thread."""
    if "mpi4py.MPI" not in sys.modules:
        return False
    frame: FrameType | None = sys._current_frames().get(thread)
    if frame is None:
        return False
    if str(frame.f_globals.get("__name__", "")).startswith(_INSIDE):
        return True
    return called(frame.f_code, frame.f_lasti) in WAITERS


@lru_cache(maxsize=16)  # what stands still is asked for again and again
def called(code: CodeType, at: int) -> str | None:
    """Name of the method, or of the function by the variable that it is in, that the call at offset `at` calls; None where it
    can't be told."""
    before: list[dis.Instruction] = []
    for each in dis.get_instructions(code):
        if each.offset > at:  # the one before: `at` may be in the cache behind it
            break
        before.append(each)
    if len(before) > 1 and before[-2].opname == "PRECALL":  # Python 3.11: of one call with the CALL behind it
        before.pop()
    return _callee(before[:-1], before[-1]) if before else None


def _callee(before: list[dis.Instruction], call: dis.Instruction) -> str | None:
    operands = _operands(call)
    if operands is None:
        return None
    height = 0  # of the stack behind an instruction, less that before the call
    heights = {call.offset: 0}  # before an instruction
    for each in reversed(before):
        if each.opname == "JUMP_FORWARD":  # the end of one of two branches: what lies between is the other
            height = heights.get(each.argval, height)
        # Conditions inside of the arguments come down to the same height; PUSH_NULL stands behind a plain function.
        if height <= -operands and each.opname not in _BETWEEN and "JUMP" not in each.opname:
            name = each.argval[-1] if isinstance(each.argval, tuple) else each.argval
            return name if each.opname.startswith(_LOADERS) and isinstance(name, str) else None
        try:
            height -= dis.stack_effect(each.opcode, each.arg if each.opcode >= dis.HAVE_ARGUMENT else None, jump=False)
        except ValueError:
            return None
        heights[each.offset] = height
    return None


def _operands(call: dis.Instruction) -> int | None:
    """How many values lie above what is called; None if it is no call."""
    name, count = call.opname, call.arg or 0
    if name in ("CALL", "PRECALL", "CALL_METHOD", "CALL_FUNCTION"):
        return count
    if name in ("CALL_KW", "CALL_FUNCTION_KW"):  # the keywords' names lie on top
        return count + 1
    if name == "CALL_FUNCTION_EX":
        return 2 if sys.version_info >= (3, 14) else 1 + (count & 1)
    return None
