"""Output for people and for programs: tables, progress bars, one JSON document."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..catalog import Catalog

FORMAT = 1  # of every JSON document, in its member `format`
_PIPE_WIDTH = 240  # columns where no terminal says how many there are: a line cut short is no use to grep


def document(**members: Any) -> None:
    """Writes one JSON document to stdout, `format` first."""
    click.echo(json.dumps({"format": FORMAT, **members}, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """A remark on stderr, where it is no part of what a program reads; each line says whose it is."""
    for line in text.splitlines():
        click.echo(f"holdfast: {line}", err=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), least: Sequence[int] = ()
) -> None:
    """Writes a table to stdout; columns named in `right` are numbers; a column without any content is left out. `least`: widths
    that the first columns have at least, so that tables below each other stand alike."""
    from rich.table import Table
    from rich.text import Text

    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i in kept:
        width = least[i] if i < len(least) else None
        grid.add_column(
            columns[i], justify="right" if columns[i] in right else "left", overflow="fold", min_width=width
        )
    for row in rows:
        grid.add_row(*(Text(row[i]) for i in kept))  # as Text: what is stored is never taken for markup
    lines = console()
    with lines.capture() as drawn:
        lines.print(grid)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())  # rich fills the last column up


def console() -> Console:
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(highlight=False, width=None if terminal else _PIPE_WIDTH)


@contextmanager
def progress(what: str, unit: str = "bytes") -> Iterator[Callable[[int, int], None] | None]:
    """A function for (done, in all) that draws a bar on stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount: list[ProgressColumn] = [DownloadColumn(binary_units=True), TransferSpeedColumn()]
    if unit != "bytes":
        amount = [MofNCompleteColumn(), TextColumn(unit)]
    columns = [TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def interactive() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, yes: bool) -> None:
    """Asks on a terminal, unless `yes`; leaves with exit code 1 if the answer is no. Elsewhere it asks nothing."""
    if not yes and interactive():
        click.confirm(question, abort=True, err=True)


def age(created: float, now: float) -> str:
    """How long ago, as text in whole seconds; empty if unknown."""
    from ..units import seconds_text

    if not created:
        return ""
    seconds = max(0.0, now - created)
    return f"{seconds:.0f} s ago" if seconds < 60 else f"{seconds_text(seconds)} ago"


def text(value: object) -> str:
    """A cell: empty for None."""
    return "" if value is None else str(value)


def place(url: str) -> str:
    """A run's place as programs need it: an absolute path."""
    from ..store.urls import path_of

    return os.path.abspath(path_of(url))


def require_run(url: str) -> Catalog:
    """The catalog of the run at `url`; UsageError, which says so, where there is none. Never writes."""
    from ..catalog import read_catalog
    from ..errors import UsageError
    from ..store import KeyMissingError, open_store

    try:
        catalog = read_catalog(open_store(url, create=False, read_only=True))
    except KeyMissingError:
        raise UsageError(f"There is no run {url}: no such directory. Check the name.", file=url) from None
    if not (catalog.run or catalog.attempts or catalog.versions):
        raise UsageError(f"There is no run in {url}: nothing of Holdfast's is there. Check the name.", file=url)
    return catalog
