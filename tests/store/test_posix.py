"""A directory as a store: the kit, and what only a directory can do to us."""

import ctypes
import errno
import mmap
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from faults import Faults, named

from holdfast.errors import DamageError, StorageError, UsageError
from holdfast.store import KeyExistsError, KeyMissingError, PosixStore, SystemCallError, syscalls
from holdfast.store.aligned import empty
from holdfast.testing import StoreTests


@pytest.fixture
def store(tmp_path):
    return PosixStore(tmp_path / "run", create=True)


class TestPosixStore(StoreTests):
    @pytest.fixture
    def store(self, tmp_path):
        return PosixStore(tmp_path / "run", create=True)

    def raw_put(self, store, key, data):
        path = f"{store.location}/{key}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    def raw_get(self, store, key):
        with open(f"{store.location}/{key}", "rb") as file:
            return file.read()


def inside(trace, store):
    """The trace as text, paths relative to the root, the random part of temporary names cut off."""
    lines = []
    for call in trace.calls:
        path = os.path.relpath(call.path, store.location)
        head, dot, _ = path.partition(".tmp-")
        to = f" -> {os.path.relpath(call.to, store.location)}" if call.to else ""
        lines.append(f"{call.name} {head}{dot}{to}")
    return lines


# -- the order of calls: each fsync stands where it must, and there are no others


def test_put_makes_directories_then_data_then_name_durable(store):
    with Faults() as trace:
        store.put("a/b/k", b"x")
    assert inside(trace, store) == [
        "mkdir a", "open .", "fsync .", "close .",
        "mkdir a/b", "open a", "fsync a", "close a",
        "open a/b/.tmp-", "pwrite a/b/.tmp-", "fsync a/b/.tmp-", "link a/b/.tmp- -> a/b/k".replace(".tmp-", ".tmp-", 1),
        "close a/b/.tmp-", "open a/b", "fsync a/b", "close a/b", "unlink a/b/.tmp-",
    ]  # fmt: skip


def test_put_into_a_known_directory_takes_nine_calls(store):
    store.put("a/k", b"x")
    with Faults() as trace:
        store.put("a/l", b"x")
    assert inside(trace, store) == [
        "open a/.tmp-", "pwrite a/.tmp-", "fsync a/.tmp-", "link a/.tmp- -> a/l", "close a/.tmp-",
        "open a", "fsync a", "close a", "unlink a/.tmp-",
    ]  # fmt: skip


def test_a_directory_made_by_another_is_made_durable_before_use(store):
    os.mkdir(f"{store.location}/a")
    with Faults() as trace:
        store.put("a/k", b"x")
    assert inside(trace, store)[:6] == ["mkdir a", "lstat a", "open .", "fsync .", "close .", "open a/.tmp-"]


def test_a_large_file_is_durable_before_its_name(store):
    store.put("a/k", b"x")
    data = empty(8192)
    with Faults() as trace, store.create("a/large", 8192) as writer:
        writer.write(0, data)
        writer.finish()
    calls = [line for line in inside(trace, store) if not line.startswith(("close", "open a/large"))]
    assert calls == ["fallocate a/large", "pwrite a/large", "fsync a/large", "open a", "fsync a"]


def test_delete_is_made_durable(store):
    store.put("a/k", b"x")
    for _ in range(2):  # also where the key is gone: whoever unlinked it may have died before its fsync
        with Faults() as trace:
            store.delete("a/k")
        assert inside(trace, store) == ["unlink a/k", "open a", "fsync a", "close a"]


def test_delete_tree_removes_files_first_and_syncs_once(store):
    store.put("v/1/data/r0", b"x")
    store.put("v/1/commit", b"x")
    with Faults() as trace:
        store.delete_tree("v/1")
    calls = inside(trace, store)
    assert calls[-5:] == ["rmdir v/1/data", "rmdir v/1", "open v", "fsync v", "close v"]
    assert sorted(call for call in calls if call.startswith("unlink")) == ["unlink v/1/commit", "unlink v/1/data/r0"]


def test_a_new_root_is_made_durable_level_by_level(tmp_path):
    with Faults(match=named("mkdir", "fsync")) as trace:
        PosixStore(tmp_path / "x/y", create=True)
    done = [(call.name, os.path.relpath(call.path, tmp_path)) for call in trace.calls]
    assert done[-4:] == [("mkdir", "x"), ("fsync", "."), ("mkdir", "x/y"), ("fsync", "x")]


def test_sync_root_reaches_the_top_directories_and_the_one_above(store):
    store.put("a/x/k", b"")
    store.put("b/k", b"")
    with Faults(match=named("fsync")) as trace:
        store.sync_root()
    assert inside(trace, store) == ["fsync a", "fsync b", "fsync .", "fsync .."]


def test_get_takes_four_calls(store):
    store.put("a/k", b"x")
    with Faults() as trace:
        store.get("a/k", 10)
    assert inside(trace, store)[-4:] == ["open a/k", "fstat a/k", "pread a/k", "close a/k"]


def test_move_is_one_rename_made_durable_at_both_ends(store):
    store.put("in/1/v/k", b"x")
    store.put("versions/o/k", b"x")
    with Faults(match=named("rename_new", "rename", "fsync", "unlink")) as trace:
        store.move("in/1/v", "versions/v")
    assert inside(trace, store) == ["rename_new in/1/v -> versions/v", "fsync versions", "fsync in/1"]


@pytest.fixture(params=[errno.EINVAL, errno.ENOSYS])
def no_flags(request, monkeypatch):
    """A file system that knows no rename that does not replace."""

    def refuse(old, new):
        raise OSError(request.param, os.strerror(request.param), old, None, new)

    monkeypatch.setattr(syscalls, "rename_new", refuse)


def test_move_without_the_flag_replaces_nothing_either(store, no_flags, monkeypatch):
    for key in ("in/1/k", "in/2/k"):
        store.put(key, key.encode())
    store.move("in/1", "v")
    os.mkdir(f"{store.location}/empty")
    with pytest.raises(KeyExistsError):
        store.move("in/2", "empty")
    monkeypatch.setattr("holdfast.store.atomic._inode", lambda path: None)  # it comes right after the look
    with pytest.raises(KeyExistsError):
        store.move("in/2", "v")
    assert [key for key, _ in store.tree("")] == ["in/2/k", "v/k"]


def test_move_whose_answer_was_lost_is_done(store, monkeypatch):
    """Over NFS the call is repeated, and finds nothing to rename."""
    real = syscalls.rename_new

    def repeated(old, new):
        real(old, new)
        real(old, new)

    monkeypatch.setattr(syscalls, "rename_new", repeated)
    store.put("in/1/k", b"x")
    store.move("in/1", "v")
    assert [key for key, _ in store.tree("")] == ["v/k"]


def test_move_is_not_taken_back_when_it_may_not_be_durable(store):
    store.put("in/1/k", b"x")
    store.put("v/2/k", b"x")
    with Faults("error", match=named("fsync", path=f"{store.location}/v")), pytest.raises(SystemCallError):
        store.move("in/1", "v/1")
    assert store.get("v/1/k", 1) == b"x"


def test_move_takes_directories_alone(store):
    store.put("k", b"x")
    with pytest.raises(DamageError, match="in the place of a directory"):
        store.move("k", "l")
    assert store.list("") == ["k"]


@pytest.mark.parametrize("call", range(1, 12))
def test_delete_unless_leaves_what_gets_the_name_meanwhile(store, monkeypatch, call):
    """At any of its calls another one clears the same, and puts a whole version there."""
    other = PosixStore(store.location, create=False)
    for key in ("v/1/data/r0", "v/1/data/r1", "v/1/index", "in/1/data/r0", "in/1/data/r1", "in/1/index", "in/1/commit"):
        store.put(key, b"x")
    names = ("open", "scandir", "lstat", "unlink", "rmdir", "fsync")
    real = {name: getattr(syscalls, name) for name in names}
    count = 0

    def wrapped(name):
        def act(*args):
            nonlocal count
            count += 1
            if count == call:
                assert other.delete_unless("v/1", "commit")
                other.move("in/1", "v/1")
            return real[name](*args)

        return act

    for name in names:
        monkeypatch.setattr(syscalls, name, wrapped(name))
    store.delete_unless("v/1", "commit")
    assert count >= call
    assert [key for key, _ in store.tree("v")] == ["v/1/commit", "v/1/data/r0", "v/1/data/r1", "v/1/index"]


# -- the root


def test_no_run_there(tmp_path):
    with pytest.raises(KeyMissingError, match="no run at"):
        PosixStore(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_root_may_be_a_link_but_not_a_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    PosixStore(tmp_path / "link", create=True).put("k", b"x")
    assert (tmp_path / "real/k").read_bytes() == b"x"
    (tmp_path / "file").write_bytes(b"mine")
    for create in (True, False):
        with pytest.raises(SystemCallError) as caught:
            PosixStore(tmp_path / "file", create=create)
        assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(SystemCallError):
        PosixStore(tmp_path / "file/below", create=True)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_root_stays_when_the_program_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = PosixStore("run", create=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put("k", b"x")
    assert (tmp_path / "run/k").exists()


def test_root_below_a_directory_that_cannot_be_read(tmp_path):
    denied = named("open", path=str(tmp_path))
    with Faults("error", errno=errno.EACCES, match=lambda call: denied(call) and call.path == str(tmp_path)) as faults:
        store = PosixStore(tmp_path / "run", create=True)
        store.sync_root()
    assert faults.fired == 2
    store.put("k", b"")


def test_read_only_refuses_every_write(store):
    store.put("a/k", b"x")
    reader = PosixStore(store.location, create=False, read_only=True)
    for call in (
        lambda: reader.put("b", b""),
        lambda: reader.create("b", 1),
        lambda: reader.delete("a/k"),
        lambda: reader.delete_tree("a"),
        lambda: reader.touch("a/k"),
        lambda: reader.sync("a"),
        lambda: reader.sync_root(),
        lambda: reader.remove_leftovers("a"),
    ):
        with pytest.raises(StorageError, match="read-only"):
            call()
    with Faults(match=named("mkdir", "pwrite", "fsync", "link", "unlink", "utime", "fallocate")) as trace:
        assert reader.get("a/k", 1) == b"x"
        assert 0 <= reader.age("a/k") < 60
        assert reader.list("") == ["a"]
    assert trace.calls == []
    PosixStore(store.location, create=True, read_only=True)
    with pytest.raises(KeyMissingError):
        PosixStore(store.location + "-other", create=True, read_only=True)


# -- planted things


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"secret")
    return folder


def test_links_to_files_are_not_followed(store, outside):
    os.symlink(outside / "secret", f"{store.location}/k")
    os.symlink(outside / "nothing", f"{store.location}/l")
    for key in ("k", "l"):
        for call in (lambda k: store.get(k, 100), store.open, store.size, store.age, store.owner_is_me):
            with pytest.raises(DamageError, match="symbolic link") as caught:
                call(key)
            assert caught.value.file == key
        for call in (lambda k: store.put(k, b"x"), lambda k: store.create(k, 1)):
            with pytest.raises(KeyExistsError):
                call(key)
        assert store.exists(key)
    assert store.list("") == []
    assert list(store.tree("")) == []
    store.delete("k")
    assert os.listdir(outside) == ["secret"]


def test_links_to_directories_are_not_followed(store, outside):
    os.mkdir(f"{store.location}/a")
    os.symlink(outside, f"{store.location}/a/b")
    for call in (
        lambda: store.get("a/b/secret", 100),
        lambda: store.open("a/b/secret"),
        lambda: store.put("a/b/new", b""),
        lambda: store.create("a/b/c/new", 1),
        lambda: store.size("a/b/secret"),
        lambda: store.exists("a/b/secret"),
        lambda: store.delete("a/b/secret"),
        lambda: store.delete_tree("a/b/secret"),
        lambda: store.touch("a/b/secret"),
        lambda: store.list("a/b"),
        lambda: store.tree("a/b"),
        lambda: store.sync("a/b"),
        lambda: store.remove_leftovers("a/b"),
    ):
        with pytest.raises(DamageError, match="symbolic link") as caught:
            call()
        assert caught.value.file == "a/b"
    assert store.list("a") == []
    store.delete_tree("a")
    assert os.listdir(outside) == ["secret"]
    assert store.list("") == []


def test_delete_tree_of_a_link_removes_the_link(store, outside):
    os.symlink(outside, f"{store.location}/a")
    store.delete_tree("a")
    assert not os.path.lexists(f"{store.location}/a")
    assert os.listdir(outside) == ["secret"]


@pytest.mark.timeout(20)
def test_fifos_sockets_and_directories_are_not_read(store, monkeypatch):
    os.mkfifo(f"{store.location}/fifo")
    os.mkdir(f"{store.location}/directory")
    monkeypatch.chdir(store.location)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for key in ("fifo", "socket", "directory"):
        for call in (lambda k: store.get(k, 100), store.open, store.size, store.owner_is_me):
            with pytest.raises(DamageError) as caught:
                call(key)
            assert caught.value.file == key
        with pytest.raises(KeyExistsError):
            store.put(key, b"")
    for key in ("fifo/k", "socket/k"):
        with pytest.raises(DamageError, match="in the place of a directory"):
            store.put(key, b"")
    assert store.list("") == ["directory"]


def test_a_deep_tree_is_deleted_without_recursion(store):
    here = os.open(store.location, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert list(store.tree("d")) == []
    store.delete_tree("d")
    assert store.list("") == []


def test_only_my_own_unwritable_file_is_mine(store):
    old = os.umask(0)
    try:
        store.put("k", b"")
        with store.create("l", 0) as writer:
            writer.finish()
    finally:
        os.umask(old)
    assert store.owner_is_me("k")  # whatever the umask
    assert store.owner_is_me("l")
    for bits in (stat.S_IWGRP, stat.S_IWOTH):
        os.chmod(f"{store.location}/k", 0o600 | bits)
        assert not store.owner_is_me("k")


def test_anothers_file_is_not_mine(store, monkeypatch):
    store.put("k", b"")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert not store.owner_is_me("k")


# -- who else is at work


def test_leftovers(store):
    store.put("a/k", b"")
    for name in (".tmp-1", ".tmp-2"):
        with open(f"{store.location}/a/{name}", "w"):
            pass
    os.mkdir(f"{store.location}/a/.tmp-directory")
    assert store.leftovers("a") == [".tmp-1", ".tmp-2"]
    assert store.list("a") == ["k"]
    assert list(store.tree("")) == [("a/k", 0)]
    store.remove_leftovers("a")
    assert store.leftovers("a") == []
    assert store.list("a") == ["k"]


def test_put_makes_again_what_was_deleted_behind_its_back(store):
    store.put("v/1/k", b"")
    PosixStore(store.location, create=False).delete_tree("v")
    store.put("v/1/k", b"new")
    assert store.get("v/1/k", 3) == b"new"
    PosixStore(store.location, create=False).delete_tree("v")
    with pytest.raises(KeyMissingError):
        store.get("v/1/k", 3)
    assert store.list("v/1") == []
    store.delete("v/1/k")
    store.delete_tree("v/1")


CONTENDER = """
import sys
from holdfast.store import KeyExistsError, PosixStore
store = PosixStore(sys.argv[1], create=True)
print("ready", flush=True)
sys.stdin.readline()
for n in range(20):
    try:
        store.put(f"attempts/{n:06}", sys.argv[2].encode())
        print(n)
    except KeyExistsError:
        pass
"""


def test_of_several_processes_one_wins_each_key(store):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, store.location, str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(3)
    ]  # fmt: skip
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    won = {}
    for number, child in enumerate(children):
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        for key in out.split():
            assert key not in won
            won[key] = number
    assert len(won) == 20
    for key, number in won.items():
        assert store.get(f"attempts/{int(key):06}", 10) == b"%d" % number
    assert store.leftovers("attempts") == []


def test_age_takes_the_file_systems_clock(store, monkeypatch):
    store.put("a/lease", b"")
    monkeypatch.setattr("time.time", lambda: 1e12)  # this host's clock is far off
    assert store.age("a/lease") < 60
    os.utime(f"{store.location}/a/lease", (0, 4e9))  # touched in the future
    assert store.age("a/lease") == 0


# -- direct and buffered


def direct_calls(trace, name):
    """How many calls of this name went through a direct descriptor."""
    opened = {call.path for call in trace.calls if call.name == "open" and call.flags & os.O_DIRECT}
    return [call for call in trace.calls if call.name == name and call.path in opened]


def forget(store, key):
    """Drop a durable file from the page cache, which may take a moment to let go of what it has just written."""
    with open(f"{store.location}/{key}", "rb") as f:
        size = os.fstat(f.fileno()).st_size
        memory = np.frombuffer(mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ), np.uint8)
        pages = np.zeros(-(-size // 4096), np.uint8)
        for _ in range(1000):
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert ctypes.CDLL(None).mincore(*map(ctypes.c_void_p, (memory.ctypes.data, size, pages.ctypes.data))) == 0
            if not (pages & 1).any():
                return
            time.sleep(0.002)
    raise AssertionError("the page cache keeps the file")


@pytest.fixture
def nothing_cached(monkeypatch):
    """What was forgotten stays so: the look for it makes the kernel read ahead, and on a fast disk it has the page by then."""

    def pread_cached(fd, out, offset):
        raise BlockingIOError

    monkeypatch.setattr("holdfast.store.syscalls.pread_cached", pread_cached)
    return monkeypatch


@pytest.mark.usefixtures("nothing_cached")
def test_aligned_requests_are_direct_where_the_file_system_takes_them(store):
    with store.create("k", 16_384) as writer, Faults() as trace:
        assert writer.direct
        writer.write(0, empty(8192))
        writer.write(8192, empty(8192))
        writer.finish()
    assert sum(call.name == "open" and bool(call.flags & os.O_DIRECT) for call in trace.calls) == 1
    with store.open("k") as reader, Faults() as trace:
        reader.read(4096, empty(4096))
        assert len(direct_calls(trace, "pread")) == 1
        assert reader.direct
        reader.read(100, np.empty(5, np.uint8))
        assert [call.name for call in trace.calls].count("pread") == 2


def stored(store, key, nbytes):
    data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
    with store.create(key, nbytes) as writer:
        writer.write(0, data)
        writer.finish()
    return data


def test_what_the_page_cache_has_is_taken_from_there(store, nothing_cached):
    data = stored(store, "k", 1 << 20)
    forget(store, "k")
    with store.open("k") as reader, Faults() as trace:
        out = empty(1 << 20)
        reader.read(0, out)
        assert [call.name for call in trace.calls] == ["open", "pread_cached", "pread"], "cold: asked once, then direct"
        assert np.array_equal(out, data)
    nothing_cached.undo()
    with open(f"{store.location}/k", "rb") as f:
        f.read()
    with store.open("k") as reader, Faults() as trace:
        out = empty(1 << 20)
        for at in range(0, 1 << 20, 1 << 18):
            reader.read(at, out[at : at + (1 << 18)])
        assert [call.name for call in trace.calls if call.name != "open"] == ["pread_cached"] * 4
        assert np.array_equal(out, data)


@pytest.mark.usefixtures("nothing_cached")
def test_after_a_miss_the_page_cache_is_left_alone_for_a_while(store):
    stored(store, "k", 1 << 18)
    forget(store, "k")
    with store.open("k") as reader, Faults(match=named("pread_cached")) as trace:
        for at in range(0, 1 << 18, 4096):
            forget(store, "k")
            reader.read(at, empty(4096))
    assert trace.count <= 2 + 64 // 16


@pytest.mark.parametrize("part", [4096, 8192, 5000])
def test_what_the_page_cache_has_in_part_is_completed(store, part):
    data = stored(store, "k", 65_536)
    forget(store, "k")
    with open(f"{store.location}/k", "rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing more than what is asked for
        os.pread(f.fileno(), part, 0)
    out = empty(65_536)
    with store.open("k") as reader:
        reader.read(0, out)
    assert np.array_equal(out, data)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_where_the_page_cache_can_not_be_asked_the_disk_is(store, code):
    data = stored(store, "k", 65_536)
    out = empty(65_536)
    with Faults("error", errno=code, match=named("pread_cached")) as faults, store.open("k") as reader:
        for at in range(0, 65_536, 4096):
            reader.read(at, out[at : at + 4096])
    assert faults.fired == 1
    assert np.array_equal(out, data)


@pytest.mark.parametrize("where", ["open", "request"])
def test_buffered_where_the_file_system_refuses(store, where):
    data = empty(16_384)
    data[:] = np.arange(16_384) % 251
    direct = []

    def refuse(call):
        if call.name == "open" and call.flags & os.O_DIRECT:
            direct.append(call.path)
            return where == "open"
        # the first request after a direct open
        return where == "request" and call.name in ("pwrite", "pread") and bool(direct) and not direct.clear()

    with Faults("error", errno=errno.EINVAL, match=refuse) as faults:
        with store.create("k", 16_384) as writer:
            writer.write(0, data[:8192])
            writer.write(8192, data[8192:])
            writer.finish()
            assert not writer.direct
        out = empty(16_384)
        forget(store, "k")
        with store.open("k") as reader:
            reader.read(0, out)
            assert not reader.direct
    assert faults.fired == 2
    assert np.array_equal(out, data)


def test_no_space_reserved_where_the_file_system_can_not(store):
    for code in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
        with Faults("error", errno=code, match=named("fallocate")) as faults, store.create(f"k{code}", 4096) as writer:
            writer.write(0, empty(4096))
            writer.finish()
        assert faults.fired == 1
        assert store.size(f"k{code}") == 4096


@pytest.mark.parametrize("part", [1, 511, 4096, 5000])
def test_short_writes_and_reads_are_continued(store, part, nothing_cached):
    data = empty(65_536)
    data[:] = np.random.default_rng(0).integers(0, 256, data.size, np.uint8)
    with Faults("short", at=1, part=part) as faults:
        with store.create("a/k", data.size) as writer:
            faults.match, faults.count = named("pwrite"), 0
            writer.write(0, data)
            writer.finish()
        faults.count = 0
        store.put("a/small", data[:10_000].tobytes())
    assert faults.fired == 2
    out = empty(65_536)
    forget(store, "a/k")
    with Faults("short", at=1, part=part, match=named("pread")) as faults, store.open("a/k") as reader:
        reader.read(0, out)
    assert faults.fired == 1
    assert np.array_equal(out, data)
    nothing_cached.undo()
    with Faults("short", part=max(part, 100), match=named("pread")) as faults:
        assert store.get("a/small", 10_000) == data[:10_000].tobytes()
    assert faults.fired >= 2


def test_a_write_of_nothing_is_an_error(store):
    with Faults("short", part=0, match=named("pwrite")), pytest.raises(SystemCallError, match="EIO"):
        store.put("a/k", b"x")
    with (
        Faults("short", part=0, match=named("pwrite")),
        store.create("a/l", 4096) as writer,
        pytest.raises(SystemCallError, match="EIO"),
    ):
        writer.write(0, empty(4096))
    assert store.list("a") == store.leftovers("a") == []


def test_a_file_that_shrinks_is_damage(store):
    store.put("k", bytes(10_000))
    with store.open("k") as reader:
        os.truncate(f"{store.location}/k", 5000)
        with pytest.raises(DamageError, match="cut short") as caught:
            reader.read(0, np.empty(10_000, np.uint8))
        assert caught.value.offset == 5000


def test_closing_waits_for_requests_under_way(store, monkeypatch):
    store.put("k", b"x" * 100)
    reader = store.open("k")
    under_way, go_on = threading.Event(), threading.Event()
    real = syscalls.pread

    def slow(fd, out, offset):
        under_way.set()
        assert go_on.wait(30)
        return real(fd, out, offset)

    monkeypatch.setattr(syscalls, "pread", slow)
    out = np.empty(100, np.uint8)
    thread = threading.Thread(target=reader.read, args=(0, out))
    thread.start()
    assert under_way.wait(30)
    with Faults(match=named("close")) as trace:
        reader.close()
        assert trace.count == 0
        go_on.set()
        thread.join(30)
        assert trace.count == 1
    assert bytes(out) == b"x" * 100


def test_write_wants_contiguous_data(store):
    with store.create("k", 8) as writer:
        with pytest.raises(UsageError):
            writer.write(0, np.zeros(16, np.uint8)[::2])
        with pytest.raises(UsageError):
            writer.write(-1, b"x")


def test_a_root_that_can_not_be_made_is_an_error_and_no_endless_attempt(tmp_path, monkeypatch):
    """/proc and automounters have directories that take none, and say that it is not there."""
    real, calls = syscalls.mkdir, []

    def mkdir(path, *mode):
        calls.append(path)
        assert len(calls) < 20
        if "odd" in str(path):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return real(path, *mode)

    monkeypatch.setattr(syscalls, "mkdir", mkdir)
    with pytest.raises(StorageError, match="ENOENT"):
        PosixStore(tmp_path / "odd" / "run", create=True)
