"""When to take a checkpoint and which ones to keep: small frozen values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import ConfigError


class Every(NamedTuple):
    """When a loop checkpoints: after `steps` steps, after `seconds` seconds, or whichever comes first."""

    steps: int | None = None
    seconds: float | None = None

    def __or__(self, other: Every) -> Every:
        return Every(
            self.steps if other.steps is None else other.steps,
            self.seconds if other.seconds is None else other.seconds,
        )


def steps(n: int) -> Every:
    """Checkpoint whenever the number of completed steps is a multiple of `n` (local)."""
    if not isinstance(n, int) or n < 1:
        raise ConfigError(f"holdfast.steps({n!r}): a whole number of steps, at least 1, is needed.")
    return Every(steps=n)


def seconds(s: float) -> Every:
    """Checkpoint when `s` seconds have passed since the last one, at the next loop head (local).

    With several ranks the first clock to say so decides for all, a few steps ahead.
    """
    if not s > 0:
        raise ConfigError(f"holdfast.seconds({s!r}): a positive number of seconds is needed.")
    return Every(seconds=float(s))


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
