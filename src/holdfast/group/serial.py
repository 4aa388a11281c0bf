"""The group of one process, and the communicator that stands for it. The default: needs no MPI."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .checks import check_data, check_int64, check_members


class SerialComm:
    """A communicator of one process, for programs that ask `run.comm` for its rank and size.

    Pass `comm=holdfast.SERIAL` to open a run of one process under a launcher that started several. It has the few
    calls of an mpi4py communicator that make sense for one process; objects are returned as they are, not copied.
    """

    rank = 0
    size = 1

    def Get_rank(self) -> int:
        """0 (local)."""
        return 0

    def Get_size(self) -> int:
        """1 (local)."""
        return 1

    def Barrier(self) -> None:
        """Returns at once."""

    barrier = Barrier

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """`obj` itself. UsageError if `root` is not 0."""
        self._check(root)
        return obj

    def gather(self, sendobj: Any, root: int = 0) -> list[Any]:
        """`[sendobj]`. UsageError if `root` is not 0."""
        self._check(root)
        return [sendobj]

    def allgather(self, sendobj: Any) -> list[Any]:
        """`[sendobj]`."""
        return [sendobj]

    def allreduce(self, sendobj: Any, op: Any = None) -> Any:
        """`sendobj` itself, whatever the operation."""
        return sendobj

    def __repr__(self) -> str:
        return "holdfast.SERIAL"

    @staticmethod
    def _check(root: int) -> None:
        if root != 0:
            raise UsageError(f"root={root}: this communicator has one process, rank 0. Nothing was done; use root=0.")


SERIAL = SerialComm()


class _Done:
    """A maximum over one rank: known when it is begun."""

    def __init__(self, result: tuple[int, ...]) -> None:
        self._result = result

    def test(self) -> tuple[int, ...] | None:
        return self._result

    def wait(self) -> tuple[int, ...]:
        return self._result


class SerialGroup:
    """The group of one process (see `Group`): nothing waits, nothing fails but wrong arguments."""

    rank = 0
    size = 1
    comm: object = SERIAL

    def gather(self, data: bytes, members: range, what: str, *, patience: int = 1) -> list[bytes] | None:
        check_members(members, 0, 1, what)
        return [data]

    def broadcast(self, data: bytes | None, members: range, what: str, *, patience: int = 1) -> bytes:
        check_members(members, 0, 1, what)
        return check_data(data, what)

    def begin_max(self, *values: int) -> _Done:
        return _Done(check_int64(*values))

    def close(self) -> None:
        pass
