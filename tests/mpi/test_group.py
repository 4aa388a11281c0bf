"""Groups over MPI: bytes arrive whole, errors and deadlines reach all ranks alike."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from mpi4py import MPI

from holdfast.errors import DeadlineError, FencedError, RankError, StorageError, UsageError
from holdfast.group import from_root, make_group, together, transfers
from holdfast.group.mpi import MPIGroup

TIMEOUT = 20.0


@pytest.fixture
def group(comm: MPI.Intracomm) -> Iterator[MPIGroup]:
    made = make_group(comm, TIMEOUT)
    assert isinstance(made, MPIGroup)
    yield made
    made.close()
    made.close()
    assert not transfers._unfinished


def payload(rank: int, nbytes: int) -> bytes:
    return (b"%08d" % rank) * (nbytes // 8) + b"." * (nbytes % 8)


def test_the_program_keeps_its_communicator(comm: MPI.Intracomm, group: MPIGroup) -> None:
    assert group.comm is comm
    assert (group.rank, group.size) == (comm.rank, comm.size)
    assert group._comm != comm
    assert group._comm.Get_errhandler() == MPI.ERRORS_RETURN


@pytest.mark.parametrize("nbytes", [0, 1, 1000, transfers.INLINE_BYTES, transfers.INLINE_BYTES + 1, 20_000_000])
def test_gather_and_broadcast_of_any_length(group: MPIGroup, nbytes: int) -> None:
    everyone = range(group.size)
    got = group.gather(payload(group.rank, nbytes + group.rank), everyone, "a test")
    if group.rank == 0:
        assert got == [payload(r, nbytes + r) for r in everyone]
    else:
        assert got is None
    sent = payload(7, nbytes)
    assert group.broadcast(sent if group.rank == 0 else None, everyone, "a test") == sent


def test_messages_in_many_chunks(group: MPIGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "INLINE_BYTES", 10)
    monkeypatch.setattr(transfers, "CHUNK_BYTES", 1000)
    for nbytes in (10, 11, 1000, 1001, 54_321):
        got = group.gather(payload(group.rank, nbytes), range(group.size), "a test")
        assert got is None or got == [payload(r, nbytes) for r in range(group.size)]


def test_odd_ranges(group: MPIGroup) -> None:
    size, rank = group.size, group.rank
    ranges = [range(rank, rank + 1), range(size - 1, -1, -1), range(0, size, 2), range(size // 2, size), range(1, size)]
    for members in ranges:
        if rank not in members:
            continue
        got = group.gather(b"%d" % rank, members, "a test")
        assert got == ([b"%d" % m for m in members] if rank == members[0] else None)
        assert group.broadcast(b"%d" % rank, members, "a test") == b"%d" % members[0]
    # Ranks outside a range went on at once; the next call of all is not disturbed.
    assert together(group, "a test", rank) == list(range(size))


def test_wrong_members_are_refused_before_anything_is_sent(group: MPIGroup) -> None:
    for members in (range(0), range(group.size + 1), range(group.rank + 1, group.size + 1)):
        with pytest.raises(UsageError, match="a test: rank"):
            group.gather(b"", members, "a test")
    assert together(group, "a test", 1) == [1] * group.size


def test_maxima(group: MPIGroup) -> None:
    first = group.begin_max(group.rank, -group.rank)
    second = group.begin_max(-(2**63), 2**63 - 1 if group.rank == group.size - 1 else 0)
    assert together(group, "a test between", 0) == [0] * group.size
    assert second.wait() == (-(2**63), 2**63 - 1)
    while (result := first.test()) is None:
        time.sleep(0.001)
    assert result == first.wait() == (group.size - 1, 0)


def test_ranks_may_give_different_numbers_of_integers(group: MPIGroup) -> None:
    mine = range(10 * group.rank, 10 * group.rank + 1 + group.rank % 4)
    got = group.begin_max(*mine).wait()
    most = [max(10 * r + i for r in range(group.size) if r % 4 >= i) for i in range(len(mine))]
    assert got == tuple(most)


def test_a_maximum_waits_for_nobody(group: MPIGroup, comm: MPI.Intracomm) -> None:
    # Rank 0 begins only when the last rank has seen its own maximum pending.
    last = group.size - 1
    if group.rank == last:
        pending = group.begin_max(1, 1)
        if last > 0:
            assert pending.test() is None
            comm.send("begun", dest=0, tag=1)
    else:
        if group.rank == 0:
            assert comm.recv(source=last, tag=1) == "begun"
        pending = group.begin_max(0, 2)
    assert pending.wait() == ((1, 2) if last else (1, 1))


def test_together(group: MPIGroup) -> None:
    assert together(group, "a test", {"rank": group.rank, "b": b"x" * group.rank}) == [
        {"rank": r, "b": b"x" * r} for r in range(group.size)
    ]
    assert together(group, "a test") == [None] * group.size
    big = together(group, "a test", bytes(300_000))
    assert big == [bytes(300_000)] * group.size


@pytest.mark.parametrize("culprit", [0, -1])
def test_one_rank_fails_and_all_raise(group: MPIGroup, culprit: int) -> None:
    culprit %= group.size
    mine = StorageError("disk full", file="versions/x") if group.rank == culprit else None
    with pytest.raises(StorageError, match="disk full") as caught:
        together(group, "a test", 1, mine)
    assert caught.value.file == "versions/x"
    assert [c.rank for c in caught.value.causes] == [culprit]
    with pytest.raises(RankError, match=rf"a test: failed.*\n.*rank {culprit}: KeyError: 'k'") as foreign:
        together(group, "a test", error=KeyError("k") if group.rank == culprit else None)
    assert isinstance(foreign.value.__cause__, KeyError if group.rank == culprit else type(None))
    assert together(group, "a test", 2) == [2] * group.size


def test_all_ranks_fail_differently(group: MPIGroup) -> None:
    mine = FencedError("later attempt") if group.rank == group.size - 1 else OSError(f"rank {group.rank}")
    with pytest.raises(FencedError) as caught:
        together(group, "a test", error=mine)
    assert [c.rank for c in caught.value.causes] == list(range(group.size))


def test_from_root(group: MPIGroup) -> None:
    assert from_root(group, "a test", lambda: {"ran on": group.rank}) == {"ran on": 0}

    def fail() -> object:
        raise FencedError("later attempt", version=3)

    with pytest.raises(FencedError, match="later attempt") as caught:
        from_root(group, "a test", fail)
    assert caught.value.version == 3
    assert [c.rank for c in caught.value.causes] == [0]


def test_two_groups_on_one_communicator_do_not_mix(comm: MPI.Intracomm, group: MPIGroup) -> None:
    other = make_group(comm, TIMEOUT)
    # Opposite order on odd ranks: only messages that belong to no one group could be taken for the other's.
    calls = [(group, b"one"), (other, b"two")]
    everyone = range(group.size)
    if group.rank == 0:
        results = [g.gather(b, everyone, "a test") for g, b in calls]
        assert results == [[b"one"] * group.size, [b"two"] * group.size]
    else:
        for g, b in calls if group.rank % 2 else reversed(calls):
            assert g.gather(b, everyone, "a test") is None
    # The program's own messages, whatever their tags, are not the groups' either.
    request = comm.isend("mine", dest=group.rank, tag=transfers.TAG)
    assert together(group, "a test", 1) == [1] * group.size
    assert comm.recv(source=group.rank, tag=transfers.TAG) == "mine"
    request.wait()
    other.close()


SOON = 1.0  # a rank that is late by less, because the machine is busy, is not taken for one that stays away


@pytest.fixture
def impatient(comm: MPI.Intracomm) -> Iterator[MPIGroup]:
    """A group that gives up soon, made with time enough; on one rank alone, nobody can stay away."""
    made = MPIGroup(comm, TIMEOUT)
    made._timeout = SOON
    comm.Barrier()  # the ranks begin together: how late one is, is the test's to say
    yield made
    made.close()


@pytest.mark.parametrize("nbytes", [10, 3_000_000])
def test_a_rank_that_stays_away_is_named_and_its_late_messages_dropped(
    comm: MPI.Intracomm, impatient: MPIGroup, nbytes: int
) -> None:
    last = comm.size - 1
    value = {"call": 1, "bytes": bytes(nbytes)}
    start = time.monotonic()
    if comm.size > 1:
        if comm.rank == last:
            for r in range(last):
                assert comm.recv(source=r) == "gave up"
        with pytest.raises(DeadlineError, match=f"settling: rank 0 has waited {SOON:g} s for rank {last} ") as caught:
            together(impatient, "settling", value)
        if comm.rank != last:
            assert time.monotonic() - start < 5
            comm.send("gave up", dest=last)
        else:
            # The late rank hears the verdict that the others have acted upon.
            assert [c.rank for c in caught.value.causes] == [0]
    comm.Barrier()
    impatient._timeout = TIMEOUT
    for call in (2, 3):
        got = together(impatient, "settling again", {"call": call, "rank": comm.rank})
        assert got == [{"call": call, "rank": r} for r in range(comm.size)]


def test_a_root_that_stays_away_is_named(comm: MPI.Intracomm, impatient: MPIGroup) -> None:
    everyone = range(comm.size)
    if comm.rank > 0:
        with pytest.raises(DeadlineError, match=f"waited {SOON:g} s for rank 0 and gives up") as caught:
            impatient.broadcast(None, everyone, "a test")
        assert caught.value.rank == 0
    comm.Barrier()
    impatient._timeout = TIMEOUT
    if comm.rank == 0:
        impatient.broadcast(b"late", everyone, "a test")
    comm.Barrier()
    assert impatient.broadcast(b"in time", everyone, "a test") == b"in time"


def test_a_large_message_that_nobody_takes(comm: MPI.Intracomm, impatient: MPIGroup) -> None:
    everyone = range(comm.size)
    data = payload(comm.rank, 20_000_000)
    if comm.rank > 0:
        with pytest.raises(DeadlineError, match="for rank 0 and gives up"):
            impatient.gather(data, everyone, "a test")
        assert transfers._unfinished  # kept: MPI may still read it
    comm.Barrier()
    slow = MPIGroup(comm, TIMEOUT)
    if comm.rank == 0:
        # What was given up was sent nevertheless, and is whole.
        impatient._timeout = TIMEOUT
        got = impatient.gather(data, everyone, "a test")
        assert got == [payload(r, 20_000_000) for r in everyone]
    assert together(slow, "a test", 1) == [1] * comm.size
    slow.close()


def test_who_was_late_already_is_not_waited_for_again_to_take_bytes(comm: MPI.Intracomm, impatient: MPIGroup) -> None:
    last, everyone, data = comm.size - 1, range(comm.size), payload(7, 3_000_000)
    if comm.rank == 0 and last > 0:
        with pytest.raises(DeadlineError, match=f"for rank {last} "):
            impatient.gather(b"", everyone, "a test")
        start = time.monotonic()
        with pytest.raises(DeadlineError, match=f"does not wait for rank {last} again"):
            impatient.broadcast(data, everyone, "a test", patience=20)
        assert time.monotonic() - start < 5 * SOON  # those that are there have it, which takes a moment
        comm.send("gave up", dest=last)
    else:
        if comm.rank == last > 0:
            assert comm.recv(source=0) == "gave up"
        impatient._timeout = TIMEOUT
        impatient.gather(b"", everyone, "a test")
        assert impatient.broadcast(data, everyone, "a test", patience=20) == data  # the bytes were kept for the late rank
    comm.Barrier()
    impatient._timeout = TIMEOUT
    assert together(impatient, "another", comm.rank) == list(everyone)
    assert not impatient._late


def test_a_maximum_has_a_deadline(comm: MPI.Intracomm, impatient: MPIGroup) -> None:
    last = comm.size - 1
    if comm.size > 1 and comm.rank != last:
        pending = impatient.begin_max(comm.rank, 0)
        with pytest.raises(DeadlineError, match=f"maximum over ranks: rank {comm.rank} has waited {SOON:g} s"):
            pending.wait()
    comm.Barrier()
    impatient._timeout = TIMEOUT
    if comm.rank == last or comm.size == 1:
        pending = impatient.begin_max(comm.rank, 0)
    assert pending.wait() == (last, 0)


def test_ranks_that_make_different_calls_are_told(comm: MPI.Intracomm, impatient: MPIGroup) -> None:
    # Rank 0 leaves out its part of a broadcast's counterpart: it gathers once where the others send twice.
    everyone = range(comm.size)
    impatient._timeout = TIMEOUT
    if comm.rank > 0:
        impatient._sent[0] += 1  # as if this rank had made a call more
    got = None
    if comm.rank == 0 and comm.size > 1:
        with pytest.raises(RankError, match="calls ahead of rank 0: the ranks have not made the same"):
            impatient.gather(b"", everyone, "a test")
    else:
        got = impatient.gather(b"", everyone, "a test")
    assert got == ([b""] if comm.size == 1 else None)
    comm.Barrier()


@pytest.mark.parametrize("nbytes", [0, 3, 200_000])
def test_what_belongs_to_another_call_is_never_taken_for_an_answer(
    comm: MPI.Intracomm, impatient: MPIGroup, nbytes: int
) -> None:
    two = range(min(comm.size, 2))
    impatient._timeout = TIMEOUT
    if comm.rank == 1:
        impatient.gather(bytes(nbytes), two, "one é")  # rank 0 leaves it out
    if comm.rank == 1 or comm.size == 1:
        impatient.gather(b"right", two, "two")
    elif comm.rank == 0:
        with pytest.raises(RankError, match=r"two: .*rank 1 is in another call \(one é\) than rank 0") as caught:
            impatient.gather(b"right", two, "two")
        assert caught.value.rank == 1
    comm.Barrier()


def test_an_interrupted_group_takes_no_part_any_more(comm: MPI.Intracomm) -> None:
    group = MPIGroup(comm, TIMEOUT)

    class Interrupting:
        def advance(self) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group._run({0: Interrupting()}, "a test", 1, receiving=True)
    start = time.monotonic()
    with pytest.raises(RankError, match="interrupted during a test"):
        together(group, "another", 1)
    assert time.monotonic() - start < TIMEOUT / 2  # it did not wait
    group.close()


def test_errors_of_mpi_become_rank_errors(comm: MPI.Intracomm) -> None:
    group = MPIGroup(comm, TIMEOUT)
    beyond = comm.size  # no such rank
    for peers in ({beyond: group._outgoing(beyond, "a test", b"x")}, {beyond: group._expect(beyond, "a test")}):
        with pytest.raises(
            RankError, match=rf"a test: the exchange with rank {beyond} failed: MPI says: .*RANK"
        ) as caught:
            group._run(peers, "a test", 1, receiving=True)
        assert caught.value.rank == beyond
        assert isinstance(caught.value.__cause__, MPI.Exception)
    assert together(group, "a test", 1) == [1] * comm.size
    group.close()
    with pytest.raises(RankError, match="closed"):
        together(group, "a test", 1)


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_every_wait_has_a_deadline(comm: MPI.Intracomm, timeout: float) -> None:
    with pytest.raises(UsageError, match="every wait has a deadline"):
        MPIGroup(comm, timeout)


def test_what_is_no_intracommunicator_is_refused() -> None:
    with pytest.raises(UsageError, match="no intracommunicator"):
        MPIGroup(MPI.COMM_NULL, 1.0)


def test_a_closed_group_is_refused(comm: MPI.Intracomm) -> None:
    group = MPIGroup(comm, TIMEOUT)
    group.close()
    with pytest.raises(RankError, match="closed"):
        together(group, "a test", 1)
    with pytest.raises(RankError, match="closed"):
        group.begin_max(0, 0)
