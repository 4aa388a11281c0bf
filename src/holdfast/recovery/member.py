"""One rank's files at a place as a member of its redundancy set: what an exchange reads from them and writes into them.

Storage fails on one node, while all of a set are in the middle of their messages. A member that raised there would leave
what the others send unread: they would wait for their deadline, and the channel could not be used again. So it keeps its
first error, gives anything and takes nothing from then on; who runs the exchange asks for the error afterwards, tells
the others, and nobody proves what was computed from it.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import xxhash

from ..catalog.places import PARITY_BLOCK, Held, Member, Place
from ..errors import DamageError, HoldfastError, StorageError, UsageError
from ..format import digest, digest_hex
from ..format.blocks import DIGEST_BYTES
from ..store import Reader, Writer
from ..store.aligned import address, empty
from ..store.base import Bytes

# What goes wrong on this node alone. DeadlineError and RankError are not among them: after these the channel is of no use.
LOCAL = (StorageError, DamageError, UsageError, OSError, MemoryError)


class PlaceMember:
    """A rank's data file, part and parity file of one version at one place, for `redundancy.exchange` (one thread).

    Its stream is the data file, followed by the part; its parity file has the parities 0 to m - 1, `chunk` bytes each. What is
    there is read: the stream if `held` is given, which names it, else it is written anew; the parity if `held` has a set, else
    it is written. Parity is read in blocks of 1 MiB that are verified. `error` is the first thing that went wrong (see above).

    Call `seal` after the exchange, and `close` or `abort` in any case.
    """

    def __init__(self, place: Place, version: str, facts: Member, m: int, chunk: int, held: Held | None) -> None:
        """`facts`: the rank, and what its stream is; files are made here, what was left of earlier ones is removed."""
        self.unread: bool | None = (
            None  # what `error` is about if it could not be read: the parity (True), the stream (False)
        )
        self.place, self.version, self.rank = place, version, facts.rank
        self.error: Exception | None = None
        self.part = b""
        self.parity_digests = b""
        self.writes_stream, self.writes_parity = held is None, held is None or held.set is None
        self._facts, self._chunk, self._parity_bytes = facts, chunk, m * chunk
        self._lent: dict[int, Bytes] = {}
        self._free: list[Bytes] = []
        self._reads: dict[bool, Reader] = {}  # of the parity (True), of the data file (False)
        self._writes: dict[bool, Writer] = {}
        self._sealed: list[str] = []
        self._arriving = np.zeros(facts.part_bytes if held is None else 0, np.uint8)
        self._written = _Digests(self._parity_bytes)
        self._verified: dict[int, tuple[int, Bytes]] = {}
        try:
            self._open(held)
        except LOCAL as error:
            self.error = error

    # -- for the exchange -------------------------------------------------------------------

    def read(self, parity: bool, number: int, offset: int, nbytes: int) -> Bytes:
        """Bytes of chunk or parity `number` from `offset` on, in aligned memory, until `release`."""
        memory = self._free.pop() if self._free else empty(nbytes)
        if memory.nbytes < nbytes:
            memory = empty(nbytes)
        block = memory[:nbytes]
        self._lent[address(memory)] = memory
        if self.error is None:
            try:
                if parity:
                    self._read_parity(number, number * self._chunk + offset, block)
                else:
                    self._read_stream(number * self._chunk + offset, block)
            except LOCAL as error:
                self.error, self.unread = error, parity
        return block

    def release(self, block: Bytes) -> None:
        memory = self._lent.pop(address(block), None)
        if memory is not None:
            self._free.append(memory)

    def write(self, parity: bool, number: int, offset: int, block: Bytes) -> None:
        """Keep what was computed."""
        if self.error is not None:
            return
        at = number * self._chunk + offset
        try:
            if parity:
                self._writes[True].write(at, block)
                self._written.add(at, block)
            else:
                in_data = min(max(self._facts.data_bytes - at, 0), block.nbytes)
                if in_data:
                    self._writes[False].write(at, block[:in_data])
                start = at + in_data - self._facts.data_bytes
                self._arriving[start : start + block.nbytes - in_data] = block[in_data:]
        except LOCAL as error:
            self.error = error

    # -- afterwards -------------------------------------------------------------------------

    def seal(self) -> None:
        """Make what was written durable; `error` tells if it isn't, or isn't what it should be. `part` and `parity_digests` are
        then those of the rank."""
        if self.error is not None:
            return
        try:
            if self.writes_stream:
                self.part = self._arriving.tobytes()
                if digest_hex(self.part) != self._facts.part_digest:
                    raise self._damage(
                        self.place.part_key(self.version, self.rank), 0, "was rebuilt, and is not what it was"
                    )
            if self.writes_parity:
                self.parity_digests = self._written.result()
            for parity, writer in self._writes.items():
                writer.finish()
                self._sealed.append(self._key(parity))
        except LOCAL as error:
            self.error = error

    def close(self) -> None:
        """Let go of the files that were read."""
        for reader in self._reads.values():
            reader.close()

    def abort(self) -> None:
        """Remove what was written: nothing proves it yet. Raises nothing."""
        self.close()
        for writer in self._writes.values():
            writer.abort()
        for key in self._sealed:
            with suppress(HoldfastError):
                self.place.store.delete(key)
        self._sealed.clear()

    # -- helpers ----------------------------------------------------------------------------

    def _key(self, parity: bool) -> str:
        return (self.place.parity_key if parity else self.place.data_key)(self.version, self.rank)

    def _open(self, held: Held | None) -> None:
        place, store = self.place, self.place.store
        if held is None:
            place.forget(self.version, self.rank)
            self._writes[False] = store.create(self._key(False), self._facts.data_bytes)
        else:
            self.unread = False
            place.check_data(held)
            self.part = place.read_part(held)
            self._reads[False] = store.open(self._key(False))
            if held.set is not None:
                self.unread = True
                place.check_parity(held)
                self.parity_digests = held.set.parity
                self._reads[True] = store.open(self._key(True))
            self.unread = None
        if held is None or held.set is None:
            if held is not None:
                place.forget_parity(self.version, self.rank)
            self._writes[True] = store.create(self._key(True), self._parity_bytes)

    def _read_stream(self, at: int, block: Bytes) -> None:
        in_data = min(max(self._facts.data_bytes - at, 0), block.nbytes)
        if in_data:
            self._reads[False].read(at, block[:in_data])
        if in_data < block.nbytes:
            start = at + in_data - self._facts.data_bytes
            block[in_data:] = np.frombuffer(self.part, np.uint8)[start : start + block.nbytes - in_data]

    def _read_parity(self, number: int, at: int, block: Bytes) -> None:
        """Verified: the blocks that have digests are the file's, which those of a parity other than the first may straddle."""
        while block.nbytes:
            i, within = divmod(at, PARITY_BLOCK)
            size = min(PARITY_BLOCK, self._parity_bytes - i * PARITY_BLOCK)
            n = min(block.nbytes, size - within)
            if n == size:
                self._read_block(i, block[:n])
            else:
                # The next block of the same parity begins where this one ends: its other half is asked for next.
                if self._verified.get(number, (-1,))[0] != i:
                    whole = self._verified[number][1] if number in self._verified else empty(PARITY_BLOCK)
                    self._verified.pop(number, None)  # if this fails, it is neither block
                    self._read_block(i, whole[:size])
                    self._verified[number] = (i, whole)
                block[:n] = self._verified[number][1][within : within + n]
            block, at = block[n:], at + n

    def _read_block(self, i: int, into: Bytes) -> None:
        self._reads[True].read(i * PARITY_BLOCK, into)
        if digest(into) != self.parity_digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]:
            raise self._damage(self._key(True), i * PARITY_BLOCK, "is damaged")

    def _damage(self, key: str, offset: int, what: str) -> DamageError:
        return DamageError(
            f"{self.place.store.location}/{key} {what} (rank {self.rank}, byte {offset}). It was not used, and nothing that "
            "counts was changed; what it held may be had from elsewhere.",
            file=key,
            offset=offset,
            rank=self.rank,
        )


class _Digests:
    """The digests of a file's blocks, while it is written in pieces: each parity in order, all parities side by side.

    A block that has the end of one parity and the beginning of the next gets the latter first: that waits here, in a copy."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._begun: dict[int, _Begun] = {}
        self._done: dict[int, bytes] = {}

    def add(self, at: int, piece: Bytes) -> None:
        while piece.nbytes:
            i, within = divmod(at, PARITY_BLOCK)
            n = min(piece.nbytes, PARITY_BLOCK - within)
            begun = self._begun.setdefault(i, _Begun(min(PARITY_BLOCK, self._nbytes - i * PARITY_BLOCK)))
            if begun.add(within, piece[:n]):
                self._done[i] = self._begun.pop(i).state.digest()
            piece, at = piece[n:], at + n

    def result(self) -> bytes:
        """16 bytes for each block. StorageError unless all has been written."""
        blocks = -(-self._nbytes // PARITY_BLOCK)
        if len(self._done) != blocks:
            raise StorageError(
                f"{blocks - len(self._done)} MiB of a rank's parity did not arrive. Versions are as they were; this one is not "
                "protected. The next one may be.",
            )
        return b"".join(self._done[i] for i in range(blocks))


class _Begun:
    """A block of which a part is there."""

    def __init__(self, size: int) -> None:
        self.state = xxhash.xxh3_128()
        self._size, self._at = size, 0
        self._waiting: dict[int, bytes] = {}

    def add(self, within: int, piece: Bytes) -> bool:
        """Whether the block is complete now."""
        if within != self._at:
            self._waiting[within] = piece.tobytes()
            return False
        self.state.update(piece.data)
        self._at += piece.nbytes
        while self._at in self._waiting:
            following = self._waiting.pop(self._at)
            self.state.update(following)
            self._at += len(following)
        return self._at == self._size
