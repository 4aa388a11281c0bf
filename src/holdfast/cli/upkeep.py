"""`holdfast verify`, `rollback`, `prune`: is it whole, back to an earlier version, away with what is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import human
from .arguments import json_option, run_argument, takeover_option, version_argument, yes_option
from .here import clean_left, find_left
from .salvage import named_options

if TYPE_CHECKING:
    from ..catalog.places import StalePlace
    from ..engine.verify import Damage
    from ..policy import Keep
    from ..run.maintenance import Removed


@click.command(short_help="Read every byte; is it whole?")
@run_argument
@version_argument(required=False)
@json_option
@click.pass_context
def verify(ctx: click.Context, url: str, version: int | None, as_json: bool) -> None:
    """Read every byte of a run, or of one version, and compare it with its digests.

    Exit code 0 if all is whole; 1 if not: then each damage is a line with file, offset, object and rank. What lies on nodes
    only is not read.

    \b
    --json: {format, url, whole, damages: [{file, offset, object, rank, version, message}], nodes:
    [number]}. nodes: versions that are on nodes only, or lost with them.
    """
    from ..run.maintenance import verify as check

    catalog = human.require_run(url)
    away = [v for v in catalog.versions if v.status == "nodes" and version in (None, v.number)]
    with human.progress("verify") as tell:
        damages = check(url, version, progress=tell)
    if as_json:
        found = [asdict(damage) for damage in damages]
        human.document(url=human.place(url), whole=not damages, damages=found, nodes=[v.number for v in away])
    else:
        for one in away:
            human.note(f"version {one.number} {one.problem}: it was not read")
        for damage in damages:
            click.echo(_damage(damage))
        what = f"version {version}" if version else "every version in the run's own store" if away else "every version"
        count = f"{len(damages)} damage{'s' * (len(damages) != 1)} found, nothing was changed"
        if damages or not (away and version):
            if damages:
                human.note(f"{url}: {count}")
            else:
                click.echo(f"{url}: {what} is whole")
    ctx.exit(1 if damages else 0)


@click.command(short_help="Go back to an earlier version.")
@run_argument
@version_argument(required=True)
@takeover_option
@yes_option
@json_option
def rollback(url: str, version: int, takeover: bool, yes: bool, as_json: bool) -> None:
    """Make VERSION the one that the next start resumes from.

    Later versions stay, as abandoned, until they are pruned; their numbers never come back.

    \b
    --json: {format, url, version}.
    """
    from ..run.maintenance import rollback as back

    human.require_run(url)
    human.confirm(f"Roll {url} back to version {version}, and abandon what came after it?", yes)
    with named_options():
        back(url, version, takeover=takeover)
    if as_json:
        human.document(url=human.place(url), version=version)
    else:
        click.echo(f"{url}: the next start resumes from version {version}; later ones are abandoned until pruned")


@click.command(short_help="Delete what is not needed.")
@run_argument
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    help="Newest checkpoints of the lineage to keep. [default: the option `keep`, else 2]",
)
@click.option("--keep-records", type=click.IntRange(min=1), help="Newest records of a label to keep. [default: all]")
@click.option("--damaged", is_flag=True, help="Delete what is damaged too: evidence, and the only copy there is.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be deleted.")
@takeover_option
@yes_option
@json_option
def prune(
    url: str,
    keep: int | None,
    keep_records: int | None,
    damaged: bool,
    dry_run: bool,
    takeover: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete abandoned versions, fragments, and checkpoints older than those to be kept.

    Damaged versions stay unless --damaged is given. `--dry-run` only lists.

    What runs have left on this node goes too: in its memory, and in local directories that this run has used, the places of
    runs that are gone or over, and memory of an earlier boot.

    \b
    --json: {format, url, dry_run, bytes, removed: [{name, status, bytes}], places: [{path, bytes, why}]}.
    """
    from ..run.maintenance import prune as remove

    catalog = human.require_run(url)
    policy = _keep(keep, keep_records)
    if not dry_run and not yes and human.interactive():
        with named_options():
            first = remove(url, policy, takeover=takeover, damaged=damaged, dry_run=True)
        _removed(url, first, True, err=True)
        _left(find_left(url, catalog), True, err=True)
        human.confirm("Delete these?", yes)
    with named_options(), human.progress("prune", unit="versions") as tell:
        gone = remove(url, policy, takeover=takeover, damaged=damaged, dry_run=dry_run, progress=tell)
    left = find_left(url, catalog)
    if not dry_run:
        left = clean_left(left)
    if as_json:
        total = sum(r.bytes for r in gone)
        places = [{"path": one.path, "bytes": one.nbytes, "why": one.why} for one in left]
        human.document(
            url=human.place(url), dry_run=dry_run, bytes=total, removed=[asdict(r) for r in gone], places=places
        )
    else:
        _removed(url, gone, dry_run)
        _left(left, dry_run)


def _keep(checkpoints: int | None, records: int | None) -> Keep:
    """What the options say, with what is given here in their place."""
    from dataclasses import replace

    from ..config import load

    keep = load({}).keep
    return replace(keep, last=checkpoints or keep.last, records=records or keep.records)


def _damage(damage: Damage) -> str:
    """One line: where, then what."""
    places = [
        damage.file or "",
        f"offset {damage.offset}" if damage.offset is not None else "",
        f"object {damage.object!r}" if damage.object is not None else "",
        f"rank {damage.rank}" if damage.rank is not None else "",
        f"version {damage.version}" if damage.version is not None else "",
    ]
    return f"damaged: {', '.join(filter(None, places))}: {' '.join(damage.message.split())}"


def _left(places: Sequence[StalePlace], dry_run: bool, err: bool = False) -> None:
    from ..units import bytes_text

    done = "would be removed" if dry_run else "removed"
    tell = human.note if err else click.echo
    for one in places:
        tell(f"{one.path}: {done}, {bytes_text(one.nbytes)}: {one.why}")


def _removed(url: str, gone: Sequence[Removed], dry_run: bool, err: bool = False) -> None:
    from ..units import bytes_text

    tell = human.note if err else click.echo
    for one in gone:
        tell(f"{one.status:<10} {one.name}  {bytes_text(one.bytes)}")
    total = bytes_text(sum(r.bytes for r in gone))
    done = "would be deleted" if dry_run else "deleted"
    tell(f"{url}: {len(gone)} {done}, {total}")
