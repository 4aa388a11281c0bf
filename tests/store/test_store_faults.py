"""Every storage call fails, or is the last one: what is put is absent or whole, and the error is ours."""

import errno
import os
import signal

import numpy as np
import pytest
from faults import Call, Faults, named

from holdfast.errors import HoldfastError, StorageError
from holdfast.store import KeyExistsError, KeyMissingError, PosixStore, SystemCallError, syscalls
from holdfast.store.aligned import empty

DATA = bytes(range(256)) * 40


@pytest.fixture
def fresh(tmp_path):
    """Makes a new store each time."""
    stores = iter(range(10_000))
    return lambda: PosixStore(tmp_path / f"run{next(stores)}", create=True)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def put(store):
    store.put("a/b/k", DATA)


def write_large(store):
    data = empty(16_384)
    data[: len(DATA)] = np.frombuffer(DATA, np.uint8)
    with store.create("a/b/k", 16_384) as writer:
        writer.write(0, data)
        writer.finish()


def count(fresh, job):
    store = fresh()
    with Faults("count") as faults:
        job(store)
    return faults.count


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("job", [put, write_large])
def test_every_call_fails_in_turn(fresh, job, code):
    """The object is absent or complete, nothing else is left, the error is ours, and the next try works."""
    total = count(fresh, job)
    assert total >= 15
    failed = 0
    before = open_descriptors()
    for at in range(1, total + 1):
        store = fresh()
        with Faults("error", at=at, errno=code) as faults:
            try:
                job(store)
            except SystemCallError as error:
                failed += 1
                assert error.errno == code
                assert errno.errorcode[code] in str(error)
                assert error.file
                ok = False
            else:
                ok = True
        assert faults.fired == 1
        if ok:  # these alone may fail unnoticed: nothing depends on them, or there is another way
            lost = faults.hit[0]
            assert lost.name in ("close", "unlink") or (lost.name == "open" and lost.flags & os.O_DIRECT)
        if store.exists("a/b/k"):
            assert store.get("a/b/k", 20_000)[: len(DATA)] == DATA
        else:
            assert not ok
        assert len(store.leftovers("a/b")) <= (not ok or job is put)  # one if it was the unlink that failed
        store.remove_leftovers("a/b") if store.leftovers("a/b") else None
        if not store.exists("a/b/k"):
            job(store)
        assert store.list("a/b") == ["k"]
    assert failed >= total // 2
    assert open_descriptors() == before


def test_each_fsync_matters(fresh):
    """No fsync's failure is swallowed, of file or directory."""
    for job in (put, write_large):
        store = fresh()
        with Faults(match=named("fsync")) as trace:
            job(store)
        assert trace.count == 4  # two directories made, file, directory
        for at in range(1, 5):
            store = fresh()
            with Faults("error", at=at, match=named("fsync")), pytest.raises(SystemCallError, match="EIO"):
                job(store)
    store = fresh()
    put(store)
    for job in (
        lambda: store.delete("a/b/k"),
        lambda: store.delete_tree("a/b"),
        lambda: store.sync("a"),
        lambda: store.sync_root(),
    ):
        with Faults("error", at=1, match=named("fsync")) as faults, pytest.raises(SystemCallError, match="EIO"):
            job()
        assert faults.fired == 1


def test_a_file_system_without_fsync_of_directories_will_do(fresh):
    store = fresh()
    isdir = named("fsync")
    with Faults("error", errno=errno.EINVAL, match=lambda call: isdir(call) and os.path.isdir(call.path)) as faults:
        put(store)
    assert faults.fired == 3
    with Faults("error", errno=errno.EINVAL, match=named("fsync", path=".tmp-")), pytest.raises(SystemCallError):
        store.put("a/l", b"x")


def test_failed_writes_leave_no_temporary_file(fresh):
    store = fresh()
    put(store)
    for name in ("pwrite", "fsync", "link"):
        with (
            Faults("error", errno=errno.ENOSPC, match=named(name, path="/.tmp-")) as faults,
            pytest.raises(SystemCallError, match=r"disk full \(ENOSPC\)"),
        ):
            store.put("a/b/l", DATA)
        assert faults.fired == 1
        assert store.leftovers("a/b") == []
        assert store.list("a/b") == ["k"]


def test_no_space_for_a_large_file(fresh):
    store = fresh()
    with (
        Faults("error", errno=errno.ENOSPC, match=named("fallocate")),
        pytest.raises(SystemCallError, match="disk full"),
    ):
        store.create("a/k", 1 << 20)
    assert store.list("a") == []


# -- naming


def test_without_links_a_rename_that_never_replaces(fresh):
    for code in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
        store = fresh()
        with Faults("error", errno=code, match=named("link")) as faults:
            store.put("a/k", b"first")
            with pytest.raises(KeyExistsError):
                store.put("a/k", b"second")
        assert faults.fired == 2
        assert store.get("a/k", 10) == b"first"
        assert store.leftovers("a") == []


def test_with_neither_the_file_system_is_refused(fresh):
    store = fresh()
    with (
        Faults("error", errno=errno.EOPNOTSUPP, match=named("link", "rename_new")),
        pytest.raises(StorageError, match="another file system"),
    ):
        store.put("a/k", b"x")
    assert store.list("a") == store.leftovers("a") == []


@pytest.mark.parametrize("code", [errno.EEXIST, errno.EIO, errno.ENOENT])
def test_a_link_that_succeeded_and_says_otherwise(fresh, monkeypatch, code):
    """NFS: the answer was lost, the repetition finds its own work."""
    real = syscalls.link

    def lost(old, new):
        real(old, new)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "link", lost)
    store = fresh()
    store.put("a/k", b"x")
    assert store.get("a/k", 1) == b"x"
    assert store.leftovers("a") == []


# -- reading, deleting


def test_reading_fails_at_every_call(fresh):
    store = fresh()
    put(store)
    jobs = {
        "get": lambda s: s.get("a/b/k", 20_000),
        "list": lambda s: s.list("a/b"),
        "tree": lambda s: list(s.tree("")),
        "size": lambda s: s.size("a/b/k"),
        "age": lambda s: s.age("a/b/k"),
        "touch": lambda s: s.touch("a/b/k"),
        "owner": lambda s: s.owner_is_me("a/b/k"),
        "exists": lambda s: s.exists("a/b/k"),
    }
    for job in jobs.values():
        opened = PosixStore(store.location, create=False)
        with Faults("count") as faults:
            job(opened)
        assert faults.count > 0
        for at in range(1, faults.count + 1):
            opened = PosixStore(store.location, create=False)
            with Faults("error", at=at) as faults:
                try:
                    job(opened)
                except SystemCallError as error:
                    assert error.errno == errno.EIO
                else:
                    assert faults.hit[0].name in ("close", "unlink")
            assert faults.fired == 1
    store.remove_leftovers("a/b")
    assert store.get("a/b/k", 20_000) == DATA


def test_deleting_fails_at_every_call_and_can_be_repeated(fresh):
    def job(store):
        store.delete_tree("a")

    total = None
    at = 0
    while total is None or at < total:
        at += 1
        store = fresh()
        put(store)
        store.put("a/c", b"")
        store = PosixStore(store.location, create=False)
        with Faults("error", at=at) as faults:
            try:
                job(store)
            except SystemCallError as error:
                assert error.errno == errno.EIO
        if not faults.fired:
            total = at
            assert total > 10
        job(store)
        assert store.list("") == []


# -- killed


def killed(store, spec, job):
    """Does the job in a forked child with this fault; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            with Faults.parse(spec):
                job(store)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, os.WUNTRACED)[1], child


@pytest.mark.parametrize("mode", ["kill", "torn"])
def test_killed_at_every_call_of_a_put(fresh, mode):
    """The key is absent or whole, never torn; what is left behind is a temporary file."""
    total = count(fresh, put)
    for at in range(1, total + 1):
        store = fresh()
        status, _ = killed(store, f"{mode} at={at}", put)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        after = PosixStore(store.location, create=False)
        if after.exists("a/b/k"):
            assert after.get("a/b/k", 20_000) == DATA
        else:
            put(after)
        assert after.list("a/b") == ["k"]
        assert len(after.leftovers("a/b")) <= 1
        after.remove_leftovers("a/b")
        assert after.leftovers("a/b") == []


def test_a_torn_write_is_there_by_half(fresh):
    store = fresh()
    status, _ = killed(store, "torn at=1 name=pwrite", write_large)
    assert os.WTERMSIG(status) == signal.SIGKILL
    stored = store.get("a/b/k", 20_000)
    assert len(stored) == 16_384
    assert stored[:8192] == DATA[:8192]
    assert not any(stored[8192:])


def test_stopped_before_its_link_a_writer_comes_too_late(fresh):
    store = fresh()
    status, child = killed(store, "stop at=1 name=link", put)
    assert os.WIFSTOPPED(status)
    assert not store.exists("a/b/k")
    store.put("a/b/k", b"the other")
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert store.get("a/b/k", 20) == b"the other"


# -- the injector itself


def test_errors_say_what_is_safe_and_what_to_do(fresh):
    store = fresh()
    with Faults("error", errno=errno.ENOSPC, match=named("pwrite")), pytest.raises(StorageError) as caught:
        store.put("a/k", b"x")
    text = str(caught.value)
    assert text == (
        f"can't write {store.location}/a/k: disk full (ENOSPC). What was stored before is intact; free space there, "
        "then try again."
    )
    assert caught.value.file == "a/k"
    assert isinstance(caught.value.__cause__, OSError)
    for kind in (SystemCallError, KeyExistsError, KeyMissingError):
        again = HoldfastError.from_wire(kind("m", file="k").to_wire())
        assert type(again) is kind
        assert again.file == "k"


def test_the_injector_restores_what_it_replaced(fresh):
    before = {name: getattr(syscalls, name) for name in syscalls.__all__}
    with Faults(), Faults("error", at=1000):
        put(fresh())
        assert syscalls.open is not before["open"]
    assert {name: getattr(syscalls, name) for name in syscalls.__all__} == before


def test_the_injector_counts_what_matches(fresh):
    with Faults(match=named("pwrite", "fsync", path="/k")) as trace:
        write_large(fresh())
    assert [call.name for call in trace.calls] == ["pwrite", "fsync"]
    assert trace.calls[0].offset == 0
    assert trace.calls[0].nbytes == 16_384
    assert isinstance(trace.calls[0], Call)
    for bad in ("explode at=1", "kill at=1 what=2", "kill name=opne"):
        with pytest.raises(ValueError, match=r"none of|no option|no storage call"):
            Faults.parse(bad)


def test_every_storage_call_goes_through_one_module():
    """posix.py and its neighbours use nothing of `os` that touches storage."""
    import ast
    import pathlib

    import holdfast.store

    innocent = {
        "O_DIRECT", "O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "path",
        "PathLike", "fsdecode", "strerror", "stat_result", "urandom", "geteuid",
    }  # fmt: skip
    harmless_paths = {"abspath", "dirname"}
    seen = 0
    for file in pathlib.Path(holdfast.store.__file__).parent.glob("*.py"):
        if file.name == "syscalls.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                seen += 1
                assert node.attr in innocent, f"{file.name}:{node.lineno} os.{node.attr}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os.path":
                assert node.attr in harmless_paths, f"{file.name}:{node.lineno} os.path.{node.attr}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{file.name}:{node.lineno} open()"
    assert seen > 10
