"""`holdfast doctor`: what works on this machine, and why what does not."""

from __future__ import annotations

import os

import click

from . import human
from .arguments import json_option


@click.command(short_help="What works on this machine, and why.")
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False))
@json_option
def doctor(directory: str | None, as_json: bool) -> None:
    """Try out what Holdfast uses of this machine: the kernel's calls, memory, storage.

    DIRECTORY: where direct I/O is tried; the current one if it is left out. Nothing stays behind. Every line was tried just
    now, by this user; inside of a job or a container it may be another. Exit code 0 also where some things do not work:
    Holdfast does without them, and says so.

    \b
    --json: {format, features: [{name, works, detail}], facts: [{name, works, detail}]}.
    """
    from ..capture.probe import probe

    place = os.path.abspath(directory or ".")
    facts = [fact._asdict() for fact in probe(place)]
    features = [dict(zip(("name", "works", "detail"), found, strict=True)) for found in _features()]
    if as_json:
        human.document(features=features, facts=facts)
        return
    for title, found in (("feature", features), ("tried out", facts)):
        human.table(
            [title, "works", "what was seen"],
            [[str(f["name"]), "yes" if f["works"] else "no", str(f["detail"])] for f in found],
        )
        click.echo()


def _features() -> list[tuple[str, bool, str]]:
    """What a program can ask for: (option, whether it works here, what happens or why not)."""
    from ..capture.tracker import PageTracker

    pages = PageTracker.available()
    works, frozen, shared = _helper()
    return [
        ("capture='copy', 'reference', 'direct'", True, "everywhere"),
        ("capture='cow'", frozen is None, frozen or "pages are copied out while the program goes on"),
        (
            "incremental='pages'",
            pages is None,
            f"{pages}; blocks are compared by digest" if pages else "the kernel tells which pages were written",
        ),
        ("engine='process'", works is None, works or shared),
    ]


def _helper() -> tuple[str | None, str | None, str]:
    """Why no helper process works, why it can't freeze memory (None: it does), and how it gets at the state."""
    from ..engine.helper import Helper
    from ..errors import HoldfastError

    try:
        helper = Helper.start(30.0)
    except (HoldfastError, OSError) as error:
        text = f"the helper process does not start: {error}"
        return text, text, ""
    try:
        private = "it reads the program's memory" if helper.reads_memory else "by a shared arena, without huge pages"
        return None, helper.why_no_freeze, private
    finally:
        helper.close()


__all__ = ["doctor"]
