"""Acceptance point 8, end to end: a run rewritten by an attacker, all digests right, is refused or passed over without running
code, without unbounded memory, without a file outside the run being read as content, written or deleted."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from damage_support import ATTEMPTS, KEPT, NEWEST, RECORD, Built, Copy, undisturbed
from forge import edit_record, forge, replace_buffer, seal, snapshot, stored

import holdfast
from holdfast.errors import HoldfastError, MismatchError
from holdfast.format import digest
from holdfast.run import maintenance

pytestmark = pytest.mark.timeout(30)

NAME = max(KEPT)
OLDER = NEWEST - 1
TRICKS = ["../../outside", "/etc/passwd", "a\0b", "..", "", "a/../../outside", "x" * 300]


@contextlib.contextmanager
def bounded(nbytes: int = 48 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < nbytes
    finally:
        tracemalloc.stop()


def set_buffer(name: str, i: int, value: Any) -> Callable[[Any], None]:
    return lambda body: stored(body, name)[5][0].__setitem__(i, value)


def set_member(name: str, i: int, value: Any) -> Callable[[Any], None]:
    return lambda body: stored(body, name).__setitem__(i, value)


def tree(*node: Any) -> bytes:
    return msgpack.packb(list(node))


def overlap(body: Any) -> None:
    stored(body, "w")[5][0] = stored(body, "u")[5][0]


def amplify(body: Any) -> None:
    """Ten thousand objects that all stand in the same bytes."""
    buffer = stored(body, "u")[5][0]
    body["objects"] += [[f"o{i}", "array", True, None, stored(body, "u")[4], [buffer]] for i in range(10_000)]


# What is no index of these files: the version is passed over.
DAMAGED: dict[str, Callable[[Any], Any]] = {
    "data file of 2**60 bytes": lambda b: b.update(bytes=2**60),
    "data file of -1 bytes": lambda b: b.update(bytes=-4096),
    "offset beyond the file": set_buffer("u", 0, 2**40),
    "offset beyond 2**63": set_buffer("u", 0, 2**63),
    "length of 2**50": set_buffer("u", 1, 2**50),
    "length of 2**50 with digests": lambda b: stored(b, "u")[5].__setitem__(0, [0, 2**50, bytes(16 << 16)]),
    "negative offset": set_buffer("u", 0, -8),
    "buffer too short for its shape": lambda b: stored(b, "u")[5].__setitem__(0, [0, 0, b""]),
    "fewer buffers than the structure names": set_member("u", 5, []),
    "overlapping buffers": overlap,
    "one block stands for ten thousand objects": amplify,
    "no structure at all": set_member("u", 4, b""),
    "a structure of junk": set_member("u", 4, b"\xdd\xff\xff\xff\xff"),
    "a structure of a million levels": set_member("u", 4, b"\x91" * 4000),
    "a buffer of objects": set_member("u", 4, tree("array", "|O", [9000], "C", 0)),
    "a dtype of objects within": set_member("u", 4, tree("array", [["a", "|O"]], [9000], "C", 0)),
    "two objects of one name": lambda b: b["objects"].append(stored(b, "w")),
    "a name that is no text": set_member("u", 0, b"u"),
    "another rank's part": lambda b: b.update(rank=1),
    "no objects": lambda b: b.pop("objects"),
    "a block size of 1": lambda b: b.update(block=1),
    "a shard of 2**40 dimensions": set_member("u", 3, [[1] * 70, [0] * 70]),
}

# What is an index, but not of this program's objects: an error that leaves the choice to the user.
MISMATCHED: dict[str, Callable[[Any], Any]] = {
    "a shape that does not fit": set_member("u", 4, tree("array", "<f8", [2**40], "C", 0)),
    "an object more": lambda b: b["objects"].append(["../../outside", "tree", False, None, b"\xc0", []]),
    "an object less": lambda b: b["objects"].remove(stored(b, "u")),
    "a type of the standard library": set_member("tree", 4, tree("dataclass", "os:system", ["x", 1])),
    "a pickle in place of a dict": set_member("tree", 4, tree("pickle", 0)),
    "a shard": set_member("u", 3, [[2**50], [0]]),
}


def check(copy: Copy, version: int, **options: Any) -> None:
    (o,) = copy.resume(more=1, **options)
    assert o.version == version
    assert o.state == undisturbed(0, o.step)
    assert (version == NEWEST) == (o.skipped == ())


@pytest.mark.parametrize("what", DAMAGED)
def test_a_forged_index_is_passed_over(serial: Built, fast: Path, what: str) -> None:
    copy = serial.copy(fast)
    forge(copy.url / "versions" / NAME, part=DAMAGED[what])
    with bounded():
        assert [d for d in maintenance.verify(copy.url) if d.version == NEWEST] or "struct" in what or "object" in what
        check(copy, OLDER)


@pytest.mark.parametrize("what", MISMATCHED)
def test_a_forged_index_of_other_objects_is_an_error(serial: Built, fast: Path, what: str) -> None:
    copy = serial.copy(fast)
    forge(copy.url / "versions" / NAME, part=MISMATCHED[what])
    before = copy.content()
    with bounded(), pytest.raises(MismatchError):
        copy.resume()
    after = copy.content()
    assert {k: after[k] for k in before} == before


@pytest.mark.parametrize("what", [*DAMAGED, *MISMATCHED])
def test_looking_at_a_forged_index_is_safe(serial: Built, fast: Path, what: str) -> None:
    copy = serial.copy(fast)
    forge(copy.url / "versions" / NAME, part=(DAMAGED | MISMATCHED)[what])
    with bounded():
        with contextlib.suppress(HoldfastError):
            maintenance.show(copy.url, NEWEST)
        with holdfast.open(copy.url, mode="r") as run:
            for name in ("u", "tree"):
                with contextlib.suppress(HoldfastError):
                    run.load(name)


@pytest.mark.parametrize(
    "edit",
    [
        lambda b: b.update(ranks=2**61),
        lambda b: b.update(ranks=0),
        lambda b: b["index"].update(bytes=2**40),
        lambda b: b["index"].update(bytes=-1),
        lambda b: b.update(bytes=10**400),
        lambda b: b.update(created=10**400),
        lambda b: b.update(version=2**61),
        lambda b: b.update(version=4),
        lambda b: b.update(kind="record"),
        lambda b: b.update(format=2),
        lambda b: b.update(step=-1),
        lambda b: b.update(loops={"steps": {"position": 2**70, "total": 1, "done": False}}),
        lambda b: b.update(parent={"name": "../../outside", "digest": "0" * 32}),
    ],
)
def test_a_forged_commit_is_passed_over(serial: Built, fast: Path, edit: Callable[[Any], None]) -> None:
    copy = serial.copy(fast)
    edit_record(copy.url / "versions" / NAME / "commit", edit)
    with bounded():
        assert any(d.version == NEWEST for d in maintenance.verify(copy.url))
        with contextlib.suppress(MismatchError):  # another number of ranks may be what the user wants to know
            check(copy, OLDER)


@pytest.mark.parametrize(
    "root", [[[0, 2**61, 10, 5, bytes(16)]], [[0, 1, 2**62, 2**61, bytes(16)]], [], [[0, 1, 1, 2, b""]], 7]
)
def test_a_forged_root_is_passed_over(serial: Built, fast: Path, root: Any) -> None:
    copy = serial.copy(fast)
    seal(copy.url / "versions" / NAME, msgpack.packb(root), lambda b: b.update(ranks=2**61) if root and root != 7 else None)
    with bounded():
        assert any(d.version == NEWEST for d in maintenance.verify(copy.url))
        with contextlib.suppress(MismatchError):
            check(copy, OLDER)


# -- names ---------------------------------------------------------------------------------


@pytest.fixture
def outside(fast: Path) -> Iterator[Path]:
    """A place outside of the run that must stay as it is; its names are what path tricks would reach."""
    path = fast / "outside"
    path.mkdir()
    (path / "commit").write_text("precious")
    (path / "data").mkdir()
    (path / "data/r000000").write_text("precious")
    yield path


@contextlib.contextmanager
def untouched(path: Path) -> Iterator[None]:
    before = snapshot(path)
    yield
    assert snapshot(path) == before


def use(copy: Copy) -> None:
    """Everything that reads, writes or deletes in a run; refusing is fine."""
    for call in (
        lambda: maintenance.verify(copy.url),
        lambda: maintenance.show(copy.url),
        lambda: copy.resume(more=5),
        lambda: maintenance.rollback(copy.url, OLDER, takeover=True),
        lambda: maintenance.prune(copy.url, keep=holdfast.Keep(last=1), takeover=True, damaged=True),
        lambda: copy.resume(more=1),
    ):
        with contextlib.suppress(HoldfastError):
            call()


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_in_the_base(serial: Built, fast: Path, outside: Path, trick: str) -> None:
    for i, edit in enumerate(
        (
            lambda b: b["version"].update(name=trick),
            lambda b: b["chain"].insert(0, {"name": trick, "digest": "0" * 32}),
            lambda b: b.update(records=[trick, RECORD]),
            lambda b: b["version"].update(digest=trick),
        )
    ):
        copy = serial.copy(fast / str(i))
        edit_record(copy.url / f"attempts/{ATTEMPTS:06d}.base", edit)
        with untouched(outside), bounded():
            check(copy, NEWEST)
            use(copy)


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_in_output_files(serial: Built, fast: Path, outside: Path, trick: str) -> None:
    copy = serial.copy(fast)
    victim = str(outside / "commit")
    files = [[trick, 0, bytes(16), trick], [victim, 0, digest(b""), victim]]
    forge(copy.url / "versions" / NAME, part=lambda b: b["files"].extend(files))
    with untouched(outside):
        check(copy, NEWEST)
        use(copy)


def test_an_output_file_is_never_cut_to_what_it_does_not_hold(serial: Built, fast: Path) -> None:
    copy = serial.copy(fast)
    before = snapshot(copy.out)
    for nbytes, tail in ((2**61, bytes(16)), (3, bytes(16))):
        forge(copy.url / "versions" / NAME, part=lambda b, n=nbytes, t=tail: b["files"][0].__setitem__(slice(1, 3), [n, t]))
        with pytest.raises(MismatchError):
            copy.resume()
        assert snapshot(copy.out) == before


@pytest.mark.parametrize(
    "name",
    ["..", "00000009-a000003 ", "00000000-a000003", "0000009-a000003", "00000009-a000003~", "-rf", "999999999999-a000003",
     "9" * 13 + "-a000003", "00000009-a" + "9" * 12, "\u0660" * 8 + "-a000003"],
)  # fmt: skip
def test_strange_names_below_versions(serial: Built, fast: Path, outside: Path, name: str) -> None:
    copy = serial.copy(fast)
    if name != "..":
        shutil.copytree(copy.url / "versions" / NAME, copy.url / "versions" / name)
    with untouched(outside):
        with contextlib.suppress(HoldfastError):
            check(copy, NEWEST)
        use(copy)


@pytest.mark.parametrize("name", ["999999999999.json", "999999999999.base", "000000.base", "0000004.base", "4.base"])
def test_strange_attempts(serial: Built, fast: Path, name: str) -> None:
    copy = serial.copy(fast)
    shutil.copy(copy.url / f"attempts/{ATTEMPTS:06d}.{name.split('.')[1]}", copy.url / "attempts" / name)
    (copy.url / "attempts" / name).chmod(0o644)
    try:
        check(copy, NEWEST)
    except HoldfastError:
        assert "9" in name, "a name that is none must be passed by"


# -- links, pipes, large files -------------------------------------------------------------

PLANTED = [
    "versions",
    "records",
    "attempts",
    "files",
    f"versions/{NAME}",
    f"versions/{NAME}/data",
    f"versions/{NAME}/index",
    f"versions/{NAME}/data/r000000",
    f"versions/{NAME}/index/root",
    f"versions/{NAME}/index/g000000",
    f"versions/{NAME}/commit",
    f"versions/{min(KEPT)}",
    f"records/{RECORD}",
    f"records/{RECORD}/commit",
    "holdfast.json",
    f"attempts/{ATTEMPTS:06d}.json",
    f"attempts/{ATTEMPTS:06d}.base",
    f"attempts/{ATTEMPTS:06d}.lease",
    f"attempts/{ATTEMPTS:06d}.end",
]


@pytest.mark.parametrize("what", PLANTED)
def test_a_link_to_a_place_outside_is_not_followed(serial: Built, fast: Path, what: str) -> None:
    copy = serial.copy(fast)
    outside = fast / "elsewhere"
    outside.mkdir()
    shutil.move(copy.url / what, outside / "target")  # whole, valid, and tempting
    (copy.url / what).symlink_to(outside / "target")
    with untouched(outside):
        try:
            outcomes = copy.resume(more=5)
        except HoldfastError:
            pass
        else:
            (o,) = outcomes
            assert o.state == undisturbed(0, o.step)
            if NAME in what:
                assert o.version == OLDER, "what lies outside was read"
        use(copy)
    with untouched(outside):
        maintenance_of(copy)


def maintenance_of(copy: Copy) -> None:
    with contextlib.suppress(HoldfastError):
        maintenance.prune(copy.url, keep=holdfast.Keep(last=1), takeover=True, damaged=True)


@pytest.mark.parametrize("what", [*PLANTED, f"attempts/{ATTEMPTS + 1:06d}.json", "versions/00000009-a000003"])
def test_a_pipe_does_not_hang_anything(serial: Built, fast: Path, what: str) -> None:
    copy = serial.copy(fast)
    path = copy.url / what
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    os.mkfifo(path)
    try:
        (o,) = copy.resume(more=1)
        assert o.state == undisturbed(0, o.step)
    except HoldfastError:
        pass
    use(copy)


@pytest.mark.parametrize("what", [w for w in PLANTED if "." in w or w.endswith(("commit", "root", "g000000", "r000000"))])
def test_large_files_are_not_read(serial: Built, fast: Path, what: str) -> None:
    copy = serial.copy(fast)
    with open(copy.url / what, "ab") as f:
        f.write(b"junk" * 1000)
        f.truncate(64 << 20)
    with bounded():
        with contextlib.suppress(HoldfastError):
            (o,) = copy.resume(more=1)
            assert o.state == undisturbed(0, o.step)
        assert any(d.file == what for d in maintenance.verify(copy.url)) or not (copy.url / what).exists() or (
            what == "holdfast.json"  # which the resume has made anew
        )


def test_a_data_file_with_holes_takes_no_memory(serial: Built, fast: Path) -> None:
    copy = serial.copy(fast)
    path = copy.url / "versions" / NAME / "data/r000000"
    size = 1 << 33

    def grow(body: Any) -> None:
        body["bytes"] = size
        stored(body, "tree")[5][-1] = [1 << 20, 2 << 30, bytes(16 * 512)]  # a structure of two gigabytes

    os.truncate(path, size)
    forge(copy.url / "versions" / NAME, part=grow)
    with bounded():
        check(copy, OLDER)


# -- pickles -------------------------------------------------------------------------------


class Plain:
    """State that only pickle can store."""

    def __init__(self) -> None:
        self.value: Any = 0

    def __call__(self) -> None:  # neither a tree nor anything else that is supported
        pass


class Opaque:
    def __init__(self, value: int = 0) -> None:
        self.value = value


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.fixture
def pickled(fast: Path) -> Path:
    """A run with an `Opaque` protected by pickle=True, its value 41, and some room in its buffer."""
    url = fast / "run"
    with holdfast.open(url, signals=False) as run:
        thing = run.protect("thing", Opaque(), pickle=True)
        run.protect("pad", np.zeros(3000, np.uint8))
        thing.value = 41
    return url


def start(url: Path, protect: bool = True, **options: Any) -> Any:
    with contextlib.closing(holdfast.open(url, signals=False, takeover=True, **options)) as run:
        thing = run.protect("thing", Opaque(), pickle=True) if protect else None
        run.protect("pad", np.zeros(3000, np.uint8))
        run.ready()
        return thing


def only_version(url: Path) -> Path:
    (version,) = (url / "versions").iterdir()
    return version


def plant(url: Path, marker: Path, name: str = "thing") -> None:
    """Put a pickle that runs code in the place of an object."""
    version = only_version(url)

    def change(body: Any) -> None:
        evil = pickle.dumps(Evil(marker))
        old = stored(body, name)
        source = stored(body, "pad")
        # In the place of the padding, which is large enough and stays as long as it was.
        replace_buffer(version, body, "pad", evil)
        old[1], old[4], old[5] = "pickle", tree("pickle", 0), source[5]
        if old is not source:
            body["objects"].remove(source)

    forge(version, part=change)


def test_a_pickle_of_ones_own_is_restored(pickled: Path) -> None:
    assert start(pickled).value == 41


def test_a_planted_pickle_is_not_loaded_without_pickle(pickled: Path, fast: Path) -> None:
    marker = fast / "marker"
    plant(pickled, marker, "pad")
    with pytest.raises(MismatchError, match="pickle"):
        start(pickled)
    with holdfast.open(pickled, mode="r") as run, pytest.raises(MismatchError, match="pickle"):
        run.load("pad")
    maintenance.show(pickled)
    maintenance.verify(pickled)
    assert not marker.exists()


FOREIGN_FILES = ["data/r000000", "index/g000000", "index/root", "commit"]


@pytest.mark.parametrize("file", FOREIGN_FILES)
@pytest.mark.parametrize("how", ["group", "others", "owner"])
def test_a_pickle_in_files_that_others_could_write_is_refused(
    pickled: Path, fast: Path, file: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = fast / "marker"
    plant(pickled, marker)
    path = only_version(pickled) / file
    if how == "owner":
        if os.geteuid() == 0:
            os.chown(path, 54321, -1)
        else:  # nobody but root can give a file away: be somebody else instead
            monkeypatch.setattr(os, "geteuid", lambda: 54321)
    else:
        path.chmod(0o664 if how == "group" else 0o646)
    with pytest.raises(MismatchError, match="another user"):
        start(pickled)
    assert not marker.exists()
    with pytest.raises(MismatchError, match="another user"):
        start(pickled, protect=False)
    assert not marker.exists()


def test_a_foreign_pickle_is_not_carried_into_files_of_ones_own(pickled: Path, fast: Path) -> None:
    """Carried along unread, it would lie in a file that is trusted."""
    marker = fast / "marker"
    plant(pickled, marker)
    (only_version(pickled) / "commit").chmod(0o666)
    options = {"objects_changed": "accept", "signals": False, "takeover": True}
    with contextlib.closing(holdfast.open(pickled, **options)) as run:
        other = run.protect("other", np.zeros(3))
        run.ready()
        with pytest.raises(HoldfastError, match="can't be carried"):
            run.checkpoint()
        run.drop("thing")
        assert run.checkpoint().durable and not other.any()
    assert not marker.exists()


def test_with_accept_the_program_keeps_its_own_value(pickled: Path, fast: Path) -> None:
    marker = fast / "marker"
    plant(pickled, marker)
    (only_version(pickled) / "index/root").chmod(0o666)
    assert start(pickled, objects_changed="accept").value == 0
    assert not marker.exists()
