"""`place.json`: whose place it is, of which run, and under which boot of the kernel it was made."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from ...format import RECORD_LIMIT, decode_record, encode_record
from ...format.records import FORMAT, seconds
from ...store import Store
from ..process import current
from .members import Members, is_text

PLACE_KEY = "place.json"
KINDS = ("memory", "local")

_NAMES = ("format", "place", "kind", "run", "uid", "boot", "host", "where", "created")


class Identity(NamedTuple):
    """A place's record. `place`: random, so that two nodes whose local directory is one and the same can see it; `kind`:
    memory or local; `run`: its id; `uid`, `boot`, `host`: who made it, under which boot, on which host; `where`: the run's
    own store as that one knew it, None if it is not told; `created`: seconds since 1970."""

    place: str
    kind: str
    run: str
    uid: int
    boot: str
    host: str
    where: str | None
    created: float

    @property
    def over(self) -> bool:
        """Whether it is of memory that ended with an earlier boot: what is there can't be what it says."""
        return self.kind == "memory" and self.boot != current().boot

    def to_body(self) -> dict[str, Any]:
        return {"format": FORMAT, **self._asdict()}

    @staticmethod
    def new(kind: str, run: str, where: str | None) -> Identity:
        """Of a place that this process makes."""
        here = current()
        host = here.host if is_text(here.host) else "?"
        where = where if is_text(where) else None  # a path that is no text serves to recognize nothing
        return Identity(os.urandom(16).hex(), kind, run, os.geteuid(), here.boot, host, where, time.time())

    @staticmethod
    def from_body(body: Any, key: str) -> Identity:
        """From the record's JSON object. DamageError if it is malformed."""
        members = Members(body, _NAMES, key)
        if members.number("format") != FORMAT or members.any("kind") not in KINDS:
            raise members.wrong("format, kind", "not those of a place that this Holdfast reads")
        where = None if members.any("where") is None else members.text("where")
        return Identity(
            members.hex("place"),
            members.text("kind"),
            members.hex("run"),
            members.number("uid"),
            members.text("boot"),
            members.text("host"),
            where,
            seconds(body, "created", key),
        )


def read_identity(store: Store) -> Identity:
    """The record of the place in `store`. KeyMissingError, DamageError."""
    return Identity.from_body(decode_record(store.get(PLACE_KEY, RECORD_LIMIT), PLACE_KEY)[0], PLACE_KEY)


def put_identity(store: Store, identity: Identity) -> None:
    """Write it, once for ever. KeyExistsError if another process was first."""
    store.put(PLACE_KEY, encode_record(identity.to_body())[0])
