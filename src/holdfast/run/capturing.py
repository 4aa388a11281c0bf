"""How this rank's state is frozen: which strategy for which buffer, the arena that it is copied to, who writes it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..config import Options
from ..engine import InPlaceWriting, Item, Plan, ThreadWriting, Writing
from ..engine.plan import OWN_UNIT
from ..errors import HoldfastError, UnsupportedError
from ..format import BLOCK
from ..group import cores, local_ranks
from ..store import Store

if TYPE_CHECKING:
    from ..capture.arena import Arena
    from ..engine.helper import Helper
    from ..store.memoryfile import MemoryFile

log = logging.getLogger("holdfast")

_HELPER_SECONDS = 30.0  # to start
_STAGING = 200 << 20  # bytes that the helper is to have ready for what the program is about to overwrite


class Capturing:
    """For one rank's run (local)."""

    def __init__(self, store: Store, options: Options) -> None:
        self._store, self._options = store, options
        self._arena: Arena | None = None
        self._helper: Helper | None = None
        self._limit: int | None = None
        self._stop = threading.Event()
        self._preparing: threading.Thread | None = None
        self._told: set[str] = set()
        self._arena_lock, self._helper_lock = threading.Lock(), threading.RLock()
        # Copying by more threads than there are idle cores only makes them wait for each other.
        self.copiers = min(4, cores())

    def prepare(self, items: Sequence[Item]) -> None:
        """Make ready, beside the program, to capture these objects: memory that is touched for the first time when it is
        copied to costs several times the copy."""
        sizes = [int(b.nbytes) for item in items for i, b in enumerate(item.buffers) if self._may_be_copied(item, i)]
        nbytes = _arena_bytes(size for size in sizes if size >= OWN_UNIT)
        nbytes += sum(size for size in sizes if size < OWN_UNIT) if nbytes else 0
        if self._preparing is None and (nbytes or self._options.engine == "process" or self._options.capture == "cow"):
            self._preparing = threading.Thread(target=self._prepare, args=(nbytes,), name="holdfast-prepare", daemon=True)
            self._preparing.start()

    def _prepare(self, nbytes: int) -> None:
        try:
            beyond = self._options.capture == "auto" and nbytes > self._bound(nbytes)
            if self._options.engine == "process" or self._options.capture == "cow" or beyond:
                self._start_helper()
            if nbytes:
                # Not in place of one that is there: the program's thread is capturing to it.
                self._arena_for(nbytes, replace=False).populate(self._stop)
        except (OSError, MemoryError) as error:  # a checkpoint that needs the memory says so; it may need less
            log.debug("memory for captured state could not be made ready: %s", error)

    def _may_be_copied(self, item: Item, i: int) -> bool:
        from ..capture.frozen import is_frozen

        wanted = self._wanted(item, i)
        return wanted == "copy" or (wanted in ("auto", "reference") and not is_frozen(item.buffers[i], wanted == "reference"))

    # -- strategies ------------------------------------------------------------------------------

    def choose(self, items: Sequence[Item], in_place: bool = False) -> list[Item]:
        """The items with a strategy for each buffer; those that have one from `protect` keep it. `in_place`: they may be
        captured into a file in memory, whatever the bound of the arena. UnsupportedError."""
        nbytes = sum(b.nbytes for item in items for b in item.buffers if b.nbytes >= OWN_UNIT)
        beyond = not (in_place and self.may_be_in_place) and nbytes > self._bound(nbytes)
        return [
            # Small buffers are copied, whatever is asked for: nothing is to be chosen for most of many small objects.
            item._replace(how=[self._choose(item, i, beyond) for i in range(len(item.buffers))])
            if any(b.nbytes >= OWN_UNIT for b in item.buffers)
            else item
            for item in items
        ]

    def _wanted(self, item: Item, i: int) -> str:
        return item.how[i] if item.how and item.how[i] != "auto" else self._options.capture

    def _choose(self, item: Item, i: int, beyond: bool) -> str:
        memory = item.buffers[i]
        wanted = self._wanted(item, i)
        if wanted in ("hold", "direct"):
            return wanted
        if memory.nbytes < OWN_UNIT:
            return "copy"
        if wanted in ("auto", "reference"):
            from ..capture.frozen import is_frozen

            if is_frozen(memory, wanted == "reference"):
                return "hold"
            if item.how and item.how[i] == "reference":
                raise UnsupportedError(
                    f"{item.name!r} was protected with capture='reference', but its memory can change: it is writeable, or a "
                    "read-only view of writeable memory. Nothing was written; the last checkpoint is safe. Use "
                    "capture='copy', or make the array read-only (a.flags.writeable = False).",
                    object=item.name,
                )
            if wanted == "reference" or not beyond:
                return "copy"
        if wanted in ("cow", "auto") and self._can_freeze(tell=wanted == "cow"):
            return "cow"
        return "copy"

    def _can_freeze(self, tell: bool) -> bool:
        helper = self._start_helper()
        why = helper.why_no_freeze if helper is not None else "the helper process could not be started"
        if why is not None and tell:
            self.tell_once("cow", f"capture='cow' does not work here ({why}); the state is copied. See `holdfast doctor`.")
        return why is None

    def tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s", text)

    # -- who writes ------------------------------------------------------------------------------

    @property
    def may_be_in_place(self) -> bool:
        """Whether state can be captured into a file in memory: if it is copied, by this process."""
        return self._options.engine == "thread" and self._options.capture not in ("cow", "direct")

    def fits_in_place(self, plan: Plan) -> bool:
        return self.may_be_in_place and plan.most > 0 and all(u.how in ("copy", "hold") for u in plan.units)

    def in_place(self, file: MemoryFile, key: str, plan: Plan) -> Writing:
        """Capture the plan's memory into `file`, which becomes the data file `key`; the program may go on when this returns."""
        writing = InPlaceWriting(file, key, self._options.threads)
        try:
            writing.capture(plan.units, self.copiers)
        except BaseException:
            writing.abort()
            raise
        return writing

    def writing(self, key: str, plan: Plan, place: Store | None = None) -> Writing:
        """Begin the data file `key`, in the run's own store or another `place`. StorageError."""
        store = place or self._store
        threads = self._options.threads
        frozen = any(unit.how == "cow" for unit in plan.units)
        if self._options.engine == "process" or frozen:
            helper = self._start_helper()
            if helper is not None and (helper.reads_memory or not plan.holds):
                return helper.begin(store.location, key, plan.expected, threads)
            if helper is not None:
                self.tell_once("holds", "the helper process can't read memory that is not copied; threads write such versions.")
        return ThreadWriting(store, key, plan.expected, threads)

    def freeze(self, plan: Plan, writing: Writing) -> float:
        """Capture the plan's memory; the program may go on when this returns. Seconds that it waited for room."""
        from ..engine.freeze import freeze, slots

        units = list(enumerate(plan.units))
        protected = [(n, u) for n, u in units if u.how == "cow"]
        if protected:
            from ..engine.helper import CaptureError, HelperWriting

            assert isinstance(writing, HelperWriting)
            try:
                writing.freeze(protected, self._options.timeout)
                units = [(n, u) for n, u in units if u.how != "cow"]
            except CaptureError as error:
                self.tell_once("freeze", f"the state could not be write-protected ({error}); it is copied.")
                units = [(n, u._replace(how="copy") if u.how == "cow" else u) for n, u in units]
        copied = slots(u.nbytes for _, u in units if u.how == "copy")
        arena = self._arena_for(copied * BLOCK) if copied else None
        return freeze(units, arena, writing, self.copiers, self._options.timeout)

    # -- memory ------------------------------------------------------------------------------------

    def _bound(self, nbytes: int) -> int:
        """The most bytes that the arena may have for a state of `nbytes`."""
        if self._options.staging is not None:
            return self._options.staging
        from ..capture.arena import default_bytes

        if self._limit is None or self._limit < nbytes:
            self._limit = default_bytes(nbytes, local_ranks())
        return self._limit

    def _arena_for(self, nbytes: int, replace: bool = True) -> Arena:
        """An arena for so many bytes, as far as the bound allows. Only while nothing is in flight."""
        from ..capture.arena import SLOT, Arena

        nbytes = max(SLOT, min(-(-nbytes // SLOT) * SLOT, self._bound(nbytes)) // SLOT * SLOT)
        with self._arena_lock:
            if self._arena is None or (replace and self._arena.nbytes < nbytes):
                self._drop_arena()
                self._arena = Arena(nbytes, shared=self._shared())
                self._show_arena()
            return self._arena

    def _show_arena(self) -> None:
        """A helper process writes from a shared arena as it stands."""
        if self._helper is not None and self._arena is not None and self._arena.fd >= 0:
            self._helper.share(self._arena.fd, self._arena.address, self._arena.nbytes)

    def _drop_arena(self) -> None:
        if self._arena is not None:
            if self._helper is not None and self._helper.alive and self._arena.fd >= 0:
                with suppress(HoldfastError):  # it may end just now
                    self._helper.unshare(self._arena.address)  # or it would take other memory there for the arena
            self._arena.close()
            self._arena = None

    def renew(self) -> None:
        """A capture was interrupted, and nobody knows what of the arena it had taken, nor what the helper had been told, which
        may have begun a file that nobody knows of: the next one has others. Only while nothing is in flight."""
        helper = self._helper  # without its lock, which may be held for as long as a helper takes to start
        if helper is not None:
            helper.give_up("was told half of a capture that was interrupted, and was ended")
        with self._arena_lock:
            self._drop_arena()

    def _shared(self) -> bool:
        if self._options.arena == "auto":
            return self._helper is not None and not self._helper.reads_memory
        return self._options.arena == "shared"

    def _start_helper(self) -> Helper | None:
        with self._helper_lock:
            if self._helper is not None and not self._helper.alive:
                log.warning("the helper process has ended; another one is started.")
                self._helper.close()
                self._helper = None
            if self._helper is None and "helper" not in self._told:
                from ..engine.helper import Helper

                began = time.monotonic()
                try:
                    self._helper = Helper.start(_HELPER_SECONDS)
                except Exception as error:
                    self.tell_once("helper", f"the helper process could not be started ({error}); threads write instead.")
                    return None
                log.debug("helper process started in %.2f s", time.monotonic() - began)
                if self._stop.is_set():  # the run was closed meanwhile: nobody would end it
                    self._helper.close()
                    self._helper = None
                    return None
                self._show_arena()
                if self._options.capture in ("cow", "auto"):
                    self._helper.prepare(_STAGING)
            return self._helper

    def close(self) -> None:
        """Give everything back. Only while nothing is in flight."""
        self._stop.set()
        if self._preparing is not None:
            self._preparing.join(10.0)
        self._drop_arena()
        if self._helper is not None:
            self._helper.close()
            self._helper = None


def _arena_bytes(sizes: Iterable[int]) -> int:
    """Of memory that buffers of these sizes are copied to, each cut into blocks."""
    from ..engine.freeze import slots

    return slots(min(BLOCK, size - at) for size in sizes for at in range(0, size, BLOCK)) * BLOCK


__all__ = ["Capturing"]
