"""In which steps sums are computed, by whom, and when what was computed for others is sent to them.

All processes go through the same events in the same order, whichever of them they take part in; so messages between two
of them need no numbers. The sums of a stripe are computed in one place, that keeps one of the results: k symbols come
and all results but one leave, k + r - 1 messages and one pass over memory for r results, not k * r and r.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .scheme import Scheme, Sum, Symbol


class Step(NamedTuple):
    """One block of the sums of a stripe, computed by process `home`."""

    home: int
    offset: int
    nbytes: int  # the longest result's
    known: int  # the longest term's: beyond it results are zero, which is not sent
    results: list[tuple[Symbol, int]]  # with the bytes of it that are kept
    rows: list[tuple[int, ...]]  # for each result the coefficients of the terms
    terms: list[tuple[Symbol, int]]  # with the bytes of it that are there: the rest is zero


class Event(NamedTuple):
    """`step`: what others have of its terms is sent to its home; or, if `late`, its results to those who are to keep them."""

    step: Step
    late: bool


class _Work(NamedTuple):
    """Sums of one stripe."""

    home: int
    results: list[Symbol]
    terms: list[Symbol]
    rows: list[tuple[int, ...]]


def events(
    scheme: Scheme, nbytes: Sequence[int], sums: Sequence[Sum], homes: Sequence[int], block: int, ahead: int
) -> Iterator[Event]:
    """All events (local; the same in all processes), block by block of `block` bytes.

    `nbytes`: of each member's stream; `homes`: for each member the process that keeps it. A step's results follow when its
    home is `ahead` steps further: they are sent in the order of all, and nobody waits for one that is being computed.
    """
    chunk = scheme.chunk(nbytes)
    late: dict[int, deque[Step]] = {}
    works = _works(scheme, sums, homes)

    def there(symbol: Symbol, offset: int) -> int:
        """How many bytes of the block at `offset` are not known to be zero."""
        end = chunk if symbol.parity else min(chunk, nbytes[symbol.member] - symbol.number * chunk)
        return max(0, min(block, end - offset))

    for offset in range(0, chunk, block):
        for work in works:
            kept = [there(symbol, offset) for symbol in work.results]
            size = max(kept)
            if not size:
                continue
            have = [min(size, there(symbol, offset)) for symbol in work.terms]
            step = Step(
                work.home,
                offset,
                size,
                max(have, default=0),
                [(symbol, n) for symbol, n in zip(work.results, kept, strict=True) if n],
                [
                    tuple(c for c, t in zip(row, have, strict=True) if t)
                    for row, n in zip(work.rows, kept, strict=True)
                    if n
                ],
                [(symbol, t) for symbol, t in zip(work.terms, have, strict=True) if t],
            )
            waiting = late.setdefault(work.home, deque())
            if len(waiting) >= ahead:
                yield Event(waiting.popleft(), True)
            yield Event(step, False)
            if any(homes[symbol.member] != work.home for symbol, _ in step.results):
                waiting.append(step)
    for home in sorted(late):
        for step in late[home]:
            yield Event(step, True)


def _works(scheme: Scheme, sums: Sequence[Sum], homes: Sequence[int]) -> list[_Work]:
    """The sums by stripes, shared out over the processes that keep results: each time to the one that has the least."""
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
        terms = list(dict.fromkeys(symbol for each in together for symbol, _ in each.terms))
        rows = [tuple(dict(each.terms).get(symbol, 0) for symbol in terms) for each in together]
        works.append(_Work(home, [each.symbol for each in together], terms, rows))
    return works
