"""`holdfast plan` and `holdfast salvage`: what nodes still hold of a run, and bringing it to the run's own store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import human
from .arguments import json_option, run_argument, takeover_option
from .outcomes import elsewhere

if TYPE_CHECKING:
    from ..catalog import Catalog

ONLY_HERE = "only this node was asked: others may hold what is missing, and newer versions; ask them all with --hostfile"

hostfile_option = click.option(
    "--hostfile",
    type=click.Path(exists=True, dir_okay=False),
    help="Nodes to ask, each by one process that mpirun starts there. [default: this one alone]",
)


@click.command(short_help="Show what would be resumed from.")
@run_argument
@hostfile_option
@click.option("-n", "--ranks", type=click.IntRange(min=1), help="Ranks of the start. [default: those of the newest version]")
@json_option
def plan(url: str, hostfile: str | None, ranks: int | None, as_json: bool) -> None:
    """Show which version a start would resume from, and from where each rank would have it: its own node, another node, rebuilt
    by its redundancy set, or the run's own store.

    Asks this node what it holds; with a hostfile all that it names. The ranks are dealt over them by its slots. Without one,
    what other nodes hold is not known: a line says so if the run has been on nodes. Nothing is changed.

    \b
    --json: {format, url, ranks, version, in_use, asked: [{node, places: [[kind, directory]], versions:
    [name], notes}], silent: [node], lines: [text], plan: {version: {name, digest}, ranks, sources: {own,
    move, rebuild, global}, takes: [{name, digest, ranks, sources: [{kind, place, node, ranks: [[first,
    last]]}], sets, parities}], passed: [{name, digest, reason}], notes}}. in_use: who holds the run, null
    if it is free.
    """
    catalog = human.require_run(url)
    found, silent = _ask({"do": "plan", "ranks": ranks}, url, hostfile, lambda event: None)
    if hostfile is None and _others_may(catalog, found):
        found["lines"].append(ONLY_HERE)
    if as_json:
        asked = [{k: v for k, v in one.items() if k != "line"} for one in found["asked"]]
        human.document(
            url=human.place(url), ranks=found["ranks"], version=found["version"], in_use=found["in_use"] or None, asked=asked,
            silent=silent, lines=found["lines"], plan=found["plan"],
        )  # fmt: skip
        return
    for line in found["lines"]:
        click.echo(line)
    placed = any(attempt.places for attempt in catalog.attempts)
    for one in found["asked"] if placed or hostfile is not None else ():  # else there is nothing to be had from nodes
        human.note(one["line"])
    _tell_silent(silent)
    if found["in_use"]:
        human.note(f"the run is in use: {found['in_use']}; newer versions may come")


@click.command(short_help="Bring what nodes hold to the run's store.")
@run_argument
@hostfile_option
@takeover_option
@json_option
def salvage(url: str, hostfile: str | None, takeover: bool, as_json: bool) -> None:
    """After a job died: find the newest version that the nodes still hold, rebuild what is missing of it, and copy it to the
    run's own store, so that the next start goes on from it wherever it is.

    Asks this node; with a hostfile all that it names and that answer. Where they have nothing newer than the run's own store,
    nothing is changed. Killed at any point, a second salvage goes on.

    \b
    --json: {format, url, version, step, copied: [{version, bytes}], attempt, message, asked, silent,
    lines, plan}, the last four as of `holdfast plan`. version: null if there was nothing to salvage.
    """
    catalog = human.require_run(url)
    with ExitStack() as stack, named_options():
        bars: list[Callable[[int, int], None] | None] = []

        def heard(event: dict[str, Any]) -> None:
            if line := event.get("say"):
                human.note(line)
            elif "progress" in event:
                if not bars:  # not before: lines would run into it
                    bars.append(stack.enter_context(human.progress("salvage")))
                if bars[0] is not None:
                    bars[0](*event["progress"])

        found, silent = _ask({"do": "salvage", "takeover": takeover}, url, hostfile, heard)
    if hostfile is None and _others_may(catalog, found) and (found["version"] is None or found["plan"].get("passed")):
        found["lines"].append(ONLY_HERE)
        human.note(ONLY_HERE)
    if as_json:
        asked = [{k: v for k, v in one.items() if k != "line"} for one in found.pop("asked")]
        human.document(url=human.place(url), **found, asked=asked, silent=silent)
        return
    _tell_silent(silent)
    click.echo(f"{url}: {found['message']}")


def _ask(
    request: dict[str, Any], url: str, hostfile: str | None, heard: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], list[str]]:
    """(the result, names of nodes that gave no answer)."""
    request["url"] = human.place(url)
    if hostfile is None:
        from ..group import SerialGroup
        from ..run.levels.program import answer

        return answer(SerialGroup(), request, heard), []
    from ..supervisor.surviving import ask, find_survivors, read_hosts

    survivors = find_survivors(read_hosts(hostfile))
    request["slots"] = [host.slots for host in survivors.hosts]
    return ask(request, survivors.hosts, heard), list(survivors.silent)


def _others_may(catalog: Catalog, found: dict[str, Any]) -> bool:
    """Whether nodes that were not asked may hold something of the run: a complete one has left nothing there, and one that was
    never on another machine than this one is all here, unless something of it is missing."""
    if catalog.complete or not any(attempt.places for attempt in catalog.attempts):
        return False
    missing = found["plan"].get("passed") or not all(one["places"] for one in found["asked"])
    return bool(missing or elsewhere(catalog.attempts))


@contextmanager
def named_options() -> Iterator[None]:
    """For commands with `takeover_option`: an error that names the argument of a call names the command's option instead."""
    from ..errors import RunInUseError

    def told(text: str) -> str:
        return text.replace("takeover=True", "--takeover")

    try:
        yield
    except RunInUseError as error:
        causes = tuple(cause._replace(message=told(cause.message)) for cause in error.causes)
        raise RunInUseError(told(error.message), file=error.file, causes=causes) from None


def _tell_silent(silent: list[str]) -> None:
    for name in silent:
        human.note(f"node {name}: nothing can be had from it: it does not answer")
