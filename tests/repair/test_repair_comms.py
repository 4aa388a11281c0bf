"""Communicators that are made from the tracked one are known as long as the program has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# In a process of its own: MPI in the one that runs all tests would stay there for good.
CODE = """
import gc
from mpi4py import MPI
from holdfast.group import making
from holdfast.group.repair.comms import Family, tracked_types
from holdfast.group.repair.hidden import handles

family = Family()
comm = family.adopt(MPI.COMM_WORLD.Dup())
assert isinstance(comm, MPI.Intracomm) and comm.size == 1 and len(family) == 1
one = [0]
made = {
    "Dup": comm.Dup(), "Clone": comm.Clone(), "Split": comm.Split(0, 0), "Create": comm.Create(comm.group),
    "Create_group": comm.Create_group(comm.group), "Split_type": comm.Split_type(MPI.COMM_TYPE_SHARED),
    "Create_cart": comm.Create_cart([1]), "Create_graph": comm.Create_graph([1], [0]),
    "Create_dist_graph_adjacent": comm.Create_dist_graph_adjacent(one, one),
    "Create_dist_graph": comm.Create_dist_graph(one, [1], one),
}
made["of a Split"] = made["Split"].Dup()
made["of a Cart"] = made["Create_cart"].Dup()
made["Sub"] = made["Create_cart"].Sub([True])
made["Idup"], request = comm.Idup()
request.Wait()
for name, each in made.items():
    assert isinstance(each, tuple(tracked_types().values())) and each._family is family, name
    each.Barrier()
assert isinstance(made["Sub"], MPI.Cartcomm) and made["Sub"].Get_topo()[0] == [1]
assert isinstance(made["Create_graph"], MPI.Graphcomm)
assert len(family) == 1 + len(made)
assert comm.Split(MPI.UNDEFINED, 0) == MPI.COMM_NULL and len(family) == 1 + len(made)

made.pop("Clone").Free()  # a freed one must not be touched again
made.pop("Create").Disconnect()
del each
made.pop("Dup")
gc.collect()
assert len(family) == 1 + len(made), len(family)

# Nobody to receive from: Open MPI's own crashes on what is revoked (see comms.py).
sent, got, status = bytearray(b"abc"), bytearray(3), MPI.Status()
request = comm.Irecv(got, 0, 7)
comm.Sendrecv(sent, dest=0, sendtag=7, recvbuf=None, source=MPI.PROC_NULL, status=status)
request.Wait()
assert got == sent and status.Get_source() == MPI.PROC_NULL
comm.Sendrecv(b"xyz", 0, 1, got, 0, 1)
assert got == b"xyz"
later, request = comm.Idup()
request.Wait()
assert type(later) not in tracked_types().values()  # until its program uses it, it may be half made
assert later.Get_size() == 1 and type(later) in tracked_types().values()
made["Idup, used"] = later

family.revoke()
for call in (
    lambda: comm.Sendrecv(sent, 0, 0, got, MPI.PROC_NULL), lambda: comm.Sendrecv_replace(sent, 0, 0, MPI.PROC_NULL)
):
    try:
        call()
    except MPI.Exception as error:
        assert "REVOKED" in error.Get_error_string()
    else:
        raise AssertionError("it was revoked")
assert all(c.Is_revoked() for c in (comm, *made.values()))
other = family.adopt(MPI.COMM_WORLD.Dup())  # made in another thread while the family was being revoked
assert other.Is_revoked() and not MPI.COMM_WORLD.Is_revoked()
foreign = MPI.Intracomm(comm)
assert type(foreign) is MPI.Intracomm

# What is being made is left alone, what an error has left for ever; what another thread has made meanwhile is whole.
making.look_with(handles)
tracked = Family().adopt(MPI.COMM_WORLD.Dup())
with making.making():
    new = MPI.COMM_WORLD.Dup()
    making.revoke(new)
    assert not new.Is_revoked()
    told = tracked.Dup()
    making.revoke(told)
    assert told.Is_revoked()
making.revoke(new)
assert new.Is_revoked()
try:
    with making.making():
        left = MPI.COMM_WORLD.Dup()
        raise ValueError
except ValueError:
    making.revoke(left, long_after=True)
assert not left.Is_revoked()
with making.making():
    late = MPI.COMM_WORLD.Dup()
    making.revoke(late, long_after=True)  # a rank that waits on it inside of its making
assert late.Is_revoked()
print("all well")
"""


def test_the_family(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout == "all well\n" and done.returncode == 0, done.stdout + done.stderr
