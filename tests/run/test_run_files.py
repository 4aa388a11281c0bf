"""`run.file`: output that belongs to the state, without a line twice or missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_support import data_file, execute, flip, go, program

import holdfast
from holdfast.run import outfiles

EACH = holdfast.steps(1)


def logging_program(run, n, die=None, mode="a", every=EACH, flush=True, late=0):
    log = None if late else run.file("log.txt", mode)
    for step in run.steps(n, every=every):
        if log is None and step >= late:
            log = run.file("log.txt", mode)
        if log is not None:
            log.write(f"{step}\n".encode() if "b" in mode else f"{step}\n")
            if flush:
                log.flush()
        if step == die:  # its line is written, its version is not
            break


def lines() -> list[str]:
    return Path("log.txt").read_text().split()


@pytest.mark.parametrize("mode", ["a", "w", "ab", "wb", "at"])
@pytest.mark.parametrize("flush", [True, False])
def test_no_line_twice_and_none_missing(start, mode, flush):
    logging_program(start(), 10, 4, mode, holdfast.steps(3), flush)
    assert not flush or lines() == list("01234")
    logging_program(start(), 10, 8, mode, holdfast.steps(2), flush)
    run = start()
    logging_program(run, 10, None, mode, EACH, flush)
    run.complete()
    run.close()
    assert lines() == list("0123456789")


@pytest.mark.parametrize("mode", ["a", "w"])
def test_killed_before_the_first_version(start, mode):
    Path("log.txt").write_text("before\n")
    before = ["before"] if mode == "a" else []
    logging_program(start(), 10, 4, mode, holdfast.steps(100))
    assert lines() == before + list("01234")
    logging_program(start(), 10, 2, mode, holdfast.steps(100))
    assert lines() == before + list("012")


def test_what_was_there_before_stays(start):
    Path("log.txt").write_text("before\n")
    logging_program(start(), 10, 4)
    logging_program(start(), 6)
    assert lines() == ["before", *"012345"]


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_file_first_opened_in_the_loop(start, mode):
    """The version that is resumed from may be older than the file."""
    Path("log.txt").write_text("before\n")
    before = ["before"] if mode == "a" else []
    logging_program(start(), 10, 4, mode, holdfast.steps(3), late=4)  # version of step 3; the file opened at 4
    assert lines() == [*before, "4"]
    logging_program(start(), 10, 7, mode, holdfast.steps(3), late=4)
    logging_program(start(), 10, None, mode, holdfast.steps(3), late=4)
    assert lines() == [*before, *"456789"]


def test_a_version_passed_over_at_the_start(start):
    """The file is opened for the newest version, which then proves damaged."""
    run = start(keep=holdfast.Keep(last=3))
    u = run.protect("u", np.zeros(20_000))
    logging_program(run, 10, 4)
    flip(data_file(run, 4), 100_000)
    run = start()
    log = run.file("log.txt")
    assert lines() == list("0123")
    u = run.protect("u", u)
    for step in run.steps(6):
        log.write(f"{step}\n")
    log.flush()
    assert run.restored.version == 3
    assert lines() == list("012345")


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("to", [2, 5])
def test_rollback_inside_of_the_loop(start, flush, late, to):
    run = start(keep=holdfast.Keep(last=20))
    log = None if late else run.file("log.txt")
    back = False
    for step in run.steps(8, every=EACH):
        if log is None and step >= late:
            log = run.file("log.txt")
        if log:
            log.write(f"{step}\n")
            if flush:
                log.flush()
        if step == 5 and not back:
            run.rollback(to)
            back = True
    log.flush()
    assert lines() == list("01234567"[min(late, to) :])


def test_rollback_after_the_program_has_closed_the_file(start):
    run = start(keep=holdfast.Keep(last=20))
    with run.file("log.txt") as log:
        for step in run.steps(5, every=EACH):
            print(step, file=log, flush=True)
    run.rollback(2)
    assert lines() == ["0", "1"]


def test_files_that_are_not_opened_again_stay_known(start):
    logging_program(start(), 10, 4)
    go(start(), 10, 7, every=EACH)  # does not open the file: versions go on knowing it
    logging_program(start(), 9)
    assert lines() == list("0123") + list("78")


def test_a_shortened_file_is_an_error(start):
    logging_program(start(), 10, 4)
    Path("log.txt").write_text("0\n")
    with pytest.raises(holdfast.MismatchError, match=r"log\.txt.*2 bytes.*knows 8") as caught:
        start().file("log.txt")
    assert caught.value.file.endswith("log.txt")
    assert Path("log.txt").read_text() == "0\n"
    Path("log.txt").unlink()
    with pytest.raises(holdfast.MismatchError, match="0 bytes"):
        start().file("log.txt")


def test_a_changed_file_is_an_error(start):
    logging_program(start(), 10, 4)
    Path("log.txt").write_text("0\nX\n2\n3\n4\n")
    with pytest.raises(holdfast.MismatchError, match=r"log\.txt.*changed by another program"):
        start().file("log.txt")
    assert Path("log.txt").read_text() == "0\nX\n2\n3\n4\n"


def test_opened_twice_within_one_execution(start):
    run = start()
    with run.file("log.txt") as log:
        log.write("one\n")
    with run.file("log.txt") as log:
        log.write("two\n")
    run.checkpoint()
    assert lines() == ["one", "two"]
    run = start()
    with run.file("log.txt") as log:
        log.write("three\n")
    assert lines() == ["one", "two", "three"]


def test_arguments_go_to_open(start):
    with start().file("log.txt", "w", encoding="latin-1", newline="\r\n") as log:
        log.write("ü\n")
    assert Path("log.txt").read_bytes() == b"\xfc\r\n"


@pytest.mark.parametrize("mode", ["r", "r+", "x", ""])
def test_other_modes_are_refused(start, mode):
    with pytest.raises(holdfast.UsageError, match="'a' or 'w'"):
        start().file("log.txt", mode)


def test_the_program_may_change_its_directory(start, tmp_path, monkeypatch):
    logging_program(start(), 10, 4)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    run = start()
    log = run.file("../log.txt")
    assert (tmp_path / "log.txt").read_text().split() == list("0123")
    log.close()


def test_a_killed_process(tmp_path):
    command = program(tmp_path, """
        with holdfast.open("run") as run:
            log = run.file("log.txt", "w")
            for step in run.steps(8, every=holdfast.steps(3)):
                print(step, file=log)
                log.flush()
                if step == int(sys.argv[1]):
                    os.kill(os.getpid(), signal.SIGKILL)
    """)  # fmt: skip
    assert execute([*command, "1"], tmp_path).returncode == -9
    assert execute([*command, "4"], tmp_path).returncode == -9
    assert lines() == list("01234")
    done = execute([*command, "-1"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines() == list("01234567")


def test_a_file_that_is_new_in_a_later_execution_keeps_its_heading(start):
    go(start(), 10, 4, every=EACH)
    for die in (6, None):
        run = start()
        log = run.file("log.txt", "w")
        if not lines():
            log.write("heading\n")
        for step in run.steps(8, every=EACH):
            print(step, file=log, flush=True)
            if step == die:
                break
    assert lines() == ["heading", *"4567"]


def test_a_run_moves_with_its_files(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    run = holdfast.open("run")
    log = run.file("log.txt", "w")
    for step in run.steps(9, every=holdfast.steps(1)):
        log.write(f"{step}\n")
        if step == 4:
            break
    run.close()
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    with holdfast.open("run") as run:
        log = run.file("log.txt", "w")
        for step in run.steps(9, every=holdfast.steps(1)):
            log.write(f"{step}\n")
    assert Path("log.txt").read_text().split() == list("012345678")


def test_a_copy_of_the_run_without_its_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with holdfast.open("run") as run:
        run.file("log.txt", "w").write("one\n")
    shutil.copytree("run", "elsewhere/run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with holdfast.open("run") as run, pytest.raises(holdfast.MismatchError, match="log.txt"):
        run.file("log.txt", "w")
    assert not Path("log.txt").exists() and (tmp_path / "log.txt").read_text() == "one\n"


def test_one_file_has_one_name(start, tmp_path):
    run = start()
    run.file("log.txt")
    with pytest.raises(holdfast.UsageError, match=r"is open as 'log.txt'"):
        run.file(tmp_path / "log.txt")


def test_two_handles_of_one_file_do_not_overwrite_each_other(start):
    run = start()
    f, g = run.file("log.txt"), run.file("log.txt")
    for _ in run.steps(2, every=holdfast.steps(1)):
        f.write("f\n")
        g.write("g\n")
    run.complete()
    run.close()
    assert sorted(Path("log.txt").read_text().split()) == ["f", "f", "g", "g"]


class _Opened:
    """Output files of a process, without a run."""

    def __init__(self, place, *lines):
        from holdfast.run.outfiles import OutFiles
        from holdfast.store import PosixStore

        self.path = place / "out.txt"
        self.path.write_text("".join(lines))
        self.files = OutFiles(PosixStore(str(place / "run"), create=True), 0, lambda: None)

    def stored(self, *lines):
        from holdfast.format import StoredFile, digest

        text = "".join(lines).encode()
        return StoredFile(str(self.path), len(text), digest(text), str(self.path))


@pytest.mark.parametrize("mode", ["a", "w"])
@pytest.mark.parametrize("settled", [1, 2, 3])
def test_nothing_is_cut_before_it_is_settled_if_a_newer_version_may_be(tmp_path, mode, settled):
    lines = ["one\n", "two\n", "three\n"]
    it = _Opened(tmp_path, *lines)
    handle = it.files.open(str(it.path), mode, it.stored(*lines[:2]), {}, cut=False)
    assert it.path.read_text() == "one\ntwo\nthree\n"
    it.files.settle((it.stored(*lines[:settled]),))
    handle.write("on\n")
    handle.close()
    assert it.path.read_text().split() == [*["one", "two", "three"][:settled], "on"]


@pytest.mark.parametrize(("mode", "left"), [("a", ["before"]), ("w", [])])
def test_a_heading_stays_where_what_a_lost_attempt_wrote_goes(tmp_path, mode, left):
    it = _Opened(tmp_path, "before\n")
    it.files.open(str(it.path), mode, None, {}).close()  # that the file was there is on record now
    it = _Opened(tmp_path, "before\n", "lost\n")
    handle = it.files.open(str(it.path), mode, None, {}, cut=False)
    handle.write("heading\n")
    it.files.settle(())
    handle.write("on\n")
    handle.close()
    assert it.path.read_text().split() == [*left, "heading", "on"]


def test_a_file_that_lacks_what_the_version_knows_is_told_at_settling_too(tmp_path):
    it = _Opened(tmp_path, "one\n")
    it.files.open(str(it.path), "a", it.stored("one\n"), {}, cut=False)
    with pytest.raises(holdfast.MismatchError, match="has 4 bytes; the version to resume from knows 8"):
        it.files.settle((it.stored("one\n", "two\n"),))
    it.files.close()


@pytest.fixture
def taken(tmp_path, monkeypatch):
    """(old run, its output file, begin): `begin()` takes the run over, and returns the new one and its file."""
    monkeypatch.chdir(tmp_path)
    old = holdfast.open("run", signals=False)
    log = old.file("log.txt", "a")
    old.ready()
    log.write("both\n")
    old.checkpoint()

    def begin():
        new = holdfast.open("run", signals=False, takeover=True)
        return new, new.file("log.txt", "a")

    return old, log, begin


@pytest.mark.parametrize("told", ["by its next version", "at its end"])
def test_one_that_was_overtaken_keeps_what_it_has_not_written_yet_to_itself(taken, told):
    """Stopped, say, while another process went on with the run, and back."""
    old, log, begin = taken
    log.write("the old one's\n")
    new, other = begin()
    new.ready()
    other.write("the new one's\n")
    new.checkpoint()
    written = os.open(os.devnull, os.O_WRONLY)
    assert os.fstat(log.fileno()).st_ino != os.fstat(other.fileno()).st_ino
    if told == "by its next version":
        with pytest.raises(holdfast.FencedError):
            old.checkpoint()
        assert os.path.samestat(os.fstat(log.fileno()), os.fstat(written))  # whatever flushes it
    os.close(written)
    old.close()
    new.close()
    assert log.closed
    assert Path("log.txt").read_text() == "both\nthe new one's\n"


def test_what_one_that_was_overtaken_flushes_lands_elsewhere(taken):
    """As one that is stopped between its look for a fence and its write: the new one has files of its own."""
    old, log, begin = taken
    Path("log.txt").chmod(0o640)
    Path("link.txt").symlink_to("log.txt")
    new, other = begin()
    log.write("the old one's\n")
    log.flush()
    new.ready()
    other.write("the new one's\n")
    log.write("and more of it\n")
    log.flush()
    new.checkpoint()
    new.close()
    old.close()
    assert Path("log.txt").read_text() == "both\nthe new one's\n" == Path("link.txt").read_text()
    assert Path("log.txt").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in Path().iterdir()) == ["link.txt", "log.txt", "run"]


def test_nothing_is_left_of_a_copy_that_was_overtaken_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("log.txt").write_text("as it was\n")

    def overtaken() -> None:
        raise holdfast.FencedError("by a third")

    with pytest.raises(holdfast.FencedError):
        outfiles._renew("log.txt", overtaken)
    assert [path.name for path in Path().iterdir()] == ["log.txt"]
    assert Path("log.txt").read_text() == "as it was\n"
