"""`holdfast status`: how a run stands, on one screen."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from . import human
from .arguments import SecondsType, json_option, run_argument

_LINES = 6  # of a plan: more are for `holdfast plan`


@click.command(short_help="How a run stands, on one screen.")
@run_argument
@click.option("--watch", type=SecondsType(), metavar="TIME", help="Look again every so often, until it is complete.")
@json_option
def status(url: str, watch: float | None, as_json: bool) -> None:
    """Tell how a run stands: whether it is running, since when, on how many ranks, what was repaired; the newest version and
    where it is; what a start would go on from now; what has happened to ranks; and whether a person has to do anything.

    From the run's records, from what this node holds, and from those of its processes that live here. Nothing is changed, and
    no other node is asked: `holdfast plan --hostfile` does that.

    \b
    --json: {format, url, run, state, holder, attempt: {number, since, ranks, hosts, end}, ranks,
    repairs, restarts, spares: {started, left}, newest: {version, step, time, levels}, levels:
    {level: the newest version there}, restore: {version, step, time, lines}, health: [{time, attempt,
    text}], others, problems, needs: [text]}. state: new, starting, running, in use (by a command),
    complete, interrupted, failed, closed, died, lost; attempt: the newest of the program; ranks: of this
    node, where they watch each other: {ranks, first, last (steps), phases, idle (seconds), dead,
    stopped, spares (that stand by and live)}; repairs: since the last start; others: whether other nodes
    may hold more; needs: empty if nobody has to do anything. What is not known is null. With --watch, one
    document a line.
    """
    from ..errors import StorageError, UsageError
    from .standing import standing

    found = standing(url)
    first = True
    try:
        while True:
            if as_json and watch is not None:
                click.echo(json.dumps({"format": human.FORMAT, **found}, ensure_ascii=False))
            elif as_json:
                human.document(**found)
            else:
                if watch is not None:
                    click.clear()  # nothing where stdout is no terminal
                if not first:
                    click.echo()
                show(url, found)
            first = False
            if watch is None or found["state"] == "complete":
                return
            time.sleep(watch)
            try:
                found = standing(url)
            except (StorageError, UsageError) as error:  # the run may be there again at the next look
                human.note(error.message)
    except KeyboardInterrupt:
        return


def show(url: str, found: dict[str, Any], now: float | None = None) -> None:
    """For people."""
    now = time.time() if now is None else now
    newest = found["newest"]
    at = f", at version {newest['version']}{_step(newest)}" if newest and found["state"] != "running" else ""
    step = _steps(found["ranks"])
    click.echo(f"{url}: {found['state']}{f', {step}' if step else at}")
    rows = [("attempt", _attempt(found, now)), ("ranks", _ranks(found["ranks"]))]
    rows.append(("newest", _version(newest, now, levels=True)))
    if len(found["levels"]) > 1 or found["others"]:
        there = [(kind, one) for kind, one in found["levels"].items() if one or found["state"] != "complete"]
        rows += [(kind, _version(one, now)) for kind, one in there]
    rows += [("restore" if i == 0 else "", line) for i, line in enumerate(_restore(found))]
    for i, event in enumerate(found["health"]):
        when = human.age(event["time"], now) or "at some time"
        rows.append(("health" if i == 0 else "", f"{when}: attempt {event['attempt']}: {event['text']}"))
    needs = found["needs"] or ["nothing: nobody has to do anything"]
    rows += [("to do" if i == 0 else "", need) for i, need in enumerate(needs)]
    for name, text in rows:
        if text:
            click.echo(f"  {name:<8} {text}")


def _attempt(found: dict[str, Any], now: float) -> str:
    one = found["attempt"]
    if one is None:
        return "none yet"
    hosts = one["hosts"]
    where = ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
    if one["since"] is None:
        return f"{one['number']}, of which the records can't be read"
    text = f"{one['number']}, begun {human.age(one['since'], now)}, {_many(one['ranks'], 'rank')} on {where}"
    counts = [_many(found[what], what[:-1]) for what in ("restarts", "repairs") if found[what]]
    if found["spares"] is not None and found["spares"]["started"]:
        counts.append(f"{found['spares']['left']} of {_many(found['spares']['started'], 'spare')} left")
    return "; ".join([text, *counts])


def _ranks(ranks: dict[str, Any] | None) -> str:
    from ..units import seconds_text

    if ranks is None:
        return ""
    words = [f"{count} {phase}" for phase, count in sorted(ranks["phases"].items(), key=lambda item: -item[1])]
    words += [f"rank {rank} {what}" for what in ("dead", "stopped") for rank in ranks[what]]
    return f"{ranks['ranks']} of this node: {', '.join(words)}; the slowest moved {seconds_text(ranks['idle'])} ago"


def _steps(ranks: dict[str, Any] | None) -> str:
    if ranks is None or ranks["first"] is None:
        return ""
    first, last = ranks["first"], ranks["last"]
    return f"in step {first}" if first == last else f"in steps {first} to {last}"


def _step(version: dict[str, Any]) -> str:
    return "" if version["step"] is None else f" (step {version['step']})"


def _version(one: dict[str, Any] | None, now: float, levels: bool = False) -> str:
    if one is None:
        return "no version" if levels else "nothing"
    age = human.age(one["time"], now)
    where = f", in {', '.join(one['levels'])}" if levels and one["levels"] else ""
    return f"version {one['version']}{_step(one)}{f', {age}' if age else ''}{where}"


def _restore(found: dict[str, Any]) -> list[str]:
    restore = found["restore"]
    if restore["version"] is None and found["newest"] is None:
        return ["a start begins anew"]
    head = "nothing that is whole" if restore["version"] is None else f"version {restore['version']}{_step(restore)}"
    lines = [line for line in restore["lines"] if not line.startswith(f"version {restore['version']},")]
    more = [f"… {len(lines) - _LINES} more: `holdfast plan`"] if len(lines) > _LINES else []
    return [head + (", by what this node knows" if found["others"] else ""), *lines[:_LINES], *more]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
