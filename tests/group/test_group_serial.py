"""One process: the group, its communicator, and which group a communicator gets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from holdfast.errors import UsageError
from holdfast.group import SERIAL, SerialComm, SerialGroup, make_group

ONE = range(1)


def test_everything_comes_back() -> None:
    group = SerialGroup()
    assert (group.rank, group.size, group.comm) == (0, 1, SERIAL)
    assert group.gather(b"x", ONE, "a test") == [b"x"]
    assert group.broadcast(b"x", ONE, "a test") == b"x"
    pending = group.begin_max(-3, 2**63 - 1)
    assert pending.test() == pending.wait() == (-3, 2**63 - 1)
    group.close()
    group.close()


@pytest.mark.parametrize("members", [range(0), range(1, 2), range(2), range(0, -2, -1)])
def test_members_outside_the_group_are_refused(members: range) -> None:
    with pytest.raises(UsageError, match="a test: rank 0 of 1"):
        SerialGroup().gather(b"", members, "a test")


def test_a_broadcast_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="no data"):
        SerialGroup().broadcast(None, ONE, "a test")


def test_maxima_of_what_does_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="64-bit"):
        SerialGroup().begin_max(0, 2**63)
    for number in (0, 5):
        with pytest.raises(UsageError, match=f"maximum of {number} integers at once"):
            SerialGroup().begin_max(*range(number))
    assert SerialGroup().begin_max(1, 2, 3, 4).wait() == (1, 2, 3, 4)


def test_the_serial_communicator_is_one_rank() -> None:
    assert (SERIAL.rank, SERIAL.size, SERIAL.Get_rank(), SERIAL.Get_size()) == (0, 1, 0, 1)
    SERIAL.Barrier()
    SERIAL.barrier()
    value = {"a": 1}
    assert SERIAL.bcast(value) is value
    assert SERIAL.gather(value) == SERIAL.allgather(value) == [value]
    assert SERIAL.allreduce(5) == 5
    with pytest.raises(UsageError, match="root=1"):
        SERIAL.bcast(value, root=1)


@pytest.mark.parametrize("comm", [None, SERIAL, SerialComm()])
def test_no_communicator_means_one_process(comm: object) -> None:
    assert isinstance(make_group(comm, 1.0), SerialGroup)


@pytest.mark.parametrize("comm", [0, "world", object(), SerialComm])
def test_what_is_no_communicator_is_refused(comm: object) -> None:
    with pytest.raises(UsageError, match=r"no communicator.*MPI\.COMM_WORLD"):
        make_group(comm, 1.0)


def test_serial_programs_never_import_mpi4py() -> None:
    code = (
        "import sys; from holdfast.group import make_group, together\n"
        "assert together(make_group(None, 1.0), 'a test', 5) == [5]\n"
        "sys.exit(any(m.split('.')[0] == 'mpi4py' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
