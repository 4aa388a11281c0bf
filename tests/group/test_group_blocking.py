"""No call of MPI's that may wait for other ranks stands in the library without a deadline: shown from the source.

What mpi4py has is asked of mpi4py. Each of its names that the library uses is either known to wait for nobody, or stands in a
list with what bounds it. `tests/stopped` shows the same by stopping ranks at these calls.
"""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "holdfast"

# In another process, and without starting MPI.
_ASK = """
import inspect, json, mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
kinds = [c for c in vars(MPI).values() if inspect.isclass(c) and not issubclass(c, (int, BaseException))]
methods = {m for c in kinds for m in dir(c) if m[:1] != "_" and callable(getattr(c, m))}
functions = {n for n, f in vars(MPI).items() if n[:1] != "_" and inspect.isroutine(f)}
print(json.dumps(sorted(methods | functions)))
"""

# They wait for nobody: by the standard local, or nonblocking. Revoke is neither collective nor waits, as ULFM has it.
HARMLESS = {
    "Ack_failed", "Compare", "Get_count", "Get_error_string", "Get_failed", "Get_group", "Get_library_version", "Get_rank",
    "Get_size", "Iallgather", "Iallreduce", "Idup", "Improbe", "Iprobe", "Irecv", "Is_finalized", "Is_initialized", "Is_inter",
    "Is_revoked", "Isend", "Query_thread", "Revoke", "Set_errhandler", "Test", "Translate_ranks",
}  # fmt: skip

MODULES = ("threading", "functools", "itertools", "operator", "np", "select", "signal")  # none of them has a communicator
WATCHED = "a step of the watchdog's"


class Use(NamedTuple):
    """A name of mpi4py's in the library's source: file, innermost function, what it is called on, the name."""

    file: str
    function: str
    on: str
    name: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}: {self.on}.{self.name}"


# All that may wait, and why that is no wait without a deadline. WATCHED is checked, too: see WATCHED_BY.
ALLOWED = {
    Use("group/repair/crew.py", "form", "base", "Split"): WATCHED,
    Use("group/repair/means.py", "shrink", "self._base", "Shrink"): WATCHED,
    Use("group/repair/means.py", "make", "self.crew", "Split"): WATCHED,
    Use("group/repair/means.py", "make", "comm", "Dup"): WATCHED,
    Use("group/repair/comms.py", "sendrecv", "self", "Send"): "in a call of the program's own, which waits for it",
    Use("group/repair/comms.py", "sendrecv", "self", "Recv"): "from nobody",
}
# Where the step is that watches: file, and the call inside of it.
WATCHED_BY = {
    Use("group/repair/crew.py", "form", "base", "Split"): ("group/repair/crew.py", "base.Split"),
    Use("group/repair/means.py", "shrink", "self._base", "Shrink"): ("group/repair/machine.py", "means.shrink"),
    Use("group/repair/means.py", "make", "self.crew", "Split"): ("group/repair/machine.py", "means.make"),
    Use("group/repair/means.py", "make", "comm", "Dup"): ("group/repair/machine.py", "means.make"),
}
# Names in lower case are also those of many other things. They count where something of mpi4py's may be at hand, and not on
# what is known to be something else: what it is called on, in which file or anywhere ("").
WAITING = {
    "send", "bsend", "ssend", "sendrecv", "recv", "probe", "mprobe", "wait", "waitall", "waitany", "waitsome", "barrier",
    "bcast", "gather", "scatter", "allgather", "alltoall", "reduce", "allreduce", "scan", "exscan", "neighbor_allgather",
    "neighbor_alltoall",
}  # fmt: skip
OTHERS = {
    ("", "group.gather"): "ours (group/base.py), with a deadline",
    ("", "self._group.gather"): "ours (group/base.py), with a deadline",
    ("", "self._changed.wait"): "a condition of threads",
    ("group/repair/watcher.py", "self._over.wait"): "a flag of threads",
    ("run/repairing.py", "with_all.begin_max(0).wait"): "ours, with a deadline",
    ("run/watching.py", "self._pending.wait"): "ours, with a deadline",
}
# MPI starts where mpi4py.MPI is imported first, and that waits for all ranks. In `group/` it runs already: it is given a
# communicator. Elsewhere:
STARTS = {
    ("run/launch.py", "_world"): "the program's start: before it there is no run; its launcher ends it when a rank dies",
    ("run/launch.py", "_check_world"): "a communicator is at hand: MPI runs",
    ("run/levels/program.py", "main"): "a program of our own: whoever started it watches its time",
}
# Where attributes are looked up by names that are not to be seen there.
BY_NAME = {
    "group/repair/comms.py": "the methods that the program calls, which are called for it",
    "group/repair/means.py": "functions of the MPI library by ctypes: local ones, for numbers of communicators",
}


@functools.cache
def names() -> frozenset[str]:
    """All public methods and functions of mpi4py that is installed."""
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout))


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


@functools.cache
def walk(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    """Every node, with the name of the innermost function around it ("": none)."""
    found: list[tuple[ast.AST, str]] = []
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, function = waiting.pop()
        found.append((node, function))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        waiting += [(child, function) for child in ast.iter_child_nodes(node)]
    return found


def uses(file: str, tree: ast.Module) -> Iterator[Use]:
    """Names of mpi4py's API proper, which begin with a capital, on whatever they are used."""
    for node, function in walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0].isupper() and not node.attr.isupper() and node.attr in names():
            on = ast.unparse(node.value)
            if on not in MODULES and not (node.attr == "Free" and on in lists_of_ranks(tree, function)):
                yield Use(file, function, on, node.attr)


def waits(file: str, tree: ast.Module) -> Iterator[Use]:
    """Methods in lower case that may be those of a communicator or a request, in a file that may have one."""
    nodes = list(walk(tree))
    words = {getattr(node, "id", None) or getattr(node, "attr", None) for node, _ in nodes}
    if file.startswith("group/") or words & {"comm", "_comm", "MPI"}:
        for node, function in nodes:
            if isinstance(node, ast.Attribute) and node.attr in WAITING and ast.unparse(node.value) not in MODULES:
                yield Use(file, function, ast.unparse(node.value), node.attr)


@functools.cache
def lists_of_ranks(tree: ast.Module, function: str) -> set[str]:
    """Names of a function for groups of MPI's, which are lists of ranks: freeing these is local."""
    found = set()
    for node, inside in walk(tree):
        if inside != function or not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(value, ast.Call) and ast.unparse(value.func).endswith((".Get_group", ".Get_failed")):
                    found.add(ast.unparse(name))
    return found


def wrong(file: str, tree: ast.Module) -> list[str]:
    """What must not stand there."""
    found = [str(use) for use in uses(file, tree) if use.name not in HARMLESS and use not in ALLOWED]
    for use in waits(file, tree):
        call = f"{use.on}.{use.name}"
        if ("", call) not in OTHERS and (file, call) not in OTHERS:
            found.append(str(use))
    return found


def test_no_wait_for_other_ranks_without_a_deadline() -> None:
    found = [text for file, tree in trees().items() for text in wrong(file, tree)]
    assert not found, "these calls may wait for other ranks for ever:\n" + "\n".join(found)


def test_what_is_allowed_is_there() -> None:
    found = {use for file, tree in trees().items() for use in uses(file, tree)}
    assert {use.name for use in found} >= HARMLESS, f"not used any more: {HARMLESS - {use.name for use in found}}"
    assert not HARMLESS - names(), f"mpi4py has no such thing: {HARMLESS - names()}"
    assert set(ALLOWED) <= found, f"not there any more: {[str(use) for use in set(ALLOWED) - found]}"
    calls = {(file, f"{use.on}.{use.name}") for file, tree in trees().items() for use in waits(file, tree)}
    stale = [key for key in OTHERS if key not in calls and (key[0] or not any(call == key[1] for _, call in calls))]
    assert not stale, f"not there any more: {stale}"


def test_what_is_watched_is_inside_a_step_of_the_watchdog() -> None:
    assert {use for use, why in ALLOWED.items() if why == WATCHED} == set(WATCHED_BY)
    for use, (file, call) in WATCHED_BY.items():
        calls = [n for n in ast.walk(trees()[file]) if isinstance(n, ast.Call) and ast.unparse(n.func) == call]
        assert calls, f"{call} is not called in {file}"
        for node in calls:
            assert watched(trees()[file], node), f"{file}:{node.lineno}: {call} is outside of any step ({use})"


def watched(tree: ast.Module, node: ast.AST) -> bool:
    """Whether a block `with step(...)` of the watchdog's is around it."""
    for block in ast.walk(tree):
        if isinstance(block, ast.With) and any(inner is node for body in block.body for inner in ast.walk(body)):
            for item in block.items:
                if isinstance(item.context_expr, ast.Call) and ast.unparse(item.context_expr.func).split(".")[-1] == "step":
                    return True
    return False


def test_methods_by_their_names_are_the_programs_own() -> None:
    """A method can be called by `getattr`, too, with a name that is not to be seen there."""
    found = {
        file for file, tree in trees().items()
        for node, _ in walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr"
        and (file.startswith("group/") or ast.unparse(node.args[0]).split(".")[-1].strip("_") in ("comm", "MPI", "request"))
        and not (isinstance(node.args[1], ast.Constant) and node.args[1].value not in names() - HARMLESS)
    }  # fmt: skip
    assert found <= set(BY_NAME), f"may call anything: {found - set(BY_NAME)}"
    assert set(BY_NAME) <= found, f"not there any more: {set(BY_NAME) - found}"


def test_who_starts_mpi() -> None:
    found = set()
    for file, tree in trees().items():
        typing = {
            inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }  # fmt: skip
        for node, function in walk(tree):
            names_ = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if node not in typing and any(f"{module}.{name}".strip(".").startswith("mpi4py.MPI") for name in names_):
                assert function, f"{file} starts MPI when it is imported"
                if not file.startswith("group/"):
                    found.add((file, function))
    assert found == set(STARTS)


def test_every_call_that_is_begun_is_kept_until_it_is_over() -> None:
    """What is nonblocking is given to a `Transfer`, which polls it: nobody waits for a request by MPI's own means."""
    for file, tree in trees().items():
        kept = {
            id(inner) for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Transfer", "_Moving") for inner in ast.walk(node)
        }  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("Isend", "Irecv"):
                assert id(node) in kept, f"{file}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    ("file", "text", "count"),
    [
        ("group/mpi.py", "def f(comm): comm.Barrier()", 1),
        ("run/run.py", "def f(x): x.group.comm.Allreduce(a, b)", 1),
        ("run/run.py", "def f(comm): comm.bcast(1)", 1),
        ("run/run.py", "def f(x):\n    x.comm.isend(1).wait()", 1),
        ("group/mpi.py", "def f(request): request.Wait(); request.wait()", 2),
        ("group/mpi.py", "def f(self): self._comm.Free()", 1),
        ("group/mpi.py", "def f(c):\n    a, b = c.Get_group(), 1\n    a.Free()", 0),
        ("group/mpi.py", "def f(c):\n    a, b = 1, c.Idup()\n    a.Free()", 1),
        ("group/mpi.py", "def f(self): self._comm.Isend(b, 1).Test()", 0),
        ("group/repair/means.py", "class M:\n    def shrink(self): self._base.Shrink()", 0),
        ("group/repair/means.py", "class M:\n    def other(self): self._base.Shrink()", 1),
        ("store/posix.py", "def f(x): x.wait(); x.send(1)", 0),
    ],
)  # fmt: skip
def test_the_rule_itself(file: str, text: str, count: int) -> None:
    assert len(wrong(file, ast.parse(text))) == count


def test_a_step_is_recognised() -> None:
    tree = ast.parse("with dog.step('x', 1), lock:\n    a.Split()\nb.Split()\nwith other():\n    c.Split()\n")
    found = {ast.unparse(n.func): watched(tree, n) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert (found["a.Split"], found["b.Split"], found["c.Split"]) == (True, False, False)
