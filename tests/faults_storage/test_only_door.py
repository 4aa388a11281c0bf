"""Storage is touched through `store/syscalls.py` and nowhere else: else a fault there would be one that no test injects."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "holdfast"
DOOR = "store/syscalls.py"

# Functions that read or change files, by the module that they are called on.
TOUCHING = {
    "os": {
        "open", "close", "read", "write", "pread", "preadv", "pwrite", "pwritev", "fsync", "fdatasync", "truncate",
        "ftruncate", "posix_fallocate", "link", "symlink", "unlink", "remove", "rename", "replace", "mkdir", "makedirs",
        "rmdir", "removedirs", "utime", "chmod", "chown", "listdir", "scandir", "walk", "stat", "lstat", "fstat", "sync",
        "sendfile", "copy_file_range", "mkfifo", "mknod", "fdopen", "open_by_handle",
    },
    "shutil": {"*"},
    "tempfile": {"*"},
    "mmap": set(),  # only anonymous memory; a mapping of a file needs one of the above first
    "np": {"save", "savez", "load", "memmap", "fromfile", "savetxt", "loadtxt"},
    "path": {"getsize", "getmtime"},
}  # fmt: skip
# Methods of files and paths whose names say enough, whatever they are called on.
METHODS = {"write_text", "write_bytes", "read_text", "read_bytes", "touch", "tofile", "unlink", "rmdir", "symlink_to"}

# Who may, and why. A function's name, or * for the whole file.
ALLOWED = {
    ("run/outfiles.py", "*"): "the program's own output files, not the run's storage",
    ("run/reporting.py", "_report"): "the supervisor's report file, outside the run",
    ("run/signals.py", "_handle"): "says on stderr that a signal was heard",
    ("config.py", "_file"): "reads holdfast.toml",
    ("catalog/process.py", "*"): "reads /proc",
    ("catalog/eviction.py", "*"): "reads /proc and closes a pid's descriptor",
    ("engine/helper/client.py", "_bury"): "closes its end of a socket",
    ("engine/helper/process.py", "_on_share"): "closes the descriptor of shared memory",
    ("engine/helper/protection.py", "__init__"): "reads /proc/PID/maps",
    ("engine/helper/spawn.py", "*"): "descriptors between the program and its helper process",
    ("group/repair/beside.py", "*"): "closes descriptors of processes, and its own event's",
    ("group/repair/means.py", "*"): "reads /proc/self/maps for MPI's library",
    ("group/repair/members.py", "*"): "reads /proc: which process of which node this is",
    ("group/repair/watchdog.py", "*"): "writes the last words of a process that leaves to stderr",
    ("state/pickled.py", "_fill"): "names numpy.memmap so as to refuse it",
}
# Whole folders that never write a run's storage themselves.
OUTSIDE = {
    "capture": "memory: /proc/self, userfaultfd, shared memory without a name",
    "health": "a node's memory: its board and stacks; /proc",
    "supervisor": "starts programs, reads /proc and its own report file and pipes",
    "cli": "speaks to people",
}


def test_nothing_else_touches_storage() -> None:
    found = {(file, function, call) for file, function, call in _calls()}
    assert any(file == DOOR and call == "os.pwrite" for file, _, call in found), "the scan sees nothing"
    wrong = [
        f"{file}: {function}: {call}"
        for file, function, call in sorted(found)
        if file != DOOR
        and file.split("/")[0] not in OUTSIDE
        and (file, "*") not in ALLOWED
        and (file, function) not in ALLOWED
        and not (file.startswith("store/") and call.startswith("syscalls."))
    ]
    assert not wrong, "storage is touched past store/syscalls.py:\n" + "\n".join(wrong)


def test_the_allowed_are_still_there() -> None:
    found = {(file, function) for file, function, _ in _calls()}
    stale = [key for key in ALLOWED if not any(f == key[0] and key[1] in ("*", fn) for f, fn in found)]
    assert not stale, f"nothing of this touches files any more: {stale}"


def test_only_the_store_uses_the_door() -> None:
    users = {file for file, _, call in _calls() if call.startswith("syscalls.")}
    assert users
    assert all(file.startswith("store/") for file in users), users


def _calls() -> Iterator[tuple[str, str, str]]:
    """(file, function, call) of everything in the package that touches files."""
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        yield from _calls_in(file, ast.parse(path.read_text()))


def _calls_in(file: str, tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    own = _opens_of_its_own(tree)
    for node in ast.walk(tree):
        call = None
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile"):
            names = {a.name for a in node.names} & (TOUCHING[node.module] or {"*"})
            call = f"from {node.module} import {sorted(names)}" if names or node.module != "os" else None
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            call = _attribute(node.value.id, node.attr)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            call = _attribute(node.value.attr, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open" and not own:
            call = "open"
        elif call is None and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = f".{node.func.attr}" if node.func.attr in METHODS and not _is_store(node.func) else None
        if call:
            line = node.lineno  # type: ignore[attr-defined]
            inside = [f for f in functions if f.lineno <= line <= (f.end_lineno or line)]
            yield file, max(inside, key=lambda f: f.lineno).name if inside else "", call


def _attribute(module: str, name: str) -> str | None:
    if module == "syscalls":
        return f"syscalls.{name}"
    touching = TOUCHING.get(module, set())
    return f"{module}.{name}" if name in touching or "*" in touching else None


def _is_store(function: ast.Attribute) -> bool:
    """Whether it is a method of a store (`self._store.touch`) or a function of the door."""
    on = function.value
    name = on.id if isinstance(on, ast.Name) else on.attr if isinstance(on, ast.Attribute) else ""
    return name.strip("_") in ("store", "syscalls")


def _opens_of_its_own(tree: ast.Module) -> bool:
    """Whether the module's `open` is another one (`holdfast.open`), its own or imported."""
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    return "open" in imported or any(isinstance(n, ast.FunctionDef) and n.name == "open" for n in tree.body)
