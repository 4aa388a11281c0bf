"""What earlier attempts left at places of versions to come: files made ahead of them, which nobody reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from ...catalog.places import Place
from ...engine.workers import Worker
from ...format.keys import AHEAD_FOLDER
from ...store import Store
from ..tidying import told

_LARGE = 32 << 20  # bytes: some milliseconds
MOMENT = 0.5  # seconds in which a program that restarts is back at work
_LEFT = "files that were made ahead of their versions were not deleted"


def sweep_places(places: Iterable[Place], leads: bool, beside: bool = False) -> None:
    """Remove what earlier attempts left at this node's places of versions to come (local, fenced). `beside`: what is large in
    a thread, since it takes the kernel as long as copying it, and a program waits to be back."""
    for place in places if leads else ():
        with told(_LEFT):
            found = dict(place.store.tree(AHEAD_FOLDER)) if beside else {}
            if sum(found.values()) < _LARGE or not _begun(partial(_delete, place.store, list(found))):
                place.store.delete_tree(AHEAD_FOLDER)


def _delete(store: Store, keys: list[str]) -> None:
    """These, and no others: this attempt's own files may be there by now. A moment later, for the cores are wanted now."""
    time.sleep(MOMENT)
    with told(_LEFT):
        for key in keys:
            store.delete(key)


def _begun(work: Callable[[], None]) -> bool:
    try:
        Worker(work).start()
    except RuntimeError:  # no thread can be had
        return False
    return True
