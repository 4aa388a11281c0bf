"""When to take a checkpoint and which ones to keep: small frozen values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import ConfigError


class Auto(NamedTuple):
    """What `auto` was told; all in seconds. `mtbf` None: what attempts on record say (`catalog/failures.py`)."""

    mtbf: float | None = None
    shortest: float = 1.0
    longest: float = 3600.0


class Every(NamedTuple):
    """When a loop checkpoints: after `steps` steps, after `seconds` seconds, after the seconds that lose the least time
    (`auto`), or after those that keep checkpoints to `overhead`, a fraction of the time; whichever comes first. `versions`
    is for levels alone: every so many checkpoints of the loop."""

    steps: int | None = None
    seconds: float | None = None
    auto: Auto | None = None
    overhead: float | None = None
    versions: int | None = None

    def __or__(self, other: Every) -> Every:
        if not isinstance(other, Every):
            raise ConfigError(f"every={self!r} | {other!r}: both must be holdfast.steps(100), seconds(60), auto() or the like.")
        return Every(
            self.steps if other.steps is None else other.steps,
            self.seconds if other.seconds is None else other.seconds,
            self.auto if other.auto is None else other.auto,
            self.overhead if other.overhead is None else other.overhead,
            self.versions if other.versions is None else other.versions,
        )

    @property
    def measured(self) -> bool:
        """Whether the interval depends on what checkpoints cost."""
        return self.auto is not None or self.overhead is not None


def steps(n: int) -> Every:
    """Checkpoint whenever the number of completed steps is a multiple of `n` (local)."""
    if not isinstance(n, int) or n < 1:
        raise ConfigError(f"holdfast.steps({n!r}): a whole number of steps, at least 1, is needed.")
    return Every(steps=n)


def seconds(s: float) -> Every:
    """Checkpoint when `s` seconds have passed since the last one, at the next loop head (local).

    With several ranks the first clock to say so decides for all, a few steps ahead.
    """
    if not _positive(s):
        raise ConfigError(f"holdfast.seconds({s!r}): a positive number of seconds is needed.")
    return Every(seconds=float(s))


def auto(mtbf: float | None = None, *, shortest: float = 1.0, longest: float = 3600.0) -> Every:
    """Checkpoint so often that the least time is lost, to checkpoints and to what failures undo (local).

    `mtbf`: mean seconds between failures of the whole program (on n nodes: a node's, divided by n); None: what the
    run's earlier attempts say, beginning with a day. `shortest`, `longest`: bounds of the interval, in seconds.

    What a checkpoint costs is measured as the program runs: how long it waits, and how much longer its steps take while a
    version is on its way to the disk. The interval is Daly's estimate for these (J. T. Daly, "A higher order
    estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (2006) 303-312), whose first term is
    Young's (J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (1974) 530-531);
    `holdfast.run.interval` says where each is valid. Checkpoints take at most a quarter of the time, whatever the
    failure rate; where one every `longest` seconds would take more than a tenth of it, they are rarer than that.

    The first checkpoint of a program whose costs are not known yet comes early: after a fifth of `mtbf`, at most 5 s.
    With several ranks the dearest one's interval holds for all. ConfigError for numbers that make no sense.
    """
    if mtbf is not None and not _positive(mtbf):
        raise ConfigError(f"holdfast.auto(mtbf={mtbf!r}): a positive number of seconds is needed, or None.")
    if not (_positive(shortest) and _positive(longest) and shortest <= longest):
        raise ConfigError(
            f"holdfast.auto(shortest={shortest!r}, longest={longest!r}): positive numbers of seconds are needed, "
            "the second no smaller than the first."
        )
    return Every(auto=Auto(None if mtbf is None else float(mtbf), float(shortest), float(longest)))


def overhead(fraction: float) -> Every:
    """Checkpoint as often as takes at most `fraction` of the time: 0.02 for 2 % (local).

    Counted are the seconds that the program waits and those by which its steps become longer meanwhile, as measured. The
    interval follows at once when checkpoints become dearer, and slowly when they become cheaper; it is never shorter
    than a second. The first comes after 5 s, before anything is known: a program that resumes knows. With several
    ranks the dearest one's interval holds for all. ConfigError unless 0 < fraction < 1.
    """
    if not (_positive(fraction) and fraction < 1):
        raise ConfigError(f"holdfast.overhead({fraction!r}): a fraction of the time, such as 0.02, is needed.")
    return Every(overhead=float(fraction))


def versions(n: int) -> Every:
    """Every `n`-th checkpoint of the program comes to a level, such as `holdfast.global_(every=holdfast.versions(10))` (local).

    A loop, which makes the checkpoints, can't have it. ConfigError unless n is a whole number, at least 1.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigError(f"holdfast.versions({n!r}): a whole number of versions, at least 1, is needed.")
    return Every(versions=n)


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class Keep:
    """What retention leaves: the newest `last` checkpoints of the lineage and the newest `records` records
    of each label (None: all of them). Abandoned and damaged versions are not touched; `holdfast prune` is for those."""

    last: int = 2
    records: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("last", self.last), ("records", self.records)):
            if value is None and name == "records":
                continue
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"holdfast.Keep({name}={value!r}): a whole number, at least 1, is needed.")
