"""A place in 1 MiB of memory: run with the directory as argument, on a tmpfs of that size. Prints what was seen as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from places_support import FIRST, RUN, SECOND, THIRD, held_for, noise, put, write

from holdfast.catalog.places import open_place, verify_held
from holdfast.errors import HoldfastError
from holdfast.store import SystemCallError


def refused(call: Any) -> int | None:
    """The errno with which it was refused; None if it was not."""
    try:
        call()
    except SystemCallError as error:
        return error.errno
    return None


def whole(place: Any, version: str) -> bool:
    try:
        verify_held(place, version, 0)
    except HoldfastError:
        return False
    return True


def main(root: str) -> dict[str, Any]:
    place = open_place("memory", root, RUN, create=True)
    seen: dict[str, Any] = {"size": os.statvfs(root).f_blocks * os.statvfs(root).f_frsize}
    put(place, FIRST, 0, 256 << 10, m=0)
    seen["free"] = place.free_bytes()
    # 1. A data file that does not fit is refused before a byte of it is written, and leaves nothing.
    seen["too large"] = refused(lambda: place.store.create(place.data_key(SECOND, 0), 900 << 10))
    seen["nothing left"] = (
        place.store.exists(place.data_key(SECOND, 0)) is False and place.free_bytes() >= seen["free"] - 8192
    )
    # 2. One that fits takes nearly all; then a part does not fit, and the record is not written.
    room = place.free_bytes() - (64 << 10)
    data, part = noise(room), noise(128 << 10)
    write(place, place.data_key(SECOND, 0), data)
    held = held_for(SECOND, 0, data, part)
    seen["part"] = refused(lambda: place.put_held(held, part))
    seen["no record"] = place.ranks(SECOND) == []
    seen["no part"] = place.store.exists(place.part_key(SECOND, 0)) is False
    # 3. The memory is full to the last page: a small part and record don't fit either.
    hogs = 0
    while refused(lambda n=hogs: write(place, f"hogs/h{n}", noise(4096))) is None:
        hogs += 1
    small = held_for(SECOND, 0, data, b"part")
    seen["hogs"] = hogs
    seen["record"] = refused(lambda: place.put_held(small, b"part"))
    seen["still no record"] = place.ranks(SECOND) == []
    seen["first is whole"] = whole(place, FIRST)
    # 4. Removing works in a full memory, and makes room.
    place.forget(SECOND, 0)
    place.store.delete_tree("hogs")
    place.remove(FIRST)
    put(place, THIRD, 0, 600 << 10, m=0)
    seen["third is whole"] = whole(place, THIRD) and place.versions()[0] == THIRD
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
