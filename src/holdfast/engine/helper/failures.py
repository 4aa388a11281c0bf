"""The two ways in which the helper itself fails its caller."""

from __future__ import annotations

from ...errors import StorageError


class CaptureError(Exception):
    """Memory can't be frozen, or not be read by the helper, for the reason given. Internal: nothing is protected,
    nothing is lost; the caller copies instead."""


class HelperLostError(StorageError):
    """The helper process ended, or fell silent and was ended. The version on its way is lost with it, those before
    are intact and the program's memory is free to be written; the next checkpoint starts a new helper."""


def lost(how: str) -> HelperLostError:
    return HelperLostError(
        f"The process that writes checkpoints beside the program {how}. The version on its way was not stored; those before "
        "are intact, and the program's state is untouched. The next checkpoint starts a new one; if that ends likewise, "
        'see whether memory runs out or someone kills it, or use engine="thread".'
    )
