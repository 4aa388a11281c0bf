"""What is logged where the program has set up no logging."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from holdfast.run.logged import Lines, install

log = logging.getLogger("holdfast")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """To be called in the test, since pytest adds handlers of its own before: none is left but ours."""

    def bare() -> None:
        monkeypatch.setattr(log, "propagate", False)
        monkeypatch.setattr(log, "handlers", [])
        install()

    return bare


def test_every_line_says_whose_it_is(bare, capsys):
    bare()
    install()
    assert len(log.handlers) == 1
    log.info("of no use")
    log.warning("rank %d\nand its stacks", 3)
    assert capsys.readouterr().err == "holdfast: rank 3\nholdfast: and its stacks\n"


@pytest.mark.parametrize("root", [True, False])
def test_the_program_s_own_handlers_have_the_say(root, bare, capsys, monkeypatch):
    bare()
    if root:
        monkeypatch.setattr(log, "propagate", True)  # to what pytest has there
    else:
        log.addHandler(logging.NullHandler())
    log.error("theirs")
    assert capsys.readouterr().err == ""


def test_who_wants_nothing_gets_nothing(bare, capsys, monkeypatch):
    bare()
    monkeypatch.setattr(logging, "lastResort", None)
    log.error("nobody's")
    assert capsys.readouterr().err == ""


def test_a_stream_that_is_gone_is_no_error_of_the_program_s(bare, monkeypatch):
    bare()
    (handler,) = log.handlers
    assert isinstance(handler, Lines)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("sys.stderr", None)
    log.error("nobody hears it")
