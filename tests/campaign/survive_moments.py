"""What is put around the library's own functions in part G's program: notes, failing storage, a death at a given moment."""

from __future__ import annotations

import errno
import importlib
import os
import signal
from collections.abc import Callable
from typing import Any

from holdfast import errors
from holdfast.group.repair import Crew
from holdfast.store import syscalls

from .survive_notes import ALL, Moment, Notebook, Orders, What

Function = Callable[..., Any]

# Where a rank is copying state, and where it computes parity: module and function.
_AT = {
    Moment.CAPTURE: [("holdfast.engine.freeze", "fill"), ("holdfast.engine.freeze", "fill_run"),
                     ("holdfast.engine.in_place", "fill_run")],
    Moment.ENCODE: [("holdfast.redundancy.exchange", "add_up_all")],
}  # fmt: skip


def kill_at_moments(book: Notebook, orders: Orders, rank: Callable[[], int]) -> None:
    """From now on this process kills itself where the driver says; `rank`: what it is at present."""

    def due(moment: Moment) -> bool:
        if orders.moment != moment or orders.moment_rank not in (rank(), ALL):
            return False
        if orders.moment_skip > 0:
            orders.moment_skip -= 1
            return False
        return True

    def die() -> None:
        orders.moment = Moment.NONE  # nobody else
        book.note(What.KILLED, rank())
        os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Function, moment: Moment) -> Function:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if not due(moment):
                return call(*args, **kwargs)
            call(*args, **kwargs)
            return die()  # some of it is done, and nobody has been told

        return instead

    for moment, places in _AT.items():
        for name, function in places:
            module = importlib.import_module(name)
            setattr(module, function, around(getattr(module, function), moment))
    link = syscalls.link

    def commit(*args: Any, **kwargs: Any) -> Any:
        if not (str(args[-1]).endswith("/commit") and orders.moment == Moment.COMMIT):
            return link(*args, **kwargs)
        if orders.moment_skip == 0:
            die()
        link(*args, **kwargs)
        return die()

    setattr(syscalls, "link", commit)  # noqa: B010


def fail_storage(book: Notebook, orders: Orders, rank: int) -> None:
    """From now on the store's calls that write fail in this process when the driver says so; what the kernel itself refuses for
    want of room is noted."""

    def failing(call: Function) -> Function:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if orders.failing in (rank, ALL) and _in_run(call.__name__, args):
                book.note(What.FAILED, rank)
                raise OSError(orders.errno, os.strerror(orders.errno))
            try:
                return call(*args, **kwargs)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    book.note(What.REFUSED, rank)
                raise

        instead.__name__ = call.__name__
        return instead

    for name in ("open", "pwrite", "write", "fallocate", "fsync", "link", "mkdir"):
        if hasattr(syscalls, name):
            setattr(syscalls, name, failing(getattr(syscalls, name)))


def _in_run(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is about a version's files: neither the lease nor who has the run."""
    if name not in ("pwrite", "fallocate", "fsync", "link"):
        return False
    path = args[-1] if name == "link" else os.readlink(f"/proc/self/fd/{args[0]}")
    return "/versions/" in str(path)


def note_damage(book: Notebook) -> None:
    """Note whenever the library finds damage."""
    begin = errors.DamageError.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        book.note(What.DAMAGE)
        begin(self, *args, **kwargs)

    setattr(errors.DamageError, "__init__", noted)  # noqa: B010


def note_repairs(book: Notebook) -> None:
    """Note what processes do between two calls of the program's function."""
    repair, stand_by = Crew.repair, Crew.stand_by

    def noted_repair(crew: Crew, *args: Any, **more: Any) -> None:
        book.note(What.REPAIRING, -1 if crew.rank is None else crew.rank)
        repair(crew, *args, **more)
        book.note(What.REPAIRED, -1 if crew.rank is None else crew.rank)

    def noted_stand_by(crew: Crew, *args: Any) -> bool:
        book.note(What.STANDING)
        return stand_by(crew, *args)

    setattr(Crew, "repair", noted_repair)  # noqa: B010
    setattr(Crew, "stand_by", noted_stand_by)  # noqa: B010
