"""`capture="direct"`: the program's own memory is what is written, so that the program waits for that, and only for that."""

from __future__ import annotations

from threading import Lock

from ..errors import CheckpointError, HoldfastError, StorageError
from .handle import Handle


class Reading:
    """Of memory of the program's, by the flight of one version. Either it is over before the program goes on, or the version
    fails: what was read after that may be of another step."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._torn: HoldfastError | None = None  # the program has gone on although its memory was still being read
        self._lock = Lock()

    def over(self) -> None:
        """In the flight: all is read. Raises the version's error if the program has not waited for it."""
        with self._lock:
            if self._torn is not None:
                raise self._torn
            self._handle.reach("written")

    def wait(self, version: int, timeout: float) -> None:
        """In the program's thread: until all is read. An interrupt is raised; that it takes too long is the flight's error."""
        try:
            self._handle.wait("written")
        except BaseException as left:
            with self._lock:
                if not self._handle.written:
                    self._torn = _not_direct(version, timeout, left)
            if not isinstance(left, HoldfastError):  # else the failure is `land`'s to raise
                raise


def _not_direct(version: int, seconds: float, left: BaseException) -> HoldfastError:
    changed = "what is still to be read may change from now on"
    if not isinstance(left, HoldfastError):
        return CheckpointError(
            f"the program was interrupted ({type(left).__name__}) while it waited for version {version} to be written "
            f"(capture='direct'); {changed}.",
            version=version,
        )
    return StorageError(
        f"version {version} was not written within {seconds:.4g} s, for which the program waited (capture='direct'); "
        f"{changed}. See whether the disk hangs; raise the option `timeout` if it is slow.",
        version=version,
    )
