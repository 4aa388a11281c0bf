"""Communicators that a program makes from the one that it was given are known, so that all can be revoked; its waits are told.

Revoking a communicator interrupts the calls on it, not those on its duplicates and parts: a rank that waits in one of these
for a rank that has left for the repair would wait for ever. So the program's communicator is of a class of ours whose
methods note every communicator they make. They are noted weakly: one that the program has let go of has no call to
interrupt, and a handle that is kept beyond the program's `Free` would be a danger. Communicators that are made
otherwise (from a handle, by a library in C) are not known here: see `hidden.py`.

Who waits in a blocking call does so for another rank: `watch_calls` has that told, so that of ranks that stand still the
cause is found. A wait for a request (`Wait`, `Waitall`) is MPI's own and not told: `health` sees it from
outside.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import making

if TYPE_CHECKING:
    from mpi4py import MPI

# Methods that return a new communicator, or a tuple that begins with one.
_MAKERS = (
    "Clone", "Dup", "Dup_with_info", "Idup", "Idup_with_info", "Create", "Create_group", "Split", "Split_type",
    "Create_cart", "Create_graph", "Create_dist_graph", "Create_dist_graph_adjacent", "Create_intercomm", "Sub", "Merge",
)  # fmt: skip
# Methods that wait for other ranks: those for buffers, and those for any object, in lower case.
_BOTH = (
    "Send", "Ssend", "Bsend", "Recv", "Sendrecv", "Probe", "Mprobe", "Barrier", "Bcast", "Gather", "Scatter", "Allgather",
    "Alltoall", "Reduce", "Allreduce", "Scan", "Exscan", "Neighbor_allgather", "Neighbor_alltoall",
)  # fmt: skip
_WAITERS = _BOTH + tuple(name.lower() for name in _BOTH) + (
    "Rsend", "Sendrecv_replace", "Gatherv", "Scatterv", "Allgatherv", "Alltoallv", "Alltoallw", "Reduce_scatter",
    "Reduce_scatter_block", "Neighbor_allgatherv", "Neighbor_alltoallv", "Neighbor_alltoallw",
)  # fmt: skip
_SENDRECVS = {  # their parameters
    "Sendrecv": ("sendbuf", "dest", "sendtag", "recvbuf", "source", "recvtag", "status"),
    "Sendrecv_replace": ("buf", "dest", "sendtag", "source", "recvtag", "status"),
}
_HIDING = ("reduce", "allreduce", "scan", "exscan")  # mpi4py makes a duplicate for its own use, once
_FREERS = ("Free", "Disconnect")
_KINDS = ("Intracomm", "Cartcomm", "Graphcomm", "Distgraphcomm", "Intercomm")

_types: dict[str, type[Any]] = {}


class Family:
    """The communicators that were made from one, and from these. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._members: dict[int, weakref.ref[Any]] = {}
        self.revoked = False
        self.crew: Any = None  # `crew.Crew` whose ranks they connect
        self.calls: Callable[[bool], object] | None = None  # told of each call that waits: True before it, False after it

    def adopt(self, comm: MPI.Comm) -> Any:
        """`comm` as a communicator of the family: of our class for its kind, with the same handle."""
        types = tracked_types()
        if type(comm) not in types.values():
            comm = types[type(comm).__name__](comm)
        comm._family = self  # type: ignore[attr-defined]
        key = id(comm)
        with self._lock:
            self._members[key] = weakref.ref(comm, lambda _: self._members.pop(key, None))
            late = self.revoked
        if late:  # made while the family was being revoked: nobody else will see to it
            making.revoke(comm)
        return comm

    def forget(self, comm: MPI.Comm) -> None:
        """`comm` is about to be freed by the program: it must not be touched any more."""
        with self._lock:
            self._members.pop(id(comm), None)

    def revoke(self) -> None:
        """Revoke all of them: calls on them end with an error on all of their ranks. Later ones are revoked when made."""
        with self._lock:  # `forget` waits, so that none is freed meanwhile
            self.revoked = True
            for reference in list(self._members.values()):
                comm = reference()
                if comm is not None:
                    making.revoke(comm)

    def __len__(self) -> int:
        return len(self._members)


def tracked_types() -> dict[str, type[Any]]:
    """Our class for each kind of communicator, by the name of mpi4py's. They are made once MPI is there."""
    if not _types:
        from mpi4py import MPI

        made = {}
        for kind in _KINDS:
            base = getattr(MPI, kind)
            body: dict[str, Any] = {
                "__doc__": f"An `MPI.{kind}` whose offspring is known (see `Family`).",
                "_family": None,
                "_hidden": False,  # mpi4py has what it needs of its own for it
            }
            body.update({name: _maker(getattr(base, name)) for name in _MAKERS if hasattr(base, name)})
            body.update({name: _waiter(getattr(base, name)) for name in _WAITERS if hasattr(base, name)})
            for name in _SENDRECVS.keys() & body.keys():
                body[name] = _send_alone(body[name], _SENDRECVS[name], MPI.PROC_NULL)
            body.update({name: _freer(getattr(base, name)) for name in _FREERS if hasattr(base, name)})
            made[kind] = type(f"Tracked{kind}", (base,), body)
        _types.update(made)
    return _types


_begun_types: dict[type[Any], type[Any]] = {}
_OURS = frozenset({"handle", "py2f", "Revoke", "_family", "_hidden", "__class__"})  # what is used here of one that is half made


def _begun(comm: Any) -> Any:
    """`comm`, which comes to be by a request of its own: it is whole when its program first uses anything of it."""
    kind = type(comm)
    if kind not in _begun_types:

        def use(self: Any, name: str) -> Any:
            if name not in _OURS and type(self) is not kind:
                self.__class__ = kind
                making.over(self)
            return object.__getattribute__(self, name)

        _begun_types[kind] = type(kind.__name__, (kind,), {"__getattribute__": use, "__doc__": kind.__doc__})
    comm.__class__ = _begun_types[kind]
    return comm


def watch_calls(comm: Any, calls: Callable[[bool], object] | None) -> None:
    """Have `calls` told of each blocking call of the program's on `comm` and on communicators made from it: True before it,
    False after it, in the thread that makes it. Local. Nothing happens where `comm` is not known."""
    family: Family | None = getattr(comm, "_family", None)
    if family is not None:
        family.calls = calls


def _waiter(method: Any) -> Any:
    hides = method.__name__ in _HIDING

    def wait(self: Any, *args: Any, **kw: Any) -> Any:
        if hides and not self._hidden:
            with making.making():
                made = told(self, args, kw)
            self._hidden = True
            return made
        return told(self, args, kw)

    def told(self: Any, args: Any, kw: Any) -> Any:
        calls = None if self._family is None else self._family.calls
        if calls is None:
            return method(self, *args, **kw)
        calls(True)
        try:
            return method(self, *args, **kw)
        finally:
            calls(False)

    return _named(wait, method)


def _send_alone(method: Any, names: tuple[str, ...], nobody: int) -> Any:
    """Open MPI 5.0 crashes in MPI_Sendrecv where there is `nobody` to receive from and the communicator is revoked: it gives
    back a request that it does not have. Without a source it is a send, which has no such fault. `names`: of its parameters."""
    place = names.index("source")

    def sendrecv(self: Any, *args: Any, **kw: Any) -> Any:
        if kw.get("source", args[place] if len(args) > place else None) != nobody:
            return method(self, *args, **kw)
        given = {**dict(zip(names, args, strict=False)), **kw}
        self.Send(given[names[0]], given["dest"], given.get("sendtag", 0))
        return self.Recv(given.get("recvbuf"), nobody, given.get("recvtag", -1), given.get("status"))  # sets the status

    return _named(sendrecv, method)


def _maker(method: Any) -> Any:
    def make(self: Any, *args: Any, **kw: Any) -> Any:
        with making.making():
            made = method(self, *args, **kw)
            if isinstance(made, tuple):  # with a request: it is whole some time later
                making.begun(made[0])
            elif made:
                making.over(made)
        family: Family | None = self._family
        if family is None:
            return made
        if isinstance(made, tuple):
            return (_begun(family.adopt(made[0])), *made[1:])
        return family.adopt(made) if made else made

    return _named(make, method)


def _freer(method: Any) -> Any:
    def free(self: Any) -> Any:
        if self._family is not None:
            self._family.forget(self)
        with making.freeing(self):
            return method(self)

    return _named(free, method)


def _named(ours: Any, theirs: Any) -> Any:
    ours.__name__, ours.__qualname__, ours.__doc__ = theirs.__name__, theirs.__qualname__, theirs.__doc__
    return ours
