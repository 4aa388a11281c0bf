"""Which parity protects what: n members that share m parities, any m of whom may be lost.

Each member has a *stream* of bytes of its own and keeps it. It is cut into k = n - m chunks of one length, that of the longest
stream by k, rounded up to 4096; what is beyond a stream's end is zero. There are n stripes: the q-th data symbol of stripe
s is the q-th chunk of member s + m + q (all modulo n), its j-th parity is kept by member s + j. So each chunk is in one
stripe, all symbols of a stripe are different members', and each member keeps m parities: m / (n - m) of the longest
stream. This is how RAID 5 rotates its parity (D. Patterson et al., SIGMOD 1988), for any m, over members that keep their
data in one piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ..errors import UsageError
from ..format.blocks import round_up
from .field import combination, generator


class Symbol(NamedTuple):
    """A piece of a stripe, kept by `member`: chunk `number` of its stream, or its parity of that number."""

    member: int
    parity: bool
    number: int


class Sum(NamedTuple):
    """How a symbol is computed: `terms`, each a symbol and its coefficient, added up."""

    symbol: Symbol
    terms: tuple[tuple[Symbol, int], ...]


class Scheme(NamedTuple):
    """`n` members, `m` parities. Partner is (2, 1), XOR (n, 1)."""

    n: int
    m: int

    @property
    def k(self) -> int:
        """Data symbols of a stripe."""
        return self.n - self.m

    def check(self) -> Scheme:
        """Itself. UsageError unless 1 <= m < n <= 128."""
        if not 1 <= self.m < self.n:
            raise UsageError(f"rs(set_size={self.n}, m={self.m}): at least one parity, and fewer than members, are needed.")
        generator(self.k, self.m)
        return self

    def chunk(self, nbytes: Sequence[int]) -> int:
        """The length of a chunk in bytes, where the members' streams have `nbytes`."""
        return round_up(-(-max(nbytes, default=0) // self.k))

    def symbol(self, stripe: int, row: int) -> Symbol:
        """Data symbol `row` of the stripe for row < k, else its parity row - k."""
        if row < self.k:
            return Symbol((stripe + self.m + row) % self.n, False, row)
        return Symbol((stripe + row - self.k) % self.n, True, row - self.k)

    def stripe(self, symbol: Symbol) -> int:
        """The stripe that it is in."""
        behind = symbol.number if symbol.parity else self.m + symbol.number
        return (symbol.member - behind) % self.n

    def encoding(self) -> list[Sum]:
        """All parities of all members, in an order in which neighbours keep different members busy."""
        rows = generator(self.k, self.m)
        return [
            Sum(self.symbol(s, self.k + j), tuple((self.symbol(s, q), rows[self.k + j][q]) for q in range(self.k)))
            for j in range(self.m)
            for s in range(self.n)
        ]

    def rebuilding(self, lost: Collection[int], parity_lost: Collection[int] = ()) -> list[Sum]:
        """Everything that the members `lost` had, from what the others have; of `parity_lost` the parities too, whose streams
        are there. UsageError if some stripe has lost more than m symbols."""
        gone = {Symbol(i, True, j) for i in {*lost, *parity_lost} for j in range(self.m)}
        gone |= {Symbol(i, False, q) for i in lost for q in range(self.k)}
        return list(self._sums(gone))

    def _sums(self, gone: Collection[Symbol]) -> Iterator[Sum]:
        for s in range(self.n):
            symbols = [self.symbol(s, row) for row in range(self.n)]
            known = [row for row in range(self.n) if symbols[row] not in gone][: self.k]
            for row, symbol in enumerate(symbols):
                if symbol not in gone:
                    continue
                if len(known) < self.k:
                    raise UsageError(
                        f"{self.n - len(known)} of the {self.n} symbols of a stripe are lost, and {self.m} can be rebuilt."
                    )
                factors = combination(self.k, self.m, row, tuple(known))
                terms = tuple((symbols[r], c) for r, c in zip(known, factors, strict=True) if c)
                yield Sum(symbol, terms)
