"""Arguments that several commands share, and how a shell completes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import HoldfastError

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    Text = click.ParamType[str]
    Number = click.ParamType[int]
    Seconds = click.ParamType[float]
else:  # generic only in newer versions of click
    Text = Number = Seconds = click.ParamType


class RunType(Text):
    """A run's place; completed as a directory."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


class VersionType(Number):
    """A version's number; completed from the run that stands before it on the line."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is no version; versions are numbers from 1 on, as `holdfast ls` shows them.")
        return number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        url = ctx.params.get("url")
        if not url:
            return []
        from ..catalog import read_catalog
        from ..store import open_store

        try:
            versions = read_catalog(open_store(url, create=False, read_only=True)).versions
        except HoldfastError:
            return []  # a shell that asks for words wants no errors
        return [
            CompletionItem(str(v.number), help=v.kind if v.step is None else f"{v.kind}, step {v.step}")
            for v in versions
            if v.status != "fragment" and str(v.number).startswith(incomplete)
        ]


class SecondsType(Seconds):
    """A time: seconds, or with units, `90min`, `1h30m`."""

    name = "time"

    def __init__(self, zero: bool = False) -> None:
        self._zero = zero  # whether it may be none at all

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from ..units import parse_seconds

        try:
            seconds = parse_seconds(value)
        except ValueError as error:
            self.fail(str(error))
        if not (0 < seconds <= 1e8 or (self._zero and seconds == 0)):
            self.fail("a positive time is needed, at most 100 000 000 s")
        return seconds


def run_argument(function: F) -> F:
    return click.argument("url", metavar="RUN", type=RunType())(function)


def version_argument(required: bool) -> Callable[[F], F]:
    metavar = "VERSION" if required else "[VERSION]"
    return click.argument("version", metavar=metavar, type=VersionType(), required=required)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, for programs.")(function)


def takeover_option(function: F) -> F:
    text = "Take the run from a holder that lives; it gets FencedError at its next checkpoint."
    return click.option("--takeover", is_flag=True, help=text)(function)


def yes_option(function: F) -> F:
    return click.option("--yes", "-y", is_flag=True, help="Do not ask on a terminal.")(function)
