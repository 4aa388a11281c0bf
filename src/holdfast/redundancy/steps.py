"""In which steps sums are computed, by whom, and when what was computed for others is sent to them.

All processes go through the same events in the same order, whichever of them they take part in; so messages between two
of them need no numbers. The sums of a stripe are computed in one place, that keeps one of the results: k symbols come
and all results but one leave, k + r - 1 messages and one pass over memory for r results, not k * r and r.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .scheme import Scheme, Sum, Symbol


@dataclass(frozen=True, eq=False)
class Shape:
    """What is done with a block of a stripe's sums by process `home`: the same for all its blocks but those in which a stream
    ends, so that what follows from it is found out once (it is its own key)."""

    home: int
    nbytes: int  # the longest result's
    known: int  # the longest term's: beyond it results are zero, which is not sent
    results: tuple[tuple[Symbol, int], ...]  # with the bytes of it that are kept
    rows: tuple[tuple[int, ...], ...]  # for each result the coefficients of the terms
    terms: tuple[tuple[Symbol, int], ...]  # with the bytes of it that are there: the rest is zero


class Event(NamedTuple):
    """The block at `offset`: what others have of its terms is sent to its home; or, if `late`, its results to those who are to
    keep them."""

    shape: Shape
    offset: int
    late: bool


class _Work(NamedTuple):
    """Sums of one stripe, of symbols that are known to be zero from `ends` on: those of the results, then of the terms."""

    home: int
    results: list[Symbol]
    terms: list[Symbol]
    rows: list[tuple[int, ...]]
    ends: list[int]
    shapes: dict[tuple[int, ...], Shape]


def events(
    scheme: Scheme, nbytes: Sequence[int], sums: Sequence[Sum], homes: Sequence[int], block: int, ahead: int
) -> Iterator[Event]:
    """All events (local; the same in all processes), block by block of `block` bytes.

    `nbytes`: of each member's stream; `homes`: for each member the process that keeps it. A step's results follow when its
    home is `ahead` steps further: they are sent in the order of all, and nobody waits for one that is being computed.
    """
    chunk = scheme.chunk(nbytes)
    late: dict[int, deque[Event]] = {}
    works = _works(scheme, nbytes, sums, homes)
    for offset in range(0, chunk, block):
        for work in works:
            there = tuple([max(0, min(block, end - offset)) for end in work.ends])
            shape = work.shapes.get(there)
            if shape is None:
                shape = work.shapes[there] = _shape(work, there)
            if not shape.nbytes:
                continue
            waiting = late.setdefault(work.home, deque())
            if len(waiting) >= ahead:
                yield waiting.popleft()
            yield Event(shape, offset, False)
            if any(homes[symbol.member] != work.home for symbol, _ in shape.results):
                waiting.append(Event(shape, offset, True))
    for home in sorted(late):
        yield from late[home]


def _shape(work: _Work, there: Sequence[int]) -> Shape:
    """Of a block in which the work's symbols have `there` bytes that are not known to be zero."""
    kept = there[: len(work.results)]
    size = max(kept)
    have = [min(size, n) for n in there[len(work.results) :]]
    return Shape(
        work.home,
        size,
        max(have, default=0),
        tuple((symbol, n) for symbol, n in zip(work.results, kept, strict=True) if n),
        tuple(
            tuple(c for c, t in zip(row, have, strict=True) if t) for row, n in zip(work.rows, kept, strict=True) if n
        ),
        tuple((symbol, t) for symbol, t in zip(work.terms, have, strict=True) if t),
    )


def _works(scheme: Scheme, nbytes: Sequence[int], sums: Sequence[Sum], homes: Sequence[int]) -> list[_Work]:
    """The sums by stripes, shared out over the processes that keep results: each time to the one that has the least."""
    chunk = scheme.chunk(nbytes)

    def end(symbol: Symbol) -> int:
        return chunk if symbol.parity else min(chunk, nbytes[symbol.member] - symbol.number * chunk)

    stripes: dict[object, list[Sum]] = {}
    for each in sums:
        # A single term is sent to each who keeps a copy of it: it would be on its way twice as long otherwise.
        alone = each.symbol if len(each.terms) == 1 else None
        stripes.setdefault((scheme.stripe(each.symbol), alone), []).append(each)
    busy: dict[int, int] = {}
    works = []
    for together in stripes.values():
        home = min((homes[each.symbol.member] for each in together), key=lambda process: busy.get(process, 0))
        busy[home] = busy.get(home, 0) + 1
        results = [each.symbol for each in together]
        terms = list(dict.fromkeys(symbol for each in together for symbol, _ in each.terms))
        rows = [tuple(dict(each.terms).get(symbol, 0) for symbol in terms) for each in together]
        works.append(_Work(home, results, terms, rows, [*map(end, results), *map(end, terms)], {}))
    return works
