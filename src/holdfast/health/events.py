"""What health has found out, as a value that can be shown, sent and handed to the program."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import DamageError

# What happened, what is done about it. The words that a rank's own detail follows.
_WORDS = {
    "died": ("has died", "It is treated as dead: its place is filled, or the job relaunched."),
    "stopped": ("is stopped (SIGSTOP or the like)", "It is killed and treated as dead."),
    "stalled": ("makes no progress", "It is killed and treated as dead."),
    "silent": ("gives no sign and can't be looked at", "It is left alone; MPI will tell whether it lives."),
    "storage": ("can't use storage as it should", "The program goes on; the last versions that are whole stay so."),
    "spare lost": ("is gone", "The job goes on, with one less to take the place of a rank."),
    "launcher gone": ("has lost the `holdfast run` that looks after it", "It goes on; what it keeps can be resumed."),
}
KINDS = tuple(_WORDS)


class Event(NamedTuple):
    """One thing that was found out.

    `kind`: one of KINDS; `rank`: whom it is about, None where it is nobody's in particular (a spare, the launcher); `host`:
    where; `detail`: what was seen, one line, then the stacks of its threads where these were had; `at`: Unix time in
    seconds, of whoever found it out.
    """

    kind: str
    rank: int | None
    host: str
    detail: str
    at: float

    def __str__(self) -> str:
        """One line for people: what happened, what is done."""
        what, done = _WORDS[self.kind]
        who = f"A spare on {self.host}" if self.rank is None else f"Rank {self.rank} on {self.host}"
        if self.kind == "launcher gone":
            who = "The job" if self.rank is None else who
        seen = self.detail.partition("\n")[0]
        return f"{who} {what}{f': {seen}' if seen else ''}. {done}"

    @property
    def why_ended(self) -> str:
        """Why its rank was killed by this library, for people; empty where it was not."""
        what, done = _WORDS[self.kind]
        return f"it {what}: {self.detail.partition(chr(10))[0]}" if "It is killed" in done else ""

    @property
    def stacks(self) -> str:
        """Of all its threads, as faulthandler writes them; empty where there are none."""
        return self.detail.partition("\n")[2]

    def plain(self) -> dict[str, Any]:
        """For other ranks and for JSON."""
        return self._asdict()

    @staticmethod
    def parse(value: Any) -> Event:
        """From `plain()`. DamageError if it is malformed."""
        try:
            kind, rank, host, detail, at = (value[k] for k in Event._fields)
        except (TypeError, KeyError):
            raise DamageError("a health event is malformed: members lack") from None
        whole = rank is None or (type(rank) is int and rank >= 0)
        if (
            kind in _WORDS
            and whole
            and isinstance(host, str)
            and isinstance(detail, str)
            and isinstance(at, (int, float))
        ):
            return Event(kind, rank, host, detail, float(at))
        raise DamageError("a health event is malformed: a member is of another type than it should be")
