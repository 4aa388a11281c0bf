"""The command group: its commands, its version, and how errors end it."""

from __future__ import annotations

import io
import sys
from typing import Any

import click

from ..errors import HoldfastError
from . import human
from .completion import completion
from .dev import dev
from .doctor import doctor
from .listing import ls, show
from .run import run
from .salvage import plan, salvage
from .status import status
from .upkeep import prune, rollback, verify


class _Group(click.Group):
    """Turns Holdfast's errors into one message on stderr and exit code 1; others keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding does not
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            human.note(str(error))
            ctx.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of use, not of the alphabet


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version("holdfast")
        except PackageNotFoundError:
            text = "(not installed: run from its sources)"
        click.echo(f"holdfast {text}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def holdfast() -> None:
    """Checkpoint and restart for long-running programs.

    RUN is a directory, or file:///PATH. Every command has --help; listings have --json.
    """


for _command in (run, status, ls, show, verify, plan, salvage, rollback, prune, doctor, completion, dev):
    holdfast.add_command(_command)
